"""The books: which engine a database URL names."""

from contextlib import AbstractAsyncContextManager

from arkgate.core.errors import NotSupported
from arkgate.ports import Clock
from arkgate.store.sqlite import SqliteStore, open_sqlite


def open_store(url: str, clock: Clock, *, log_bytes: int) -> AbstractAsyncContextManager[SqliteStore]:
    """The books at `sqlite:///relative/path` or `sqlite:////absolute/path`."""
    scheme, separator, path = url.partition(":///")
    if not separator or not path or scheme != "sqlite":
        raise NotSupported(
            f"The database {url.partition('://')[0]!r} is not supported: this version keeps its books in"
            " SQLite only (sqlite:///path/to/ledger.db)."
        )
    return open_sqlite(path, clock, log_bytes=log_bytes)
