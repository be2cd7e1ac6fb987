"""One payment that stream, look-up, proof and reconcile report at once is credited once, whoever is first."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate import app
from arkgate.core.keys import Purpose
from arkgate.core.ledger import Cursor, Funded, FundOutcome, Settlement
from arkgate.core.money import Msat
from arkgate.gateway.fund import Funding
from arkgate.l402.identifier import Identifier
from arkgate.l402.macaroon import read
from arkgate.ports import Ledger, PaymentNode
from arkgate.simulator.simulation import Simulation
from arkgate.store import Store, open_store
from arkgate.store.clock import SystemClock
from arkgate.store.keyfile import load_keyring
from arkgate.web.metrics import Metrics

PRICE_MSAT = 50_000
Report = Callable[[], Awaitable[object]]
_reporter: ContextVar[str] = ContextVar("reporter")


@dataclass(slots=True)
class Meeting:
    """The ledger's door: who reports the awaited payment waits until all are here, then goes in by order."""

    ledger: Ledger
    payment_hash: bytes = b""
    order: Sequence[str] = ()
    outcomes: dict[str, FundOutcome] = field(default_factory=dict)
    _turns: dict[str, asyncio.Event] = field(default_factory=dict)

    def await_for(self, payment_hash: bytes, order: Sequence[str]) -> None:
        """The next payment, and who is to be let in after whom."""
        self.payment_hash, self.order, self.outcomes = payment_hash, order, {}
        self._turns = {}

    async def fund(
        self, settlement: Settlement, purpose: Purpose | None, *, cursor: Cursor | None = None
    ) -> Funded:
        """`Ledger.fund`, in turn."""
        who = _reporter.get()
        if settlement.payment_hash != self.payment_hash or who in self.outcomes or who in self._turns:
            return await self.ledger.fund(settlement, purpose, cursor=cursor)
        turn = self._turns[who] = asyncio.Event()
        if len(self._turns) == len(self.order):
            self._turns[self.order[0]].set()
        await turn.wait()
        funded = await self.ledger.fund(settlement, purpose, cursor=cursor)
        self.outcomes[who] = funded.outcome
        if len(self.outcomes) < len(self.order):
            self._turns[self.order[len(self.outcomes)]].set()
        return funded

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)


@dataclass(slots=True)
class Reports:
    """Funding without a gateway around it, so that each reporter can be started by itself."""

    simulation: Simulation
    store: Store
    meeting: Meeting
    funding: Funding
    node: PaymentNode

    async def all_at_once(self, invoice: str, others: Mapping[str, Report]) -> None:
        """Pays while the stream is open, lets the others report too, and waits until each was let in."""
        tasks = [asyncio.create_task(_as("stream", self.funding._follow(self.node)))]
        try:
            await eventually(self._is_streaming)
            await self.simulation.pay(invoice)
            tasks += [asyncio.create_task(_as(name, report())) for name, report in others.items()]
            await eventually(self._all_were_let_in)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await eventually(self._streams_ended)

    async def _is_streaming(self) -> bool:
        return self.simulation.gate.open_streams > 0

    async def _streams_ended(self) -> bool:
        return self.simulation.gate.open_streams == 0

    async def _all_were_let_in(self) -> bool:
        return len(self.meeting.outcomes) == len(self.meeting.order)

    def credited_once_by(self, first: str) -> bool:
        """Whether the first one credited it, and nobody else."""
        return all(
            (outcome is FundOutcome.APPLIED) is (who == first)
            for who, outcome in self.meeting.outcomes.items()
        )

    async def credited(self) -> Msat:
        """Everything that was ever credited."""
        return (await self.store.statements.totals()).credited


async def _as(name: str, report: Awaitable[object]) -> None:
    _reporter.set(name)
    await report


@asynccontextmanager
async def reports_on(stage: Stage) -> AsyncIterator[Reports]:
    """The books and the node of a gateway that has stopped."""
    settings = stage.settings
    keyring = load_keyring(settings.keys_file)
    async with open_store(settings.store_url, SystemClock(), log_bytes=settings.log_bytes) as store:
        node = app._node(settings.nodes[0], store.clock)
        meeting = Meeting(store.ledger)
        funding = Funding(cast("Ledger", meeting), store.statements, [node], keyring, store.clock, Metrics())
        try:
            yield Reports(stage.simulation, store, meeting, funding, node)
        finally:
            await node.close()


def test_a_session_s_payment_is_credited_by_the_first_of_stream_look_up_and_reconcile(tmp_path: Path) -> None:
    orders = list(itertools.permutations(["stream", "look-up", "reconcile"]))

    async def story(simulation: Simulation) -> None:
        sessions = []
        async with staged(tmp_path, simulation=simulation) as stage:
            for _ in orders:
                body = (await stage.http.post("/v1/sessions", json={"amount_sats": 50})).json()
                sessions.append(body["funding"])
        async with reports_on(stage) as reports:
            for number, (order, session) in enumerate(zip(orders, sessions, strict=True)):
                payment_hash = bytes.fromhex(session["payment_hash"])
                awaited = await reports.store.statements.invoices_awaited("gate", after=b"", limit=9)
                (record,) = [one for one in awaited if one.payment_hash == payment_hash]
                reports.meeting.await_for(payment_hash, order)
                others: dict[str, Report] = {
                    "look-up": partial(reports.funding.look_up, reports.node, record),
                    "reconcile": partial(reports.funding.reconcile, reports.node, 0),
                }
                await reports.all_at_once(session["lightning_invoice"], others)

                assert reports.credited_once_by(order[0])
                assert await reports.credited() == (number + 1) * PRICE_MSAT

    _played(tmp_path, story)


def test_a_challenge_s_payment_is_credited_by_the_first_of_stream_proof_and_reconcile(tmp_path: Path) -> None:
    orders = list(itertools.permutations(["stream", "proof", "reconcile"]))

    async def story(simulation: Simulation) -> None:
        challenges = []
        async with staged(tmp_path, simulation=simulation) as stage:
            for _ in orders:
                challenges.append((await stage.chat()).json())
        async with reports_on(stage) as reports:
            for number, (order, challenge) in enumerate(zip(orders, challenges, strict=True)):
                identifier = Identifier.decode(read(base64.b64decode(challenge["macaroon"])).identifier)
                reports.meeting.await_for(identifier.payment_hash, order)
                others: dict[str, Report] = {
                    "proof": partial(reports.funding.account_of, identifier),
                    "reconcile": partial(reports.funding.reconcile, reports.node, 0),
                }
                await reports.all_at_once(challenge["invoice"], others)

                assert reports.credited_once_by(order[0])
                assert await reports.credited() == (number + 1) * PRICE_MSAT

    _played(tmp_path, story)


def _played(tmp_path: Path, story: Any) -> None:
    async def whole() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            await story(simulation)

    run(asyncio.wait_for(whole(), 60))
