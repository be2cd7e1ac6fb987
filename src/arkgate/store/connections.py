"""How connections to the SQLite file are made, and how its errors become refusals."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arkgate.core.errors import StoreUnavailable

RETRY_AFTER_SECONDS = 5
CHECKPOINT_PAGES = 20_000
"""A checkpoint each 80 MB: rare enough to keep the slowest commits at 2 ms (4000 pages: 5 ms)."""
WAL_BYTES_KEPT = 256 * 1024 * 1024
BUSY_SECONDS = 5.0
_STATEMENTS_CACHED = 128


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Translates sqlite3's errors into StoreUnavailable with a sentence that begins with `what`."""
    try:
        yield
    except sqlite3.Error as exc:
        raise unavailable(what, exc) from exc


def unavailable(what: str, exc: BaseException) -> StoreUnavailable:
    """The refusal for an error of SQLite."""
    return StoreUnavailable(f"{what}: {exc}.", retry_after_seconds=RETRY_AFTER_SECONDS)


def connect_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes. Makes the file if there is none, readable by its owner only."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # opened by one thread, then used by the writer's alone
        cached_statements=_STATEMENTS_CACHED,
    )
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        database.close()
        raise StoreUnavailable(f"{path} cannot be written ahead (journal mode {mode}); use a local disk.")
    for setting in (
        "synchronous = FULL",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        "cache_size = -65536",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {WAL_BYTES_KEPT}",
    ):
        database.execute(f"PRAGMA {setting}")
    return database


def connect_reader(path: Path, *, with_checks: bool = False) -> sqlite3.Connection:
    """A connection that cannot write; it never waits for the writer, nor the writer for it.

    SQLite does not even read the CHECKs of a file that it opened read-only. `with_checks` opens it so
    that `quick_check` sees them; statements still cannot write.
    """
    mode = "rw" if with_checks else "ro"
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_CACHED,
    )
    database.execute("PRAGMA query_only = ON")
    return database
