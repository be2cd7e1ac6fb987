"""How connections to the SQLite file are made, and how its errors become refusals."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arkgate.core.errors import StoreUnavailable

RETRY_AFTER_SECONDS = 5
PAGE_BYTES = 4096
LOG_BYTES = 4 * 1024 * 1024
LOG_BYTES_KEPT = 256 * 1024 * 1024
BUSY_SECONDS = 5.0
_STATEMENTS_CACHED = 128

Executing = sqlite3.Connection | sqlite3.Cursor
"""What carries a statement out: a reader's connection, or the one cursor of the writer, because a
connection makes a new cursor for each statement. Who executes through it fetches all rows at once."""


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


def connect_writer(path: Path, *, log_bytes: int = LOG_BYTES) -> sqlite3.Connection:
    """The one connection that writes. Makes the file if there is none, readable by its owner only.

    `log_bytes` is how much of the write-ahead log may stay on the disk. No commit writes it back: see
    `checkpoints`.
    """
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
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {max(log_bytes, LOG_BYTES_KEPT)}",
    ):
        database.execute(f"PRAGMA {setting}")
    return database


def extend_log(database: sqlite3.Connection, log_bytes: int) -> None:
    """Gives the write-ahead log its size now: a commit that makes a file longer is synced at twice the cost.

    What is written here is rolled back, and overwritten by the first commits.
    """
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (cache_size,) = database.execute("PRAGMA cache_size").fetchone()
    database.execute("PRAGMA cache_size = 16")  # more pages than that go to the log before the commit
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("CREATE TABLE filling (content BLOB)")
        database.execute("INSERT INTO filling VALUES (zeroblob(?))", (log_bytes,))
    finally:
        if database.in_transaction:  # a full disk has ended it already
            database.execute("ROLLBACK")
        database.execute(f"PRAGMA cache_size = {cache_size}")


def connect_checkpointer(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing and writes the write-ahead log back."""
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,  # to open it; a passive checkpoint waits for nobody
        isolation_level=None,
        check_same_thread=False,
    )
    database.execute("PRAGMA synchronous = FULL")
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
