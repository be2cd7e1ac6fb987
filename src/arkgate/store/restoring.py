"""Books from an archive: everything it holds, and the note that they are paused until reconciled."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arkgate.core.errors import StoreUnavailable
from arkgate.core.reports import BACKUP_FACT, PAUSED_FACT, Table
from arkgate.store.archive import Archive, archived_rows
from arkgate.store.keyfile import KEY_FACT, keyring_of_books

OPENING_TABLES = ("cursor", "meta", "account")
"""What a gateway writes into new books before anybody was there, in an order in which it can go."""


def not_empty(ledger: str) -> StoreUnavailable:
    """The refusal of books in which anything has happened."""
    return StoreUnavailable(
        f"The ledger {ledger} is not empty: a backup is restored into new books only. "
        "Move it away first, or name another database in the settings.",
        code="store_not_empty",
    )


def other_revision(ledger: str, found: str, archived: str) -> StoreUnavailable:
    """The refusal of books whose tables are not those of the archive."""
    return StoreUnavailable(
        f"The ledger {ledger} has tables of revision {found} and the archive of {archived}: "
        "restore into a new database.",
        code="store_schema",
    )


def other_table(table: Table) -> StoreUnavailable:
    """The refusal of an archive that names what the books do not have."""
    return StoreUnavailable(
        f"The archive's table {table.name!r} is not a table of these books.", code="store_schema"
    )


class Loader(Protocol):
    """An empty ledger in a transaction that ends with the block it was given by."""

    async def load(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Adds rows as they are. Raises StoreUnavailable when the tables refuse them."""
        ...

    async def note(self, fact: str, value: int) -> None:
        """Notes a fact in the same transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    row_counts: Mapping[str, int]
    taken_at_ms: int


Opener = Callable[..., AbstractAsyncContextManager[Loader]]
"""Called with `revision` and `tables`, opens an empty ledger for a restore.

Makes tables of that revision where there are none. Commits when its block ends and undoes all when it
raises. Raises StoreUnavailable for a ledger that is not empty, is in use, or has other tables.
"""


def refuse_other_keys(archive: Archive, keys_file: Path) -> None:
    """Raises KeyfileError for a key file that the archived books were not used with."""
    if any(fact.startswith(KEY_FACT) for fact in archive.facts):
        keyring_of_books(keys_file, archive.facts)


async def restore(archive: Archive, opened: Opener, *, now_ms: int) -> Restored:
    """Fills an empty ledger with an archive that was read, and pauses it, in one transaction.

    Raises ArchiveError or StoreUnavailable, and then nothing was changed.
    """
    async with opened(revision=archive.revision, tables=list(archive.tables.values())) as loader:
        for table, rows in archived_rows(archive):
            await loader.load(table, rows)
        await loader.note(PAUSED_FACT, now_ms)
        await loader.note(BACKUP_FACT, archive.taken_at_ms)
    return Restored(archive.row_counts, archive.taken_at_ms)
