"""What a waved does differently from every other node, and what becomes of it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.promises import following, listed, settled
from tests.nodes.test_payment_nodes import first_event, streaming
from tests.stage import eventually, run

from arkgate._proto.waved import daemon_pb2, wallet_pb2
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState
from arkgate.core.money import Msat, sats
from arkgate.nodes import waved as adapter
from arkgate.nodes.channel import NodeCredentials, PermissionDenied
from arkgate.nodes.waved import WavedNode
from arkgate.nodes.waved_entries import read_entry
from arkgate.ports import Invoice, InvoiceStatus
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from arkgate.simulator.waved import SimulatedWaved
from arkgate.store.clock import SystemClock

Story = Callable[[Simulation, SimulatedWaved, WavedNode], Awaitable[None]]
OPEN, SMALL, LARGE = InvoiceStatus(InvoiceState.OPEN), 50, 2_000


def play(tmp_path: Path, story: Story, *, secret: Path | None = None, reread_seconds: float = 0.0) -> None:
    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulation", settle_delay_seconds=0.001, waveds=("wave",)
        ) as simulation:
            (daemon,) = simulation.waveds
            node = node_of(daemon, secret=secret, reread_seconds=reread_seconds)
            try:
                await story(simulation, daemon, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), 30))


def node_of(daemon: SimulatedWaved, *, secret: Path | None = None, reread_seconds: float = 0.0) -> WavedNode:
    files = daemon.credentials
    found = NodeCredentials(daemon.address, files.tls_cert, secret or files.admin_macaroon)
    return WavedNode(
        "wave", 7, found, SystemClock(), timeout_seconds=2.0, reread_seconds=reread_seconds, page_entries=3
    )


async def invoice_of(node: WavedNode, amount_sats: int) -> Invoice:
    return await node.create_invoice(sats(amount_sats), preimage=None, memo="a call", expiry_seconds=600)


async def amount_paid(node: WavedNode, invoice: Invoice) -> Msat | None:
    status = await node.look_up(invoice.payment_hash)
    return None if status is None or status.settlement is None else status.settlement.amount_paid


# Credits: invoices below the operator's floor.


def test_a_credit_is_found_although_the_swaps_do_not_know_it(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        paid, unpaid = await invoice_of(node, SMALL), await invoice_of(node, SMALL)
        assert daemon.operation_of(paid.payment_hash) is not None
        assert await node.look_up(paid.payment_hash) == OPEN
        await simulation.pay(paid.payment_request)

        assert await amount_paid(node, paid) == 50_000
        assert await node.look_up(unpaid.payment_hash) == OPEN

    play(tmp_path, story)


def test_a_gateway_that_did_not_make_a_credit_finds_it_over_all_pages(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        made = [await invoice_of(node, SMALL) for _ in range(10)]
        await simulation.pay(made[0].payment_request)

        other = node_of(daemon)
        assert await amount_paid(other, made[0]) == 50_000
        assert await other.look_up(made[1].payment_hash) == OPEN
        assert await other.look_up(secrets.token_bytes(32)) is None
        await other.close()

    play(tmp_path, story)


def test_credits_that_were_paid_while_waved_was_stopped_or_locked_are_told_when_it_knows(
    tmp_path: Path,
) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        first, second = await invoice_of(node, SMALL), await invoice_of(node, SMALL)
        await daemon.stop()
        await simulation.pay(first.payment_request)
        await daemon.start()
        daemon.wallet_state = daemon_pb2.WALLET_STATE_LOCKED
        await simulation.pay(second.payment_request)

        await eventually(lambda: answers(node))
        assert await amount_paid(node, first) == 50_000
        assert await node.look_up(second.payment_hash) == OPEN
        async with following(node, Cursor(0, 1)) as events:
            await streaming(daemon)
            daemon.wallet_state = daemon_pb2.WALLET_STATE_READY
            daemon.catch_up()
            told = await settled(events, 2)
            assert {one.payment_hash for one in told} == {first.payment_hash, second.payment_hash}
        assert await amount_paid(node, second) == 50_000

    play(tmp_path, story)


async def answers(node: WavedNode) -> bool:
    return (await node.health()).state != "unreachable"


def test_many_who_ask_for_credits_at_once_read_the_list_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        made = [await invoice_of(node, SMALL) for _ in range(3)]
        assert await node.look_up(made[0].payment_hash) == OPEN
        pages = daemon.pages_listed
        found = await asyncio.gather(*(node.look_up(made[n % 3].payment_hash) for n in range(60)))

        assert set(found) == {OPEN}
        assert daemon.pages_listed == pages

    play(tmp_path, story, reread_seconds=60.0)


def test_an_operator_without_credits_is_waited_for_no_longer_than_a_call_may_take(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        daemon.has_credits = False
        daemon.credit_patience_seconds = 0.1
        with pytest.raises(NodeUnavailable, match="receive at least 1000 sat instead"):
            await invoice_of(node, SMALL)
        daemon.credit_patience_seconds = 15.0
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(NodeUnavailable):
            await invoice_of(node, SMALL)

        assert loop.time() - started < 5
        assert daemon.peer.invoices == {}
        assert [row.id[:5] for row in daemon.activity.rows.values()] == ["recv:"]
        assert await listed(node) == []  # what the failed attempt left is nobody's invoice
        assert (await invoice_of(node, LARGE)).amount == sats(LARGE)

    play(tmp_path, story)


# What counts as a payment.


def test_a_wallet_that_lost_patience_with_an_invoice_is_paid_all_the_same(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        invoice = await invoice_of(node, SMALL)
        daemon.timed_out.add(invoice.payment_hash)

        other = node_of(daemon)
        assert await other.look_up(invoice.payment_hash) == OPEN
        await simulation.pay(invoice.payment_request)
        assert await amount_paid(other, invoice) == 50_000
        await other.close()

    play(tmp_path, story)


@pytest.mark.parametrize("amount_sats", [SMALL, LARGE])
def test_what_is_missing_of_a_payment_is_a_fee_and_not_the_payers_loss(
    tmp_path: Path, amount_sats: int
) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        daemon.kept_ppm = 100_000
        invoice = await invoice_of(node, amount_sats)
        await simulation.pay(invoice.payment_request)

        (listed_one,) = await listed(node)
        status = await node.look_up(invoice.payment_hash)
        assert status is not None
        assert status.settlement == listed_one
        assert listed_one.amount_paid == sats(amount_sats)
        assert listed_one.fee == sats(amount_sats // 10)

    play(tmp_path, story)


def test_a_row_of_a_credit_counts_by_its_invoice_and_not_by_what_it_says_of_itself() -> None:
    entry = wallet_pb2.WalletEntry(
        id="0" * 64,
        kind=wallet_pb2.ENTRY_KIND_RECV,
        status=wallet_pb2.ENTRY_STATUS_COMPLETE,
        amount_sat=1_000_000,
    )
    entry.progress.payment_hash = "ab" * 32

    assert read_entry("wave", entry) is None


def test_a_wallet_that_pays_is_not_paid(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        invoice = await invoice_of(node, LARGE)
        entry = wallet_pb2.WalletEntry()
        entry.CopyFrom(daemon.activity.rows[invoice.payment_hash.hex()])
        entry.kind = wallet_pb2.ENTRY_KIND_SEND
        entry.status = wallet_pb2.ENTRY_STATUS_COMPLETE

        assert read_entry("wave", entry) is None

    play(tmp_path, story)


# The stream.


def test_what_a_slow_reader_missed_is_asked_for_again_at_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        seen, missed, last = [await invoice_of(node, LARGE) for _ in range(3)]
        async with following(node) as events:
            await streaming(daemon)
            await simulation.pay(seen.payment_request)
            await settled(events, 1)
            daemon.activity.overflowing = True
            await simulation.pay(missed.payment_request)
            daemon.activity.overflowing = False
            await simulation.pay(last.payment_request)

            told = await settled(events, 3)
            assert [one.payment_hash for one in told] == [one.payment_hash for one in (seen, missed, last)]
            assert daemon.activity.followed == 2

    play(tmp_path, story)


def test_what_was_missed_before_there_was_a_cursor_is_among_the_newest(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        missed, last = await invoice_of(node, LARGE), await invoice_of(node, LARGE)
        async with following(node) as events:
            await streaming(daemon)
            daemon.activity.overflowing = True
            await simulation.pay(missed.payment_request)
            daemon.activity.overflowing = False
            await simulation.pay(last.payment_request)

            told = {one.payment_hash for one in await settled(events, 2)}
            assert told == {missed.payment_hash, last.payment_hash}

    play(tmp_path, story)


def test_invoices_that_nobody_paid_yet_move_no_cursor(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        async with following(node) as events:
            await streaming(daemon)
            made = [await invoice_of(node, LARGE) for _ in range(5)]
            await simulation.pay(made[0].payment_request)
            await settled(events, 1)

            assert [event.cursor.settle_index for event in events] == [0, 0, 0, 0, 0, 6]

    play(tmp_path, story)


def test_a_credit_that_the_wallet_paid_itself_is_found(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        invoice = await invoice_of(node, SMALL)
        daemon.paid_by_itself.add(invoice.payment_hash)
        assert await node.look_up(invoice.payment_hash) == OPEN
        await simulation.pay(invoice.payment_request)

        assert await amount_paid(node, invoice) == sats(SMALL)

    play(tmp_path, story)


def test_a_locked_wallet_tells_what_came_in_before(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        invoice = await invoice_of(node, LARGE)
        await simulation.pay(invoice.payment_request)
        await daemon.stop()
        daemon.wallet_state = daemon_pb2.WALLET_STATE_LOCKED
        await daemon.start()

        await eventually(lambda: answers(node))
        event = await first_event(node)
        assert event is not None
        assert event.settlement is not None
        assert event.settlement.payment_hash == invoice.payment_hash
        assert await amount_paid(node, invoice) == sats(LARGE)

    play(tmp_path, story)


def test_it_is_pinged_no_more_often_than_it_bears(tmp_path: Path) -> None:
    assert SimulatedWaved.pings_seconds < adapter.PINGS_SECONDS


# Its state, in plain words.


@pytest.mark.parametrize(
    ("state", "word", "says"),
    [
        (daemon_pb2.WALLET_STATE_NONE, "locked", "wavecli create"),
        (daemon_pb2.WALLET_STATE_LOCKED, "locked", "wavecli unlock"),
        (daemon_pb2.WALLET_STATE_SYNCING, "syncing", "catching up"),
    ],
)
def test_a_wallet_that_is_not_ready_is_said_in_words(
    tmp_path: Path, state: daemon_pb2.WalletState.ValueType, word: str, says: str
) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        daemon.wallet_state = state
        health = await node.health()
        with pytest.raises(NodeUnavailable, match="wallet is not ready"):
            await invoice_of(node, LARGE)

        assert (health.ready, health.state, health.network) == (False, word, "regtest")
        assert says in health.sentence

    play(tmp_path, story)


def test_an_operator_that_is_away_is_a_refusal_at_once_whatever_waved_believes(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        invoice = await invoice_of(node, LARGE)
        daemon.operator_up = False
        assert (await node.health()).state == "starting"
        with pytest.raises(NodeUnavailable, match="connection refused"):
            await invoice_of(node, LARGE)
        with pytest.raises(PaymentFailed):
            await simulation.pay(invoice.payment_request)

        assert await node.look_up(invoice.payment_hash) == OPEN

    play(tmp_path, story)


def test_a_macaroon_that_only_watches_is_told_before_the_first_invoice(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        watching = node_of(daemon, secret=daemon.credentials.readonly_macaroon)
        health = await watching.health()
        with pytest.raises(PermissionDenied):
            await invoice_of(watching, LARGE)

        assert (health.ready, health.state) == (False, "refused")
        assert "admin.macaroon" in health.sentence
        assert (await watching.look_up(secrets.token_bytes(32))) is None
        await watching.close()

    play(tmp_path, story)


def test_a_macaroon_that_is_replaced_is_taken_up(tmp_path: Path) -> None:
    secret = tmp_path / "wave.macaroon"

    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        secret.write_bytes(daemon.credentials.readonly_macaroon.read_bytes())
        assert (await node.health()).state == "refused"
        secret.write_bytes(daemon.credentials.admin_macaroon.read_bytes())

        assert (await invoice_of(node, LARGE)).amount == sats(LARGE)
        assert (await node.health()).ready

    secret.write_bytes(b"later")
    play(tmp_path, story, secret=secret)


def test_amounts_that_waved_cannot_take_are_refused_by_us(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedWaved, node: WavedNode) -> None:
        daemon.habits.failures["Recv"] = grpc.StatusCode.INTERNAL  # it must not even be asked
        for amount in (Msat(0), Msat(-1000), Msat(1_500)):
            with pytest.raises(NodeUnavailable, match="whole sats"):
                await node.create_invoice(amount, preimage=None, memo="", expiry_seconds=60)

    play(tmp_path, story)
