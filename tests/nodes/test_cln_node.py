"""What the adapter makes of Core Lightning's own ways: labels, cursor, index, errors, mutual TLS."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.promises import following
from tests.stage import eventually, run

from arkgate._proto.cln import node_pb2 as cln
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import sats
from arkgate.nodes.channel import CredentialsRefused, MutualTls
from arkgate.nodes.cln import BACKLOG_PAYMENTS, CALLS_AT_ONCE, ClnNode
from arkgate.nodes.cln_rpc import error_code, map_cln_errors, network_of
from arkgate.nodes.invoices import LISTED_BEYOND_SECONDS
from arkgate.ports import Invoice, InvoiceStatus, NodeEvent
from arkgate.simulator import cln_credentials
from arkgate.simulator.cln import CALLS_AT_ONCE_MAX, SimulatedCln
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from arkgate.store.clock import SystemClock

PAGE_INVOICES = 50
DAY_SECONDS = 24 * 3600
HOUR_MS = 3600 * 1000
SEARCH_CALLS_MAX = 60
"""How many questions a search among thousands of invoices may take."""
Story = Callable[[Simulation, SimulatedCln, ClnNode], Awaitable[None]]


def node_of(gate: SimulatedCln, *, wait_seconds: int = 30, timeout_seconds: float = 5.0) -> ClnNode:
    files = gate.credentials
    return ClnNode(
        "cln",
        7,
        MutualTls(gate.address, files.ca, files.client, files.client_key, "cln"),
        SystemClock(),
        page_invoices=PAGE_INVOICES,
        wait_seconds=wait_seconds,
        timeout_seconds=timeout_seconds,
    )


def play(tmp_path: Path, story: Story, *, wait_seconds: int = 30, timeout_seconds: float = 5.0) -> None:
    """Runs a story with a simulated Core Lightning."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path, settle_delay_seconds=0.001, durable=False, clns=("lightning",)
        ) as simulation:
            (gate,) = simulation.clns
            node = node_of(gate, wait_seconds=wait_seconds, timeout_seconds=timeout_seconds)
            try:
                await story(simulation, gate, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), 60))


async def invoice_of(node: ClnNode, preimage: bytes = b"") -> Invoice:
    return await node.create_invoice(
        sats(50), preimage=preimage or secrets.token_bytes(32), memo="a call", expiry_seconds=600
    )


async def listed(node: ClnNode, created_after_ms: int) -> list[Settlement]:
    return [settlement async for settlement in node.settled_since(created_after_ms)]


async def told(events: list[NodeEvent], count: int) -> None:
    async def enough() -> bool:
        return len(events) >= count

    await eventually(enough)


def test_an_invoices_label_is_its_payment_hash_under_our_name(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        invoice = await invoice_of(node)

        row = gate.invoice(invoice.payment_hash)
        assert row is not None
        assert gate.label_of(row) == f"arkgate-{invoice.payment_hash.hex()}"

    play(tmp_path, story)


def test_a_refusal_has_the_nodes_own_words_and_its_number(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        await invoice_of(node, b"p" * 32)
        with pytest.raises(NodeUnavailable) as refused:
            await invoice_of(node, b"p" * 32)

        assert refused.value.message == (
            "node cln failed making an invoice: preimage already used (error 901)"
        )
        assert refused.value.retry_after_seconds

    play(tmp_path, story)


def test_a_label_that_is_taken_is_a_refusal(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        taken = f"arkgate-{hashlib.sha256(b'p' * 32).hexdigest()}"
        gate.call_it(gate.add_foreign_invoice(1000), taken)
        with pytest.raises(NodeUnavailable, match=r"Duplicate label 'arkgate-[0-9a-f]{64}' \(error 900\)"):
            await invoice_of(node, b"p" * 32)

    play(tmp_path, story)


def test_up_to_twice_the_amount_is_taken_and_reported_as_it_arrived(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        twice, more = await invoice_of(node), await invoice_of(node)
        simulation.payer.habits.overpay_msat = 50_000
        await simulation.pay(twice.payment_request)
        simulation.payer.habits.overpay_msat = 50_001
        with pytest.raises(PaymentFailed):
            await simulation.pay(more.payment_request)

        status = await node.look_up(twice.payment_hash)
        assert status is not None
        assert status.settlement is not None
        assert status.settlement.amount_paid == 100_000
        assert await node.look_up(more.payment_hash) == InvoiceStatus(InvoiceState.OPEN)

    play(tmp_path, story)


def test_an_invoice_that_was_deleted_is_unknown_and_cannot_be_paid(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        invoice = await invoice_of(node)
        gate.delete(invoice.payment_hash)
        with pytest.raises(PaymentFailed):
            await simulation.pay(invoice.payment_request)

        assert await node.look_up(invoice.payment_hash) is None

    play(tmp_path, story)


def test_an_answer_about_another_invoice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        row = gate.add_foreign_invoice(1000)
        monkeypatch.setattr(gate, "listed", lambda _: [row])
        with pytest.raises(NodeUnavailable, match="another invoice"):
            await node.look_up(b"\1" * 32)

    play(tmp_path, story)


def test_a_listing_that_goes_round_in_circles_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        row = gate.add_foreign_invoice(1000)
        monkeypatch.setattr(gate, "listed", lambda _: [row] * PAGE_INVOICES)
        with pytest.raises(NodeUnavailable, match="out of order"):
            await listed(node, 0)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("its_name", "ours"),
    [("bitcoin", "mainnet"), ("testnet4", "testnet"), ("signet", "signet"), ("regtest", "regtest")],
)
def test_networks_have_the_names_of_the_settings(its_name: str, ours: str) -> None:
    assert network_of(cln.GetinfoResponse(network=its_name)) == ours


@pytest.mark.parametrize(
    ("details", "sentence", "code"),
    [
        (
            "RpcError { code: Some(900), message: \"Duplicate label 'a'\", data: None }",
            "Duplicate label 'a' (error 900)",
            900,
        ),
        (
            'RpcError { code: Some(-1), message: "say \\"no\\"", data: Some(Object {}) }',
            'say "no" (error -1)',
            -1,
        ),
        (
            'RpcError { code: None, message: "no response from lightningd", data: None }',
            "no response from lightningd",
            None,
        ),
        (r'RpcError { code: Some(1), message: "a\u{1f}b", data: None }', r"a\u{1f}b (error 1)", 1),
        ("Socket closed", "Socket closed", None),
    ],
)
def test_an_error_is_told_in_lightningds_words(details: str, sentence: str, code: int | None) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
    )
    with pytest.raises(NodeUnavailable) as refused, map_cln_errors("cln", "to answer"):
        raise error

    assert refused.value.message == f"node cln failed to answer: {sentence}"
    assert error_code(refused.value) == code


def test_more_calls_than_the_plugin_takes_at_once_wait_for_their_turn(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.habits.delays_seconds["Invoice"] = 0.1
        invoices = await asyncio.gather(*(invoice_of(node) for _ in range(2 * CALLS_AT_ONCE_MAX)))

        assert len({invoice.payment_hash for invoice in invoices}) == 2 * CALLS_AT_ONCE_MAX

    play(tmp_path, story)


def test_who_waits_for_a_turn_in_vain_is_refused_in_time(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.habits.delays_seconds["Invoice"] = 20
        calls = [asyncio.create_task(invoice_of(node)) for _ in range(3 * CALLS_AT_ONCE)]
        began = asyncio.get_running_loop().time()
        found = await asyncio.gather(*calls, return_exceptions=True)

        assert asyncio.get_running_loop().time() - began < 5
        assert all(isinstance(one, NodeUnavailable) for one in found)
        assert any("too many calls wait for it" in str(one) for one in found)

    play(tmp_path, story, timeout_seconds=0.5)


def test_without_a_cursor_only_the_newest_payments_are_told_again(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(5_000, age_seconds=30 * DAY_SECONDS)
        async with following(node, Cursor()) as events:
            await told(events, 1 + BACKLOG_PAYMENTS)
            searched = gate.waits_asked - BACKLOG_PAYMENTS
            invoice = await invoice_of(node)
            await simulation.pay(invoice.payment_request)
            await told(events, 2 + BACKLOG_PAYMENTS)

        assert events[0] == NodeEvent(None, Cursor(1, 5_000 - BACKLOG_PAYMENTS))
        assert [event.cursor.settle_index for event in events[1:]] == list(
            range(5_001 - BACKLOG_PAYMENTS, 5_002)
        )
        assert events[-1].settlement is not None
        assert events[-1].settlement.payment_hash == invoice.payment_hash
        assert searched <= SEARCH_CALLS_MAX

    play(tmp_path, story)


def test_a_young_cursor_leaves_no_payment_out_and_what_was_deleted_is_passed_over(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(100, age_seconds=30 * DAY_SECONDS)
        deleted = [row for row in gate.peer.invoices.values() if row.settle_index % 10 in (0, 1, 2)]
        for row in deleted:
            gate.delete(row.payment_hash)
        kept = [number for number in range(1, 101) if number % 10 not in (0, 1, 2)]
        async with following(node, Cursor(1, 0)) as events:
            await told(events, len(kept))

        assert [event.cursor.settle_index for event in events] == kept
        assert min(event.cursor.add_index for event in events) > 0

    play(tmp_path, story)


@pytest.mark.parametrize("paid", [0, 1, 2, 3, 7, 8, 9])
def test_however_few_payments_there_were_each_is_told_once_without_a_cursor(
    tmp_path: Path, paid: int
) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(paid, age_seconds=30 * DAY_SECONDS)
        invoice = await invoice_of(node)
        async with following(node, Cursor()) as events:
            await told(events, paid)
            await simulation.pay(invoice.payment_request)
            await told(events, paid + 1)

        assert [event.cursor.settle_index for event in events] == list(range(1, paid + 2))

    play(tmp_path, story)


def test_a_node_where_nothing_is_paid_for_long_is_asked_again_and_again(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        async def asked_thrice() -> bool:
            return gate.waits_opened >= 3

        invoice = await invoice_of(node)
        async with following(node, Cursor(0, 1)) as events:
            await eventually(asked_thrice)
            await simulation.pay(gate.add_foreign_invoice(1000).payment_request)
            await simulation.pay(invoice.payment_request)
            await told(events, 1)

        (event,) = events
        assert event.settlement is not None
        assert event.settlement.payment_hash == invoice.payment_hash
        assert event.cursor.settle_index == 2

    play(tmp_path, story, wait_seconds=1)


def test_a_node_that_does_not_even_say_that_nothing_was_paid_is_gone(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.habits.streams_silent = True
        with pytest.raises(NodeUnavailable, match="waiting for a payment"):
            await anext(aiter(node.events(Cursor(0, 1))))

    play(tmp_path, story, wait_seconds=1, timeout_seconds=0.3)


def test_a_node_that_tells_the_same_payment_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(1, age_seconds=60)
        (row,) = gate.peer.invoices.values()
        monkeypatch.setattr(gate, "paid_after", lambda _: row)
        with pytest.raises(NodeUnavailable, match="again and again"):
            await anext(aiter(node.events(Cursor(0, 1))))

    play(tmp_path, story)


def test_old_invoices_are_not_read(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(5_000, age_seconds=30 * DAY_SECONDS)
        invoices = [await invoice_of(node) for _ in range(3)]
        for invoice in invoices:
            await simulation.pay(invoice.payment_request)
        found = await listed(node, invoices[0].created_at_ms - HOUR_MS)

        assert [one.payment_hash for one in found] == [one.payment_hash for one in invoices]
        assert gate.pages_listed <= SEARCH_CALLS_MAX
        assert gate.invoices_read <= SEARCH_CALLS_MAX + PAGE_INVOICES

    play(tmp_path, story)


@pytest.mark.parametrize("before", [0, 1, 2, 3, PAGE_INVOICES])
def test_everything_is_listed_whatever_was_made_and_deleted_before(tmp_path: Path, before: int) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(before, age_seconds=30 * DAY_SECONDS)
        invoices = [await invoice_of(node) for _ in range(2 * PAGE_INVOICES)]
        for invoice in invoices:
            await simulation.pay(invoice.payment_request)
        deleted = [row.payment_hash for row in list(gate.peer.invoices.values())[::3]]
        for payment_hash in deleted:
            gate.delete(payment_hash)
        found = [one.payment_hash for one in await listed(node, invoices[0].created_at_ms)]

        assert found == [one.payment_hash for one in invoices if one.payment_hash not in deleted]

    play(tmp_path, story)


def test_what_was_made_by_a_clock_that_was_behind_for_a_while_hides_nothing(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(100, age_seconds=30 * DAY_SECONDS)
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        gate.habits.clock_off_seconds = -(LISTED_BEYOND_SECONDS - 60)
        for _ in range(200):
            await invoice_of(node)
        gate.habits.clock_off_seconds = 0

        found = await listed(node, invoice.created_at_ms)
        assert [one.payment_hash for one in found] == [invoice.payment_hash]

    play(tmp_path, story)


def test_a_payment_of_an_offer_whose_text_says_no_time_is_listed(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.fill_with_old_invoices(3, age_seconds=60)  # they have no BOLT11

        assert len(await listed(node, int(simulation.network.now() * 1000) - HOUR_MS)) == 3

    play(tmp_path, story)


def test_the_first_failure_after_new_files_is_the_last_one(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        await invoice_of(node)
        await gate.stop()
        gate.renew_certificate()
        await gate.start()
        with contextlib.suppress(NodeUnavailable):
            await invoice_of(node)

        assert (await invoice_of(node)).amount == sats(50)

    play(tmp_path, story)


def test_a_node_whose_bitcoind_lags_says_so_in_its_own_words(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        gate.bitcoind_synced = False
        health = await node.health()

        assert (health.ready, health.state) == (False, "syncing")
        assert "Bitcoind is not up-to-date with network." in health.sentence

    play(tmp_path, story)


def test_a_client_of_another_authority_is_refused_until_it_has_the_right_files(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        kept = {file: file.read_bytes() for file in (gate.credentials.client, gate.credentials.client_key)}
        stranger = cln_credentials.issue(tmp_path / "another")
        gate.credentials.client.write_bytes(stranger.client.read_bytes())
        gate.credentials.client_key.write_bytes(stranger.client_key.read_bytes())
        health = await node.health()
        with pytest.raises(CredentialsRefused, match="strangers in TLS"):
            await invoice_of(node)
        for file, content in kept.items():
            file.write_bytes(content)

        assert (health.ready, health.state) == (False, "refused")

        async def ready() -> bool:
            return (await node.health()).ready

        await eventually(ready)

    play(tmp_path, story)


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: SimulatedCln, node: ClnNode) -> None:
        files = gate.credentials
        nameless = ClnNode(
            "cln", 7, MutualTls(gate.address, files.ca, files.client, files.client_key), SystemClock()
        )
        health = await nameless.health()
        await nameless.close()

        assert (health.ready, health.state) == (False, "refused")
        assert (await node.health()).ready

    play(tmp_path, story)
