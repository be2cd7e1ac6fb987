"""The books: which engine a database URL names."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from arkgate.core.errors import NotSupported
from arkgate.ports import Clock, Ledger, Statements
from arkgate.store.clock import SystemClock
from arkgate.store.sqlite.opening import open_sqlite, open_sqlite_readonly


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
    def clock(self) -> Clock:
        """The books' own time."""
        ...


def open_store(url: str, clock: Clock | None, *, log_bytes: int) -> AbstractAsyncContextManager[Store]:
    """The books at `sqlite:///relative/path` or `sqlite:////absolute/path`, for writing.

    Without a clock they go by their own.
    """
    return open_sqlite(_path(url), clock or SystemClock(), log_bytes=log_bytes)


@asynccontextmanager
async def read_store(url: str, clock: Clock | None = None) -> AsyncIterator[Statements]:
    """The books at that URL for reading only, also beside gateways that write to them."""
    with open_sqlite_readonly(_path(url), clock or SystemClock()) as statements:
        yield statements


def shown(url: str) -> str:
    """Where the books are, for people and logs: without a password."""
    return _path(url)


def _path(url: str) -> str:
    scheme, separator, path = url.partition(":///")
    if not separator or not path or scheme != "sqlite":
        raise NotSupported(
            f"The database {url.partition('://')[0]!r} is not supported: this version keeps its books in"
            " SQLite only (sqlite:///path/to/ledger.db)."
        )
    return path
