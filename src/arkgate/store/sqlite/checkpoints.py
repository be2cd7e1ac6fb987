"""A thread that writes SQLite's write-ahead log back into the database file, so that no commit has to.

SQLite would do it in the commit that makes the log too long. After a long read, during which nothing
may be written back, one payer's commit would then wait for all that was written meanwhile.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import structlog

from arkgate.store.sqlite.connections import PAGE_BYTES, connect_checkpointer

PAUSE_SECONDS = 1.0
FRAMES_LEFT = 256
"""What the writer writes back at most, in pages: a few milliseconds."""
ROUNDS_MAX = 8
log = structlog.get_logger(__name__)


class Checkpoints:
    """Writes back whatever is new, once a second and beside the commits: a passive checkpoint stops nobody.

    The log begins anew only after a moment in which all of it is written back and nobody reads it. Under
    steady load there is always a last commit more, so when the log is long and little is left, `finish`
    asks the writer, between two commits, to write back the rest.
    """

    def __init__(
        self,
        path: Path,
        finish: Callable[[], None],
        *,
        log_bytes: int,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._path = path
        self._finish = finish
        self._log_bytes = log_bytes
        self._pause_seconds = pause_seconds
        self._closing = Event()
        self._fails = False
        self._thread = Thread(target=self._main, name="arkgate-checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after what it does at the moment."""
        self._closing.set()
        self._thread.join()

    def _main(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(connect_checkpointer(self._path)) as database:
                    self._watch(database)
            except sqlite3.Error as exc:  # a full disk, say: the log grows until it can be written back
                if not self._fails:
                    log.warning("ledger's log not written back", error=str(exc))
                self._fails = True
                self._closing.wait(self._pause_seconds)

    def _watch(self, database: sqlite3.Connection) -> None:
        all_of: int | None = None
        while not self._closing.wait(self._pause_seconds):
            (version,) = database.execute("PRAGMA data_version").fetchone()
            if version != all_of:
                all_of = version if self._write_back(database) else None
                self._fails = False

    def _write_back(self, database: sqlite3.Connection) -> bool:
        """Whether all is written back; what a reader still needs where it is has to wait for it."""
        left = 0
        for _ in range(ROUNDS_MAX):
            _, logged, written_back = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            left = logged - written_back
            if logged * PAGE_BYTES < self._log_bytes:
                break
            if left <= FRAMES_LEFT:
                self._finish()
                break
        return left == 0
