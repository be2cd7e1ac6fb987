"""What the doctor asks of the books: whether a gateway can use them, without changing anything in them."""

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from arkgate.core.errors import StoreUnavailable
from arkgate.ports import Check, Clock, Verdict
from arkgate.store import is_postgres, path_of, read_store, shown
from arkgate.store.keyfile import KEY_FACT, KeyfileError, fit_the_books, load_keyring, load_or_create_keyring
from arkgate.store.sqlite.disk import MOUNTS, refuse_shared

FREE_BYTES_MIN = 1_000_000_000
LOGS_FREE = 10
"""How many times the write-ahead log should be free."""
NOTHING_SOLD = "The gateway does not start, or sells nothing: payers get 503."


def free_bytes(folder: Path) -> int:
    """What this user may still write there. Raises OSError."""
    return shutil.disk_usage(folder).free


async def checkup(
    url: str,
    keys_file: Path,
    clock: Clock,
    *,
    log_bytes: int,
    free: Callable[[Path], int] = free_bytes,
    mounts: Path = MOUNTS,
) -> AsyncIterator[Check]:
    """The lines of the books and of their keys. Reads only, beside a gateway that writes and without one."""
    yield await _fit(url, mounts)
    opens, facts = await _opens(url, clock)
    yield opens
    yield _disk(url, log_bytes, free)
    yield _keys(keys_file, facts)


async def _fit(url: str, mounts: Path) -> Check:
    name = "fit for money"
    try:
        if is_postgres(url):
            from arkgate.store.postgres.connections import refuse_unfit_server  # noqa: PLC0415 - as in `store`

            await refuse_unfit_server(url)
            return Check(name, Verdict.OK, f"{shown(url)} keeps what it acknowledges.")
        refuse_shared(Path(path_of(url)).resolve(), mounts)
    except StoreUnavailable as refusal:
        return Check(name, Verdict.FAILURE, refusal.message, NOTHING_SOLD, _remedy(refusal))
    return Check(name, Verdict.OK, f"{shown(url)} is not on a network file system.")


async def _opens(url: str, clock: Clock) -> tuple[Check, Mapping[str, int] | None]:
    """Whether the books open for reading, and the facts about them; None where those cannot be had."""
    if not is_postgres(url) and not Path(path_of(url)).exists():
        seen, remedy = f"There is no ledger at {path_of(url)} yet.", "The first `arkgate serve` makes it."
        return Check("opens", Verdict.NOT_CHECKED, seen, remedy=remedy), {}
    try:
        async with read_store(url, clock) as statements, statements.snapshot() as snapshot:
            seen = f"It can be read; its tables are of revision {snapshot.revision}."
            return Check("opens", Verdict.OK, seen), await snapshot.facts()
    except StoreUnavailable as refusal:
        return Check("opens", Verdict.FAILURE, refusal.message, NOTHING_SOLD, _remedy(refusal)), None


def _remedy(refusal: StoreUnavailable) -> str:
    """What to do where the refusal's sentence has not said it."""
    said = refusal.reason in ("store_schema", "store_unfit")
    return "" if said else "Check url in [store] and that the database is up and may be read."


def _disk(url: str, log_bytes: int, free: Callable[[Path], int]) -> Check:
    name = "free disk"
    if is_postgres(url):
        remedy = "Watch the disk of the database's host."
        return Check(name, Verdict.NOT_CHECKED, "PostgreSQL's disk cannot be seen from here.", remedy=remedy)
    folder = _existing(Path(path_of(url)).resolve().parent)
    try:
        left = free(folder)
    except OSError as error:
        return Check(name, Verdict.NOT_CHECKED, f"{folder} cannot be asked: {error.strerror}.")
    wanted = max(FREE_BYTES_MIN, LOGS_FREE * log_bytes)
    seen = f"{_megabytes(left)} are free at {folder}"
    remedy = "Make room, or put the ledger on a larger disk."
    if left < log_bytes:
        meaning = "When the disk is full nothing is sold; payments are credited when there is room again."
        return Check(
            name, Verdict.FAILURE, f"{seen}; the log alone takes {_megabytes(log_bytes)}.", meaning, remedy
        )
    if left < wanted:
        meaning = "When the disk is full nothing is sold: payers get 503."
        return Check(name, Verdict.WARNING, f"{seen}; {_megabytes(wanted)} should be.", meaning, remedy)
    return Check(name, Verdict.OK, f"{seen}.")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((one for one in (folder, *folder.parents) if one.exists()), folder)


def _megabytes(count: int) -> str:
    return f"{count // 1_000_000} MB"


def _keys(path: Path, facts: Mapping[str, int] | None) -> Check:
    """`facts` are those of the books; None when they cannot be read."""
    name = "keys"
    keyed = any(name.startswith(KEY_FACT) for name in facts or ())
    if not path.exists() and facts is not None and not keyed:
        return Check(name, Verdict.OK, f"The first start makes {path}; back it up then.")
    try:
        keyring = load_or_create_keyring(path, books_exist=True) if keyed else load_keyring(path)
        if facts is not None:
            fit_the_books(path, keyring, facts)
    except KeyfileError as error:
        sentence = f"{error}."[:1].upper() + f"{error}."[1:]
        meaning = "The gateway does not start; on wrong keys nobody's credential or token would work."
        return Check(name, Verdict.FAILURE, sentence, meaning)  # the sentence says what to do
    versions = len(keyring.versions)
    seen = f"{path} has {versions} key{'s' if versions > 1 else ''}, for its owner only"
    if facts is None:
        return Check(name, Verdict.OK, f"{seen}; whether they belong to the books was not checked.")
    return Check(name, Verdict.OK, f"{seen}, and they belong to these books.")
