"""What a barkd does wrong, or differently from every other node, and what becomes of it."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.promises import following, listed, settled
from tests.nodes.test_payment_nodes import first_event, streaming
from tests.stage import eventually, run

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import InvoiceState
from arkgate.core.money import Msat, sats
from arkgate.nodes import barkd as adapter
from arkgate.nodes import barkd_rest
from arkgate.nodes.barkd import BarkdNode, Paces
from arkgate.nodes.barkd_fees import MINIMUM, is_dear, usual_fee
from arkgate.nodes.barkd_rest import BearerToken
from arkgate.ports import Holdings, Invoice, InvoiceStatus
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from arkgate.store.clock import SystemClock

TIMEOUT_SECONDS = 10.0
QUICK = Paces(sync=0.0, hint=0.1, reread=0.3)
LOOKING_UP = "GET /lightning/receives/{identifier}"
SYNC = "POST /wallet/sync/mailbox"
Story = Callable[[Simulation, SimulatedBarkd, BarkdNode], Awaitable[None]]


def play(
    tmp_path: Path, story: Story, *, paces: Paces = QUICK, network: str | None = None, seconds: float = 30
) -> None:
    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path, settle_delay_seconds=0.001, barkds=("ark",)
        ) as simulation:
            (barkd,) = simulation.barkds
            found = BearerToken(barkd.address, barkd.token_file)
            clock = SystemClock()
            node = BarkdNode(
                "ark", 7, found, clock, network=network, timeout_seconds=TIMEOUT_SECONDS, paces=paces
            )
            try:
                await story(simulation, barkd, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), seconds))


async def invoice_of(node: BarkdNode, amount_sats: int = 6_000) -> Invoice:
    return await node.create_invoice(
        sats(amount_sats), preimage=None, memo="20 x /api/ai-chat", expiry_seconds=600
    )


async def is_open(node: BarkdNode, invoice: Invoice) -> bool:
    return await node.look_up(invoice.payment_hash) == InvoiceStatus(InvoiceState.OPEN)


async def is_settled(node: BarkdNode, invoice: Invoice) -> bool:
    status = await node.look_up(invoice.payment_hash)
    return status is not None and status.settlement is not None


# What counts as a payment, and how much of it.


def test_the_payer_is_credited_what_was_paid_and_the_rest_is_a_fee(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)

        status = await node.look_up(invoice.payment_hash)
        assert status is not None
        assert status.settlement is not None
        assert (status.settlement.amount_paid, status.settlement.fee) == (sats(6_000), sats(112))
        assert status.settlement.memo == "20 x /api/ai-chat"
        assert [status.settlement] == await listed(node)
        assert abs(status.settlement.settled_at_ms / 1000 - time.time()) < 60
        assert await node.holdings() == Holdings(sats(5_888))

    play(tmp_path, story)


def test_a_preimage_that_barkd_shows_is_no_payment(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)

        assert barkd.wallet.receive(invoice.payment_hash)["payment_preimage"]
        assert await is_open(node, invoice)
        assert await listed(node) == []

    play(tmp_path, story)


def test_a_pending_movement_with_all_its_amounts_is_no_payment(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        barkd.ark.delivery_seconds = 20
        invoice = await invoice_of(node)
        async with following(node) as events:
            await streaming(barkd)
            paying = asyncio.create_task(simulation.pay(invoice.payment_request))
            await eventually(lambda: _has_movements(barkd, 1))
            (movement,) = barkd.wallet.history()

            assert (movement["status"], movement["effective_balance_sat"]) == ("pending", 5_888)
            assert await is_open(node, invoice)
            assert await listed(node) == []
            read = barkd.wallet.calls.count("GET /history")
            await eventually(lambda: _has_called(barkd, "GET /history", read + 2))
            assert events == []
            paying.cancel()

    play(tmp_path, story)


async def _has_movements(barkd: SimulatedBarkd, count: int) -> bool:
    return len(barkd.wallet.history()) >= count


async def _has_called(barkd: SimulatedBarkd, call: str, times: int) -> bool:
    return barkd.wallet.calls.count(call) >= times


def test_a_payment_that_was_pending_when_it_was_first_seen_is_told_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        slow, quick = await invoice_of(node), await invoice_of(node)
        async with following(node) as events:
            await streaming(barkd)
            barkd.ark.delivery_seconds = 1.0
            paying = asyncio.create_task(simulation.pay(slow.payment_request))
            await eventually(lambda: _has_movements(barkd, 1))
            barkd.ark.delivery_seconds = 0.0
            await simulation.pay(quick.payment_request)
            await settled(events, 1)
            await paying
            found = await settled(events, 2)
            read = barkd.wallet.calls.count("GET /history")
            await eventually(lambda: _has_called(barkd, "GET /history", read + 2))

            assert [one.payment_hash for one in found] == [quick.payment_hash, slow.payment_hash]
            assert len(events) == 2

    play(tmp_path, story)


def test_a_settled_invoice_waits_for_its_movement_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        barkd.ark.movements_late = True
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        assert await is_open(node, invoice)
        monkeypatch.setattr(adapter, "MOVEMENT_PATIENCE_MS", -1_000)

        status = await node.look_up(invoice.payment_hash)
        assert status is not None
        assert status.settlement is not None
        assert (status.settlement.amount_paid, status.settlement.fee) == (sats(6_000), 0)

    play(tmp_path, story)


def test_a_payment_that_the_servers_empty_pool_holds_is_none_and_fails(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        barkd.ark.pool_empty, barkd.ark.held_seconds_max = True, 1.0
        invoice = await invoice_of(node)
        paying = asyncio.create_task(simulation.pay(invoice.payment_request))
        await asyncio.sleep(0.1)

        assert await is_open(node, invoice)
        with pytest.raises(PaymentFailed, match="INCORRECT_PAYMENT_DETAILS"):
            await paying
        assert await is_open(node, invoice)
        assert await listed(node) == []

    play(tmp_path, story)


def test_invoices_are_of_whole_sats_and_worth_more_than_the_fee(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        with pytest.raises(NodeUnavailable, match="whole sats"):
            await node.create_invoice(Msat(6_000_500), preimage=None, memo="", expiry_seconds=600)
        with pytest.raises(NodeUnavailable, match="Amount after fees"):
            await invoice_of(node, 100)

    play(tmp_path, story)


def test_the_smallest_invoice_is_one_of_which_the_usual_fee_is_bearable() -> None:
    assert usual_fee(sats(6_000)) == sats(112)
    assert sats(1_000) == MINIMUM
    assert not is_dear(usual_fee(MINIMUM), of=MINIMUM)
    assert is_dear(usual_fee(sats(800)), of=sats(800))


# What barkd does not see by itself.


def test_after_its_server_restarted_a_look_up_sees_a_payment_at_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)
        barkd.stop_server()
        barkd.start_server()
        paying = asyncio.create_task(simulation.pay(invoice.payment_request))
        await asyncio.sleep(0.1)
        assert not paying.done()
        await eventually(lambda: is_settled(node, invoice))
        await paying

    play(tmp_path, story)


def test_after_its_server_restarted_the_stream_sees_payments_by_itself(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        async with following(node) as events:
            await streaming(barkd)
            invoice = await invoice_of(node)
            barkd.stop_server()
            barkd.start_server()
            await simulation.pay(invoice.payment_request)

            assert [one.payment_hash for one in await settled(events, 1)] == [invoice.payment_hash]

    play(tmp_path, story)


def test_a_listing_looks_into_the_mailbox_first(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        barkd.start_server()
        await listed(node)

        assert not barkd.ark.blind

    play(tmp_path, story)


def test_look_ups_share_one_look_into_the_mailbox(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)
        await asyncio.gather(*(node.look_up(invoice.payment_hash) for _ in range(50)))
        for _ in range(5):
            await node.look_up(invoice.payment_hash)

        assert barkd.wallet.calls.count(SYNC) == 1
        assert barkd.wallet.calls.count(LOOKING_UP) == 55

    play(tmp_path, story, paces=Paces(sync=3600))


def test_a_lost_notification_costs_a_moment(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        async with following(node) as events:
            await streaming(barkd)
            invoice = await invoice_of(node)
            barkd.ark.notifications_lost = True
            await simulation.pay(invoice.payment_request)

            assert [one.payment_hash for one in await settled(events, 1)] == [invoice.payment_hash]

    play(tmp_path, story)


def test_a_notification_is_heeded_at_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        async with following(node) as events:
            await streaming(barkd)
            for count in (1, 2):
                invoice = await invoice_of(node)
                await simulation.pay(invoice.payment_request)
                await settled(events, count)

    play(tmp_path, story, paces=Paces(sync=3600, hint=3600, reread=3600), seconds=20)


def test_a_restart_breaks_the_stream_and_a_new_one_tells_what_was_paid_meanwhile(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)
        event = asyncio.create_task(first_event(node))
        await streaming(barkd)
        await barkd.stop()
        with pytest.raises(NodeUnavailable):
            await event
        paying = asyncio.create_task(simulation.pay(invoice.payment_request))
        await asyncio.sleep(0.1)
        assert not paying.done()
        await barkd.start()
        await paying

        found = await first_event(node)
        assert found is not None
        assert found.settlement is not None
        assert found.settlement.payment_hash == invoice.payment_hash

    play(tmp_path, story)


def test_a_new_stream_tells_the_newest_again_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "BACKLOG_PAYMENTS", 2)

    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoices = [await invoice_of(node) for _ in range(4)]
        for invoice in invoices:
            await simulation.pay(invoice.payment_request)
        async with following(node) as events:
            found = await settled(events, 2)
            read = barkd.wallet.calls.count("GET /history")
            await eventually(lambda: _has_called(barkd, "GET /history", read + 2))

            assert [one.payment_hash for one in found] == [one.payment_hash for one in invoices[2:]]
            assert len(events) == 2

    play(tmp_path, story)


# How it fails.


@pytest.mark.parametrize("form", ["json", "text", "empty"])
def test_an_error_is_a_refusal_whatever_form_it_has(tmp_path: Path, form: str) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        barkd.ark.error_bodies = form
        barkd.habits.failures[LOOKING_UP] = grpc.StatusCode.UNKNOWN
        words = "no reason given" if form == "empty" else "simulated failure"
        with pytest.raises(NodeUnavailable, match=words) as refused:
            await node.look_up(secrets.token_bytes(32))

        assert refused.value.__cause__ is not None  # the gateway takes it for away, not for a liar

    play(tmp_path, story)


def test_an_error_without_its_sentence_is_not_taken_for_an_unknown_invoice(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        unknown = secrets.token_bytes(32)
        assert await node.look_up(unknown) is None
        barkd.ark.error_bodies = "text"
        assert await node.look_up(unknown) is None
        barkd.ark.error_bodies = "empty"
        with pytest.raises(NodeUnavailable):
            await node.look_up(unknown)

    play(tmp_path, story)


def test_a_mailbox_that_hangs_keeps_no_look_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SYNC_TIMEOUT_SECONDS", 0.2)

    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        invoice = await invoice_of(node)
        barkd.habits.delays_seconds[SYNC] = 3600
        assert await is_open(node, invoice)
        assert (await node.health()).state == "unreachable"

    play(tmp_path, story, seconds=15)


def test_what_came_before_its_server_went_down_is_still_known(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        paid, unpaid = await invoice_of(node), await invoice_of(node)
        await simulation.pay(paid.payment_request)
        barkd.stop_server()

        assert await is_settled(node, paid)
        assert await is_open(node, unpaid)
        with pytest.raises(NodeUnavailable, match="currently unavailable"):
            await invoice_of(node)

    play(tmp_path, story)


def test_an_answer_that_is_too_long_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barkd_rest, "ANSWER_BYTES_MAX", 1_000)

    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        for _ in range(2):
            invoice = await invoice_of(node)
            await simulation.pay(invoice.payment_request)
        with pytest.raises(NodeUnavailable, match="more than 1000 bytes"):
            await listed(node)

        assert await is_settled(node, invoice)

    play(tmp_path, story)


def test_a_renewed_token_is_taken_up(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        await invoice_of(node)
        barkd.renew_token()

        assert (await node.health()).ready
        await invoice_of(node)

    play(tmp_path, story)


# How it is.


def test_health_says_what_is_wrong(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        async def state() -> tuple[bool, str]:
            health = await node.health()
            return health.ready, health.state

        assert await state() == (True, "ready")
        barkd.stop_server()
        assert await state() == (False, "unreachable")
        assert "Ark server" in (await node.health()).sentence
        await barkd.stop()
        assert await state() == (False, "unreachable")
        await barkd.start()
        assert await state() == (False, "starting")
        barkd.start_server()
        assert await state() == (True, "ready")
        assert (await node.health()).network == "regtest"
        barkd.ark.has_wallet = False
        assert await state() == (False, "locked")
        barkd.ark.has_wallet = True
        barkd.ark.network = "bitcoin"
        assert await state() == (False, "refused")
        assert "is on mainnet" in (await node.health()).sentence

    play(tmp_path, story, network="regtest")
