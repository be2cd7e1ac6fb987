"""The books: which engine a database URL names."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from arkgate.core.errors import NotSupported
from arkgate.ports import Clock, Duties, Ledger, Statements
from arkgate.store.archive import Archive
from arkgate.store.clock import BooksClock, SystemClock
from arkgate.store.restoring import Restored, restore
from arkgate.store.sqlite.opening import open_sqlite, open_sqlite_readonly
from arkgate.store.sqlite.restoring import restore_sqlite

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


class Store(Protocol):
    """Open books: what writes, what reads, and the time that both go by."""

    @property
    def ledger(self) -> Ledger:
        """What writes."""
        ...

    @property
    def statements(self) -> Statements:
        """What reads."""
        ...

    @property
    def clock(self) -> BooksClock:
        """The books' own time."""
        ...

    @property
    def duties(self) -> Duties:
        """What one of the processes on these books does for all."""
        ...


def open_store(url: str, clock: Clock | None, *, log_bytes: int) -> AbstractAsyncContextManager[Store]:
    """The books at `sqlite:///path` or `postgresql://…`, for writing.

    Without a clock they go by their own. `log_bytes` is SQLite's.
    """
    if is_postgres(url):
        from arkgate.store.postgres.opening import open_postgres  # noqa: PLC0415 - a driver that few need

        return open_postgres(url, clock)
    path = Path(path_of(url))
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_sqlite(path, clock, log_bytes=log_bytes)


@asynccontextmanager
async def read_store(url: str, clock: Clock | None = None) -> AsyncIterator[Statements]:
    """The books at that URL for reading only, also beside gateways that write to them."""
    if is_postgres(url):
        from arkgate.store.postgres.opening import open_postgres_readonly  # noqa: PLC0415 - as above

        async with open_postgres_readonly(url, clock) as statements:
            yield statements
        return
    with open_sqlite_readonly(path_of(url), clock or SystemClock()) as in_file:
        yield in_file


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(POSTGRES)


async def restore_store(url: str, archive: Archive) -> Restored:
    """Fills the books at that URL, which must be empty and unused, from an archive, and pauses them.

    Raises StoreUnavailable or ArchiveError; then nothing was changed.
    """
    now_ms = SystemClock().now_ms()
    if is_postgres(url):
        from arkgate.store.postgres.restoring import restore_postgres  # noqa: PLC0415 - as above

        return await restore(archive, partial(restore_postgres, url), now_ms=now_ms)
    path = Path(path_of(url))
    path.parent.mkdir(parents=True, exist_ok=True)
    return await restore(archive, partial(restore_sqlite, path), now_ms=now_ms)


def shown(url: str) -> str:
    """Where the books are, for people and logs: without a password."""
    if is_postgres(url):
        from arkgate.store.postgres.connections import shown as shown_postgres  # noqa: PLC0415 - as above

        return shown_postgres(url)
    return path_of(url)


def path_of(url: str) -> str:
    """The file that a SQLite URL names. Raises NotSupported for a URL of no engine that there is."""
    if not url.startswith(SQLITE) or url == SQLITE:
        raise NotSupported(
            f"The database {url.partition('://')[0]!r} is not supported: the books are kept in SQLite"
            " (sqlite:///path/to/ledger.db) or PostgreSQL (postgresql://user@host/database)."
        )
    return url.removeprefix(SQLITE)
