"""A full disk, a full queue, a killed process: what was acknowledged stays, what was not never happened."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from arkgate.core.errors import InternalError, StoreUnavailable
from arkgate.core.ledger import Balance, HoldState, ReserveOutcome, Resolved, SettleOutcome
from arkgate.core.money import Msat
from arkgate.core.pricing import Quote
from arkgate.store.sqlite.connections import Executing, connect_writer, extend_log
from arkgate.store.sqlite.opening import SqliteStore, open_sqlite
from arkgate.store.sqlite.writer import Writer
from tests.store.books import (
    ALICE,
    PRICE,
    ManualClock,
    answer_to,
    broken,
    call,
    in_sqlite,
    pay,
    run,
)


def _pages_at_most(extra: int, database: Executing) -> None:
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + extra}")


@in_sqlite
async def test_a_full_disk_refuses_the_batch_and_loses_nothing(
    store: SqliteStore, clock: ManualClock
) -> None:
    await pay(store, 100 * PRICE)
    small, large = call(), call()
    for asked in (small, large):
        await store.ledger.reserve(asked)
    await store.writer.run(lambda db, _: _pages_at_most(2, db))

    refused = await asyncio.gather(
        store.ledger.settle(small.call_id, PRICE, answer_to(small)),
        store.ledger.settle(large.call_id, PRICE, answer_to(large, text="x" * 100_000)),
        return_exceptions=True,
    )
    balance_meanwhile = await store.statements.account(ALICE)
    await store.writer.run(lambda db, _: _pages_at_most(10_000, db))
    settled = await store.ledger.settle(large.call_id, PRICE, answer_to(large, text="x" * 100_000))

    assert all(isinstance(error, StoreUnavailable) for error in refused)
    assert [getattr(error, "retry_after_seconds", None) for error in refused] == [5, 5]
    assert balance_meanwhile is not None
    assert balance_meanwhile.balance == Balance(Msat(100 * PRICE), Msat(2 * PRICE))
    assert settled.outcome is SettleOutcome.SETTLED
    found = await store.statements.call(ALICE, small.request_id)
    assert found is not None
    assert found.state is HoldState.OPEN


def test_a_start_on_a_full_disk_says_that_it_is_full(tmp_path: Path) -> None:
    with contextlib.closing(connect_writer(tmp_path / "ledger.db")) as database:
        _pages_at_most(2, database)

        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            extend_log(database, 1024 * 1024)


@in_sqlite
async def test_unwritten_books_say_so_until_a_change_is_durable_again(
    store: SqliteStore, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    asked = call()
    await store.ledger.reserve(asked)
    store.ledger.check()
    await store.writer.run(lambda db, _: _pages_at_most(2, db))

    with pytest.raises(StoreUnavailable):
        await store.ledger.settle(asked.call_id, PRICE, answer_to(asked, text="x" * 100_000))
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        store.ledger.check()
    assert not await store.ledger.sweep(10)
    with pytest.raises(LookupError):
        await store.ledger.release("no such call", "")
    with pytest.raises(StoreUnavailable):
        store.ledger.check()  # a verb that changed nothing said nothing of the disk
    await store.writer.run(lambda db, _: _pages_at_most(10_000, db))
    await store.ledger.probe()
    store.ledger.check()


@in_sqlite
async def test_a_probe_finds_out_that_the_books_cannot_be_written(
    store: SqliteStore, clock: ManualClock
) -> None:
    database = await store.writer.run(lambda cursor, _: cursor.connection)
    database.execute("PRAGMA query_only = ON")
    store.ledger.check()

    with pytest.raises(StoreUnavailable):
        await store.ledger.probe()
    with pytest.raises(StoreUnavailable):
        store.ledger.check()
    database.execute("PRAGMA query_only = OFF")
    await store.ledger.probe()
    store.ledger.check()


@in_sqlite
async def test_a_fault_of_one_verb_does_not_make_the_books_unwritable(
    store: SqliteStore, clock: ManualClock
) -> None:
    def breaks_a_rule(database: sqlite3.Cursor, _now_ms: int) -> None:
        database.execute("INSERT INTO meta VALUES ('opened_at_ms', 0)")

    with pytest.raises(InternalError):
        await store.writer.run(breaks_a_rule)

    store.ledger.check()


@in_sqlite
async def test_a_commit_that_fails_refuses_and_can_be_repeated(
    store: SqliteStore, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    asked = call()

    def broken_commit(database: sqlite3.Cursor, _now_ms: int) -> None:
        database.execute("PRAGMA defer_foreign_keys = ON")
        database.execute("INSERT INTO session VALUES ('s', 'nobody', x'00', NULL)")

    refused = await asyncio.gather(
        store.writer.run(broken_commit), store.ledger.reserve(asked), return_exceptions=True
    )
    again = await store.ledger.reserve(asked)

    assert [type(error) for error in refused] == [StoreUnavailable, StoreUnavailable]
    assert again.outcome is ReserveOutcome.RESERVED


def test_more_verbs_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        writer = Writer(connect_writer(tmp_path / "ledger.db"), ManualClock(), waiting_max=10, batch_max=4)

        def count(database: sqlite3.Cursor, _now_ms: int) -> int:
            return int(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

        answers = await asyncio.gather(*(writer.run(count) for _ in range(100)), return_exceptions=True)
        later = await writer.run(count)
        await writer.close()

        refused = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        assert len(refused) > 50
        assert {answer.retry_after_seconds for answer in refused} == {1}
        assert answers[:10] == [0] * 10
        assert later == 0

    run(story())


@in_sqlite
async def test_a_verb_that_breaks_harms_nobody_else(store: SqliteStore, clock: ManualClock) -> None:
    def breaks(database: sqlite3.Cursor, _now_ms: int) -> None:
        database.execute("UPDATE account SET posted_msat = 7 WHERE kind = 'customer'")
        raise RuntimeError("a fault of ours")

    ended = await asyncio.gather(pay(store, PRICE), store.writer.run(breaks), return_exceptions=True)

    account = await store.statements.account(ALICE)
    assert isinstance(ended[1], RuntimeError)
    assert account is not None
    assert account.balance == Balance(PRICE, Msat(0))


def test_unreadable_books_are_unavailable(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as store:
            store.statements.close()
            with pytest.raises(StoreUnavailable):
                await store.statements.account(ALICE)
            with pytest.raises(StoreUnavailable):
                await store.statements.replay(ALICE, Quote("chat", PRICE, None), b"h", None)

    run(story())


LOAD = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from tests.store.books import ALICE, PRICE, ManualClock, answer_to, call, pay
from arkgate.store.sqlite.opening import open_sqlite

async def one(store, name, number):
    asked = call(f"{name}-{number}", key=f"{name}-{number}")
    await store.ledger.reserve(asked)
    if number % 5:
        await store.ledger.settle(asked.call_id, PRICE, answer_to(asked))
        print("settled", asked.call_id, flush=True)
    else:
        await store.ledger.release(asked.call_id, "")
        print("released", asked.call_id, flush=True)

async def worker(store, name):
    for number in range(100_000):
        await one(store, name, number)

async def main():
    async with open_sqlite(sys.argv[1], ManualClock()) as store:
        await pay(store, 10**12)
        print("ready", flush=True)
        await asyncio.gather(*(worker(store, f"{os.getpid()}-{n}") for n in range(16)))

asyncio.run(main())
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path, seen = tmp_path / "ledger.db", list[str]()

    for seconds in (0.05, 0.2, 0.4):
        seen += _killed_after(seconds, path)

    async def recover() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            assert broken(await store.statements.verify()) == []
            for line in random.sample(seen, min(200, len(seen))):
                word, call_id = line.split()
                resolved: Resolved = await store.ledger.settle(call_id, PRICE, None)
                expected = SettleOutcome.REPLAYED if word == "settled" else SettleOutcome.RELEASED
                assert resolved.outcome is expected

    assert len(seen) > 20
    run(recover())


def _killed_after(seconds: float, path: Path) -> list[str]:
    """Runs the load, kills it, and answers what it had acknowledged."""
    repository = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, str(path), repository], stdout=subprocess.PIPE, text=True
    ) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        run(asyncio.sleep(seconds))
        os.kill(load.pid, signal.SIGKILL)
        return [line for line in load.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
