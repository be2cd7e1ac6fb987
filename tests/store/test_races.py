"""Two verbs that want the same money: in either order, apart or at once, one of two right ends comes out."""

import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from arkgate.core.keys import Purpose, PurposeKind, token_digest
from arkgate.core.ledger import (
    Balance,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceState,
    ReleaseOutcome,
    Reservation,
    Reserved,
    ReserveOutcome,
    Resolved,
    SettleOutcome,
    Swept,
)
from arkgate.core.money import Msat
from tests.store.books import (
    ALICE,
    CHAT,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    answer_to,
    broken,
    call,
    for_challenge,
    hash_of,
    invoice,
    invoice_of,
    pay,
    run,
    session,
    settlement,
)
from tests.store.courses import ENGINES, Course, Manner, Racing, Verb, several

LATE = NOON + 60_001
TOKEN = token_digest("ak_" + "0" * 32)
Race = Callable[[Course, ManualClock], Coroutine[Any, Any, None]]
Run = Callable[[Race], None]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a race in fresh books of each engine; every invariant holds after it."""
    engine: Racing = request.param
    engine.prepare()

    def played(race: Race) -> None:
        async def whole() -> None:
            clock = ManualClock()
            async with engine.opened(tmp_path, clock) as course:
                await race(course, clock)
                findings = broken(await course.store.statements.verify())
                assert not findings, findings

        run(whole())

    return played


manners = pytest.mark.parametrize("manner", Manner)
at_once = pytest.mark.parametrize("manner", [Manner.IN_TURN, Manner.TOGETHER])


def reserve(asked: Reservation) -> Verb:
    return lambda store: store.ledger.reserve(asked)


def settle(asked: Reservation) -> Verb:
    return lambda store: store.ledger.settle(asked.call_id, asked.price, answer_to(asked))


def release(asked: Reservation) -> Verb:
    return lambda store: store.ledger.release(asked.call_id, "backend failed")


def sweep() -> Verb:
    return lambda store: store.ledger.sweep(10)


def fund(word: str, purpose: Purpose | None = None, *, cursor: Cursor | None = None) -> Verb:
    payment = settlement(hash_of(word))
    return lambda store: store.ledger.fund(payment, purpose, cursor=cursor)


async def balance(course: Course) -> Balance:
    account = await course.store.statements.account(ALICE)
    assert account is not None
    return account.balance


async def held(course: Course) -> Reservation:
    """A call of a funded account that is under way."""
    await pay(course.store, PRICE)
    asked = call()
    await course.store.ledger.reserve(asked)
    return asked


@at_once
def test_funds_for_100_calls_hold_100_of_400_attempts(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 100 * PRICE)

        attempts = [reserve(call(body=str(number))) for number in range(400)]
        answers: list[Reserved] = await course.raced(attempts, manner)

        counted = Counter(answer.outcome for answer in answers)
        assert counted == {ReserveOutcome.RESERVED: 100, ReserveOutcome.INSUFFICIENT: 300}
        assert await balance(course) == Balance(Msat(100 * PRICE), Msat(100 * PRICE))

    play(race)


@manners
def test_the_last_unit_of_a_day_is_taken_once(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 9 * PRICE)
        for number in range(4):
            await course.store.ledger.reserve(call(body=str(number), calls_per_day=5))

        verbs = [reserve(call(body=word, calls_per_day=5)) for word in ("one", "other")]
        answers: list[Reserved] = await course.raced(verbs, manner)

        outcomes = {answer.outcome for answer in answers}
        assert outcomes == {ReserveOutcome.RESERVED, ReserveOutcome.LIMIT_REACHED}
        assert (await course.store.statements.allowance(ALICE, CHAT, 5)).left == 0
        assert (await balance(course)).held == 5 * PRICE

    play(race)


@manners
@pytest.mark.parametrize("released_first", [True, False])
def test_a_unit_that_is_given_back_is_taken_only_after_it(
    play: Run, manner: Manner, released_first: bool
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 9 * PRICE)
        first, second = call(calls_per_day=1), call(body="another", calls_per_day=1)
        await course.store.ledger.reserve(first)

        reserved: Reserved
        if released_first:
            _, reserved = await course.raced([release(first), reserve(second)], manner)
        else:
            reserved, _ = await course.raced([reserve(second), release(first)], manner)

        expected = ReserveOutcome.RESERVED if released_first else ReserveOutcome.LIMIT_REACHED
        assert reserved.outcome is expected
        assert (await balance(course)).held == (PRICE if released_first else 0)

    play(race)


@manners
@pytest.mark.parametrize("known", [True, False], ids=["session", "challenge"])
def test_a_payment_is_credited_once_in_whatever_order_it_is_reported(
    play: Run, manner: Manner, known: bool
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, PRICE)
        orders = list(itertools.permutations(range(4)))
        for number, order in enumerate(orders):
            word = f"reported {number}"
            if known:
                await course.store.ledger.add_invoice(invoice(hash_of(word)))
            purpose = None if known else for_challenge(ALICE)
            stream = fund(word, purpose, cursor=Cursor(number, number))
            reports = [stream, *(fund(word, purpose) for _ in ("look-up", "proof", "reconcile"))]
            funded: list[Funded] = await course.raced([reports[which] for which in order], manner)

            expected = [FundOutcome.APPLIED, *[FundOutcome.REPLAYED] * 3]
            assert sorted(one.outcome.value for one in funded) == [one.value for one in expected]
            assert {one.account_id for one in funded} == {ALICE}
            assert await balance(course) == Balance(Msat((number + 2) * PRICE), Msat(0))
            assert await course.store.statements.cursor(NODE) == Cursor(number, number)

    play(race)


@manners
@pytest.mark.parametrize("settled_first", [True, False])
def test_a_hold_at_its_deadline_is_settled_or_swept_and_never_both(
    play: Run, manner: Manner, settled_first: bool
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        asked = await held(course)
        clock.at_ms = LATE

        settled: Resolved
        swept: Sequence[Swept]
        if settled_first:
            settled, swept = await course.raced([settle(asked), sweep()], manner)
        else:
            swept, settled = await course.raced([sweep(), settle(asked)], manner)

        assert settled.outcome is (SettleOutcome.SETTLED if settled_first else SettleOutcome.RELEASED)
        assert [one.call_id for one in swept] == ([] if settled_first else [asked.call_id])
        assert await balance(course) == Balance(Msat(0 if settled_first else PRICE), Msat(0))

    play(race)


@manners
@pytest.mark.parametrize("settled_first", [True, False])
def test_a_hold_is_settled_or_released_and_never_both(play: Run, manner: Manner, settled_first: bool) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        asked = await held(course)

        verbs = [settle(asked), release(asked)]
        ends: list[Resolved] = await course.raced(verbs if settled_first else verbs[::-1], manner)

        expected: list[SettleOutcome | ReleaseOutcome] = (
            [SettleOutcome.SETTLED, ReleaseOutcome.SETTLED]
            if settled_first
            else [ReleaseOutcome.RELEASED, SettleOutcome.RELEASED]
        )
        assert [end.outcome for end in ends] == expected
        assert await balance(course) == Balance(Msat(0 if settled_first else PRICE), Msat(0))
        found = await course.store.statements.call(ALICE, asked.request_id)
        assert found is not None
        assert (found.answer is not None) is settled_first

    play(race)


@manners
@pytest.mark.parametrize("end", [settle, release])
def test_a_hold_that_two_resolve_in_the_same_way_is_resolved_once(
    play: Run, manner: Manner, end: Callable[[Reservation], Verb]
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        asked = await held(course)

        first, second = await course.raced([end(asked), end(asked)], manner)

        assert first.outcome in (SettleOutcome.SETTLED, ReleaseOutcome.RELEASED)
        assert second.outcome in (SettleOutcome.REPLAYED, ReleaseOutcome.REPLAYED)
        assert first.balance == second.balance == await balance(course)

    play(race)


@manners
def test_two_sweeps_release_a_hold_once(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        asked = await held(course)
        clock.at_ms = LATE

        swept = await course.raced([sweep(), sweep()], manner)

        assert [one.call_id for sweep in swept for one in sweep] == [asked.call_id]
        assert await balance(course) == Balance(PRICE, Msat(0))

    play(race)


@manners
@pytest.mark.parametrize("paid_first", [True, False])
def test_a_top_up_can_be_spent_as_soon_as_it_is_credited(play: Run, manner: Manner, paid_first: bool) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, PRICE - 1)
        await course.store.ledger.add_invoice(invoice(hash_of("top-up")))
        asked = call()

        reserved: Reserved
        if paid_first:
            _, reserved = await course.raced([fund("top-up"), reserve(asked)], manner)
        else:
            reserved, _ = await course.raced([reserve(asked), fund("top-up")], manner)

        assert reserved.outcome is (ReserveOutcome.RESERVED if paid_first else ReserveOutcome.INSUFFICIENT)
        assert await balance(course) == Balance(Msat(2 * PRICE - 1), Msat(PRICE if paid_first else 0))

    play(race)


@manners
def test_calls_with_one_idempotency_key_hold_once(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 9 * PRICE)

        answers: list[Reserved] = await course.raced([reserve(call(key="k")), reserve(call(key="k"))], manner)

        outcomes = [answer.outcome for answer in answers]
        assert outcomes == [ReserveOutcome.RESERVED, ReserveOutcome.IN_FLIGHT]
        assert (await balance(course)).held == PRICE

    play(race)


@manners
def test_one_call_that_is_asked_for_twice_holds_once(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 9 * PRICE)
        asked = call()

        answers: list[Reserved] = await course.raced([reserve(asked), reserve(asked)], manner)

        assert [answer.outcome for answer in answers] == [ReserveOutcome.RESERVED, ReserveOutcome.REPLAYED]
        assert (await balance(course)).held == PRICE

    play(race)


@manners
@pytest.mark.parametrize("paid_first", [True, False])
def test_a_session_and_its_payment_may_come_in_any_order(play: Run, manner: Manner, paid_first: bool) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        def opening(store: Any) -> Any:
            return store.ledger.open_session(session("s"), token_digest=TOKEN, key_version=1)

        payment = fund("s", Purpose(PurposeKind.SESSION, ALICE))
        verbs = [payment, opening]
        await course.raced(verbs if paid_first else verbs[::-1], manner)

        assert await balance(course) == Balance(PRICE, Msat(0))
        assert await course.store.statements.account_by_token(TOKEN) == ALICE
        found = await course.store.statements.session("s")
        assert found is not None
        assert invoice_of(found).state is InvoiceState.SETTLED

    play(race)


@manners
@pytest.mark.parametrize("paid_first", [True, False])
def test_an_invoice_that_expires_while_it_is_paid_is_credited(
    play: Run, manner: Manner, paid_first: bool
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, PRICE)
        await course.store.ledger.add_invoice(invoice(hash_of("late")))

        def expiry(store: Any) -> Any:
            return store.ledger.mark_invoice(hash_of("late"), InvoiceState.EXPIRED)

        verbs = [fund("late"), expiry]
        await course.raced(verbs if paid_first else verbs[::-1], manner)

        assert await balance(course) == Balance(Msat(2 * PRICE), Msat(0))
        awaited = await course.store.statements.invoices_awaited(NODE, after=b"", limit=9)
        assert awaited == []

    play(race)


@manners
def test_an_account_that_two_give_a_token_has_one(play: Run, manner: Manner) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, PRICE)

        def giving(version: int) -> Verb:
            digest = token_digest(f"ak_{version:032x}")
            return lambda store: store.ledger.set_token(ALICE, token_digest=digest, key_version=version)

        assert await course.raced([giving(1), giving(2)], manner) == [1, 1]

    play(race)


@manners
@pytest.mark.parametrize("calls_per_day", [None, 4], ids=["funds", "allowance"])
def test_two_that_reserve_several_calls_each_share_what_there_is(
    play: Run, manner: Manner, calls_per_day: int | None
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 4 * PRICE if calls_per_day is None else 9 * PRICE)

        def three(word: str) -> Verb:
            return several([reserve(call(body=f"{word} {n}", calls_per_day=calls_per_day)) for n in range(3)])

        first, second = await course.raced([three("one"), three("other")], manner)

        refusal = ReserveOutcome.INSUFFICIENT if calls_per_day is None else ReserveOutcome.LIMIT_REACHED
        assert [answer.outcome for answer in first] == [ReserveOutcome.RESERVED] * 3
        assert [answer.outcome for answer in second] == [ReserveOutcome.RESERVED, refusal, refusal]
        assert (await balance(course)).held == 4 * PRICE

    play(race)


@manners
@pytest.mark.parametrize("settled_first", [True, False])
@pytest.mark.parametrize("other", [settle, release, None], ids=["settle", "release", "sweep"])
def test_several_holds_that_two_resolve_are_each_resolved_once(
    play: Run, manner: Manner, settled_first: bool, other: Callable[[Reservation], Verb] | None
) -> None:
    async def race(course: Course, clock: ManualClock) -> None:
        await pay(course.store, 3 * PRICE)
        asked = [call(body=str(number)) for number in range(3)]
        for one in asked:
            await course.store.ledger.reserve(one)
        clock.at_ms = LATE

        others = sweep() if other is None else several([other(one) for one in asked])
        verbs = [several([settle(one) for one in asked]), others]
        ends = await course.raced(verbs if settled_first else verbs[::-1], manner)

        settled: list[Resolved] = ends[0 if settled_first else 1]
        charged = settled_first or other is settle
        first = SettleOutcome.SETTLED if settled_first else SettleOutcome.REPLAYED
        assert [end.outcome for end in settled] == [first if charged else SettleOutcome.RELEASED] * 3
        assert await balance(course) == Balance(Msat(0 if charged else 3 * PRICE), Msat(0))

    play(race)
