"""A thread that writes SQLite's write-ahead log back into the database file, so that no commit has to.

SQLite would do it in the commit that makes the log too long. After a long read, during which nothing
may be written back, one payer's commit would then wait for all that was written meanwhile.
"""

import asyncio
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
FAILURES_TOLD = 60
"""The first of so many failures in a row is logged."""
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
        self._failures = 0
        self._thread = Thread(target=self._main, name="arkgate-checkpoints", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Ends the thread, after what it does at the moment; that may be many pages."""
        self._closing.set()
        try:
            await asyncio.to_thread(self._thread.join)
        finally:
            self._thread.join()  # when cancelled meanwhile: the writer must be the last to close the file

    def _main(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(connect_checkpointer(self._path)) as database:
                    self._watch(database)
            except Exception as exc:  # noqa: BLE001 - without this thread the log would fill the disk
                if self._failures % FAILURES_TOLD == 0:
                    log.error("ledger's log cannot be written back and grows", error=str(exc))
                self._failures += 1
                self._closing.wait(self._pause_seconds)

    def _watch(self, database: sqlite3.Connection) -> None:
        all_of: int | None = None
        while not self._closing.wait(self._pause_seconds):
            (version,) = database.execute("PRAGMA data_version").fetchone()
            if version != all_of:
                all_of = version if self._write_back(database) else None
                self._failures = 0

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
