"""The ledger's share of a paid call, as a load: a reserve and the settle after it, by so many clients."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from arkgate.core.keys import Purpose, PurposeKind
from arkgate.core.ledger import (
    Answer,
    Reservation,
    Reserved,
    ReserveOutcome,
    Resolved,
    Settlement,
    SettleOutcome,
)
from arkgate.core.money import Msat, sats
from arkgate.gateway.serve import new_call_id
from arkgate.ports import Clock, Ledger
from arkgate.store.clock import DAY_MS

PRICE = Msat(50_000)
PAID_SATS = 1_000_000_000
SERVICE, NODE = "ai_chat", "lnd"
CALLS_PER_DAY = 1_000_000
BODY = b'{"answer":"' + b"x" * 588 + b'"}'
REQUEST_HASH = bytes(range(32))


class Verbs(Protocol):
    """What of a ledger a call needs."""

    async def reserve(self, reservation: Reservation) -> Reserved:
        """As `ports.Ledger.reserve`."""
        ...

    async def settle(self, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
        """As `ports.Ledger.settle`."""
        ...


@dataclass(slots=True)
class Pairs:
    """How long each pair took, and over which time they were made."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)

    def add(self, other: "Pairs") -> None:
        """Takes in another slice of the same measurement."""
        self.seconds += other.seconds
        self.took += other.took

    @property
    def per_second(self) -> float:
        """Pairs in a second."""
        return len(self.took) / self.seconds

    def ms(self, share: float) -> float:
        """How many milliseconds that share of the pairs took at most."""
        ordered = sorted(self.took)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


async def pairs(
    verbs: Verbs, clock: Clock, account: Callable[[], str], *, clients: int, seconds: float
) -> Pairs:
    """Makes pairs for that long; each call is of the account that `account` names next."""
    took: list[float] = []
    started = time.perf_counter()
    ends = started + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < ends:
            await _pair(verbs, clock, account())
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Pairs(time.perf_counter() - started, took)


async def _pair(verbs: Verbs, clock: Clock, account_id: str) -> None:
    now_ms = clock.now_ms()
    call_id = new_call_id(now_ms)
    request_id = call_id[-20:]
    reservation = Reservation(
        call_id=call_id,
        account_id=account_id,
        service=SERVICE,
        price=PRICE,
        calls_per_day=CALLS_PER_DAY,
        deadline_ms=now_ms + 60_000,
        request_id=request_id,
        request_hash=REQUEST_HASH,
    )
    reserved = await verbs.reserve(reservation)
    if reserved.outcome is not ReserveOutcome.RESERVED:
        raise SystemExit(f"the measurement is void: a call was {reserved.outcome.value}")
    answer = Answer(call_id, request_id, 200, "application/json", BODY, PRICE, now_ms + DAY_MS)
    settled = await verbs.settle(call_id, PRICE, answer)
    if settled.outcome is not SettleOutcome.SETTLED:
        raise SystemExit(f"the measurement is void: a settle was {settled.outcome.value}")


async def fill(ledger: Ledger, clock: Clock, accounts: Iterable[str], *, word: str = "first") -> None:
    """Gives each account more money than a measurement can spend; once for each word."""
    now_ms = clock.now_ms()

    async def pay(account_id: str) -> None:
        payment_hash = (bytes.fromhex(account_id) + word.encode().ljust(16))[:32]
        payment = Settlement(NODE, payment_hash, sats(PAID_SATS), "", now_ms)
        await ledger.fund(payment, Purpose(PurposeKind.CHALLENGE, account_id))

    waiting = list(accounts)
    for start in range(0, len(waiting), 256):
        await asyncio.gather(*(pay(account_id) for account_id in waiting[start : start + 256]))
