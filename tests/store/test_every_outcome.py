"""Every outcome that a verb can answer is produced here; a new one fails until it is."""

from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

import pytest

from arkgate.core.ledger import FundOutcome, ReleaseOutcome, ReserveOutcome, SettleOutcome
from arkgate.core.money import Msat
from arkgate.store import Store
from arkgate.store.sqlite.opening import open_sqlite
from tests.store.books import (
    ALICE,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    answer_to,
    ark_address,
    call,
    charge,
    coin,
    for_challenge,
    hash_of,
    pay,
    run,
)
from tests.store.books import settlement as paid

Way = Callable[[Store, ManualClock], Coroutine[Any, Any, Enum]]
WAYS: dict[Enum, Way] = {}


def leads_to(outcome: Enum) -> Callable[[Way], Way]:
    """Registers a way to an outcome."""

    def register(way: Way) -> Way:
        assert outcome not in WAYS
        WAYS[outcome] = way
        return way

    return register


async def _reserve(store: Store, **asked: Any) -> Enum:
    return (await store.ledger.reserve(call(**asked))).outcome


@leads_to(ReserveOutcome.UNKNOWN_ACCOUNT)
async def _(store: Store, clock: ManualClock) -> Enum:
    return await _reserve(store)


@leads_to(ReserveOutcome.REPLAYED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, call_id="c")
    return await _reserve(store, call_id="c")


@leads_to(ReserveOutcome.IN_FLIGHT)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, key="k")
    return await _reserve(store, key="k", body="another")


@leads_to(ReserveOutcome.KEY_REUSED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await charge(store, call(key="k"))
    return await _reserve(store, key="k", body="another")


@leads_to(ReserveOutcome.ANSWERED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await charge(store, call(key="k", request_id="r"))
    return await _reserve(store, key="k", request_id="r", calls_per_day=1)


@leads_to(ReserveOutcome.ANSWER_GONE)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await charge(store, call(key="k", request_id="r"), kept_ms=0)
    return await _reserve(store, key="k", request_id="r", calls_per_day=1)


@leads_to(ReserveOutcome.REQUEST_ID_REUSED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, request_id="r")
    return await _reserve(store, request_id="r", calls_per_day=1, body="another")


@leads_to(ReserveOutcome.LIMIT_REACHED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store)
    return await _reserve(store, calls_per_day=1, body="another")


@leads_to(ReserveOutcome.INSUFFICIENT)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    return await _reserve(store, price=PRICE + 1)


@leads_to(ReserveOutcome.RESERVED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    return await _reserve(store)


@leads_to(SettleOutcome.SETTLED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, call_id="c")
    return (await store.ledger.settle("c", PRICE, None)).outcome


@leads_to(SettleOutcome.REPLAYED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    asked = call()
    await charge(store, asked)
    return (await store.ledger.settle(asked.call_id, PRICE, answer_to(asked))).outcome


@leads_to(SettleOutcome.RELEASED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, call_id="c")
    await store.ledger.release("c", "")
    return (await store.ledger.settle("c", PRICE, None)).outcome


@leads_to(ReleaseOutcome.RELEASED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, call_id="c")
    return (await store.ledger.release("c", "")).outcome


@leads_to(ReleaseOutcome.REPLAYED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await _reserve(store, call_id="c")
    clock.pass_ms(60_001)
    await store.ledger.sweep(1)
    return (await store.ledger.release("c", "")).outcome


@leads_to(ReleaseOutcome.SETTLED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    asked = call()
    await charge(store, asked)
    return (await store.ledger.release(asked.call_id, "")).outcome


@leads_to(FundOutcome.APPLIED)
async def _(store: Store, clock: ManualClock) -> Enum:
    return (await pay(store, PRICE)).outcome


@leads_to(FundOutcome.REPLAYED)
async def _(store: Store, clock: ManualClock) -> Enum:
    await store.ledger.fund(paid(hash_of("p")), for_challenge(ALICE))
    return (await store.ledger.fund(paid(hash_of("p")), None)).outcome


@leads_to(FundOutcome.FOREIGN)
async def _(store: Store, clock: ManualClock) -> Enum:
    return (await store.ledger.fund(paid(hash_of("p"), node=NODE), None)).outcome


@leads_to(FundOutcome.WAITING)
async def _(store: Store, clock: ManualClock) -> Enum:
    await pay(store, PRICE)
    await store.ledger.add_address(ark_address("tark1"))
    return (await store.ledger.fund_ark(coin("t:0", "tark1"), instant_max=Msat(PRICE - 1))).outcome


OUTCOMES: list[Enum] = [*ReserveOutcome, *SettleOutcome, *ReleaseOutcome, *FundOutcome]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_every_outcome_can_be_reached(tmp_path: Any, outcome: Enum) -> None:
    async def story() -> Enum:
        clock = ManualClock(NOON)
        async with open_sqlite(tmp_path / "ledger.db", clock) as store:
            return await WAYS[outcome](store, clock)

    assert run(story()) is outcome
