"""What a Fulmine and its Boltz do differently from every other node, and what becomes of it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from tests.nodes.promises import following, listed, settled
from tests.stage import eventually, run

from arkgate._proto.fulmine import service_pb2
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import InvoiceState
from arkgate.core.money import Msat, sats
from arkgate.nodes import fulmine_boltz
from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.nodes.fulmine_boltz import Terms
from arkgate.nodes.fulmine_checkup import network_of
from arkgate.ports import Invoice, InvoiceStatus
from arkgate.simulator.fulmine import SimulatedFulmine, Wallet
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from arkgate.store.clock import SystemClock

Story = Callable[[Simulation, SimulatedFulmine, FulmineNode], Awaitable[None]]
OPEN = InvoiceStatus(InvoiceState.OPEN)
AMOUNT = 5_000
ARRIVES = 4_980
"""Of 5,000 sats, at 0.4 per cent."""


def play(tmp_path: Path, story: Story) -> None:
    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulation", settle_delay_seconds=0.001, fulmines=("bolt",)
        ) as simulation:
            (daemon,) = simulation.fulmines
            node = node_of(daemon)
            try:
                await story(simulation, daemon, node)
            finally:
                await node.close()

    run(asyncio.wait_for(played(), 30))


def node_of(daemon: SimulatedFulmine) -> FulmineNode:
    found = FulmineCredentials(daemon.address, daemon.admin_macaroon, daemon.boltz.url)
    return FulmineNode("bolt", 7, found, SystemClock(), timeout_seconds=2.0, read_seconds=0.02)


async def invoice_of(node: FulmineNode, amount_sats: int = AMOUNT) -> Invoice:
    return await node.create_invoice(sats(amount_sats), preimage=None, memo="a call", expiry_seconds=600)


async def paid_and_fee(node: FulmineNode, invoice: Invoice) -> tuple[Msat, Msat] | None:
    status = await node.look_up(invoice.payment_hash)
    if status is None or status.settlement is None:
        return None
    return status.settlement.amount_paid, status.settlement.fee


# What counts as a payment, and how much of it.


def test_the_payer_is_credited_the_invoice_and_what_boltz_keeps_is_a_fee(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)

        assert await paid_and_fee(node, invoice) == (sats(AMOUNT), sats(AMOUNT - ARRIVES))

    play(tmp_path, story)


@pytest.mark.parametrize("amount_sats", [333, 334, 999, 1_000, 12_345, 1_000_000])
def test_a_gateway_that_did_not_make_the_invoice_takes_nothing_from_the_payer(
    tmp_path: Path, amount_sats: int
) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node, amount_sats)
        await simulation.pay(invoice.payment_request)

        other = node_of(daemon)
        found = await paid_and_fee(other, invoice)
        await other.close()
        assert found is not None
        paid, fee = found
        assert sats(amount_sats) <= paid <= sats(amount_sats + 1)
        assert paid - fee == sats(amount_sats - daemon.boltz.keeps(amount_sats))

    play(tmp_path, story)


def test_boltz_that_locks_up_less_than_it_should_is_not_made_up_for(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        daemon.underpaid_sats = 4_000
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)

        found = await paid_and_fee(node, invoice)
        assert found is not None
        paid, fee = found
        assert sats(ARRIVES - 4_000) < paid < sats(1_000)
        assert paid - fee == sats(ARRIVES - 4_000)

    play(tmp_path, story)


def test_the_fee_of_an_invoice_is_that_of_when_it_was_made(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        daemon.boltz.percent = Decimal(10)

        assert await paid_and_fee(node, invoice) == (sats(AMOUNT), sats(AMOUNT - ARRIVES))

    play(tmp_path, story)


def test_coins_that_reveal_no_preimage_of_ours_pay_nothing(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        daemon.receive_at_address(AMOUNT)
        daemon.receive_at_address(AMOUNT, preimages=[secrets.token_bytes(32), secrets.token_bytes(32)])
        foreign = daemon.receive_at_address(AMOUNT, preimages=[secrets.token_bytes(32)])

        assert await node.look_up(invoice.payment_hash) == OPEN
        (only,) = await listed(node)
        assert only.payment_hash != invoice.payment_hash
        assert only.fee == only.amount_paid - sats(foreign.amount_sats)

    play(tmp_path, story)


def test_who_puts_a_known_preimage_into_a_tiny_coin_takes_nothing_from_the_payer(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        paid = await simulation.pay(invoice.payment_request)
        for first in (False, True):
            daemon.receive_at_address(1, preimages=[paid.preimage])
            if first:
                daemon.coins.insert(0, daemon.coins.pop())
            other = node_of(daemon)
            (only,) = await listed(other)
            await other.close()
            assert sats(AMOUNT) <= only.amount_paid <= sats(AMOUNT + 1)
        assert await paid_and_fee(node, invoice) == (sats(AMOUNT), sats(AMOUNT - ARRIVES))

    play(tmp_path, story)


def test_a_coin_that_is_not_what_its_transaction_says_pays_nothing(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        paid = await simulation.pay(invoice.payment_request)
        daemon.script = bytes.fromhex("5120") + bytes(32)  # the coins are said to be at another address
        other = node_of(daemon)

        assert await other.look_up(invoice.payment_hash) is None
        assert await listed(other) == []
        await other.close()
        assert paid.preimage

    play(tmp_path, story)


def test_a_transaction_that_the_indexer_does_not_have_yet_is_asked_for_again(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        daemon.indexer_behind = True
        await simulation.pay(invoice.payment_request)
        assert await node.look_up(invoice.payment_hash) == OPEN
        daemon.indexer_behind = False

        async def found() -> bool:
            return await paid_and_fee(node, invoice) == (sats(AMOUNT), sats(AMOUNT - ARRIVES))

        await eventually(found)

    play(tmp_path, story)


def test_transactions_are_asked_for_once_and_in_batches(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        for _ in range(120):
            daemon.receive_at_address(1_000, preimages=[secrets.token_bytes(32)])
        for _ in range(3):
            assert len(await listed(node)) == 120
        daemon.receive_at_address(1_000, preimages=[secrets.token_bytes(32)])

        assert len(await listed(node)) == 121
        assert daemon.batches_asked == [50, 50, 20, 1]

    play(tmp_path, story)


# Restarts, of either side.


def test_a_restart_forgets_open_invoices_and_nobody_pays_them_for_nothing(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        await daemon.stop()
        await daemon.start()
        with pytest.raises(PaymentFailed):
            await simulation.pay(invoice.payment_request)

        async def answers() -> bool:
            return (await node.health()).ready

        await eventually(answers)
        assert await node.look_up(invoice.payment_hash) == OPEN

    play(tmp_path, story)


def test_what_was_paid_before_is_found_after_restarts_of_both(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        invoice = await invoice_of(node)
        await simulation.pay(invoice.payment_request)
        await daemon.stop()
        await daemon.start()

        other = node_of(daemon)
        async with following(other) as events:
            (told,) = await settled(events, 1)
            assert told.payment_hash == invoice.payment_hash
        await other.close()

    play(tmp_path, story)


def test_an_open_invoice_is_forgotten_when_it_has_expired(tmp_path: Path) -> None:
    class Later(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + offset_ms[0]

    offset_ms = [0]

    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        found = FulmineCredentials(daemon.address, daemon.admin_macaroon, daemon.boltz.url)
        timed = FulmineNode("bolt", 7, found, Later(), read_seconds=0.02)
        invoice = await invoice_of(timed)
        assert await timed.look_up(invoice.payment_hash) == OPEN
        offset_ms[0] = 3_700_000

        assert await timed.look_up(invoice.payment_hash) is None
        await timed.close()

    play(tmp_path, story)


# What it dies of.


@pytest.mark.parametrize("amount_sats", [1, 50, 332, 4_294_968])
def test_an_amount_that_would_bring_it_down_never_gets_there(tmp_path: Path, amount_sats: int) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        with pytest.raises(NodeUnavailable, match="Boltz takes 333 sats to 4294967 sats"):
            await invoice_of(node, amount_sats)

        assert not daemon.is_dead
        assert (await invoice_of(node)).amount == sats(AMOUNT)

    play(tmp_path, story)


@pytest.mark.parametrize("which", ["least_sats", "submarine_least_sats"])
def test_the_narrower_limit_of_both_directions_counts(tmp_path: Path, which: str) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        setattr(daemon.boltz, which, 1_000)
        with pytest.raises(NodeUnavailable, match="Boltz takes 1000 sats"):
            await invoice_of(node, 999)

        assert not daemon.is_dead
        assert (await invoice_of(node, 1_000)).amount == sats(1_000)

    play(tmp_path, story)


def test_without_boltz_terms_no_invoice_is_asked_for(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        daemon.boltz.up = False
        with pytest.raises(NodeUnavailable, match="Boltz answered 503"):
            await invoice_of(node)
        assert (await node.health()).state == "unreachable"
        daemon.boltz.up = True

        assert (await invoice_of(node)).amount == sats(AMOUNT)

    play(tmp_path, story)


def test_the_terms_are_asked_once_for_all_who_want_an_invoice(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        await asyncio.gather(*(invoice_of(node) for _ in range(8)))

        assert daemon.boltz.asked == 2

    play(tmp_path, story)


def test_one_that_dies_of_a_call_is_said_to_have_ended(tmp_path: Path) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        daemon.wallet = Wallet.BROKEN
        with pytest.raises(NodeUnavailable, match="look whether Fulmine still runs"):
            await invoice_of(node)

        assert daemon.is_dead

    play(tmp_path, story)


# Its state, in plain words.


@pytest.mark.parametrize(
    ("wallet", "state", "says"),
    [
        (Wallet.NONE, "locked", "has no wallet yet"),
        (Wallet.LOCKED, "locked", "unlock it, once"),
        (Wallet.SYNCING, "syncing", "still syncing"),
        (Wallet.OPEN, "ready", "Boltz answers"),
    ],
)
def test_its_state_is_said_in_words(tmp_path: Path, wallet: Wallet, state: str, says: str) -> None:
    async def story(simulation: Simulation, daemon: SimulatedFulmine, node: FulmineNode) -> None:
        daemon.wallet = wallet
        health = await node.health()

        assert health.state == state
        assert says in health.sentence

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("prefix", "network", "known_as"),
    [
        ("ark", service_pb2.GetInfoResponse.NETWORK_UNSPECIFIED, "mainnet"),
        ("tark", service_pb2.GetInfoResponse.NETWORK_REGTEST, "regtest"),
        ("tark", service_pb2.GetInfoResponse.NETWORK_TESTNET, "testnet"),
        ("tark", service_pb2.GetInfoResponse.NETWORK_UNSPECIFIED, ""),
    ],
)
def test_its_network_is_known_by_the_prefix_of_its_addresses_first(
    prefix: str, network: service_pb2.GetInfoResponse.Network.ValueType, known_as: str
) -> None:
    info = service_pb2.GetInfoResponse(addr_prefix=prefix, network=network)

    assert network_of(info) == known_as


# The terms themselves.


@pytest.mark.parametrize("percent", ["0", "0.1", "0.25", "0.4", "0.5", "1", "3"])
@pytest.mark.parametrize("flat", [0, 1, 100])
def test_what_was_paid_is_computed_back_without_loss_for_the_payer(percent: str, flat: int) -> None:
    terms = Terms(sats(333), sats(1_000_000), Decimal(percent), sats(flat))
    for amount_sats in [*range(333, 1_400), 9_999, 10_000, 123_457, 999_999, 1_000_000]:
        arrives = Msat(sats(amount_sats) - terms.kept(sats(amount_sats)))
        paid = terms.paid_for(arrives)

        assert sats(amount_sats) <= paid <= sats(amount_sats + 1)
        assert paid - terms.kept(paid) <= arrives


def test_the_usual_fee_is_what_a_boltz_of_the_usual_terms_keeps() -> None:
    assert fulmine_boltz.usual_fee(sats(5_000)) == sats(20)
    assert fulmine_boltz.usual_fee(sats(333)) == sats(2)
