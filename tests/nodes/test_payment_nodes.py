"""The promises of `ports.PaymentNode`, kept by every kind of node against a simulated daemon that misbehaves.

A further kind of node is added to KINDS with what builds it, and must pass all of this.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.nodes.promises import (
    BARKD,
    FULMINE,
    PROMISES,
    WAVED,
    Promise,
    Scene,
    Traits,
    following,
    keep,
    listed,
    settled,
    told_amount,
)
from tests.stage import eventually, run

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState
from arkgate.core.money import Msat, sats
from arkgate.nodes.barkd import BarkdNode, Paces
from arkgate.nodes.barkd_rest import BearerToken
from arkgate.nodes.channel import MutualTls, NodeCredentials
from arkgate.nodes.cln import ClnNode
from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.nodes.lnd import LndNode
from arkgate.nodes.waved import WavedNode
from arkgate.ports import Holdings, Invoice, InvoiceStatus, NodeEvent, PaymentNode
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.cln import SimulatedCln
from arkgate.simulator.daemon import GrpcDaemon, SimulatedDaemon
from arkgate.simulator.fulmine import SimulatedFulmine
from arkgate.simulator.habits import Lie
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.waved import SimulatedWaved
from arkgate.store.clock import SystemClock

TIMEOUT_SECONDS = 2.0
PAGE_INVOICES = 3
HOUR_MS = 3600 * 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of node, and what its daemon calls things."""

    build: Callable[[SimulatedDaemon, Path | None], PaymentNode]
    """An adapter of that daemon; the file holds its secret, in place of the one that is enough."""
    daemon: Callable[[Simulation], SimulatedDaemon]
    secret: Callable[[SimulatedDaemon], Path]
    """The file that opens the daemon, and must be kept secret."""
    everything: Callable[[SimulatedDaemon], Path]
    """One that may ask everything."""
    making: str
    """The method that makes an invoice."""
    looking_up: str
    balance: str
    traits: Traits = Traits()  # noqa: RUF009 - frozen

    def does(self, what: str) -> bool:
        """See `Traits`."""
        return self.traits.does(what)


def _lnd(daemon: SimulatedDaemon, secret: Path | None) -> LndNode:
    assert isinstance(daemon, SimulatedNode)
    found = NodeCredentials(daemon.address, daemon.credentials.tls_cert, secret or _macaroon(daemon))
    return LndNode(
        "gate", 7, found, SystemClock(), timeout_seconds=TIMEOUT_SECONDS, page_invoices=PAGE_INVOICES
    )


def _macaroon(daemon: SimulatedDaemon) -> Path:
    assert isinstance(daemon, SimulatedNode)
    return daemon.credentials.invoice_macaroon


def _cln(daemon: SimulatedDaemon, secret: Path | None) -> ClnNode:
    assert isinstance(daemon, SimulatedCln)
    files = daemon.credentials
    found = MutualTls(daemon.address, files.ca, files.client, secret or files.client_key, "cln")
    return ClnNode(
        "gate", 7, found, SystemClock(), timeout_seconds=TIMEOUT_SECONDS, page_invoices=PAGE_INVOICES
    )


def _client_key(daemon: SimulatedDaemon) -> Path:
    assert isinstance(daemon, SimulatedCln)
    return daemon.credentials.client_key


def _free_of_fees(simulation: Simulation) -> SimulatedDaemon:
    """Its fees are seen in its own tests: what is asked for here is less than they are."""
    barkd = simulation.barkds[0]
    barkd.ark.base_fee_sats = barkd.ark.fee_ppm = 0
    return barkd


def _barkd(daemon: SimulatedDaemon, secret: Path | None) -> BarkdNode:
    assert isinstance(daemon, SimulatedBarkd)
    found = BearerToken(daemon.address, secret or daemon.token_file)
    paces = Paces(sync=0.0)
    return BarkdNode("gate", 7, found, SystemClock(), timeout_seconds=TIMEOUT_SECONDS, paces=paces)


def _token(daemon: SimulatedDaemon) -> Path:
    assert isinstance(daemon, SimulatedBarkd)
    return daemon.token_file


def _waved(daemon: SimulatedDaemon, secret: Path | None) -> WavedNode:
    assert isinstance(daemon, SimulatedWaved)
    found = NodeCredentials(daemon.address, daemon.credentials.tls_cert, secret or _admin(daemon))
    return WavedNode(
        "gate",
        7,
        found,
        SystemClock(),
        timeout_seconds=TIMEOUT_SECONDS,
        page_entries=PAGE_INVOICES,
        reread_seconds=0.0,
    )


def _admin(daemon: SimulatedDaemon) -> Path:
    assert isinstance(daemon, SimulatedWaved)
    return daemon.credentials.admin_macaroon


def _with_swaps_only(simulation: Simulation) -> SimulatedDaemon:
    daemon = simulation.waveds[0]
    daemon.floor_sats = 1
    return daemon


_WAVED = Kind(
    build=_waved,
    daemon=_with_swaps_only,
    secret=_admin,
    everything=_admin,
    making="Recv",
    looking_up="GetSwap",
    balance="Balance",
    traits=WAVED,
)


def _fulmine(daemon: SimulatedDaemon, secret: Path | None) -> FulmineNode:
    assert isinstance(daemon, SimulatedFulmine)
    found = FulmineCredentials(daemon.address, secret or _fulmines_macaroon(daemon), daemon.boltz.url)
    return FulmineNode("gate", 7, found, SystemClock(), timeout_seconds=TIMEOUT_SECONDS, read_seconds=0.05)


def _fulmines_macaroon(daemon: SimulatedDaemon) -> Path:
    assert isinstance(daemon, SimulatedFulmine)
    return daemon.admin_macaroon


def _with_a_cheap_boltz(simulation: Simulation) -> SimulatedDaemon:
    """Its terms are seen in its own tests."""
    fulmine = simulation.fulmines[0]
    fulmine.boltz.least_sats = fulmine.boltz.submarine_least_sats = 1
    fulmine.boltz.percent = Decimal(0)
    return fulmine


KINDS: dict[str, Kind] = {
    "lnd": Kind(
        build=_lnd,
        daemon=lambda simulation: simulation.gate,
        secret=_macaroon,
        everything=lambda daemon: daemon.data_dir / "admin.macaroon",
        making="AddInvoice",
        looking_up="LookupInvoice",
        balance="ChannelBalance",
    ),
    "cln": Kind(
        build=_cln,
        daemon=lambda simulation: simulation.clns[0],
        secret=_client_key,
        everything=_client_key,
        making="Invoice",
        looking_up="ListInvoices",
        balance="ListFunds",
    ),
    "barkd": Kind(
        build=_barkd,
        daemon=_free_of_fees,
        secret=_token,
        everything=_token,
        making="POST /lightning/receives/invoice",
        looking_up="GET /lightning/receives/{identifier}",
        balance="GET /wallet/balance",
        traits=BARKD,
    ),
    "fulmine": Kind(
        build=_fulmine,
        daemon=_with_a_cheap_boltz,
        secret=_fulmines_macaroon,
        everything=_fulmines_macaroon,
        making="GetInvoice",
        looking_up="GetVtxos",
        balance="GetBalance",
        traits=FULMINE,
    ),
    "waved": _WAVED,
    "waved with credits": replace(_WAVED, daemon=lambda simulation: simulation.waveds[0]),
}
Story = Callable[[Simulation, SimulatedDaemon, PaymentNode], Awaitable[None]]


def those_that(do: str) -> list[Any]:
    return [pytest.param(kind, id=name) for name, kind in KINDS.items() if kind.does(do)]


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def play(
    tmp_path: Path, kind: Kind, story: Story, *, secret: Path | None = None, everything: bool = False
) -> None:
    """Runs a story with a simulation, a daemon and a node of that kind, which may ask what is enough."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path,
            settle_delay_seconds=0.001,
            clns=("lightning",),
            barkds=("ark",),
            waveds=("wave",),
            fulmines=("bolt",),
        ) as simulation:
            daemon = kind.daemon(simulation)
            node = kind.build(daemon, kind.everything(daemon) if everything else secret)
            try:
                await story(simulation, daemon, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), 30))


async def invoice_of(node: PaymentNode, amount_sats: int = 50) -> Invoice:
    preimage = None if node.draws_preimages else secrets.token_bytes(32)
    return await node.create_invoice(sats(amount_sats), preimage=preimage, memo="a call", expiry_seconds=600)


async def first_event(node: PaymentNode) -> NodeEvent | None:
    """The first event of a new stream; None when it ends without one."""
    return await anext(aiter(node.events(Cursor())), None)


async def no_stream(gate: SimulatedDaemon) -> bool:
    return gate.open_streams == 0


async def streaming(gate: SimulatedDaemon) -> None:
    async def is_open() -> bool:
        return gate.open_streams > 0

    await eventually(is_open)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_it_keeps_its_promises(tmp_path: Path, kind: Kind, promise: Promise) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        async def pay(invoice: str) -> bytes:
            return (await simulation.pay(invoice)).preimage

        scene = Scene(
            node=node,
            traits=kind.traits,
            pay=pay,
            opened_by=lambda secret: kind.build(gate, secret),
            secret=kind.secret(gate),
            settling_seconds=0.2,
        )
        await keep(promise, scene, tmp_path)

    play(tmp_path, kind, story)


def test_a_look_up_tells_open_settled_and_cancelled_apart(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        paid, unpaid, cancelled = [await invoice_of(node) for _ in range(3)]
        simulation.payer.habits.overpay_msat = 2_777
        await simulation.pay(paid.payment_request)
        gate.cancel(cancelled.payment_hash)

        status = await node.look_up(paid.payment_hash)
        assert status is not None
        assert status.settlement is not None
        assert status.state is InvoiceState.SETTLED
        told = told_amount(kind.traits, invoiced=Msat(50_000), paid=Msat(52_777))
        assert status.settlement.amount_paid == told
        assert status.settlement.memo == ("a call" if kind.does("carries our memo") else "")
        assert abs(status.settlement.settled_at_ms / 1000 - simulation.network.now()) < 60
        assert await node.look_up(unpaid.payment_hash) == InvoiceStatus(InvoiceState.OPEN)
        ended = InvoiceStatus(InvoiceState.CANCELLED) if kind.does("remembers what was cancelled") else None
        if not kind.does("knows what ended and when"):
            return
        assert await node.look_up(cancelled.payment_hash) == ended
        simulation.skip_seconds(1 + (unpaid.expires_at_ms - unpaid.created_at_ms) // 1000)
        assert await node.look_up(unpaid.payment_hash) == ended

    play(tmp_path, kind, story)


def test_a_payment_without_invoice_settles_nothing(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        async with following(node) as events:
            await streaming(gate)
            keysend = gate.receive_keysend(9_000, memo="for you")
            ours = await invoice_of(node)
            await simulation.pay(ours.payment_request)

            (settlement,) = await settled(events, 1)
            assert settlement.payment_hash == ours.payment_hash
            assert [one.payment_hash for one in await listed(node)] == [ours.payment_hash]
            status = await node.look_up(keysend.payment_hash)
            assert status is None or status.settlement is None

    play(tmp_path, kind, story)


def test_a_foreign_invoice_is_reported_with_its_own_memo(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        foreign = gate.add_foreign_invoice(5_000)
        await simulation.pay(foreign.payment_request)

        (settlement,) = await listed(node)
        assert settlement.memo == ("another shop's order 7" if kind.does("carries our memo") else "")

    play(tmp_path, kind, story)


def test_a_stream_that_is_cut_raises_and_a_new_one_works(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        following_on = asyncio.create_task(first_event(node))
        await streaming(gate)
        gate.cut_streams()
        with pytest.raises(NodeUnavailable):
            await following_on

        again = asyncio.create_task(first_event(node))
        await streaming(gate)
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        event = await again
        assert event is not None

    play(tmp_path, kind, story)


@pytest.mark.parametrize("lie", [lie for lie in Lie if lie is not Lie.NONE])
def test_an_invoice_that_is_not_what_was_asked_for_is_refused(tmp_path: Path, kind: Kind, lie: Lie) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        await invoice_of(node)  # from which the node's network is known
        gate.habits.lie = lie
        if lie is Lie.PAYMENT_HASH and not kind.does("names the hash beside the invoice"):
            assert (await invoice_of(node)).amount == 50_000  # nothing beside the text names a hash
            return
        with pytest.raises(NodeUnavailable, match="returned an invoice for"):
            await invoice_of(node)

        gate.habits.lie = Lie.NONE
        assert (await invoice_of(node)).amount == 50_000

    play(tmp_path, kind, story)


@pytest.mark.parametrize("making", [True, False])
def test_a_slow_answer_is_not_waited_for(tmp_path: Path, kind: Kind, making: bool) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.delays_seconds[kind.making if making else kind.looking_up] = 20
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(NodeUnavailable) as refused:
            await (invoice_of(node) if making else node.look_up(b"\1" * 32))

        assert loop.time() - started < TIMEOUT_SECONDS + 1
        assert refused.value.retry_after_seconds

    play(tmp_path, kind, story)


def test_a_lost_answer_is_a_refusal_and_is_not_repeated(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.lost_answers.add(kind.making)
        with pytest.raises(NodeUnavailable):
            await invoice_of(node)

        assert len(gate.peer.invoices) == 1

    play(tmp_path, kind, story)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
def test_every_failure_is_a_refusal(tmp_path: Path, kind: Kind, code: grpc.StatusCode) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.failures["*"] = code
        for call in (invoice_of(node), node.look_up(b"\1" * 32), listed(node)):
            with pytest.raises(NodeUnavailable):
                await call
        with pytest.raises(NodeUnavailable):
            await first_event(node)

    play(tmp_path, kind, story)


@pytest.mark.parametrize("kind", those_that("has TLS"))
def test_calls_and_streams_that_a_rebuilt_channel_breaks_are_refusals(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.failures[kind.making] = grpc.StatusCode.UNAVAILABLE
        gate.habits.delays_seconds[kind.looking_up] = TIMEOUT_SECONDS - 0.1
        stream = asyncio.create_task(first_event(node))
        await streaming(gate)
        look_up = asyncio.create_task(node.look_up(b"\1" * 32))
        await asyncio.sleep(0.1)
        for _ in range(3):
            with pytest.raises(NodeUnavailable):
                await invoice_of(node)

        for task in (stream, look_up):
            with pytest.raises(NodeUnavailable):
                await task

    play(tmp_path, kind, story)


def test_a_caller_that_is_cancelled_stays_cancelled(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.delays_seconds[kind.making] = 20
        stream = asyncio.create_task(first_event(node))
        await streaming(gate)
        call = asyncio.create_task(invoice_of(node))
        await asyncio.sleep(0.1)
        for task in (stream, call):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        await eventually(lambda: no_stream(gate))

    play(tmp_path, kind, story)


def test_a_node_that_was_stopped_works_again(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        await invoice_of(node)
        await gate.stop()
        with pytest.raises(NodeUnavailable):
            await invoice_of(node)
        assert (await node.health()).state == "unreachable"
        await gate.start()

        await eventually(lambda: works(node))
        assert (await node.health()).ready

    play(tmp_path, kind, story)


@pytest.mark.parametrize("kind", those_that("has TLS"))
def test_a_renewed_certificate_is_taken_up(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        await invoice_of(node)
        await gate.stop()
        with pytest.raises(NodeUnavailable):
            await invoice_of(node)
        assert isinstance(gate, GrpcDaemon)
        gate.renew_certificate()
        await gate.start()

        await eventually(lambda: works(node))
        assert (await node.health()).ready

    play(tmp_path, kind, story)


async def works(node: PaymentNode) -> bool:
    with contextlib.suppress(NodeUnavailable):
        await invoice_of(node)
        return True
    return False


def test_a_node_says_what_it_holds_to_who_may_ask(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        paid = gate.add_foreign_invoice(sats(50))
        await simulation.pay(paid.payment_request)
        gate.habits.wallet_sats = 7
        holdings = await node.holdings()
        gate.habits.failures[kind.balance] = grpc.StatusCode.UNAVAILABLE

        assert holdings == Holdings(sats(50), sats(7 if kind.does("has a chain of its own") else 0))
        with pytest.raises(NodeUnavailable):
            await node.holdings()

    play(tmp_path, kind, story, everything=True)


@pytest.mark.parametrize("kind", those_that("has a chain of its own"))
def test_a_node_that_catches_up_with_the_chain_is_not_ready(tmp_path: Path, kind: Kind) -> None:
    async def story(simulation: Simulation, gate: SimulatedDaemon, node: PaymentNode) -> None:
        gate.habits.synced = False
        health = await node.health()
        gate.habits.synced = True
        synced = await node.health()

        assert (health.ready, health.state) == (False, "syncing")
        assert "42" in health.sentence
        assert (synced.ready, synced.network) == (True, "regtest")
        assert gate.habits.version in synced.version

    play(tmp_path, kind, story, everything=True)
