"""On PostgreSQL whoever prunes waits for nobody, and what two note at once is noted once."""

import asyncio

import asyncpg
import pytest

from arkgate.core.ledger import GRACE_MS_MIN, InvoiceState
from arkgate.store.clock import DAY_MS
from arkgate.store.postgres.opening import open_postgres
from tests import postgres
from tests.store.books import NOON, PRICE, ManualClock, call, charge, hash_of, invoice, pay, run

pytestmark = pytest.mark.usefixtures("postgres_server")

SOON_SECONDS = 2.0
"""Less than a statement waits for a lock."""


def test_pruning_leaves_answers_that_somebody_else_prunes() -> None:
    async def story() -> None:
        clock = ManualClock()
        async with postgres.database() as url, open_postgres(url, clock) as store:
            await pay(store, 3 * PRICE)
            asked = [call() for _ in range(3)]
            for one in asked:
                await charge(store, one)
            clock.pass_ms(2 * DAY_MS)
            other = await asyncpg.connect(url)
            async with other.transaction():
                await other.execute("SELECT FROM answer WHERE call_id = $1 FOR UPDATE", asked[0].call_id)
                async with asyncio.timeout(SOON_SECONDS):
                    meanwhile = await store.ledger.prune_answers(9)
            await other.close()

            assert (meanwhile, await store.ledger.prune_answers(9)) == (2, 1)

    run(story())


def test_pruning_leaves_invoices_that_somebody_else_has() -> None:
    async def story() -> None:
        clock = ManualClock()
        async with postgres.database() as url, open_postgres(url, clock) as store:
            await pay(store, PRICE)
            hashes = [hash_of(word) for word in ("one", "two", "three")]
            for payment_hash in hashes:
                await store.ledger.add_invoice(invoice(payment_hash))
                await store.ledger.mark_invoice(payment_hash, InvoiceState.EXPIRED)
            clock.pass_ms(2 * DAY_MS + GRACE_MS_MIN)
            other = await asyncpg.connect(url)
            async with other.transaction():
                await other.execute("SELECT FROM invoice WHERE payment_hash = $1 FOR UPDATE", hashes[0])
                async with asyncio.timeout(SOON_SECONDS):
                    meanwhile = await store.ledger.prune_invoices(9, grace_ms=GRACE_MS_MIN)
            await other.close()

            later = await store.ledger.prune_invoices(9, grace_ms=GRACE_MS_MIN)
            assert (meanwhile, later) == (2, 1)

    run(story())


def test_a_fact_that_several_note_at_once_is_one_of_theirs_for_all() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url, ManualClock(NOON)) as store:
            first = await store.ledger.note_once("opened_by", 1)
            told = await asyncio.gather(*(store.ledger.note_once("opened_by", n) for n in range(2, 6)))

        assert [first, *told] == [1] * 5

    run(story())
