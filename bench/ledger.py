"""Measures the ledger alone: reserve and settle in pairs, grouped as the store does it and one by one.

    python -m bench.ledger [--seconds 6] [--database URL]

Without a URL it makes a SQLite ledger in a temporary folder, then one in a PostgreSQL of its own.
Everything that is compared takes turns in short slices of one run, because the speed of a shared
machine drifts.
"""

import argparse
import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop
from tests.postgres import new_server

from arkgate.core.ledger import Answer, Reservation, Reserved, Resolved
from arkgate.core.money import Msat
from arkgate.ports import Clock
from arkgate.store import Store, open_store, shown
from arkgate.store.credits import Credits
from arkgate.store.postgres.ledger import open_ledger
from arkgate.store.sqlite import calls
from arkgate.store.sqlite.connections import connect_writer
from arkgate.store.sqlite.ledger import SqliteLedger
from arkgate.store.sqlite.opening import SqliteStore
from arkgate.store.sqlite.writer import Writer
from bench.pairs import Pairs, Verbs, fill, pairs

T = TypeVar("T")
ACCOUNTS = 1_000
CLIENTS = (1, 32, 128)
COMPARED = 32
"""The number of clients that the targets speak of."""
ROUNDS = 3
LOG_BYTES = 80 * 1024 * 1024
GROUPED, HOT = "grouped", "grouped, one hot account"
ONE_BY_ONE, ON_THE_LOOP = "one by one", "one by one, on the loop"
SQLITE_TARGET, OTHERS_TARGET, HOT_TARGET = 5.0, 2.0, 0.7


class OnTheLoop:
    """A transaction for each verb, by the same statements, on the event loop's own thread.

    No gateway could do that: everybody waits while one commit is flushed. It is the floor of what a
    verb costs alone, without the hop to the writer's thread.
    """

    def __init__(self, database: sqlite3.Cursor, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def reserve(self, reservation: Reservation) -> Reserved:
        """As `ports.Ledger.reserve`."""
        return await self._alone(lambda now_ms: calls.reserve(self._database, now_ms, reservation))

    async def settle(self, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
        """As `ports.Ledger.settle`."""
        return await self._alone(lambda now_ms: calls.settle(self._database, now_ms, call_id, cost, answer))

    async def _alone(self, verb: Callable[[int], T]) -> T:
        self._database.execute("BEGIN IMMEDIATE")
        result = verb(self._clock.now_ms())
        self._database.execute("COMMIT")
        await asyncio.sleep(0)  # the next client's turn
        return result


@dataclass(frozen=True, slots=True)
class Row:
    """One measured line."""

    way: str
    clients: int
    pairs: Pairs


async def measure(url: str, seconds: float) -> list[Row]:
    """All lines for one database."""
    async with open_store(url, None, log_bytes=LOG_BYTES) as store:
        draw = random.Random(7)
        accounts = [f"{draw.getrandbits(128):032x}" for _ in range(ACCOUNTS)]
        await fill(store.ledger, store.clock, accounts)
        rows = []
        async with _ways(url, store) as ways:
            for clients in CLIENTS:
                rows += await _in_turns(store, ways, accounts, clients, seconds)
        return rows


@asynccontextmanager
async def _ways(url: str, store: Store) -> AsyncIterator[Mapping[str, Verbs]]:
    """The store's own way, and the naive ones where this program knows them for the engine.

    One by one is the same writer with batches of one verb, so that nothing but the grouping differs; on
    PostgreSQL it has a connection for each of 32 clients.
    """
    if not isinstance(store, SqliteStore):
        async with open_ledger(url, store.clock, lanes=COMPARED, batch_max=1) as apart:
            yield {GROUPED: store.ledger, ONE_BY_ONE: apart}
        return
    alone = Writer(connect_writer(Path(shown(url)), log_bytes=LOG_BYTES), store.clock, batch_max=1)
    try:
        database = await store.writer.run(lambda cursor, _: cursor.connection.cursor())
        yield {
            GROUPED: store.ledger,
            ONE_BY_ONE: SqliteLedger(alone, store.clock, Credits()),
            ON_THE_LOOP: OnTheLoop(database, store.clock),
        }
    finally:
        await alone.close()


async def _in_turns(
    store: Store, ways: Mapping[str, Verbs], accounts: Sequence[str], clients: int, seconds: float
) -> list[Row]:
    draw = random.Random(clients)
    loads: dict[str, tuple[Verbs, Callable[[], str]]] = {
        way: (verbs, lambda: draw.choice(accounts)) for way, verbs in ways.items()
    }
    if clients == COMPARED:
        loads[HOT] = (ways[GROUPED], lambda: accounts[0])
    sums = {way: Pairs() for way in loads}
    for _ in range(ROUNDS):
        for way, (verbs, account) in loads.items():
            slice_ = await pairs(verbs, store.clock, account, clients=clients, seconds=seconds / ROUNDS)
            sums[way].add(slice_)
    return [Row(way, clients, summed) for way, summed in sums.items()]


def report(url: str, rows: Sequence[Row]) -> bool:
    """Prints the table and the targets; answers whether one was missed."""
    print(f"reserve + settle, {shown(url)}")
    print(f"{'':28} {'clients':>7} {'pairs/s':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for row in rows:
        took = row.pairs
        print(f"{row.way:28} {row.clients:7} {took.per_second:9.0f} {took.ms(0.5):8.2f} {took.ms(0.99):8.2f}")
    missed = False
    for sentence, met in _targets(url, {row.way: row.pairs for row in rows if row.clients == COMPARED}):
        print(f"{'met   ' if met else 'MISSED'} {sentence}")
        missed |= not met
    return missed


def _targets(url: str, compared: Mapping[str, Pairs]) -> Iterator[tuple[str, bool]]:
    sqlite = url.startswith("sqlite")
    grouped = compared[GROUPED].per_second
    if ONE_BY_ONE in compared:
        times = grouped / compared[ONE_BY_ONE].per_second
        target = SQLITE_TARGET if sqlite else OTHERS_TARGET
        yield f"{times:.1f} times one by one at {COMPARED} clients (target {target:.0f})", times >= target
    if not sqlite:
        share = compared[HOT].per_second / grouped
        yield f"one hot account: {share:.2f} of the spread load (target {HOT_TARGET})", share >= HOT_TARGET


def main() -> None:
    """Measures and prints. Ends with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    parser.add_argument("--database", help="the URL of an empty database, in place of both engines")
    asked = parser.parse_args()
    with ExitStack() as stack:
        missed = False
        for url in [asked.database] if asked.database else _databases(stack):
            rows = uvloop.run(measure(url, asked.seconds))  # the loop that the gateway runs on
            missed |= report(url, rows)
    raise SystemExit(1 if missed else 0)


def _databases(stack: ExitStack) -> Iterator[str]:
    """An empty database of each engine, gone afterwards."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="arkgate-bench-"))
    yield f"sqlite:///{directory}/ledger.db"
    server = new_server()
    stack.callback(server.remove)
    yield server.url


if __name__ == "__main__":
    main()
