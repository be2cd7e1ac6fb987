"""Coins that come in at a barkd's Ark addresses: each counts once, with its own amount, where it is."""

import asyncio
from pathlib import Path

import pytest
from tests.nodes.promises import following
from tests.nodes.test_barkd_node import play
from tests.stage import eventually

from arkgate.core.bark_address import read_bark_address
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import ArkPayment, Settlement
from arkgate.core.money import sats
from arkgate.nodes.barkd import BarkdNode
from arkgate.ports import ArkWallet, NodeEvent
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation


def amounts(payments: object) -> list[int]:
    assert isinstance(payments, list | tuple)
    return sorted(payment.amount_paid // 1000 for payment in payments)


async def told(events: list[NodeEvent], count: int) -> list[ArkPayment]:
    """The coins among the events, once there are so many."""

    def found() -> list[ArkPayment]:
        return [event.coin for event in events if event.coin is not None]

    async def enough() -> bool:
        return len(found()) >= count

    await eventually(enough)
    return found()


def test_every_address_is_fresh_and_lower_case(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        assert isinstance(node, ArkWallet)
        found = [await node.new_ark_address() for _ in range(5)]

        assert len(set(found)) == 5
        assert all(address.startswith("tark1") and address.islower() for address in found)

    play(tmp_path, story)


def test_a_coin_is_told_found_and_listed_at_its_address(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address, other = await node.new_ark_address(), await node.new_ark_address()
        async with following(node) as events:
            (outpoint,) = barkd.wallet.pay_ark(address, 25_000)
            (coin,) = await told(events, 1)
        invoice = await node.create_invoice(sats(6_000), preimage=None, memo="a call", expiry_seconds=600)
        await simulation.pay(invoice.payment_request)
        listed = [payment async for payment in node.settled_since(0)]

        assert (coin.outpoint, coin.address, coin.amount_paid) == (outpoint, address, sats(25_000))
        assert (coin.node, coin.final) == (node.name, False)
        assert list(await node.ark_payments(address)) == [coin]
        assert list(await node.ark_payments(other)) == []
        assert coin in listed
        assert [type(payment) for payment in listed].count(Settlement) == 1
        assert [payment async for payment in node.settled_since(coin.received_at_ms + 60_000)] == []

    play(tmp_path, story)


def test_several_coins_of_one_payment_are_told_each_by_its_outpoint(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address = await node.new_ark_address()
        outpoints = barkd.wallet.pay_ark(address, 700, 300, 1)

        found = await node.ark_payments(address)

        assert {coin.outpoint for coin in found} == set(outpoints)
        assert amounts(found) == [1, 300, 700]

    play(tmp_path, story)


def test_a_coin_that_its_sender_delivers_again_is_not_paid_again(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address, other = await node.new_ark_address(), await node.new_ark_address()
        (large,) = barkd.wallet.pay_ark(address, 90_000)
        barkd.wallet.pay_ark(address, 1, resent=[large])
        barkd.wallet.pay_ark(other, 2, resent=[large])

        claimed = [one["received_on"] for one in barkd.wallet.history("ark", address)]
        assert sum(part["amount_sat"] for parts in claimed for part in parts) > 180_000
        assert amounts(await node.ark_payments(address)) == [1, 90_000]
        assert amounts(await node.ark_payments(other)) == [2]
        listed = [payment async for payment in node.settled_since(0)]
        assert {one.reference: one.amount_paid for one in listed}[large] == sats(90_000)

    play(tmp_path, story)


def test_a_coin_that_waits_in_the_mailbox_is_found_by_a_look_up(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address = await node.new_ark_address()
        barkd.stop_server()
        barkd.start_server()
        barkd.wallet.pay_ark(address, 5_000)
        assert barkd.wallet.history() == []

        assert amounts(await node.ark_payments(address)) == [5_000]

    play(tmp_path, story)


def test_a_coin_is_final_when_a_round_has_exchanged_it(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address = await node.new_ark_address()
        (outpoint,) = barkd.wallet.pay_ark(address, 500_000)

        await asyncio.gather(*(node.make_final(outpoint) for _ in range(3)))
        await node.make_final(outpoint)
        assert barkd.wallet.coin(outpoint).state == "spendable"
        (registered,) = await node.ark_payments(address)
        barkd.wallet.hold_round()
        (exchanged,) = await node.ark_payments(address)
        await node.make_final(outpoint)

        assert (registered.final, exchanged.final) == (False, True)
        assert registered.outpoint == exchanged.outpoint == outpoint
        assert barkd.wallet.calls.count("POST /wallet/refresh/delegated/vtxos") == 1

    play(tmp_path, story)


def test_an_address_of_another_network_is_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        assert not read_bark_address(barkd.wallet.purse.new_address()).is_mainnet
        with pytest.raises(NodeUnavailable, match="not of mainnet"):
            await node.new_ark_address()

    play(tmp_path, story, network="mainnet")


def test_a_barkd_that_is_away_is_unavailable_for_addresses_too(tmp_path: Path) -> None:
    async def story(simulation: Simulation, barkd: SimulatedBarkd, node: BarkdNode) -> None:
        address = await node.new_ark_address()
        await barkd.stop()

        for asked in (node.new_ark_address(), node.ark_payments(address), node.make_final("t:0")):
            with pytest.raises(NodeUnavailable):
                await asked

    play(tmp_path, story)
