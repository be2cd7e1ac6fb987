"""A call takes money and a unit of the day together, gives both back together, and charges once."""

import asyncio
from collections import Counter

import pytest

from arkgate.core.ledger import (
    AllowanceState,
    Balance,
    HoldState,
    ReleaseOutcome,
    ReserveOutcome,
    SettleOutcome,
    StatementLine,
    Totals,
)
from arkgate.core.money import Msat
from arkgate.core.pricing import Quote
from arkgate.store import Store
from arkgate.store.clock import DAY_MS
from tests.store.books import (
    ALICE,
    BOB,
    CHAT,
    NOON,
    PRICE,
    ManualClock,
    answer_to,
    call,
    charge,
    hash_of,
    in_books,
    pay,
)

MIDNIGHT = NOON + DAY_MS // 2


@in_books
async def test_funds_for_100_calls_hold_100_of_400_concurrent_ones(store: Store, clock: ManualClock) -> None:
    await pay(store, 100 * PRICE)

    answers = await asyncio.gather(*(store.ledger.reserve(call(body=str(n))) for n in range(400)))

    counted = Counter(answer.outcome for answer in answers)
    assert counted == {ReserveOutcome.RESERVED: 100, ReserveOutcome.INSUFFICIENT: 300}


@in_books
async def test_a_limit_of_5_a_day_holds_under_200_concurrent_calls_and_outranks_the_balance(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 5 * PRICE)

    asked = [call(calls_per_day=5, body=str(n)) for n in range(200)]
    answers = await asyncio.gather(*(store.ledger.reserve(one) for one in asked))

    counted = Counter(answer.outcome for answer in answers)
    assert counted == {ReserveOutcome.RESERVED: 5, ReserveOutcome.LIMIT_REACHED: 195}
    assert answers[0].allowance == AllowanceState(used=1, limit=5, resets_at_ms=MIDNIGHT)
    assert (await store.statements.allowance(ALICE, CHAT, 5)).left == 0


@in_books
async def test_a_limit_of_zero_allows_nothing(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)

    answer = await store.ledger.reserve(call(calls_per_day=0))

    assert answer.outcome is ReserveOutcome.LIMIT_REACHED


@in_books
async def test_allowances_are_per_account_service_and_day(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    await pay(store, 9 * PRICE, BOB)
    await store.ledger.reserve(call(calls_per_day=1))

    others = [
        await store.ledger.reserve(call(calls_per_day=1, account_id=BOB)),
        await store.ledger.reserve(call(calls_per_day=1, service="images")),
    ]
    same = await store.ledger.reserve(call(calls_per_day=1, body="another"))
    clock.at_ms = MIDNIGHT
    tomorrow = await store.ledger.reserve(call(calls_per_day=1, deadline_ms=MIDNIGHT + 1))

    await store.ledger.sweep(9)
    assert {answer.outcome for answer in [*others, tomorrow]} == {ReserveOutcome.RESERVED}
    assert same.outcome is ReserveOutcome.LIMIT_REACHED


@in_books
async def test_a_clock_set_back_over_midnight_gives_no_second_allowance(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 9 * PRICE)
    clock.at_ms = MIDNIGHT
    await store.ledger.reserve(call(calls_per_day=1, deadline_ms=MIDNIGHT + 1))

    clock.pass_ms(-1)
    answer = await store.ledger.reserve(call(calls_per_day=1, body="another"))

    assert answer.outcome is ReserveOutcome.LIMIT_REACHED
    assert (await store.statements.allowance(ALICE, CHAT, 1)).resets_at_ms == MIDNIGHT + DAY_MS


@in_books
async def test_a_release_gives_the_unit_back_to_the_day_of_the_hold(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    yesterday = call(calls_per_day=2, deadline_ms=MIDNIGHT + 60_000)
    await store.ledger.reserve(yesterday)
    clock.at_ms = MIDNIGHT + 1
    await store.ledger.reserve(call(calls_per_day=2, deadline_ms=MIDNIGHT + 60_000))

    released = await store.ledger.release(yesterday.call_id, "backend failed")

    assert released.outcome is ReleaseOutcome.RELEASED
    assert released.balance == Balance(Msat(9 * PRICE), PRICE)
    assert released.allowance == AllowanceState(used=1, limit=2, resets_at_ms=MIDNIGHT + DAY_MS)


@in_books
async def test_a_settle_after_midnight_counts_for_the_day_of_the_hold(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 9 * PRICE)
    yesterday = call(calls_per_day=1, deadline_ms=MIDNIGHT + 60_000)
    await store.ledger.reserve(yesterday)
    clock.at_ms = MIDNIGHT + 1

    settled = await store.ledger.settle(yesterday.call_id, PRICE, answer_to(yesterday))

    assert settled.outcome is SettleOutcome.SETTLED
    assert settled.allowance.used == 0
    assert (await store.ledger.reserve(call(calls_per_day=1))).outcome is ReserveOutcome.RESERVED
    await store.ledger.sweep(9)


@in_books
async def test_a_call_charges_at_most_what_it_holds(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    asked = call()
    await store.ledger.reserve(asked)

    with pytest.raises(ValueError, match="over its hold"):
        await store.ledger.settle(asked.call_id, Msat(PRICE + 1), None)
    with pytest.raises(ValueError, match="not negative"):
        await store.ledger.settle(asked.call_id, Msat(-1), None)
    settled = await store.ledger.settle(asked.call_id, Msat(7), None)

    assert settled.balance == Balance(Msat(2 * PRICE - 7), Msat(0))


@in_books
async def test_a_call_of_no_cost_is_settled_without_a_charge(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    asked = call()
    await store.ledger.reserve(asked)

    settled = await store.ledger.settle(asked.call_id, Msat(0), answer_to(asked, cost=0))

    found = await store.statements.call(ALICE, asked.request_id)
    assert settled.balance == Balance(PRICE, Msat(0))
    assert found is not None
    assert (found.state, found.cost) == (HoldState.SETTLED, 0)


@in_books
async def test_a_free_or_a_strangers_call_is_not_held(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    await pay(store, PRICE, BOB)
    await store.ledger.reserve(call("c1"))

    with pytest.raises(ValueError, match="free"):
        await store.ledger.reserve(call(price=0))
    with pytest.raises(ValueError, match="another account"):
        await store.ledger.reserve(call("c1", account_id=BOB))


@in_books
async def test_what_was_never_reserved_is_neither_settled_nor_released(
    store: Store, clock: ManualClock
) -> None:
    with pytest.raises(LookupError):
        await store.ledger.settle("nothing", PRICE, None)
    with pytest.raises(LookupError):
        await store.ledger.release("nothing", "")


@in_books
async def test_every_verb_of_a_call_repeats_without_effect(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    kept, given_back = call(), call()

    answers = [await store.ledger.reserve(asked) for asked in (kept, kept, given_back, given_back)]
    settled = [await store.ledger.settle(kept.call_id, PRICE, answer_to(kept)) for _ in range(2)]
    released = [await store.ledger.release(given_back.call_id, "") for _ in range(2)]

    reserved, replayed = ReserveOutcome.RESERVED, ReserveOutcome.REPLAYED
    assert [answer.outcome for answer in answers] == [reserved, replayed, reserved, replayed]
    assert [answer.outcome for answer in settled] == [SettleOutcome.SETTLED, SettleOutcome.REPLAYED]
    assert [answer.outcome for answer in released] == [ReleaseOutcome.RELEASED, ReleaseOutcome.REPLAYED]
    assert settled[0].balance == Balance(PRICE, PRICE)
    assert released[0].balance == released[1].balance == Balance(PRICE, Msat(0))
    assert (await store.ledger.release(kept.call_id, "")).outcome is ReleaseOutcome.SETTLED


@in_books
async def test_a_settle_after_the_sweep_charges_nothing(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    asked = call()
    await store.ledger.reserve(asked)
    clock.pass_ms(60_001)
    swept = await store.ledger.sweep(10)

    late = await store.ledger.settle(asked.call_id, PRICE, answer_to(asked))

    assert [(hold.call_id, hold.account_id, hold.amount) for hold in swept] == [(asked.call_id, ALICE, PRICE)]
    assert late.outcome is SettleOutcome.RELEASED
    assert late.balance == Balance(PRICE, Msat(0))
    found = await store.statements.call(ALICE, asked.request_id)
    assert found is not None
    assert (found.state, found.answer, found.reason) == (HoldState.RELEASED, None, "deadline passed")


@in_books
async def test_the_sweep_takes_the_oldest_first_and_leaves_what_has_time(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 9 * PRICE)
    for number, deadline_ms in enumerate((3, 1, 2, 4)):
        await store.ledger.reserve(call(f"c{number}", deadline_ms=NOON + deadline_ms))
    clock.pass_ms(4)

    first, rest, none = [await store.ledger.sweep(2) for _ in range(3)]

    assert [hold.call_id for hold in first] == ["c1", "c2"]
    assert [hold.call_id for hold in rest] == ["c0"]
    assert none == []


@in_books
async def test_settle_and_sweep_or_release_in_a_race_agree_on_one_end(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 200 * PRICE)
    asked = [call(deadline_ms=NOON) for _ in range(100)]
    await asyncio.gather(*(store.ledger.reserve(one) for one in asked))
    clock.pass_ms(1)

    settles = [store.ledger.settle(one.call_id, PRICE, answer_to(one)) for one in asked]
    releases = [store.ledger.release(one.call_id, "") for one in asked[:50]]
    ends = await asyncio.gather(
        *settles[::2], *releases, store.ledger.sweep(30), *settles[1::2], store.ledger.sweep(99)
    )

    charged = sum(getattr(end, "outcome", None) is SettleOutcome.SETTLED for end in ends)
    account = await store.statements.account(ALICE)
    assert 0 < charged < 100
    assert account is not None
    assert account.balance == Balance(Msat((200 - charged) * PRICE), Msat(0))


@in_books
async def test_a_cancelled_caller_does_not_undo_a_verb(store: Store, clock: ManualClock) -> None:
    await pay(store, 100 * PRICE)
    asked = [call() for _ in range(20)]
    tasks = [asyncio.create_task(store.ledger.reserve(one)) for one in asked]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    again = [await store.ledger.reserve(one) for one in asked]

    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    assert {answer.outcome for answer in again} == {ReserveOutcome.REPLAYED}
    assert again[0].balance.held == 20 * PRICE


@in_books
async def test_one_verbs_error_harms_no_other_of_its_batch(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    good, bad = call(), call(price=0)

    ended = await asyncio.gather(
        store.ledger.reserve(good),
        store.ledger.reserve(bad),
        store.ledger.settle("nothing", PRICE, None),
        store.ledger.settle(good.call_id, PRICE, None),
        return_exceptions=True,
    )

    assert [type(end).__name__ for end in ended] == ["Reserved", "ValueError", "LookupError", "Resolved"]


@in_books
async def test_a_request_id_names_one_call_until_it_is_released(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    await pay(store, 9 * PRICE, BOB)
    first, second, third = (call(request_id="mine") for _ in range(3))
    await store.ledger.reserve(first)

    reused = await store.ledger.reserve(second)
    others = await store.ledger.reserve(call(request_id="mine", account_id=BOB))
    await store.ledger.release(first.call_id, "backend failed")
    freed = await store.ledger.reserve(third)

    found = await store.statements.call(ALICE, "mine")
    assert reused.outcome is ReserveOutcome.REQUEST_ID_REUSED
    assert others.outcome is freed.outcome is ReserveOutcome.RESERVED
    assert found is not None
    assert found.call_id == third.call_id
    assert await store.statements.call(BOB, "nothing") is None


@in_books
async def test_a_statement_adds_up_and_shows_what_was_given_back(store: Store, clock: ManualClock) -> None:
    funded = await pay(store, 3 * PRICE)
    await charge(store, call("c1", request_id="r1"))
    clock.pass_ms(1)
    await store.ledger.reserve(call("c2", request_id="r2"))
    await store.ledger.release("c2", "backend failed")
    await store.ledger.reserve(call("c3"))
    await pay(store, 9 * PRICE, BOB)

    lines = await store.statements.statement(ALICE, offset=0, limit=10)

    credit = lines[0]
    assert funded.balance is not None
    assert (credit.kind, credit.amount, credit.balance, credit.detail) == (
        "credit",
        3 * PRICE,
        3 * PRICE,
        "challenge",
    )
    assert await store.statements.account_by_payment(bytes.fromhex(credit.reference)) == ALICE
    assert list(lines[1:]) == [
        StatementLine(NOON, "charge", Msat(-PRICE), Msat(2 * PRICE), "r1", CHAT),
        StatementLine(NOON + 1, "refund", Msat(0), Msat(2 * PRICE), "r2", "backend failed"),
    ]
    assert await store.statements.statement(ALICE, offset=1, limit=1) == [lines[1]]


@in_books
async def test_totals_are_sums_over_the_customers(store: Store, clock: ManualClock) -> None:
    await pay(store, 3 * PRICE)
    await pay(store, PRICE, BOB)
    await charge(store, call())
    await store.ledger.reserve(call(account_id=BOB))

    totals = await store.statements.totals()

    assert totals == Totals(
        customers=Msat(3 * PRICE), held=PRICE, credited=Msat(4 * PRICE), charged=PRICE, open_holds=1
    )


@in_books
async def test_a_backend_request_without_a_hold_is_found(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    await store.ledger.reserve(call("c1"))

    known = await store.statements.verify_requests(["c1"])
    unknown = await store.statements.verify_requests(["c1", "stray", *["c1"] * 600])

    assert known.holds
    assert (unknown.invariant, unknown.holds) == (9, False)
    assert "stray" in unknown.sentence


@in_books
async def test_an_answer_belongs_to_its_call(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    asked = call()
    await store.ledger.reserve(asked)

    with pytest.raises(ValueError, match="does not belong"):
        await store.ledger.settle(asked.call_id, PRICE, answer_to(call()))

    assert await store.statements.replay(ALICE, Quote(CHAT, PRICE, None), hash_of("x"), None) is None
