"""Where races are run: verbs are held at a barrier, so that their order is forced and not hoped for."""

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import CoroutineType
from typing import Any, Protocol

import asyncpg

from arkgate.core.ledger import ReserveOutcome
from arkgate.store import Store
from arkgate.store.postgres.connections import Connection
from arkgate.store.postgres.lanes import Lane
from arkgate.store.postgres.ledger import open_ledger
from arkgate.store.postgres.opening import PostgresStore, open_postgres
from arkgate.store.sqlite.opening import SqliteStore, open_sqlite
from tests import postgres
from tests.store.books import PRICE, ManualClock, call, pay

Verb = Callable[[Store], Coroutine[Any, Any, Any]]
"""One verb that takes part in a race, on the books of whoever runs it."""


def several(verbs: Sequence[Verb]) -> Verb:
    """Verbs that one racer asks for at once: on PostgreSQL they are one statement."""

    async def several(store: Store) -> list[Any]:
        return await asyncio.gather(*(verb(store) for verb in verbs))

    return several


class Manner(Enum):
    """How close verbs come to each other."""

    APART = "each is answered before the next one is asked for"
    IN_TURN = "all have been asked for when the first one begins; each has a transaction of its own"
    TOGETHER = "all have been asked for when the first one begins; they may share a transaction"


class Course(Protocol):
    """Open books of one engine. Several gateways may share them: each racer has books of its own."""

    @property
    def store(self) -> Store:
        """The books for what is not raced."""
        ...

    async def raced(self, verbs: Sequence[Verb], manner: Manner) -> list[Any]:
        """Runs the verbs in this order and in that manner; what each answered, in the same order."""
        ...


class SqliteCourse:
    """One process writes, so racers are tasks, and the barrier is a verb that keeps the writer busy."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    async def raced(self, verbs: Sequence[Verb], manner: Manner) -> list[Any]:
        """See `Course`."""
        if manner is Manner.APART:
            return [await verb(self.store) for verb in verbs]
        writer = self.store.writer
        reached, opened = threading.Event(), threading.Event()

        def barrier(*_: object) -> None:
            reached.set()
            assert opened.wait(10)

        held = asyncio.create_task(writer.run(barrier))
        await asyncio.to_thread(reached.wait, 10)
        usual, writer._batch_max = writer._batch_max, 1 if manner is Manner.IN_TURN else writer._batch_max
        racers = []
        for number, verb in enumerate(verbs, start=1):
            racers.append(asyncio.ensure_future(verb(self.store)))
            while writer._queue.qsize() < number:  # noqa: ASYNC110 - the queue is the writer's own
                await asyncio.sleep(0)
        opened.set()
        answers = await asyncio.gather(held, *racers)
        writer._batch_max = usual
        return answers[1:]


ACCOUNTS = "SELECT FROM account WHERE kind = 'customer' AND account_id <> $1 FOR UPDATE"
DOORS = {
    "mark_invoice": "SELECT FROM invoice WHERE account_id <> $1 FOR UPDATE",
    "open_session": "LOCK TABLE invoice IN EXCLUSIVE MODE",
}
"""What is locked before a race with that verb, where it is not the account's row: an expiry locks no
account, and a session's is not there before. Whoever comes first opens it; the other waits for that one."""
GATE = "9a" * 16
GATE_ROW = "SELECT FROM account WHERE account_id = $1 FOR UPDATE"
IN_LANES = {"reserve", "settle", "release", "sweep", "several"}
"""Verbs whose changes wait in a lane, where they may come to share a transaction."""
HELD_UP = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""
REPLICAS = 2
ARRIVAL_SECONDS = 2.0
"""A statement gives up its wait for a lock after three."""


class PostgresCourse:
    """Racers have connections of their own, and the barrier is a lock that all of them come to wait for.

    A lock is handed on in the order in which it was asked for, so a racer starts when the one before it
    is seen to wait: in the database itself, or for the lane that waits there.
    """

    def __init__(self, url: str, replicas: Sequence[PostgresStore], watcher: Connection) -> None:
        self.store: Store = replicas[0]
        self.url = url
        self._replicas = replicas
        self._lanes = [replica.ledger._lanes[0] for replica in replicas]
        self._batch_max = self._lanes[0]._batch_max
        self._watcher = watcher

    async def raced(self, verbs: Sequence[Verb], manner: Manner) -> list[Any]:
        """See `Course`."""
        if manner is Manner.APART:
            return [await verb(self._replica(number)) for number, verb in enumerate(verbs)]
        if manner is Manner.IN_TURN:
            return await self._in_turn([verb(self._replica(number)) for number, verb in enumerate(verbs)])
        return await self._together([verb(self._replicas[0]) for verb in verbs])

    def _replica(self, number: int) -> PostgresStore:
        return self._replicas[number % len(self._replicas)]

    async def _in_turn(self, asked: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Each racer is the next replica's; where one has several, its lane sends one call at a time."""
        if len(asked) > len(self._replicas):
            self._send_at_most(1)
        racers = []
        statements = 0
        busy: set[Lane] = set()
        async with _closed(self.url, _door(asked), GATE):
            for verb, lane in zip(asked, itertools.cycle(self._lanes)):
                queued = len(lane._waiting)
                racers.append(asyncio.create_task(verb))
                if lane in busy and _name(verb) in IN_LANES:
                    await _until_queued(lane, queued + 1)
                    continue
                statements += 1
                await self._until_waiting(statements)
                if _name(verb) in IN_LANES:
                    busy.add(lane)
        answers = await asyncio.gather(*racers)
        self._send_at_most(self._batch_max)
        return answers

    async def _together(self, asked: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """All racers are one replica's. Those of a lane that follow each other make one statement."""
        racers: list[asyncio.Task[Any]] = []
        async with _closed(self.url, _door(asked), GATE):
            grouped = itertools.groupby(asked, lambda verb: _name(verb) in IN_LANES)
            statements = 0
            for in_lane, group in grouped:
                if in_lane:
                    racers += await self._one_statement(group, behind=statements)
                    statements += 1
                    await self._until_waiting(statements)
                    continue
                for verb in group:
                    racers.append(asyncio.create_task(verb))
                    statements += 1
                    await self._until_waiting(statements)
        return await asyncio.gather(*racers)

    async def _one_statement(
        self, group: Iterable[Coroutine[Any, Any, Any]], *, behind: int
    ) -> list[asyncio.Task[Any]]:
        """Keeps the lane busy until all of the group wait for it, with a call that will be refused."""
        racers = []
        async with _closed(self.url, GATE_ROW, GATE):
            too_dear = call(account_id=GATE, price=PRICE)
            refused = asyncio.create_task(self._replicas[0].ledger.reserve(too_dear))
            await self._until_waiting(behind + 1)
            for verb in group:
                queued = len(self._lanes[0]._waiting)
                racers.append(asyncio.create_task(verb))
                await _until_queued(self._lanes[0], queued + 1)
        assert (await refused).outcome is ReserveOutcome.INSUFFICIENT
        return racers

    async def _until_waiting(self, statements: int) -> None:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            while await self._watcher.fetchval(HELD_UP) < statements:  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.001)

    def _send_at_most(self, calls: int) -> None:
        for lane in self._lanes:
            lane._batch_max = calls


async def _until_queued(lane: Lane, calls: int) -> None:
    async with asyncio.timeout(ARRIVAL_SECONDS):
        while len(lane._waiting) < calls:  # noqa: ASYNC110 - the queue is the lane's own
            await asyncio.sleep(0)


def _door(asked: Sequence[Coroutine[Any, Any, Any]]) -> str:
    return next((DOORS[name] for name in map(_name, asked) if name in DOORS), ACCOUNTS)


def _name(asked: Coroutine[Any, Any, Any]) -> str:
    assert isinstance(asked, CoroutineType)
    return asked.__name__


@asynccontextmanager
async def _closed(url: str, lock: str, account: str) -> AsyncIterator[None]:
    """Holds a lock while the block runs, on a connection that is none of the racers'."""
    holder = await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.fetch(lock, *([account] if "$1" in lock else []))
            yield
    finally:
        await holder.close()


@asynccontextmanager
async def _postgres(_directory: Path, clock: ManualClock) -> AsyncIterator[Course]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.database())
        replicas = []
        for _ in range(REPLICAS):
            store = await stack.enter_async_context(open_postgres(url, clock))
            ledger = await stack.enter_async_context(open_ledger(url, store.clock, lanes=1))
            replicas.append(dataclasses.replace(store, ledger=ledger))
        await pay(replicas[0], 1, GATE)
        watcher = await asyncpg.connect(url)
        stack.push_async_callback(watcher.close)
        yield PostgresCourse(url, replicas, watcher)


@asynccontextmanager
async def _sqlite(directory: Path, clock: ManualClock) -> AsyncIterator[Course]:
    async with open_sqlite(directory / "ledger.db", clock) as store:
        yield SqliteCourse(store)


@dataclass(frozen=True, slots=True)
class Racing:
    """An engine that races are run on."""

    name: str
    opened: Callable[[Path, ManualClock], AbstractAsyncContextManager[Course]]
    prepare: Callable[[], object] = lambda: None
    """What has to be done outside of the event loop."""


ENGINES = [Racing("sqlite", _sqlite), Racing("postgres", _postgres, postgres.prepare)]
