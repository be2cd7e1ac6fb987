"""Periodic work: all that is due is done, and a fault leaves nothing running behind it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.store.books import (
    ALICE,
    PRICE,
    ManualClock,
    call,
    charge,
    hash_of,
    in_books,
    in_sqlite,
    invoice,
    pay,
    session,
    settlement,
)

from arkgate.backend.upstream import BackendSettings, Upstream
from arkgate.core.errors import StoreUnavailable
from arkgate.core.keys import Keyring, Purpose, PurposeKind, token_digest
from arkgate.core.ledger import FundOutcome, InvoiceState, ReserveOutcome
from arkgate.gateway.fund import Funding
from arkgate.gateway.meter import Calls
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.gateway.sweep import BATCH, UNPAID_KEPT_MS, Sweep
from arkgate.store import Store
from arkgate.store.clock import DAY_MS
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


@in_books
async def test_every_invoice_that_ended_unpaid_long_ago_is_forgotten(
    store: Store, clock: ManualClock
) -> None:
    many = BATCH + 1
    await pay(store, PRICE)
    for number in range(many):
        await store.ledger.add_invoice(invoice(hash_of(str(number))))
        await store.ledger.mark_invoice(hash_of(str(number)), InvoiceState.EXPIRED)
    clock.pass_ms(DAY_MS + UNPAID_KEPT_MS + 1)

    assert await sweep_of(store).prune_invoices() == many
    assert await sweep_of(store).prune_invoices() == 0


@in_books
async def test_a_payment_after_the_pruning_makes_the_old_token_work(store: Store, clock: ManualClock) -> None:
    keyring = Keyring({1: bytes(range(32))})
    payment_hash, token = hash_of("s1"), keyring.token(ALICE, version=1)
    await store.ledger.open_session(session("s1"), token_digest=token_digest(token), key_version=1)
    await store.ledger.mark_invoice(payment_hash, InvoiceState.EXPIRED)
    clock.pass_ms(DAY_MS + UNPAID_KEPT_MS + 1)
    assert await sweep_of(store).prune_invoices() == 1
    funding = Funding(store.ledger, store.statements, [], keyring, clock, Metrics())
    memo = f"Funding of an API token {keyring.tag(Purpose(PurposeKind.SESSION, ALICE), payment_hash)}"
    payment = replace(settlement(payment_hash), memo=memo)

    outcomes = [(await funding.credit(payment, reported_by="stream")).outcome for _ in range(2)]

    assert outcomes == [FundOutcome.APPLIED, FundOutcome.REPLAYED]
    assert await store.statements.account_by_token(token_digest(token)) == ALICE
    bought = await store.ledger.reserve(call(deadline_ms=clock.now_ms() + 60_000))
    assert bought.outcome is ReserveOutcome.RESERVED


async def store_is_ready(store: Store) -> bool:
    """What a fresh readiness check says of the books; the backend is nowhere and does not matter."""
    backend = Upstream(BackendSettings("http://127.0.0.1:9/v1", "none"))
    check = ReadinessCheck([], {"ai_chat": backend}, store.statements, Calls(), ledger=store.ledger)
    readiness = await check.check()
    await backend.close()
    return readiness.dependencies["store"].ready


@in_sqlite
async def test_books_that_cannot_be_written_are_not_ready_until_the_sweep_finds_that_they_can(
    store: SqliteStore, clock: ManualClock
) -> None:
    sweep = sweep_of(store)
    database = await store.writer.run(lambda cursor, _: cursor.connection)
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
