"""Races of real processes on one PostgreSQL: each is a replica of its own, and all begin at one moment."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Barrier

import pytest

from arkgate.core.ledger import (
    Balance,
    Cursor,
    FundOutcome,
    ReleaseOutcome,
    Reservation,
    ReserveOutcome,
    SettleOutcome,
)
from arkgate.core.money import Msat
from arkgate.store import Store
from arkgate.store.postgres.opening import PostgresStore, open_postgres
from tests import postgres
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
    pay,
    run,
    settlement,
)

pytestmark = pytest.mark.usefixtures("postgres_server")
PROCESSES = 4
MEET_SECONDS = 60.0
STORY_SECONDS = 60.0
LATE = NOON + 60_001
Deeds = list[tuple[str, str]]
"""What a process was answered: of which call or payment, and the outcome."""
Story = Callable[[Store, int], Awaitable[Deeds]]
_met: list[Barrier] = []


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes that each take one part of a race: none begins before all are ready."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, initializer=meet_at, initargs=(barrier,)) as pool:
        yield pool


def meet_at(barrier: Barrier) -> None:
    """Gives a new process the barrier of all."""
    _met.append(barrier)


async def raced(processes: ProcessPoolExecutor, url: str, story: Story, at_ms: int = NOON) -> Deeds:
    """What the processes did together, in no order."""
    loop = asyncio.get_running_loop()
    parts = [
        loop.run_in_executor(processes, take_part, url, story, number, at_ms) for number in range(PROCESSES)
    ]
    return [deed for part in await asyncio.gather(*parts) for deed in part]


def take_part(url: str, story: Story, number: int, at_ms: int) -> Deeds:
    """One process: opens the books, makes its connections, meets the others at the barrier, and begins."""

    async def whole() -> Deeds:
        async with open_postgres(url, ManualClock(at_ms)) as store:
            await asyncio.gather(
                *(store.ledger.reserve(call(f"{number}-{n}", account_id=f"{n:032x}")) for n in range(32)),
                *(store.ledger.probe() for _ in range(4)),
            )
            await asyncio.to_thread(_met[0].wait, MEET_SECONDS)
            return await asyncio.wait_for(story(store, number), STORY_SECONDS)

    return run(whole())


@asynccontextmanager
async def books() -> AsyncIterator[tuple[str, PostgresStore]]:
    """Fresh books; every invariant holds after the race."""
    async with postgres.database() as url, open_postgres(url, ManualClock()) as store:
        yield url, store
        findings = broken(await store.statements.verify())
        assert not findings, findings


async def balance(store: Store) -> Balance:
    """What the account has now."""
    account = await store.statements.account(ALICE)
    assert account is not None
    return account.balance


def numbered(number: int, *, calls_per_day: int | None = None) -> Reservation:
    """The same call in every process that asks for it."""
    return call(f"{number:032x}", body=str(number), calls_per_day=calls_per_day)


async def all_reserved(store: Store, asked: Sequence[Reservation]) -> Deeds:
    """Asks for all of them at once."""
    answers = await asyncio.gather(*(store.ledger.reserve(one) for one in asked))
    return [(one.call_id, answer.outcome.value) for one, answer in zip(asked, answers, strict=True)]


async def attempts(store: Store, number: int) -> Deeds:
    """A quarter of 400 calls."""
    return await all_reserved(store, [numbered(1000 * (number + 1) + n) for n in range(100)])


def test_processes_hold_as_many_of_400_attempts_as_there_are_funds_for(
    processes: ProcessPoolExecutor,
) -> None:
    async def race() -> None:
        async with books() as (url, store):
            await pay(store, 100 * PRICE)

            deeds = await raced(processes, url, attempts)

            counted = Counter(outcome for _, outcome in deeds)
            assert counted == {ReserveOutcome.RESERVED.value: 100, ReserveOutcome.INSUFFICIENT.value: 300}
            assert await balance(store) == Balance(Msat(100 * PRICE), Msat(100 * PRICE))

    run(race())


async def calls_of_a_day(store: Store, number: int) -> Deeds:
    """More calls than a day has."""
    return await all_reserved(store, [numbered(1000 * (number + 1) + n, calls_per_day=5) for n in range(25)])


def test_processes_take_the_last_unit_of_a_day_once(processes: ProcessPoolExecutor) -> None:
    async def race() -> None:
        async with books() as (url, store):
            await pay(store, 200 * PRICE)
            await all_reserved(store, [numbered(n, calls_per_day=5) for n in range(4)])

            deeds = await raced(processes, url, calls_of_a_day)

            counted = Counter(outcome for _, outcome in deeds)
            assert counted == {ReserveOutcome.RESERVED.value: 1, ReserveOutcome.LIMIT_REACHED.value: 99}
            assert (await store.statements.allowance(ALICE, CHAT, 5)).left == 0

    run(race())


PAYMENTS = 48


async def reports(store: Store, number: int) -> Deeds:
    """Stream, look-up, proof or reconcile: all report every payment, and each begins with another one.

    Those with an even number have an invoice in the books; of the others a credential says whose they are.
    """

    async def report(which: int) -> tuple[str, str]:
        payment = settlement(hash_of(f"report {which}"))
        purpose = for_challenge(ALICE) if which % 2 else None
        cursor = Cursor(which + 1, which + 1) if number == 0 else None
        funded = await store.ledger.fund(payment, purpose, cursor=cursor)
        return f"report {which}", funded.outcome.value

    first = number * 2
    order = [*range(first, PAYMENTS), *range(first)]
    return await asyncio.gather(*map(report, order))


def test_processes_that_report_the_same_payments_credit_each_once(processes: ProcessPoolExecutor) -> None:
    async def race() -> None:
        async with books() as (url, store):
            await pay(store, PRICE)
            for which in range(0, PAYMENTS, 2):
                await store.ledger.add_invoice(invoice(hash_of(f"report {which}")))

            deeds = await raced(processes, url, reports)

            assert len(deeds) == PROCESSES * PAYMENTS
            applied = [payment for payment, outcome in deeds if outcome == FundOutcome.APPLIED.value]
            assert sorted(applied) == sorted({payment for payment, _ in deeds})
            assert {outcome for _, outcome in deeds} == {
                FundOutcome.APPLIED.value,
                FundOutcome.REPLAYED.value,
            }
            assert await balance(store) == Balance(Msat((PAYMENTS + 1) * PRICE), Msat(0))
            assert await store.statements.cursor(NODE) == Cursor(PAYMENTS, PAYMENTS)

    run(race())


HOLDS = 48


async def settle_all(store: Store) -> Deeds:
    """Settles every hold."""

    async def settle(asked: Reservation) -> tuple[str, str]:
        resolved = await store.ledger.settle(asked.call_id, asked.price, answer_to(asked))
        return asked.call_id, f"settle: {resolved.outcome.value}"

    return await asyncio.gather(*(settle(numbered(n)) for n in range(HOLDS)))


async def settles_or_sweeps(store: Store, number: int) -> Deeds:
    """Two settle what two others sweep, a few at a time."""
    if number < PROCESSES // 2:
        return await settle_all(store)
    deeds = []
    for _ in range(HOLDS):
        deeds += [(one.call_id, "released") for one in await store.ledger.sweep(3)]
    return deeds


async def settles_or_releases(store: Store, number: int) -> Deeds:
    """Two settle what two others release, from the other end."""
    if number < PROCESSES // 2:
        return await settle_all(store)

    async def release(asked: Reservation) -> tuple[str, str]:
        resolved = await store.ledger.release(asked.call_id, "backend failed")
        released = resolved.outcome is ReleaseOutcome.RELEASED
        return asked.call_id, "released" if released else f"release: {resolved.outcome.value}"

    return await asyncio.gather(*(release(numbered(n)) for n in reversed(range(HOLDS))))


@pytest.mark.parametrize(("story", "at_ms"), [(settles_or_sweeps, LATE), (settles_or_releases, NOON)])
def test_processes_end_each_hold_once(processes: ProcessPoolExecutor, story: Story, at_ms: int) -> None:
    async def race() -> None:
        async with books() as (url, store):
            await pay(store, HOLDS * PRICE)
            await all_reserved(store, [numbered(n) for n in range(HOLDS)])

            deeds = await raced(processes, url, story, at_ms)

            settled = [call_id for call_id, how in deeds if how == f"settle: {SettleOutcome.SETTLED.value}"]
            released = [call_id for call_id, how in deeds if how == "released"]
            assert sorted([*settled, *released]) == [numbered(n).call_id for n in range(HOLDS)]
            assert await balance(store) == Balance(Msat(len(released) * PRICE), Msat(0))

    run(race())


async def tops_up_or_spends(store: Store, number: int) -> Deeds:
    """Two pay 25 times each, two others spend each payment as soon as it is there."""
    mine = range(25 * (number // 2), 25 * (number // 2) + 25)
    if number % 2:
        paid = [settlement(hash_of(f"report {which}")) for which in mine]
        funded = [await store.ledger.fund(payment, for_challenge(ALICE)) for payment in paid]
        return [("payment", one.outcome.value) for one in funded]
    deeds = []
    for which in mine:
        reserved = ReserveOutcome.INSUFFICIENT
        while reserved is ReserveOutcome.INSUFFICIENT:
            reserved = (await store.ledger.reserve(numbered(which))).outcome
        settled = await store.ledger.settle(numbered(which).call_id, PRICE, answer_to(numbered(which)))
        deeds.append(("call", settled.outcome.value))
    return deeds


def test_processes_spend_each_top_up_once(processes: ProcessPoolExecutor) -> None:
    async def race() -> None:
        async with books() as (url, store):
            await pay(store, 1)

            deeds = await raced(processes, url, tops_up_or_spends)

            assert Counter(deeds) == {
                ("payment", FundOutcome.APPLIED.value): 50,
                ("call", SettleOutcome.SETTLED.value): 50,
            }
            assert await balance(store) == Balance(Msat(1), Msat(0))

    run(race())
