"""Pruning: what ended unpaid is let go after its grace, and a payment that comes all the same is safe."""

from dataclasses import replace

import pytest

from arkgate.core.keys import Purpose, PurposeKind
from arkgate.core.ledger import GRACE_MS_MIN, FundOutcome, InvoiceRecord, InvoiceState, ReserveOutcome
from arkgate.store import Store
from arkgate.store.clock import DAY_MS
from tests.store.books import (
    ALICE,
    BOB,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    call,
    charge,
    hash_of,
    in_books,
    invoice,
    invoice_of,
    pay,
    session,
    settlement,
)

GRACE = GRACE_MS_MIN
PAST = DAY_MS + GRACE + 1
"""When an invoice of NOON is past its expiry and the grace."""
DIGEST = hash_of("token")


async def ended(store: Store, record: InvoiceRecord, state: InvoiceState = InvoiceState.EXPIRED) -> None:
    """A top-up invoice that the node says cannot be paid any more."""
    await store.ledger.add_invoice(record)
    await store.ledger.mark_invoice(record.payment_hash, state)


@in_books
async def test_only_what_ended_unpaid_goes_and_only_after_its_grace(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    paid, awaited = hash_of("paid"), hash_of("open")
    for payment_hash in (paid, awaited):
        await store.ledger.add_invoice(invoice(payment_hash))
    await store.ledger.fund(settlement(paid), None)
    await ended(store, invoice(hash_of("expired")))
    await ended(store, invoice(hash_of("cancelled")), InvoiceState.CANCELLED)

    clock.pass_ms(PAST - 1)
    early = await store.ledger.prune_invoices(9, grace_ms=GRACE)
    clock.pass_ms(1)
    longer = await store.ledger.prune_invoices(9, grace_ms=GRACE + 1)
    due = [await store.ledger.prune_invoices(9, grace_ms=GRACE) for _ in range(2)]

    assert (early, longer, due) == (0, 0, [2, 0])
    page = await store.statements.invoices_awaited(NODE, after=b"", limit=9)
    assert [record.payment_hash for record in page] == [awaited]
    assert (await store.ledger.fund(settlement(paid), None)).outcome is FundOutcome.REPLAYED


@in_books
async def test_what_is_still_looked_up_stays(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    await ended(store, invoice(hash_of("i")))
    await store.ledger.mark_looked_up(hash_of("i"), NOON + DAY_MS)
    clock.pass_ms(PAST)

    assert await store.ledger.prune_invoices(9, grace_ms=GRACE) == 0


@in_books
async def test_invoices_are_pruned_in_batches(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    for number in range(5):
        await ended(store, invoice(hash_of(str(number))))
    clock.pass_ms(PAST)

    assert [await store.ledger.prune_invoices(2, grace_ms=GRACE) for _ in range(4)] == [2, 2, 1, 0]


@in_books
async def test_a_session_goes_with_its_invoice_and_its_token_stays(store: Store, clock: ManualClock) -> None:
    unpaid = session("s1")
    await store.ledger.open_session(unpaid, token_digest=DIGEST, key_version=1)
    await store.ledger.mark_invoice(invoice_of(unpaid).payment_hash, InvoiceState.EXPIRED)
    clock.pass_ms(PAST)

    assert await store.ledger.prune_invoices(9, grace_ms=GRACE) == 1

    assert await store.statements.session("s1") is None
    assert await store.statements.account_by_token(DIGEST) == ALICE


@in_books
async def test_what_ended_first_goes_first_and_takes_nobody_elses_session(
    store: Store, clock: ManualClock
) -> None:
    for name, expires_at_ms in (("s1", 30), ("s2", 10), ("s3", 20)):
        record = session(name)
        first = replace(invoice_of(record), expires_at_ms=NOON + expires_at_ms)
        await store.ledger.open_session(replace(record, invoice=first), token_digest=DIGEST, key_version=1)
        await store.ledger.mark_invoice(first.payment_hash, InvoiceState.EXPIRED)
    clock.pass_ms(PAST)

    left = []
    for _ in range(3):
        await store.ledger.prune_invoices(1, grace_ms=GRACE)
        left.append([name for name in ("s1", "s2", "s3") if await store.statements.session(name)])

    assert left == [["s1", "s3"], ["s1"], []]


@in_books
async def test_a_late_payment_is_credited_once_to_the_account_that_its_tag_names(
    store: Store, clock: ManualClock
) -> None:
    unpaid = session("s1")
    await store.ledger.open_session(unpaid, token_digest=DIGEST, key_version=1)
    await store.ledger.mark_invoice(invoice_of(unpaid).payment_hash, InvoiceState.EXPIRED)
    await ended(store, invoice(hash_of("topup")), InvoiceState.CANCELLED)
    clock.pass_ms(PAST)
    assert await store.ledger.prune_invoices(9, grace_ms=GRACE) == 2
    late = {PurposeKind.SESSION: invoice_of(unpaid).payment_hash, PurposeKind.TOPUP: hash_of("topup")}

    for kind, payment_hash in late.items():
        funded = [await store.ledger.fund(settlement(payment_hash), Purpose(kind, ALICE)) for _ in range(2)]
        assert [one.outcome for one in funded] == [FundOutcome.APPLIED, FundOutcome.REPLAYED]
        assert {one.account_id for one in funded} == {ALICE}

    account = await store.statements.account(ALICE)
    assert account is not None
    assert account.balance.posted == 2 * PRICE
    clock.pass_ms(PAST)
    assert await store.ledger.prune_invoices(9, grace_ms=GRACE) == 0


@in_books
async def test_a_late_retry_after_everything_was_pruned_is_not_charged_again(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 5 * PRICE)
    await charge(store, call(key="k"))
    await ended(store, invoice(hash_of("i")))
    clock.pass_ms(PAST)
    assert await store.ledger.prune_answers(9) == 1
    assert await store.ledger.prune_invoices(9, grace_ms=GRACE) == 1

    again = await store.ledger.reserve(call(key="k"))

    assert again.outcome is ReserveOutcome.ANSWER_GONE
    assert again.balance.posted == 4 * PRICE


@in_books
async def test_a_hash_that_was_pruned_may_be_recorded_again(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE, BOB)
    await ended(store, invoice(hash_of("i"), BOB))
    clock.pass_ms(PAST)
    await store.ledger.prune_invoices(9, grace_ms=GRACE)

    await store.ledger.add_invoice(invoice(hash_of("i"), BOB))

    assert (await store.ledger.fund(settlement(hash_of("i")), None)).account_id == BOB


@in_books
async def test_a_grace_below_thirty_days_is_refused(store: Store, clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="is kept for"):
        await store.ledger.prune_invoices(9, grace_ms=GRACE - 1)
