"""What only the books in PostgreSQL promise: fit servers, replicas, and connections that break."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from arkgate.core.errors import StoreUnavailable
from arkgate.core.ledger import ReserveOutcome, SettleOutcome
from arkgate.store import open_store, revisions, shown
from arkgate.store.postgres import queries, schema
from arkgate.store.postgres.duties import lock_of
from arkgate.store.postgres.opening import PostgresStore, open_postgres, open_postgres_readonly
from tests import postgres
from tests.store.books import (
    ALICE,
    BOB,
    PRICE,
    ManualClock,
    answer_to,
    broken,
    call,
    for_challenge,
    hash_of,
    pay,
    run,
    settlement,
)

pytestmark = pytest.mark.usefixtures("postgres_server")


@asynccontextmanager
async def replicas(number: int, url: str | None = None) -> AsyncIterator[list[PostgresStore]]:
    """Several stores on the same books, each as a process of its own would have them."""
    async with AsyncExitStack() as stack:
        if url is None:
            url = await stack.enter_async_context(postgres.database())
        yield [await stack.enter_async_context(open_postgres(url)) for _ in range(number)]


async def execute(url: str, *statements: str) -> None:
    """Runs statements as the server's administrator."""
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def test_a_server_that_forgets_commits_is_refused() -> None:
    async def story() -> None:
        async with postgres.database() as url:
            name = url.rpartition("/")[2]
            await execute(url, f"ALTER DATABASE {name} SET synchronous_commit = off")
            with pytest.raises(StoreUnavailable, match="synchronous_commit=off") as refused:
                async with open_postgres(url):
                    pass
            assert refused.value.reason == "store_unfit"

    run(story())


def test_a_server_without_fsync_is_refused() -> None:
    server = postgres.new_server(fsync="off")

    async def story() -> None:
        with pytest.raises(StoreUnavailable, match="fsync=off"):
            async with open_postgres(server.url):
                pass

    run(story())
    server.remove()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    url = "postgresql://gate:secret@127.0.0.1:9/books?sslmode=disable"

    async def story() -> None:
        with pytest.raises(StoreUnavailable) as refused:
            async with open_store(url, None, log_bytes=0):
                pass
        assert "secret" not in str(refused.value)

    run(story())
    assert shown(url) == "postgresql://gate@127.0.0.1:9/books"


def test_a_database_that_does_not_exist_is_named() -> None:
    async def story() -> None:
        with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
            async with open_postgres(postgres.at("nowhere")):
                pass

    run(story())


def test_tables_of_a_later_version_are_refused_unless_it_says_that_older_ones_may_go_on() -> None:
    async def story() -> None:
        async with postgres.database() as url:
            async with open_postgres(url):
                pass
            await execute(url, "UPDATE alembic_version SET version_num = '9000'")
            await execute(url, f"UPDATE meta SET value = 9000 WHERE name = '{revisions.FLOOR_FACT}'")
            for opening in (open_postgres, open_postgres_readonly):
                with pytest.raises(StoreUnavailable, match="9000") as refused:
                    async with opening(url):
                        pass
                assert refused.value.reason == "store_schema"
            newest = int(revisions.REVISIONS[-1])
            await execute(url, f"UPDATE meta SET value = {newest} WHERE name = '{revisions.FLOOR_FACT}'")
            async with open_postgres(url) as store:
                await pay(store, PRICE)

    run(story())


def test_replicas_that_start_at_once_upgrade_once() -> None:
    async def story() -> None:
        async with postgres.database(empty=True) as url, AsyncExitStack() as stack:
            stores = await asyncio.gather(*(stack.enter_async_context(open_postgres(url)) for _ in range(4)))
            await pay(stores[0], PRICE)
            account = await stores[3].statements.account(ALICE)
            assert account is not None
            assert account.balance.posted == PRICE

    run(story())


def test_an_upgrade_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_connection: Any, **_: object) -> None:
        _connection.exec_driver_sql("CREATE TABLE half (done int)")
        _connection.exec_driver_sql("SELECT 1 / 0")

    monkeypatch.setattr(revisions, "apply_missing", fails)

    async def story() -> None:
        async with postgres.database(empty=True) as url:
            with pytest.raises(StoreUnavailable, match="cannot be upgraded"):
                await schema.upgrade(url)
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT to_regclass('half')") is None
            await connection.close()

    run(story())


def test_two_replicas_spend_one_balance_once() -> None:
    async def story() -> None:
        async with replicas(2) as stores:
            await pay(stores[0], 100 * PRICE)
            await pay(stores[0], 100 * PRICE, BOB)
            asked = [call(account_id=(ALICE, BOB)[number % 2]) for number in range(800)]
            reserved = await asyncio.gather(
                *(stores[number % 4 // 2].ledger.reserve(one) for number, one in enumerate(asked))
            )
            granted = [
                one
                for one, given in zip(asked, reserved, strict=True)
                if given.outcome is ReserveOutcome.RESERVED
            ]
            settled = await asyncio.gather(
                *(
                    store.ledger.settle(one.call_id, PRICE, answer_to(one))
                    for one in granted
                    for store in stores
                )
            )

            assert len(granted) == 200
            assert sum(done.outcome is SettleOutcome.SETTLED for done in settled) == 200
            assert broken(await stores[0].statements.verify()) == []
            assert (await stores[1].statements.totals()).customers == 0

    run(story())


def test_a_replica_hears_at_once_what_another_one_credited() -> None:
    async def story() -> None:
        async with replicas(2) as stores:
            payment = settlement(hash_of("p"))
            await asyncio.sleep(0.3)  # both have begun to listen
            waiting = asyncio.create_task(
                stores[1].statements.credited(payment.payment_hash, within_seconds=30)
            )
            await asyncio.sleep(0.2)
            await stores[0].ledger.fund(payment, for_challenge(ALICE))
            assert await asyncio.wait_for(waiting, 2) == ALICE

    run(story())


def test_a_duty_goes_to_another_replica_when_its_holder_is_gone() -> None:
    async def story() -> None:
        async with postgres.database() as url, replicas(2, url) as stores:
            at_work: list[int] = []
            held = [asyncio.Event(), asyncio.Event()]

            async def work(number: int) -> None:
                at_work.append(number)
                held[number].set()
                try:
                    await asyncio.sleep(3600)
                finally:
                    at_work.remove(number)

            first = asyncio.create_task(stores[0].duties.alone("watch", lambda: work(0)))
            await asyncio.wait_for(held[0].wait(), 5)
            second = asyncio.create_task(stores[1].duties.alone("watch", lambda: work(1)))
            await asyncio.sleep(1.5)
            assert at_work == [0]

            await execute(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                f" AND ((classid::bigint << 32) | objid::bigint) = {lock_of('watch')}",
            )
            await asyncio.wait_for(held[1].wait(), 5)
            with pytest.raises(StoreUnavailable, match="was lost"):
                await asyncio.wait_for(first, 5)
            assert at_work == [1]
            second.cancel()
            await asyncio.wait({second})

    run(story())


def test_a_crash_of_the_server_loses_nothing_that_was_acknowledged() -> None:
    server = postgres.new_server()

    async def story() -> None:
        acknowledged: list[str] = []
        stop = asyncio.Event()

        async def spend(store: PostgresStore) -> None:
            while not stop.is_set():
                asked = call(deadline_ms=2**50)
                try:
                    given = await store.ledger.reserve(asked)
                    assert given.outcome is ReserveOutcome.RESERVED
                    settled = await store.ledger.settle(asked.call_id, PRICE, answer_to(asked))
                    assert settled.outcome is SettleOutcome.SETTLED
                    acknowledged.append(asked.call_id)
                except StoreUnavailable:
                    await asyncio.sleep(0.05)

        async with open_postgres(server.url) as store:
            await pay(store, 10**12)
            spending = [asyncio.create_task(spend(store)) for _ in range(16)]
            for _ in range(3):
                before = len(acknowledged)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(20):
                    while len(acknowledged) < before + 50:  # noqa: ASYNC110 - the tasks above append
                        await asyncio.sleep(0.02)
            stop.set()
            await asyncio.gather(*spending)
            store.ledger.check()
            known = await store.statements.verify_requests(acknowledged)
            totals = await store.statements.totals()

            assert broken([known, *await store.statements.verify()]) == []
            assert totals.charged >= len(acknowledged) * PRICE

    run(story())
    server.remove()


def test_the_day_is_the_databases_whatever_the_hosts_clock_says() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            connection = await asyncpg.connect(url)
            database_ms = await connection.fetchval(
                "SELECT extract(epoch FROM clock_timestamp())::float8 * 1000"
            )
            assert abs(store.clock.now_ms() - database_ms) < 1000
            await connection.close()

        async with postgres.database() as url, open_postgres(url, ManualClock()) as store:
            assert store.clock.now_ms() == ManualClock().now_ms()

    run(story())


def test_a_database_that_takes_nobody_for_a_while_is_used_again() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            name = url.rpartition("/")[2]
            await pay(store, 100 * PRICE)
            assert (await store.ledger.reserve(call())).outcome is ReserveOutcome.RESERVED
            await execute(
                postgres.at("postgres"),
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            async with asyncio.timeout(15):
                told = await asyncio.gather(
                    *(store.ledger.reserve(call()) for _ in range(300)), return_exceptions=True
                )
            assert all(isinstance(one, StoreUnavailable) for one in told), told[:3]
            with pytest.raises(StoreUnavailable):
                store.ledger.check()

            await execute(postgres.at("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        await store.ledger.probe()
                        store.ledger.check()
                        break
                    await asyncio.sleep(0.1)
            assert (await store.ledger.reserve(call())).outcome is ReserveOutcome.RESERVED

    run(story())


def test_a_replica_waits_as_long_as_another_one_upgrades() -> None:
    async def story() -> None:
        async with postgres.database(empty=True) as url:
            upgrading = await asyncpg.connect(url)
            await upgrading.execute("SELECT pg_advisory_lock($1)", schema.UPGRADE_LOCK)
            asyncio.get_running_loop().call_later(4, lambda: asyncio.ensure_future(upgrading.close()))
            async with open_postgres(url) as store:
                await pay(store, PRICE)

    run(story())


def test_a_call_is_found_without_reading_every_hold() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url):
            connection = await asyncpg.connect(url)
            await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
            for statement in (queries.CALL_THAT_CLAIMS, queries.RELEASED_CALL):
                await connection.execute(f"PREPARE asked (text, text, bigint) AS {statement}")
                plan = await connection.fetch("EXPLAIN EXECUTE asked ('a', 'b', 1)")
                await connection.execute("DEALLOCATE asked")
                assert any("hold_request" in line[0] and "Cond" not in line[0] for line in plan), plan
            await connection.close()

    run(story())
