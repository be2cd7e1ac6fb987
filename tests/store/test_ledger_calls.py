"""A call takes money and a unit of the day together, gives both back together, and charges once."""

import asyncio
from collections import Counter

import pytest

from arkgate.core.ledger import (
    AllowanceState,
    Balance,
    CallRecord,
    HoldState,
    ReleaseOutcome,
    Reserved,
    ReserveOutcome,
    Resolved,
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
    for_challenge,
    hash_of,
    in_books,
    pay,
    session,
    settlement,
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
async def test_every_answer_counts_its_own_account_service_and_day(store: Store, clock: ManualClock) -> None:
    for account_id in (ALICE, BOB):
        await pay(store, 20 * PRICE, account_id)
    for _ in range(4):
        await charge(store, call(account_id=BOB, service="images"))
    clock.at_ms = MIDNIGHT
    for account_id, service, calls in ((ALICE, CHAT, 2), (ALICE, "images", 3), (BOB, CHAT, 5)):
        for _ in range(calls):
            await charge(store, call(account_id=account_id, service=service))
    kept, given_back = (call(account_id=BOB, service="images", calls_per_day=9) for _ in range(2))

    answers: list[Reserved | Resolved] = [
        await store.ledger.reserve(kept),
        await store.ledger.reserve(given_back),
        await store.ledger.settle(kept.call_id, PRICE, None),
        await store.ledger.settle(kept.call_id, PRICE, None),
        await store.ledger.release(given_back.call_id, ""),
    ]

    tomorrow = MIDNIGHT + DAY_MS
    assert [answer.allowance for answer in answers] == [
        AllowanceState(used, 9, tomorrow) for used in (1, 2, 2, 2, 1)
    ]
    assert await store.statements.allowance(BOB, "images", 9) == AllowanceState(1, 9, tomorrow)
    assert await store.statements.allowance(BOB, "sounds", 9) == AllowanceState(0, 9, tomorrow)


@in_books
async def test_a_call_under_way_is_shown_without_a_reason(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    asked = call()
    await store.ledger.reserve(asked)

    found = await store.statements.call(ALICE, asked.request_id)

    assert found == CallRecord(asked.call_id, asked.request_id, CHAT, HoldState.OPEN, Msat(0), "", None)


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
    with pytest.raises(ValueError, match=r"^a cost is not negative$"):
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
async def test_the_smallest_cost_is_charged(store: Store, clock: ManualClock) -> None:
    await pay(store, 4 * PRICE)
    asked = [call() for _ in range(4)]
    await asyncio.gather(*(store.ledger.reserve(one) for one in asked))

    await store.ledger.settle(asked[0].call_id, Msat(1), None)
    await asyncio.gather(*(store.ledger.settle(one.call_id, Msat(1), None) for one in asked[1:]))

    lines = await store.statements.statement(ALICE, offset=1, limit=9)
    assert [(line.kind, line.amount) for line in lines] == [("charge", -1)] * 4
    assert (await store.statements.totals()).charged == 4


@in_books
async def test_a_free_or_a_strangers_call_is_not_held(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    await pay(store, PRICE, BOB)
    await store.ledger.reserve(call("c1"))

    with pytest.raises(ValueError, match=r"^a free call needs no hold$"):
        await store.ledger.reserve(call(price=0))
    with pytest.raises(ValueError, match="another account"):
        await store.ledger.reserve(call("c1", account_id=BOB))


@in_books
async def test_what_was_never_reserved_is_neither_settled_nor_released(
    store: Store, clock: ManualClock
) -> None:
    with pytest.raises(LookupError, match="no hold of call nothing"):
        await store.ledger.settle("nothing", PRICE, None)
    with pytest.raises(LookupError, match="no hold of call nothing"):
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
async def test_every_answer_of_a_verb_says_what_is_left(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    kept, given_back = call(calls_per_day=3), call(calls_per_day=3, price=PRICE // 2)

    def answered(outcome: ReserveOutcome, posted: int, held: int, used: int) -> Reserved:
        balance, allowance = Balance(Msat(posted), Msat(held)), AllowanceState(used, 3, MIDNIGHT)
        return Reserved(outcome, balance, allowance, answer=None, funded=True)

    def resolved(outcome: SettleOutcome | ReleaseOutcome, posted: int, used: int) -> Resolved:
        return Resolved(outcome, Balance(Msat(posted), Msat(0)), AllowanceState(used, 3, MIDNIGHT))

    ledger, whole, cost = store.ledger, 2 * PRICE, PRICE // 5
    assert await ledger.reserve(kept) == answered(ReserveOutcome.RESERVED, whole, PRICE, 1)
    assert await ledger.reserve(kept) == answered(ReserveOutcome.REPLAYED, whole, PRICE, 1)
    for outcome in (SettleOutcome.SETTLED, SettleOutcome.REPLAYED):
        settled = await ledger.settle(kept.call_id, Msat(cost), None)
        assert settled == resolved(outcome, whole - cost, 1)
    assert await ledger.release(kept.call_id, "") == resolved(ReleaseOutcome.SETTLED, whole - cost, 1)
    assert await ledger.reserve(given_back) == answered(ReserveOutcome.RESERVED, whole - cost, PRICE // 2, 2)
    for again in (ReleaseOutcome.RELEASED, ReleaseOutcome.REPLAYED):
        assert await ledger.release(given_back.call_id, "") == resolved(again, whole - cost, 1)
    late = await ledger.settle(given_back.call_id, Msat(PRICE // 2), None)
    assert late == resolved(SettleOutcome.RELEASED, whole - cost, 1)
    dear = await ledger.reserve(call(calls_per_day=3, price=whole))
    assert dear == answered(ReserveOutcome.INSUFFICIENT, whole - cost, 0, 1)


@in_books
async def test_who_never_paid_is_told_apart_from_who_spent_everything(
    store: Store, clock: ManualClock
) -> None:
    await store.ledger.open_session(session("s", BOB), token_digest=b"d" * 32, key_version=1)
    await pay(store, PRICE)
    await charge(store, call(body="all"))
    nothing = Balance(Msat(0), Msat(0))

    answers = [
        await store.ledger.reserve(call(account_id=account_id, calls_per_day=2))
        for account_id in (ALICE, BOB, "c" * 32)
    ]

    insufficient, unknown = ReserveOutcome.INSUFFICIENT, ReserveOutcome.UNKNOWN_ACCOUNT
    assert answers == [
        Reserved(insufficient, nothing, AllowanceState(1, 2, MIDNIGHT), answer=None, funded=True),
        Reserved(insufficient, nothing, AllowanceState(0, 2, MIDNIGHT), answer=None, funded=False),
        Reserved(unknown, nothing, AllowanceState(0, 2, MIDNIGHT), answer=None, funded=False),
    ]


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
async def test_a_statement_is_its_accounts_own_in_the_order_of_time(store: Store, clock: ManualClock) -> None:
    for word, owner in (("one", ALICE), ("two", ALICE), ("three", BOB)):
        await store.ledger.fund(settlement(hash_of(word), 100), for_challenge(owner))
    for name, owner in (("c2", ALICE), ("c1", ALICE), ("b1", BOB)):
        await store.ledger.reserve(call(name, account_id=owner, price=40))
    for name, cost in (("c2", 10), ("c1", 20), ("b1", 30)):
        await store.ledger.settle(name, Msat(cost), None)
    clock.pass_ms(1)
    for name, owner in (("c3", ALICE), ("b2", BOB)):
        await store.ledger.reserve(call(name, account_id=owner, price=40))
        await store.ledger.release(name, "backend failed")
    await store.ledger.fund(settlement(hash_of("late"), 5), for_challenge(ALICE))

    lines = await store.statements.statement(ALICE, offset=0, limit=9)

    early, late = sorted(hash_of(word).hex() for word in ("one", "two")), hash_of("late").hex()
    assert list(lines) == [
        StatementLine(NOON, "credit", Msat(100), Msat(100), early[0], "challenge"),
        StatementLine(NOON, "credit", Msat(100), Msat(200), early[1], "challenge"),
        StatementLine(NOON, "charge", Msat(-20), Msat(180), "request-c1", CHAT),
        StatementLine(NOON, "charge", Msat(-10), Msat(170), "request-c2", CHAT),
        StatementLine(NOON + 1, "credit", Msat(5), Msat(175), late, "challenge"),
        StatementLine(NOON + 1, "refund", Msat(0), Msat(175), "request-c3", "backend failed"),
    ]
    assert list(await store.statements.statement(ALICE, offset=2, limit=3)) == lines[2:5]
    newest = await store.statements.statement(ALICE, offset=0, limit=9, newest_first=True)
    assert list(newest) == list(reversed(lines))
    assert [line.amount for line in await store.statements.statement(BOB, offset=0, limit=9)] == [100, -30, 0]


@in_books
async def test_a_call_is_found_by_its_owner_and_the_newest_of_its_name(
    store: Store, clock: ManualClock
) -> None:
    for owner in (ALICE, BOB):
        await pay(store, 9 * PRICE, owner)

    async def found(owner: str) -> tuple[str, HoldState] | None:
        one = await store.statements.call(owner, "mine")
        return None if one is None else (one.call_id, one.state)

    seen = []
    for later_ms, name in ((0, "c1"), (0, "c2"), (1, "c0")):
        clock.pass_ms(later_ms)
        for owner in (ALICE, BOB):
            await store.ledger.reserve(call(f"{name} of {owner}", account_id=owner, request_id="mine"))
        seen += [await found(owner) for owner in (ALICE, BOB)]
        for owner in (ALICE, BOB):
            await store.ledger.release(f"{name} of {owner}", "")
        seen += [await found(owner) for owner in (ALICE, BOB)]

    assert seen == [
        (f"{name} of {owner}", state)
        for name in ("c1", "c2", "c0")
        for state in (HoldState.OPEN, HoldState.RELEASED)
        for owner in (ALICE, BOB)
    ]
    await store.ledger.reserve(call("d", request_id="another"))
    await store.ledger.release("d", "")
    assert await found(ALICE) == (f"c0 of {ALICE}", HoldState.RELEASED)


@in_books
async def test_a_call_is_shown_with_its_answer_until_that_has_expired(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    asked = call()
    answer = await charge(store, asked, kept_ms=1000)

    shown = []
    for later_ms in (999, 1):
        clock.pass_ms(later_ms)
        found = await store.statements.call(ALICE, asked.request_id)
        assert found is not None
        shown.append((found.state, found.cost, found.answer))

    assert shown == [(HoldState.SETTLED, PRICE, answer), (HoldState.SETTLED, PRICE, None)]


@in_books
async def test_totals_are_sums_over_the_customers(store: Store, clock: ManualClock) -> None:
    before = await store.statements.totals()
    await pay(store, 5 * PRICE)
    await pay(store, PRICE, BOB)
    await charge(store, call())
    for _ in range(2):
        await store.ledger.reserve(call())
    await store.ledger.reserve(call(account_id=BOB))
    given_back = call()
    await store.ledger.reserve(given_back)
    await store.ledger.release(given_back.call_id, "")

    totals = await store.statements.totals()

    assert before == Totals(customers=Msat(0), held=Msat(0), credited=Msat(0), charged=Msat(0), open_holds=0)
    assert totals == Totals(
        customers=Msat(5 * PRICE), held=Msat(3 * PRICE), credited=Msat(6 * PRICE), charged=PRICE, open_holds=3
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
