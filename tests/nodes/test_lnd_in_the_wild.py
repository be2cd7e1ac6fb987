"""What the LND adapter makes of an LND that is old and full, guards its macaroons, or has a wrong clock."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.stage import eventually, run

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor
from arkgate.core.money import sats
from arkgate.nodes.channel import CredentialsRefused, NodeCredentials, PermissionDenied
from arkgate.nodes.invoices import LISTED_BEYOND_SECONDS
from arkgate.nodes.lnd import PAGE_INVOICES, LndNode
from arkgate.nodes.lnd_checkup import BAKE
from arkgate.ports import Invoice, NodeEvent
from arkgate.simulator.habits import NodeState
from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DAY_SECONDS = 24 * 3600
Story = Callable[[Simulation, LndNode], Awaitable[None]]


def play(tmp_path: Path, story: Story, *, permissions: tuple[str, ...] = ()) -> None:
    """Runs a story with a simulation and a node whose macaroon is at `macaroon_file(tmp_path)`."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path, settle_delay_seconds=0.001, durable=False
        ) as simulation:
            gate = simulation.gate
            put = gate.bake(*permissions) if permissions else gate.credentials.invoice_macaroon.read_bytes()
            macaroon_file(tmp_path).write_bytes(put)
            node = LndNode(
                "gate",
                7,
                NodeCredentials(gate.address, gate.credentials.tls_cert, macaroon_file(tmp_path)),
                SystemClock(),
            )
            try:
                await story(simulation, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), 60))


def macaroon_file(tmp_path: Path) -> Path:
    return tmp_path / "arkgate.macaroon"


async def invoice_of(node: LndNode, expiry_seconds: int = 600) -> Invoice:
    return await node.create_invoice(
        sats(50), preimage=secrets.token_bytes(32), memo="a call", expiry_seconds=expiry_seconds
    )


async def listed(node: LndNode, created_after_ms: int) -> list[bytes]:
    return [settlement.payment_hash async for settlement in node.settled_since(created_after_ms)]


def test_old_invoices_are_not_read(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        gate = simulation.gate
        gate.fill_with_old_invoices(5_000, age_seconds=30 * DAY_SECONDS)
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        found = await listed(node, invoice.created_at_ms - 3_600_000)

        assert found == [invoice.payment_hash]
        assert (gate.pages_listed, gate.invoices_read) == (2, 2 * PAGE_INVOICES)

    play(tmp_path, story)


def test_what_was_made_by_a_clock_that_was_behind_for_a_while_does_not_end_a_listing(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        simulation.gate.fill_with_old_invoices(3 * PAGE_INVOICES, age_seconds=LISTED_BEYOND_SECONDS - 60)

        assert await listed(node, invoice.created_at_ms) == [invoice.payment_hash]

    play(tmp_path, story)


def test_a_listing_of_everything_comes_to_an_end(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        simulation.gate.fill_with_old_invoices(2 * PAGE_INVOICES, age_seconds=60)
        found = await listed(node, 0)

        assert len(found) == len(set(found)) == 2 * PAGE_INVOICES

    play(tmp_path, story)


def test_a_stream_after_a_cursor_does_not_repeat_what_was_only_added(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        paid, later = await invoice_of(node), await invoice_of(node)
        await simulation.pay(paid.payment_request)
        await simulation.pay(later.payment_request)
        for _ in range(3):
            await invoice_of(node)
        events = aiter(node.events(Cursor(1, 1)))
        replayed = await anext(events)
        await invoice_of(node)
        happened = await anext(events)

        assert replayed.settlement is not None
        assert replayed.settlement.payment_hash == later.payment_hash
        assert (happened.settlement, happened.cursor) == (None, Cursor(6, 0))

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [
        (("invoices:read", "info:read"), "invoices:write (AddInvoice)"),
        (("invoices:read",), "invoices:write (AddInvoice)"),
        (("invoices:write", "info:read"), "invoices:read (LookupInvoice)"),
        (("offchain:write", "onchain:write"), "invoices:write (AddInvoice)"),
    ],
)
def test_health_names_what_a_macaroon_lacks_before_the_first_invoice(
    tmp_path: Path, permissions: tuple[str, ...], missing: str
) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        for health in (await node.health(), await node.health()):
            assert (health.ready, health.state) == (False, "refused")
            assert missing in health.sentence
            assert str(macaroon_file(tmp_path)) in health.sentence
            assert BAKE in health.sentence
        assert not simulation.gate.peer.invoices

        enough = simulation.gate.bake("invoices:read", "invoices:write")
        macaroon_file(tmp_path).write_bytes(enough)
        assert (await node.health()).ready
        assert (await invoice_of(node)).amount == 50_000

    play(tmp_path, story, permissions=permissions)


@pytest.mark.parametrize("info", [True, False])
def test_permissions_are_proven_once_and_no_invoice_is_made(tmp_path: Path, info: bool) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        first = await node.health()
        simulation.gate.habits.delays_seconds = {"AddInvoice": 60, "LookupInvoice": 60}
        again = await node.health()

        assert (first.ready, again.ready) == (True, True)
        assert not simulation.gate.peer.invoices

    play(tmp_path, story, permissions=("invoices:read", "invoices:write", *(["info:read"] if info else [])))


def test_a_node_that_does_not_answer_the_proof_is_unreachable_and_not_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        simulation.gate.habits.delays_seconds["AddInvoice"] = 60

        assert (await node.health()).state == "unreachable"

    play(tmp_path, story)


@pytest.mark.parametrize("info", [True, False])
def test_a_revoked_macaroon_is_told_and_a_new_file_is_taken_up(tmp_path: Path, info: bool) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        gate = simulation.gate
        needed = ("invoices:read", "invoices:write", *(["info:read"] if info else []))
        macaroon_file(tmp_path).write_bytes(gate.bake(*needed, root_key_id="7"))
        assert (await node.health()).ready
        del gate.root_keys["7"]
        revoked = await node.health()
        with pytest.raises(CredentialsRefused):
            await invoice_of(node)
        with pytest.raises(CredentialsRefused):
            await node.look_up(b"\1" * 32)
        with pytest.raises(CredentialsRefused):
            await anext(aiter(node.events(Cursor())))

        assert (revoked.ready, revoked.state) == (False, "refused")
        assert "root key with id 7 doesn't exist" in revoked.sentence
        assert BAKE in revoked.sentence
        macaroon_file(tmp_path).write_bytes(gate.bake(*needed, root_key_id="8"))
        assert (await invoice_of(node)).amount == 50_000
        assert (await node.health()).ready

    play(tmp_path, story)


def test_a_macaroon_that_was_changed_before_the_old_one_was_revoked_costs_no_call(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        gate = simulation.gate
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:read", "invoices:write", root_key_id="7"))
        await invoice_of(node)
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:read", "invoices:write", root_key_id="8"))
        del gate.root_keys["7"]

        assert (await invoice_of(node)).amount == 50_000

    play(tmp_path, story)


def test_a_stream_that_was_refused_takes_up_a_new_macaroon_by_itself(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        gate = simulation.gate
        paid = gate.add_foreign_invoice(50_000)
        await simulation.pay(paid.payment_request)
        later = gate.add_foreign_invoice(50_000)
        await simulation.pay(later.payment_request)
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:write"))
        with pytest.raises(PermissionDenied):
            await anext(aiter(node.events(Cursor(1, 1))))
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:read"))
        with pytest.raises(PermissionDenied):
            await anext(aiter(node.events(Cursor(1, 1))))

        event = await anext(aiter(node.events(Cursor(1, 1))))
        assert event.cursor == Cursor(2, 2)

    play(tmp_path, story)


def test_a_denied_call_has_health_prove_the_permissions_again(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        gate = simulation.gate
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:read", "invoices:write", root_key_id="7"))
        assert (await node.health()).ready
        macaroon_file(tmp_path).write_bytes(gate.bake("invoices:read"))
        assert (await node.health()).ready  # with the one that it has
        del gate.root_keys["7"]
        with pytest.raises(PermissionDenied):
            await invoice_of(node)

        assert (await node.health()).state == "refused"

    play(tmp_path, story)


@pytest.mark.parametrize(("off_seconds", "words"), [(3600, "s ahead of ours"), (-3600, "s behind ours")])
def test_a_node_whose_clock_is_off_is_told_once_and_its_invoices_last_as_long_as_asked(
    tmp_path: Path, off_seconds: int, words: str
) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        simulation.gate.habits.clock_off_seconds = off_seconds
        now_ms = SystemClock().now_ms()
        with capture_logs() as lines:
            invoices = [await invoice_of(node) for _ in range(3)]
        told = [line for line in lines if line["event"] == "the node's clock is off"]

        assert [line["off_seconds"] for line in told] == [pytest.approx(off_seconds, abs=2)]
        assert told[0]["log_level"] == "warning"
        for invoice in invoices:
            assert invoice.created_at_ms == pytest.approx(now_ms, abs=5_000)
            assert invoice.expires_at_ms - invoice.created_at_ms == 600_000
        assert words in (await node.health()).sentence
        simulation.gate.habits.clock_off_seconds = 0
        with capture_logs() as lines:
            await invoice_of(node)
        assert [line["event"] for line in lines] == ["the node's clock is right again"]
        assert "clock" not in (await node.health()).sentence

    play(tmp_path, story)


def test_a_node_that_lists_the_same_page_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        simulation.gate.fill_with_old_invoices(3 * PAGE_INVOICES, age_seconds=60)
        walk = simulation.gate.peer.walk
        monkeypatch.setattr(
            simulation.gate.peer, "walk", lambda _offset, *, backwards: walk(0, backwards=backwards)
        )
        with pytest.raises(NodeUnavailable, match="again and again"):
            await listed(node, 0)

    play(tmp_path, story)


def test_the_node_comes_back_within_a_moment_after_a_long_stop(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        await simulation.gate.stop()
        for _ in range(20):
            await node.health()
            await asyncio.sleep(0.2)
        await simulation.gate.start()

        async def ready() -> bool:
            return (await node.health()).ready

        await eventually(ready, 2)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("state", "word"),
    [(NodeState.WAITING, "starting"), (NodeState.LOCKED, "locked"), (NodeState.STARTING, "starting")],
)
def test_a_node_that_has_not_started_says_how_far_it_is(tmp_path: Path, state: NodeState, word: str) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        simulation.gate.habits.state = state
        health = await node.health()
        with pytest.raises(NodeUnavailable):
            await invoice_of(node)

        assert (health.ready, health.state) == (False, word)
        simulation.gate.habits.state = NodeState.ACTIVE
        assert (await node.health()).ready

    play(tmp_path, story)


def test_the_least_macaroon_is_enough_and_the_network_comes_from_an_invoice(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        before = await node.health()
        await invoice_of(node)
        after = await node.health()

        assert (before.ready, before.network) == (True, "")
        assert (after.ready, after.network) == (True, "regtest")
        assert await node.holdings() is None

    play(tmp_path, story)


def test_a_stream_that_the_node_ends_is_no_failure(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        async def ended() -> list[NodeEvent]:
            return [event async for event in node.events(Cursor())]

        async def streaming() -> bool:
            return simulation.gate.open_streams > 0

        stream = asyncio.create_task(ended())
        await eventually(streaming)
        simulation.gate.cut_streams(politely=True)

        assert await stream == []

    play(tmp_path, story)


def test_a_forged_macaroon_is_told_apart_from_a_node_that_is_down(tmp_path: Path) -> None:
    async def story(simulation: Simulation, node: LndNode) -> None:
        macaroon_file(tmp_path).write_bytes(b"\x02\x01\x03lnd\x02\x01a\x00\x00\x06\x20" + b"\7" * 32)
        health = await node.health()
        with pytest.raises(NodeUnavailable):
            await invoice_of(node)

        assert (health.ready, health.state) == (False, "refused")

    play(tmp_path, story)
