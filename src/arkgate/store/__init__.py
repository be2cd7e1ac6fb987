"""The books: which engine a database URL names."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType

from arkgate.core.errors import NotSupported
from arkgate.ports import Clock
from arkgate.store.sqlite import SqliteStore, open_sqlite

ENGINES: Mapping[str, Callable[[str, Clock], AbstractAsyncContextManager[SqliteStore]]] = MappingProxyType(
    {"sqlite": open_sqlite}
)


def open_store(url: str, clock: Clock) -> AbstractAsyncContextManager[SqliteStore]:
    """The books at `sqlite:///relative/path` or `sqlite:////absolute/path`."""
    scheme, separator, path = url.partition(":///")
    if not separator or not path or scheme not in ENGINES:
        raise NotSupported(
            f"The database {url.partition('://')[0]!r} is not supported: this version keeps its books in"
            " SQLite only (sqlite:///path/to/ledger.db)."
        )
    return ENGINES[scheme](path, clock)
