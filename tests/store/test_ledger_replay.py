"""What was answered once is answered again, not bought again."""

import asyncio
from collections import Counter
from dataclasses import replace

from arkgate.core.ledger import AllowanceState, Balance, Reservation, Reserved, ReserveOutcome
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
    in_books,
    pay,
)


async def foretold(store: Store, asked: Reservation) -> Reserved | None:
    """What `Statements.replay` says of a reservation."""
    quote = Quote(asked.service, asked.price, asked.calls_per_day)
    return await store.statements.replay(asked.account_id, quote, asked.request_hash, asked.idempotency_key)


async def both(store: Store, asked: Reservation) -> Reserved:
    """What `reserve` says, having checked that `replay` said the same before."""
    before = await foretold(store, asked)
    answer = await store.ledger.reserve(asked)
    if answer.outcome in {
        ReserveOutcome.ANSWERED,
        ReserveOutcome.ANSWER_GONE,
        ReserveOutcome.IN_FLIGHT,
        ReserveOutcome.KEY_REUSED,
    }:
        assert before == answer
    else:
        assert before is None
    return answer


@in_books
async def test_an_idempotency_key_lives_from_flight_to_answer_to_gone(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 9 * PRICE)
    await charge(store, call(body="kept", request_id="kept"))
    first = call(key="k", request_id="r")
    taken = await both(store, first)

    in_flight = await both(store, call(key="k", body="another"))
    await store.ledger.settle(first.call_id, PRICE, answer_to(first, kept_ms=1000))
    answered = await both(store, call(key="k", request_id="r"))
    reused = await both(store, call(key="k", body="another"))
    other_service = await both(store, call(key="k", service="images"))
    clock.pass_ms(1000)
    past_its_time = await both(store, call(key="k"))
    pruned = await store.ledger.prune_answers(10)
    gone = await both(store, call(key="k"))

    assert taken.outcome is ReserveOutcome.RESERVED
    assert in_flight.outcome is ReserveOutcome.IN_FLIGHT
    assert answered.outcome is ReserveOutcome.ANSWERED
    assert answered.answer == answer_to(first, kept_ms=1000)
    assert reused.outcome is other_service.outcome is ReserveOutcome.KEY_REUSED
    assert past_its_time.outcome is gone.outcome is ReserveOutcome.ANSWER_GONE
    assert pruned == 1
    assert gone.balance.available == 7 * PRICE


@in_books
async def test_a_release_or_a_sweep_frees_the_key(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    released, swept = call(key="k1"), call(key="k2")
    await store.ledger.reserve(released)
    await store.ledger.reserve(swept)

    await store.ledger.release(released.call_id, "backend failed")
    clock.pass_ms(60_001)
    await store.ledger.sweep(10)
    again = [await both(store, call(key=key, body="another")) for key in ("k1", "k2")]

    assert {answer.outcome for answer in again} == {ReserveOutcome.RESERVED}
    await store.ledger.sweep(10)


@in_books
async def test_a_key_is_its_accounts_own(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    await pay(store, PRICE, BOB)
    await charge(store, call(key="k"))

    answer = await both(store, call(key="k", account_id=BOB))

    assert answer.outcome is ReserveOutcome.RESERVED


@in_books
async def test_one_of_many_concurrent_calls_under_a_key_is_held(store: Store, clock: ManualClock) -> None:
    await pay(store, 99 * PRICE)

    answers = await asyncio.gather(*(store.ledger.reserve(call(key="k")) for _ in range(50)))

    counted = Counter(answer.outcome for answer in answers)
    assert counted == {ReserveOutcome.RESERVED: 1, ReserveOutcome.IN_FLIGHT: 49}


@in_books
async def test_a_key_outranks_the_limit_and_the_balance(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    first = call(key="k", calls_per_day=1)
    await charge(store, first)

    answer = await both(store, call(key="k", calls_per_day=1))

    assert answer.outcome is ReserveOutcome.ANSWERED
    assert answer.allowance.left == 0


@in_books
async def test_a_used_up_account_gets_its_last_answer_again(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    await charge(store, call(body="one"))
    with_money_left = await foretold(store, call(body="one"))
    last = await charge(store, call(body="two"))

    again = await both(store, call(body="two"))
    earlier = await both(store, call(body="one"))
    new = await both(store, call(body="three"))
    with_a_key = await both(store, call(body="two", key="k"))

    assert with_money_left is None
    assert again.outcome is ReserveOutcome.ANSWERED
    assert again.answer == last
    assert earlier.outcome is new.outcome is with_a_key.outcome is ReserveOutcome.INSUFFICIENT


@in_books
async def test_an_account_at_its_limit_gets_its_last_answer_again(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    await charge(store, call(calls_per_day=1))

    again = await both(store, call(calls_per_day=1))
    other = await both(store, call(calls_per_day=1, body="another"))

    assert again.outcome is ReserveOutcome.ANSWERED
    assert other.outcome is ReserveOutcome.LIMIT_REACHED


@in_books
async def test_an_account_below_its_limit_buys_the_same_again(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    await charge(store, call(calls_per_day=2))

    again = await both(store, call(calls_per_day=2))

    assert again.outcome is ReserveOutcome.RESERVED


@in_books
async def test_the_last_answer_is_the_services_own(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    await charge(store, call(body="one"))
    await charge(store, call(body="one", service="images"))

    chat = await both(store, call(body="one"))
    images = await both(store, call(body="one", service="images"))

    assert chat.outcome is images.outcome is ReserveOutcome.ANSWERED
    assert chat.answer is not None
    assert images.answer is not None
    assert chat.answer.call_id != images.answer.call_id


@in_books
async def test_the_last_answer_is_not_given_after_its_time(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    await charge(store, call(body="kept longer"))
    await charge(store, call(), kept_ms=1000)

    clock.pass_ms(1000)
    answer = await both(store, call())

    assert answer.outcome is ReserveOutcome.INSUFFICIENT


@in_books
async def test_the_last_settled_call_counts_whichever_day_it_was_held(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 2 * PRICE)
    late, midnight = call(body="late", deadline_ms=NOON + DAY_MS), NOON + DAY_MS // 2
    await store.ledger.reserve(late)
    clock.at_ms = midnight
    await charge(store, call(body="early"))
    await store.ledger.settle(late.call_id, PRICE, answer_to(late))

    answer = await both(store, call(body="late"))

    assert answer.outcome is ReserveOutcome.ANSWERED


@in_books
async def test_the_last_answer_is_the_accounts_own_and_of_the_last_day_that_has_one(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 3 * PRICE)
    await pay(store, PRICE, BOB)
    await charge(store, call(account_id=BOB, body="bobs"), kept_ms=9 * DAY_MS)
    await charge(store, call(body="first"), kept_ms=9 * DAY_MS)
    clock.pass_ms(DAY_MS)
    await charge(store, call(body="last"), kept_ms=9 * DAY_MS)
    clock.pass_ms(DAY_MS)
    await store.ledger.reserve(call(body="under way", deadline_ms=NOON + 9 * DAY_MS))

    bodies = ((ALICE, "last"), (BOB, "bobs"), (ALICE, "first"), (BOB, "last"))
    outcomes = [(await both(store, call(account_id=owner, body=body))).outcome for owner, body in bodies]

    answered, insufficient = ReserveOutcome.ANSWERED, ReserveOutcome.INSUFFICIENT
    assert outcomes == [answered, answered, insufficient, insufficient]


async def calls_with_answers(store: Store) -> set[str]:
    """The calls whose answers are kept, in time or not."""
    async with store.statements.snapshot() as snapshot:
        table = next(table for table in snapshot.tables if table.name == "answer")
        at = [column.name for column in table.columns].index("call_id")
        return {str(row[at]) for row in [row async for batch in snapshot.rows(table) for row in batch]}


@in_books
async def test_the_oldest_answers_are_forgotten_first(store: Store, clock: ManualClock) -> None:
    await pay(store, 4 * PRICE)
    for name, kept_ms in (("a", 30), ("b", 10), ("c", 20), ("d", 31)):
        await charge(store, call(name), kept_ms=kept_ms)
    clock.pass_ms(30)

    kept = []
    for _ in range(3):
        await store.ledger.prune_answers(1)
        kept.append(await calls_with_answers(store))

    assert kept == [{"a", "c", "d"}, {"a", "d"}, {"d"}]


@in_books
async def test_answers_are_pruned_in_small_batches_oldest_first(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    for number, kept_ms in enumerate((30, 10, 20, 40)):
        await charge(store, call(request_id=f"r{number}"), kept_ms=kept_ms)
    clock.pass_ms(30)

    pruned = [await store.ledger.prune_answers(2) for _ in range(3)]

    kept = await store.statements.call(ALICE, "r3")
    forgotten = await store.statements.call(ALICE, "r1")
    assert pruned == [2, 1, 0]
    assert kept is not None
    assert kept.answer is not None
    assert forgotten is not None
    assert forgotten.answer is None
    assert forgotten.cost == PRICE


@in_books
async def test_nothing_is_replayed_to_a_stranger(store: Store, clock: ManualClock) -> None:
    nobody = await store.statements.replay(BOB, Quote(CHAT, Msat(1), None), b"h" * 32, None)
    with_a_key = await store.statements.replay(BOB, Quote(CHAT, Msat(1), None), b"h" * 32, b"k" * 32)

    assert nobody is None
    assert with_a_key is None


@in_books
async def test_a_used_up_credential_waits_for_its_call_under_way(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    first = call(body="q")
    await store.ledger.reserve(first)

    repeated = await both(store, call(body="q"))
    other = await both(store, call(body="another"))
    await store.ledger.release(first.call_id, "failed")
    again = await both(store, call(body="q"))

    assert repeated.outcome is ReserveOutcome.IN_FLIGHT
    assert other.outcome is ReserveOutcome.INSUFFICIENT
    assert again.outcome is ReserveOutcome.RESERVED


@in_books
async def test_a_call_under_way_comes_before_the_answer_of_an_older_one(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 2 * PRICE)
    older = call(body="q")
    await store.ledger.reserve(older)
    await store.ledger.settle(older.call_id, PRICE, answer_to(older))
    newer = call(body="q")
    assert (await store.ledger.reserve(newer)).outcome is ReserveOutcome.RESERVED

    assert (await both(store, call(body="q"))).outcome is ReserveOutcome.IN_FLIGHT
    await store.ledger.release(newer.call_id, "failed")
    await store.ledger.reserve(call(body="other"))
    assert (await both(store, call(body="q"))).outcome is ReserveOutcome.ANSWERED


@in_books
async def test_a_repeated_request_is_told_its_own_accounts_day(store: Store, clock: ManualClock) -> None:
    for account_id, others in ((ALICE, 1), (BOB, 2)):
        await pay(store, 9 * PRICE, account_id)
        await charge(store, call(account_id=account_id, service="images"))
        for _ in range(others):
            await charge(store, call(account_id=account_id))
        await charge(store, call(account_id=account_id, key="k"))

    midnight = NOON + DAY_MS // 2
    for used_today, resets_at_ms in (((2, 3), midnight), ((0, 0), midnight + DAY_MS)):
        for account_id, used in zip((ALICE, BOB), used_today, strict=True):
            answer = await both(store, call(account_id=account_id, key="k", calls_per_day=7))
            assert answer.outcome is ReserveOutcome.ANSWERED
            assert answer.balance == Balance(Msat(6 * PRICE if account_id == ALICE else 5 * PRICE), Msat(0))
            assert answer.allowance == AllowanceState(used, 7, resets_at_ms)
        clock.pass_ms(DAY_MS // 2)


@in_books
async def test_the_same_body_elsewhere_is_another_request(store: Store, clock: ManualClock) -> None:
    await pay(store, 2 * PRICE)
    await pay(store, PRICE, BOB)
    await store.ledger.reserve(call(account_id=BOB, body="q"))
    await store.ledger.reserve(call(service="images", body="q"))
    await charge(store, call(body="early"))

    same_body = replace(call(), request_hash=call(service="images", body="q").request_hash)
    answers = [await both(store, asked) for asked in (call(body="q"), same_body, call(body="other"))]

    assert {answer.outcome for answer in answers} == {ReserveOutcome.INSUFFICIENT}
