"""Whatever is done in whatever order, the ledger says what a plain model says, and the books hold."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arkgate.core.ledger import (
    EXPENSE_ACCOUNT,
    Balance,
    FundOutcome,
    ReleaseOutcome,
    Reservation,
    ReserveOutcome,
    SettleOutcome,
)
from arkgate.core.money import Msat
from arkgate.store import Store, open_store
from arkgate.store.clock import DAY_MS, day_of
from arkgate.store.sqlite.connections import LOG_BYTES
from tests import postgres
from tests.store.books import (
    ALICE,
    BOB,
    CHAT,
    NOON,
    ManualClock,
    answer_to,
    broken,
    call,
    for_challenge,
    hash_of,
    new_books,
    settlement,
)

LIFE_MS = 1000
accounts = st.sampled_from([ALICE, BOB])
prices = st.integers(1, 40)


@dataclass
class ModelHold:
    """A hold as the model knows it."""

    asked: Reservation
    day: int
    state: str = "open"
    cost: int = 0
    kept_until: int = 0


@dataclass
class Model:
    """The ledger without any care for speed, disks or races."""

    posted: dict[str, int] = field(default_factory=dict)
    payments: set[bytes] = field(default_factory=set)
    fees: int = 0
    holds: dict[str, ModelHold] = field(default_factory=dict)
    settled: list[ModelHold] = field(default_factory=list)

    def of(self, account_id: str, *states: str) -> list[ModelHold]:
        """An account's holds in those states."""
        return [
            hold
            for hold in self.holds.values()
            if hold.asked.account_id == account_id and hold.state in states
        ]

    def balance(self, account_id: str) -> Balance:
        """Posted and held."""
        held = sum(hold.asked.price for hold in self.of(account_id, "open"))
        return Balance(Msat(self.posted.get(account_id, 0)), Msat(held))

    def used(self, account_id: str, day: int) -> int:
        """The day's calls."""
        return sum(hold.day == day for hold in self.of(account_id, "open", "settled"))

    def reserve(self, asked: Reservation, now_ms: int) -> ReserveOutcome:  # noqa: PLR0911 - one per outcome
        """What `reserve` must answer."""
        owner, live = asked.account_id, self.of(asked.account_id, "open", "settled")
        if owner not in self.posted:
            return ReserveOutcome.UNKNOWN_ACCOUNT
        if asked.call_id in self.holds:
            return ReserveOutcome.REPLAYED
        short = self.balance(owner).available < asked.price
        limited = asked.calls_per_day is not None and self.used(owner, day_of(now_ms)) >= asked.calls_per_day
        repeated = self._repeated(asked, live, now_ms, used_up=short or limited)
        if repeated is not None:
            return repeated
        if any(hold.asked.request_id == asked.request_id for hold in live):
            return ReserveOutcome.REQUEST_ID_REUSED
        if limited:
            return ReserveOutcome.LIMIT_REACHED
        if short:
            return ReserveOutcome.INSUFFICIENT
        self.holds[asked.call_id] = ModelHold(asked, day_of(now_ms))
        return ReserveOutcome.RESERVED

    def _repeated(
        self, asked: Reservation, live: list[ModelHold], now_ms: int, *, used_up: bool
    ) -> ReserveOutcome | None:
        if asked.idempotency_key is not None:
            for hold in live:
                if hold.asked.idempotency_key == asked.idempotency_key:
                    if hold.state == "open":
                        return ReserveOutcome.IN_FLIGHT
                    if hold.asked.request_hash != asked.request_hash:
                        return ReserveOutcome.KEY_REUSED
                    kept = hold.kept_until > now_ms
                    return ReserveOutcome.ANSWERED if kept else ReserveOutcome.ANSWER_GONE
            return None
        under_way = (hold for hold in live if hold.state == "open")
        if used_up and any(hold.asked.request_hash == asked.request_hash for hold in under_way):
            return ReserveOutcome.IN_FLIGHT
        last = [hold for hold in self.settled if hold.asked.account_id == asked.account_id][-1:]
        same = bool(last) and last[0].asked.request_hash == asked.request_hash
        is_kept = used_up and same and last[0].kept_until > now_ms
        return ReserveOutcome.ANSWERED if is_kept else None


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger and the model alike."""

    engine = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.stack, self.books = AsyncExitStack(), AsyncExitStack()
        if self.engine == "postgres":
            postgres.prepare()
        new = new_books(self.engine, Path(self.directory.name))
        self.url: str = self.do(self.books.enter_async_context(new))
        self.store = self._open()

    def _open(self) -> Store:
        books = open_store(self.url, self.clock, log_bytes=LOG_BYTES)
        store: Store = self.do(self.stack.enter_async_context(books))
        return store

    def do(self, awaitable: Any) -> Any:
        """Awaits on the machine's loop."""
        return self.runner.run(awaitable)

    def teardown(self) -> None:
        """Closes the books."""
        self.do(self.stack.aclose())
        self.do(self.books.aclose())
        self.runner.close()
        self.directory.cleanup()

    @rule(account_id=accounts, amount=st.integers(1, 100), number=st.integers(0, 4), kept=st.integers(0, 3))
    def fund(self, account_id: str, amount: int, number: int, kept: int) -> None:
        payment_hash, fee = hash_of(f"{account_id} {number}"), amount * kept // 3
        paid = settlement(payment_hash, amount, fee=fee)
        funded = self.do(self.store.ledger.fund(paid, for_challenge(account_id)))
        new = payment_hash not in self.model.payments
        if new:
            self.model.payments.add(payment_hash)
            self.model.fees += fee
            self.model.posted[account_id] = self.model.posted.get(account_id, 0) + amount
        assert funded.outcome is (FundOutcome.APPLIED if new else FundOutcome.REPLAYED)
        assert funded.balance == self.model.balance(account_id)

    @rule(
        account_id=accounts,
        price=prices,
        limit=st.sampled_from([None, 1, 3]),
        number=st.integers(0, 12),
        request=st.integers(0, 9),
        body=st.sampled_from("xy"),
        key=st.sampled_from([None, None, "k"]),
    )
    def reserve(
        self,
        account_id: str,
        price: int,
        limit: int | None,
        number: int,
        request: int,
        body: str,
        key: str | None,
    ) -> None:
        asked = call(
            f"{account_id}-{number}",
            account_id=account_id,
            price=price,
            calls_per_day=limit,
            request_id=f"r{request}",
            body=body,
            key=key,
            deadline_ms=self.clock.at_ms + LIFE_MS,
        )
        expected = self.model.reserve(asked, self.clock.at_ms)
        reserved = self.do(self.store.ledger.reserve(asked))
        assert reserved.outcome is expected
        assert (reserved.answer is not None) is (expected is ReserveOutcome.ANSWERED)
        assert reserved.balance == self.model.balance(account_id)
        assert reserved.allowance.used == self.model.used(account_id, day_of(self.clock.at_ms))
        assert reserved.funded is (account_id in self.model.posted)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), share=st.integers(0, 4), kept_ms=st.sampled_from([0, 500, DAY_MS]))
    def settle(self, data: st.DataObject, share: int, kept_ms: int) -> None:
        hold = self.model.holds[data.draw(st.sampled_from(sorted(self.model.holds)))]
        cost = Msat(hold.asked.price * share // 4)
        answer = answer_to(hold.asked, kept_ms=self.clock.at_ms - NOON + kept_ms)
        settled = self.do(self.store.ledger.settle(hold.asked.call_id, cost, answer))
        outcomes = {"settled": SettleOutcome.REPLAYED, "released": SettleOutcome.RELEASED}
        assert settled.outcome is outcomes.get(hold.state, SettleOutcome.SETTLED)
        if hold.state == "open":
            hold.state, hold.cost, hold.kept_until = "settled", cost, self.clock.at_ms + kept_ms
            self.model.settled.append(hold)
            self.model.posted[hold.asked.account_id] -= cost
        assert settled.balance == self.model.balance(hold.asked.account_id)
        assert settled.allowance.used == self.model.used(hold.asked.account_id, day_of(self.clock.at_ms))

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        hold = self.model.holds[data.draw(st.sampled_from(sorted(self.model.holds)))]
        released = self.do(self.store.ledger.release(hold.asked.call_id, "backend failed"))
        outcomes = {"settled": ReleaseOutcome.SETTLED, "released": ReleaseOutcome.REPLAYED}
        assert released.outcome is outcomes.get(hold.state, ReleaseOutcome.RELEASED)
        if hold.state == "open":
            hold.state = "released"
        assert released.balance == self.model.balance(hold.asked.account_id)
        assert released.allowance.used == self.model.used(hold.asked.account_id, day_of(self.clock.at_ms))

    @rule(milliseconds=st.sampled_from([1, LIFE_MS, DAY_MS // 2, DAY_MS]))
    def time_passes_and_the_sweep_comes(self, milliseconds: int) -> None:
        self.clock.pass_ms(milliseconds)
        swept = self.do(self.store.ledger.sweep(100))
        overdue = [
            hold
            for hold in self.model.holds.values()
            if hold.state == "open" and hold.asked.deadline_ms < self.clock.at_ms
        ]
        assert {hold.call_id for hold in swept} == {hold.asked.call_id for hold in overdue}
        for hold in overdue:
            hold.state = "released"

    @rule()
    def answers_are_pruned(self) -> None:
        self.do(self.store.ledger.prune_answers(100))

    @rule()
    def the_gateway_restarts(self) -> None:
        self.do(self.stack.aclose())
        self.store = self._open()
        if self.engine == "sqlite":  # nobody else has the file open: what was under way is over
            for hold in self.model.holds.values():
                earlier = min(hold.asked.deadline_ms, self.clock.at_ms - 1)
                hold.asked = replace(hold.asked, deadline_ms=earlier)

    @invariant()
    def the_books_hold(self) -> None:
        findings = broken(self.do(self.store.statements.verify()))
        assert not findings, findings

    @invariant()
    def balances_and_allowances_are_the_models(self) -> None:
        for account_id in self.model.posted:
            account = self.do(self.store.statements.account(account_id))
            assert account is not None
            assert account.balance == self.model.balance(account_id)
            used = self.do(self.store.statements.allowance(account_id, CHAT, None)).used
            assert used == self.model.used(account_id, day_of(self.clock.at_ms))

    @invariant()
    def fees_are_the_operators(self) -> None:
        assert self.do(self._expenses()) == self.model.fees

    async def _expenses(self) -> int:
        async with self.store.statements.snapshot() as snapshot:
            totals = [one async for batch in snapshot.totals_before(2**62) for one in batch]
        return -sum(one.credit_less_debit for one in totals if one.account_id == EXPENSE_ACCOUNT)


class PostgresMachine(LedgerMachine):
    """The same on the other engine."""

    engine = "postgres"


STEPS = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
LedgerMachine.TestCase.settings = PostgresMachine.TestCase.settings = STEPS
TestLedgerModel = LedgerMachine.TestCase
TestLedgerModelOnPostgres = PostgresMachine.TestCase
