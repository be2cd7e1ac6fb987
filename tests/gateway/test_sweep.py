"""Periodic work: all that is due is done, and a fault leaves nothing running behind it."""

import asyncio
from pathlib import Path

import pytest
from tests.store.books import PRICE, ManualClock, call, charge, in_books, in_sqlite, pay

from arkgate.backend.chat import BackendSettings, ChatBackend
from arkgate.core.errors import StoreUnavailable
from arkgate.gateway.meter import Calls
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.gateway.sweep import BATCH, Sweep
from arkgate.store import Store
from arkgate.store.sqlite.opening import SqliteStore
from arkgate.web.metrics import Metrics


def sweep_of(store: Store) -> Sweep:
    return Sweep(store.ledger, store.statements, Metrics())


@in_books
async def test_every_answer_that_is_past_its_time_is_forgotten_at_once(
    store: Store, clock: ManualClock
) -> None:
    many = 2 * BATCH + 1
    await pay(store, PRICE * (many + 1))
    await asyncio.gather(*(charge(store, call(), kept_ms=10) for _ in range(many)))
    await charge(store, call(), kept_ms=30)
    clock.pass_ms(20)

    assert await sweep_of(store).prune() == many
    assert await sweep_of(store).prune() == 0


async def store_is_ready(store: Store) -> bool:
    """What a fresh readiness check says of the books; the backend is nowhere and does not matter."""
    backend = ChatBackend(BackendSettings("http://127.0.0.1:9/v1", "none"))
    check = ReadinessCheck([], backend, store.statements, Calls(), ledger=store.ledger)
    readiness = await check.check()
    await backend.close()
    return readiness.dependencies["store"].ready


@in_sqlite
async def test_books_that_cannot_be_written_are_not_ready_until_the_sweep_finds_that_they_can(
    store: SqliteStore, clock: ManualClock
) -> None:
    sweep = sweep_of(store)
    database = await store.writer.run(lambda db, _: db)
    assert await store_is_ready(store)
    database.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable):
        await pay(store, PRICE)

    with pytest.raises(StoreUnavailable):
        await sweep.try_again()
    assert not await store_is_ready(store)
    database.execute("PRAGMA query_only = OFF")
    await sweep.try_again()
    assert await store_is_ready(store)


class Faulty(Sweep):
    """A sweep whose check of the books breaks."""

    async def verify(self) -> bool:
        raise RuntimeError("a fault of ours")


def test_a_fault_in_one_part_leaves_no_other_part_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.sweep.VERIFY_SECONDS", 0.01)

    @in_sqlite
    async def story(store: Store, clock: ManualClock) -> None:
        before = asyncio.all_tasks()
        with pytest.raises(ExceptionGroup, match="unhandled"):
            await Faulty(store.ledger, store.statements, Metrics()).run()

        assert asyncio.all_tasks() == before

    story(tmp_path)
