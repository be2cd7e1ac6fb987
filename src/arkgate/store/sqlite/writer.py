"""One thread that writes: it takes the verbs that wait, commits them together, then wakes who asked.

The caller may be cancelled while it waits: the verb happens all the same. Nobody is answered before
the commit that holds the answer's verb is durable.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

import structlog

from arkgate.core.errors import InternalError, StoreUnavailable
from arkgate.ports import Clock
from arkgate.store.sqlite.connections import unavailable

T = TypeVar("T")
Verb = Callable[[sqlite3.Cursor, int], T]
"""Reads and writes inside the transaction it is given, at the time it is given, and nothing else.

It may be run twice, the first time undone.
"""

WAITING_MAX = 8192
"""Verbs that may wait; beyond it new ones are refused at once."""
BATCH_MAX = 256
"""Verbs in one commit: bounds how long the first of them waits for the last."""

# What one verb does wrong by itself. Any other error of SQLite concerns the file or the disk.
_FAULTS_OF_ONE_VERB = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)
_UNWRITTEN = "The ledger cannot be written now"
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Job:
    verb: Verb[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Writer:
    """Owns the writing connection. To be made, used and closed on one event loop."""

    def __init__(
        self,
        database: sqlite3.Connection,
        clock: Clock,
        *,
        waiting_max: int = WAITING_MAX,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self._database = database
        self._cursor = database.cursor()
        self._clock = clock
        self._waiting_max = waiting_max
        self._batch_max = batch_max
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = False
        self._failure: sqlite3.Error | None = None
        self._log_ends = Event()
        self._thread = Thread(target=self._main, name="arkgate-ledger", daemon=True)
        self._thread.start()

    async def run(self, verb: Verb[T]) -> T:
        """What the verb answers, once it is durable. Raises what the verb raised, or StoreUnavailable."""
        if self._closing:
            raise StoreUnavailable("The ledger is closed.")
        if self._queue.qsize() >= self._waiting_max:
            raise StoreUnavailable("Too many changes wait for the ledger.", retry_after_seconds=1)
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(verb, future))
        return await future

    def check(self) -> None:
        """Raises StoreUnavailable from a batch that was not written until a change is durable again."""
        failure = self._failure
        if failure is not None:
            raise unavailable(_UNWRITTEN, failure)

    def finish_log(self) -> None:
        """Asks for the rest of the log to be written back before the next commit; from any thread."""
        self._log_ends.set()

    async def close(self) -> None:
        """Commits what waits, writes the log back into the database file, and gives up the connection."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        try:
            await asyncio.to_thread(self._thread.join)
        finally:
            self._thread.join()  # when cancelled meanwhile: the lock must not be given back before

    def _main(self) -> None:
        going = True
        while going:
            jobs, going = self._take()
            if jobs:
                self._commit(jobs)
                self._wake(jobs)
            if self._log_ends.is_set():
                self._log_ends.clear()
                self._write_log_back("PASSIVE")
        self._shut()

    def _take(self) -> tuple[list[_Job], bool]:
        """Waits for a first job, then takes all that wait with it; False when it was the last batch."""
        jobs: list[_Job] = []
        try:
            job = self._queue.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == self._batch_max:
                    return jobs, True
                job = self._queue.get_nowait()
        except Empty:
            return jobs, True
        return jobs, False

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Runs the jobs as one transaction: afterwards each has a durable result, or an error."""
        try:
            now_ms = self._clock.now_ms()
            if not self._together(jobs, now_ms):
                self._one_by_one(jobs, now_ms)
        except sqlite3.Error as exc:
            self._failure = exc
            self._fail(jobs, partial(unavailable, _UNWRITTEN, exc))
            log.error("ledger not written", error=str(exc), verbs=len(jobs))
        except Exception as exc:  # noqa: BLE001 - a dead writer would leave every caller waiting for ever
            self._fail(jobs, partial(InternalError, "The ledger's writer failed."))
            log.error("ledger writer failed", error=repr(exc), verbs=len(jobs))

    def _together(self, jobs: Sequence[_Job], now_ms: int) -> bool:
        """Hopes that no verb goes wrong, and saves the savepoints: 15 in 100 of a call's statements.

        False when one did: then nothing has happened, and which one it was is found one by one.
        """
        cursor, database = self._cursor, self._database
        changes = database.total_changes
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                job.result = job.verb(cursor, now_ms)
        except Exception:  # noqa: BLE001 - it happens again one by one, and is raised there
            self._roll_back()
            return False
        self._commit_changes(changed=database.total_changes > changes)
        return True

    def _one_by_one(self, jobs: Sequence[_Job], now_ms: int) -> None:
        self._cursor.execute("BEGIN IMMEDIATE")
        changed = [self._run_one(job, now_ms) for job in jobs]
        self._commit_changes(changed=any(changed))

    def _commit_changes(self, *, changed: bool) -> None:
        """A commit that changes nothing writes nothing, so it says nothing of the disk."""
        self._cursor.execute("COMMIT")
        if changed:
            self._failure = None

    def _run_one(self, job: _Job, now_ms: int) -> bool:
        """One verb in a savepoint: what it does wrong by itself is undone and harms no other.

        Answers whether it changed anything.
        """
        cursor, database = self._cursor, self._database
        changes = database.total_changes
        job.result = None
        cursor.execute("SAVEPOINT verb")
        try:
            job.result = job.verb(cursor, now_ms)
        except sqlite3.Error as exc:
            if not isinstance(exc, _FAULTS_OF_ONE_VERB):
                raise
            log.error("ledger refused a change", error=str(exc))
            job.error = InternalError("The ledger's own rules refused this change.")
            job.error.__cause__ = exc
            cursor.execute("ROLLBACK TO verb")
        except Exception as exc:  # noqa: BLE001 - it is the caller's, and is raised there
            job.error = exc
            cursor.execute("ROLLBACK TO verb")
        cursor.execute("RELEASE verb")
        return job.error is None and database.total_changes > changes

    def _fail(self, jobs: Sequence[_Job], error: Callable[[], Exception]) -> None:
        for job in jobs:
            job.error = error()  # one each: a raised exception collects its raiser's traceback
        try:
            self._roll_back()
        except sqlite3.Error as exc:
            log.error("ledger not rolled back", error=str(exc))

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # a full disk may have ended the transaction already
            self._cursor.execute("ROLLBACK")

    def _wake(self, jobs: Sequence[_Job]) -> None:
        try:
            self._loop.call_soon_threadsafe(_answer, jobs)
        except RuntimeError:
            log.warning("ledger answers have no reader", verbs=len(jobs))  # the loop is closed

    def _write_log_back(self, manner: str) -> None:
        try:
            self._database.execute(f"PRAGMA wal_checkpoint({manner})").fetchall()
        except sqlite3.Error as exc:
            log.warning("ledger not checkpointed", error=str(exc))  # the log is replayed at the next start

    def _shut(self) -> None:
        self._write_log_back("TRUNCATE")
        self._database.close()


def _answer(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():  # its caller was cancelled; the verb happened all the same
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
