"""A real Fulmine: as far as its wallet is, the adapter understands it; with a payer, it is paid."""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState
from arkgate.core.money import sats
from arkgate.nodes.channel import CredentialsRefused
from arkgate.nodes.fulmine import FulmineNode
from arkgate.ports import Demands, Invoice, InvoiceStatus, NodeEvent, Verdict
from tests.gateway.node_stories import has, opened
from tests.node.real_fulmine import RealFulmine, configured
from tests.node.staged_real import staged_with
from tests.stage import Credential, eventually, run

pytestmark = pytest.mark.node
STREAM_SECONDS = 30.0
DEMANDS = Demands(challenge=sats(1_000), largest=sats(10_000), smallest=sats(1_000))


@pytest.fixture(scope="module")
def real() -> RealFulmine:
    found = configured()
    if isinstance(found, str):
        pytest.skip(found)
    return found


async def ready(node: FulmineNode) -> None:
    """Skips the test when its wallet is not open."""
    health = await node.health()
    if not health.ready:
        pytest.skip(f"it is not ready: {health.sentence}")


async def invoice_of(node: FulmineNode, amount_sats: int = 1_000) -> Invoice:
    return await node.create_invoice(sats(amount_sats), preimage=None, memo="a call", expiry_seconds=600)


async def event_of(node: FulmineNode, payment_hash: bytes) -> NodeEvent:
    async for event in node.events(Cursor()):
        if event.settlement is not None and event.settlement.payment_hash == payment_hash:
            return event
    raise AssertionError("the events ended")


def test_what_it_lacks_is_said_in_words_and_makes_no_invoice(real: RealFulmine) -> None:
    async def story() -> None:
        node = real.adapter()
        health = await node.health()
        lines = {line.name: line async for line in node.checkup(DEMANDS)}

        if health.ready:
            assert lines["wallet"].verdict is Verdict.OK
            assert (await invoice_of(node)).amount == sats(1_000)
        else:
            assert health.state in ("locked", "syncing")
            assert lines["wallet"].verdict is Verdict.FAILURE
            with pytest.raises(NodeUnavailable):
                await invoice_of(node)
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_a_wrong_macaroon_is_refused_and_no_line_of_the_right_ones_check_up_fails(
    real: RealFulmine, tmp_path: Path
) -> None:
    async def story() -> None:
        node = real.adapter()
        await ready(node)
        wrong = tmp_path / "wrong.macaroon"
        wrong.write_bytes(b"nonsense")
        refused = replace(real, credentials=replace(real.credentials, macaroon_file=wrong)).adapter()
        with pytest.raises(CredentialsRefused):
            await refused.look_up(b"\1" * 32)
        lines = [line async for line in node.checkup(DEMANDS)]
        await refused.close()
        await node.close()

        troubles = {line.name: line.verdict for line in lines if line.verdict is not Verdict.OK}
        assert troubles in (
            {"macaroon": Verdict.WARNING},
            {"macaroon": Verdict.WARNING, "macaroon file": Verdict.WARNING},
        )

    run(asyncio.wait_for(story(), 60))


def test_an_amount_outside_the_limits_does_not_reach_it(real: RealFulmine) -> None:
    async def story() -> None:
        node = real.adapter()
        await ready(node)
        for amount_sats in (1, 2_000_000_000):
            with pytest.raises(NodeUnavailable, match="Boltz takes"):
                await invoice_of(node, amount_sats)

        assert (await node.health()).ready
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_a_payment_is_told_found_and_listed_by_whoever_made_the_invoice(real: RealFulmine) -> None:
    async def story() -> None:
        node, other = real.adapter(), real.adapter()
        await ready(node)
        invoice, unpaid = await invoice_of(node, 5_000), await invoice_of(node)
        telling = asyncio.create_task(event_of(node, invoice.payment_hash))
        await real.pay(invoice.payment_request)
        event = await asyncio.wait_for(telling, STREAM_SECONDS)

        assert event.settlement is not None
        assert event.settlement.amount_paid == sats(5_000)
        assert 0 <= event.settlement.fee < sats(625)
        for one in (node, other):
            status = await one.look_up(invoice.payment_hash)
            assert status is not None
            assert status.settlement is not None
            assert sats(5_000) <= status.settlement.amount_paid <= sats(5_001)
            listed = [found async for found in one.settled_since(invoice.created_at_ms - 60_000)]
            assert status.settlement in listed
        assert await node.look_up(unpaid.payment_hash) == InvoiceStatus(InvoiceState.OPEN)
        assert await other.look_up(unpaid.payment_hash) is None
        await node.close()
        await other.close()

    run(asyncio.wait_for(story(), 120))


def test_after_its_restart_what_was_paid_is_known_and_what_was_open_cannot_be_paid(real: RealFulmine) -> None:
    async def story() -> None:
        node = real.adapter()
        await ready(node)
        paid, lost = await invoice_of(node), await invoice_of(node)
        await real.pay(paid.payment_request)
        await real.run("RESTART")

        async def open_again() -> bool:
            return (await node.health()).ready

        await eventually(open_again, 60)
        status = await node.look_up(paid.payment_hash)
        assert status is not None
        assert status.state is InvoiceState.SETTLED
        with pytest.raises(subprocess.CalledProcessError):
            await real.pay(lost.payment_request)
        open_one = await node.look_up(lost.payment_hash)
        assert open_one is None or open_one.settlement is None
        again = await invoice_of(node)
        await real.pay(again.payment_request)
        await node.close()

    run(asyncio.wait_for(story(), 180))


def test_a_gateway_on_it_sells_sessions_and_calls_and_books_boltzs_fee(
    real: RealFulmine, tmp_path: Path
) -> None:
    async def story() -> None:
        node = real.adapter()
        await ready(node)
        await node.close()
        async with staged_with(real, tmp_path) as stage:
            token, invoice = await opened(stage, 5_000)
            await real.pay(invoice)
            await has(stage, token, 5_000)
            challenge = (await stage.chat()).json()
            preimage = await real.pay(challenge["invoice"])
            credential = Credential(challenge["macaroon"], preimage.hex(), challenge["invoice"])

            assert (await stage.chat(token)).status_code == 200
            assert (await stage.chat(credential.header)).status_code == 200
            assert challenge["amount_sats"] >= 333
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 120))
