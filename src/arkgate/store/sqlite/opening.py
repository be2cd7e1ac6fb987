"""Opens the ledger on SQLite: the lock, the tables, the writer and the readers, in that order."""

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from arkgate.ports import Clock, Duties
from arkgate.store import revisions
from arkgate.store.clock import BooksClock, ForwardClock, SystemClock
from arkgate.store.credits import Credits
from arkgate.store.lock import writing_lock
from arkgate.store.sqlite import queries, schema
from arkgate.store.sqlite.checkpoints import Checkpoints
from arkgate.store.sqlite.connections import LOG_BYTES, connect_reader, connect_writer, extend_log, refusing
from arkgate.store.sqlite.disk import refuse_shared
from arkgate.store.sqlite.ledger import SqliteLedger
from arkgate.store.sqlite.statements import SqliteStatements
from arkgate.store.sqlite.writer import Writer


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """The open books: what writes, what reads, and the writer behind the first."""

    ledger: SqliteLedger
    statements: SqliteStatements
    clock: BooksClock
    duties: Duties
    writer: Writer


class SoleProcess:
    """`ports.Duties` where nobody else has the books open."""

    async def alone(self, duty: str, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work."""
        await work()


@asynccontextmanager
async def open_sqlite(
    path: Path | str, clock: Clock | None, *, log_bytes: int = LOG_BYTES
) -> AsyncIterator[SqliteStore]:
    """Opens the books for writing, upgrades their tables, and closes them cleanly.

    Without a clock they go by the host's. `log_bytes` of disk are taken for the write-ahead log before
    the first change; when it is that long it begins anew.

    Raises StoreUnavailable when another process writes to them, when their tables are of a revision
    that this version does not know, or when the file cannot be opened.
    """
    database = _resolved(path)
    forward = ForwardClock(clock) if clock else ForwardClock(SystemClock(), steady_ns=time.monotonic_ns)
    refuse_shared(database)
    with writing_lock(database):
        writer = Writer(_connect_and_prepare(database, forward.now_ms(), log_bytes), forward)
        checkpoints = Checkpoints(database, writer.finish_log, log_bytes=log_bytes)
        try:
            credited = Credits()
            with closing(SqliteStatements(database, forward, credited)) as statements:
                ledger = SqliteLedger(writer, forward, credited)
                yield SqliteStore(ledger, statements, forward, SoleProcess(), writer)
        finally:
            try:
                await checkpoints.close()
            finally:
                await writer.close()


def _resolved(path: Path | str) -> Path:
    return Path(path).expanduser().resolve()


def _connect_and_prepare(database: Path, now_ms: int, log_bytes: int) -> sqlite3.Connection:
    with refusing(f"The ledger {database} cannot be opened"):
        connection = connect_writer(database, log_bytes=log_bytes)
        try:
            schema.prepare(connection, now_ms)
            _give_up_holds(connection, now_ms)
            extend_log(connection, log_bytes)
        except BaseException:
            connection.close()
            raise
        return connection


def _give_up_holds(database: sqlite3.Connection, now_ms: int) -> None:
    """Makes every open hold overdue: whoever took it had the lock that is ours now, and is dead.

    Their deadlines are another process's time. Had its host's clock been an hour ahead, the payer
    would wait for that hour.
    """
    database.execute(queries.BRING_DEADLINES_FORWARD, (now_ms - 1, now_ms - 1))


@contextmanager
def open_sqlite_readonly(path: Path | str, clock: Clock) -> Iterator[SqliteStatements]:
    """Opens the books for reading, also beside a gateway that writes to them; upgrades nothing.

    Raises StoreUnavailable when there are no books of this version's tables at that path.
    """
    database = _resolved(path)
    with refusing(f"The ledger {database} cannot be opened"), closing(connect_reader(database)) as connection:
        revisions.refuse_behind(schema.refuse_unknown(connection), str(database))
    with closing(SqliteStatements(database, ForwardClock(clock), rules_at_once=2)) as statements:
        yield statements
