"""Opens the ledger on PostgreSQL: the server, the tables, the time, what reads and what writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

from arkgate.ports import Clock
from arkgate.store import revisions
from arkgate.store.clock import BooksClock, ForwardClock, SystemClock
from arkgate.store.credits import Credits
from arkgate.store.postgres import schema
from arkgate.store.postgres.clock import DatabaseClock
from arkgate.store.postgres.connections import (
    PATIENT_SECONDS,
    close,
    connect,
    refuse_unfit,
    refusing,
    shown,
)
from arkgate.store.postgres.duties import PostgresDuties
from arkgate.store.postgres.ledger import PostgresLedger, open_ledger
from arkgate.store.postgres.news import News
from arkgate.store.postgres.reads import Reads, open_reads
from arkgate.store.postgres.statements import PostgresStatements
from arkgate.store.told import Step


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """The open books: what writes, what reads, and the database's time."""

    ledger: PostgresLedger
    statements: PostgresStatements
    clock: BooksClock
    duties: PostgresDuties


@asynccontextmanager
async def open_postgres(url: str, clock: Clock | None = None) -> AsyncIterator[PostgresStore]:
    """Opens the books for writing and upgrades their tables; without a clock by the database's time.

    Any number of processes may have the same books open. Raises StoreUnavailable when the server
    cannot be reached or is unfit, or when the tables are of a revision that this version cannot work on.
    """
    async with open_reads(url) as reads:
        told = clock or await _measured(reads)
        await _prepare(url, told.now_ms())
        forward, credited = await _forward(told), Credits()
        async with (
            open_ledger(url, forward) as ledger,
            _measuring(told, ledger.note_step),
            _background(News(url, credited).run()),
        ):
            statements = PostgresStatements(reads, forward, credited)
            yield PostgresStore(ledger, statements, forward, PostgresDuties(url))


@asynccontextmanager
async def open_postgres_readonly(url: str, clock: Clock | None = None) -> AsyncIterator[PostgresStatements]:
    """Opens the books for reading; upgrades nothing.

    Raises StoreUnavailable when there are no books of this version's tables.
    """
    async with open_reads(url) as reads:
        async with reads.snapshot() as snapshot:
            revisions.refuse_behind(await schema.refuse_unknown(snapshot), shown(url))
        told = clock or await _measured(reads)
        forward = await _forward(told)
        async with _measuring(told):
            yield PostgresStatements(reads, forward, Credits())


async def _prepare(url: str, now_ms: int) -> None:
    with refusing(f"The ledger {shown(url)} cannot be opened"):
        connection = await connect(url, seconds=PATIENT_SECONDS)
        try:
            await refuse_unfit(connection, shown(url))
            await schema.prepare(url, connection, now_ms)
        finally:
            await close(connection)


async def _measured(reads: Reads) -> DatabaseClock:
    database = DatabaseClock(reads, SystemClock())
    await database.measure()
    return database


async def _forward(told: Clock) -> BooksClock:
    """The given time, or the database's with what the books say of its steps."""
    if not isinstance(told, DatabaseClock):
        return ForwardClock(told)
    await told.heed_steps()
    return ForwardClock(told, steady_ns=time.monotonic_ns)


@asynccontextmanager
async def _measuring(
    told: Clock, note: Callable[[Step], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """Measures the database's time again and again while the block runs; a given one needs nothing."""
    if not isinstance(told, DatabaseClock):
        yield
        return
    async with _background(told.run(note)):
        yield


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs endless work while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
