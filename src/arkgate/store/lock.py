"""One process writes to a ledger: a lock file beside the database refuses a second."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arkgate.core.errors import StoreUnavailable


def lock_path(database: Path) -> Path:
    """Where the lock of a database lives."""
    return database.with_name(database.name + ".lock")


@contextmanager
def writing_lock(database: Path) -> Iterator[None]:
    """Holds the right to write for as long as the block runs.

    The kernel gives it back when the process ends, however it ends. The file stays: to remove it
    would let two processes lock two files of the same name. Raises StoreUnavailable when another
    process holds it, with its process id.
    """
    path = lock_path(database)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise StoreUnavailable(f"The ledger's lock {path} cannot be opened: {exc.strerror}.") from exc
    try:
        _take(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreUnavailable(
            f"Another process (pid {holder}) is writing to this ledger; it holds {path}.", code="store_locked"
        ) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
