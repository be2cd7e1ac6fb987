"""A real Core Lightning keeps the adapter's promises, and a gateway on it sells calls."""

import asyncio
import secrets
import subprocess
import time
from pathlib import Path

import pytest

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState
from arkgate.core.money import sats
from arkgate.nodes.cln import ClnNode
from arkgate.nodes.invoices import MEMO_BYTES_MAX
from arkgate.ports import Demands, Invoice, NodeEvent, Verdict
from tests.node.real_cln import RESTART, RealCln, configured
from tests.node.staged_real import staged_with
from tests.stage import Credential, eventually, run

pytestmark = pytest.mark.node
STREAM_SECONDS = 30.0


@pytest.fixture(scope="module")
def real() -> RealCln:
    found = configured()
    if isinstance(found, str):
        pytest.skip(found)
    return found


async def invoice_of(node: ClnNode, preimage: bytes = b"", memo: str = "a call") -> Invoice:
    return await node.create_invoice(
        sats(50), preimage=preimage or secrets.token_bytes(32), memo=memo, expiry_seconds=600
    )


async def event_of(node: ClnNode, since: Cursor, payment_hash: bytes) -> NodeEvent:
    async for event in node.events(since):
        if event.settlement is not None and event.settlement.payment_hash == payment_hash:
            return event
    raise AssertionError("the events ended")


def test_a_payment_is_told_found_and_listed(real: RealCln) -> None:
    async def story() -> None:
        node = real.adapter()
        memo = "ä" * MEMO_BYTES_MAX + "[the tag]"
        invoice, unpaid = await invoice_of(node, memo=memo), await invoice_of(node)
        telling = asyncio.create_task(event_of(node, Cursor(), invoice.payment_hash))
        await real.pay(invoice.payment_request)
        event = await asyncio.wait_for(telling, STREAM_SECONDS)
        again = await event_of(node, Cursor(0, event.cursor.settle_index - 1), invoice.payment_hash)
        status = await node.look_up(invoice.payment_hash)
        listed = [one.payment_hash async for one in node.settled_since(invoice.created_at_ms)]

        assert event.settlement is not None
        assert event.settlement.amount_paid == 50_000
        assert event.settlement.memo.endswith("ä[the tag]")
        assert again == event
        assert status is not None
        assert status.settlement == event.settlement
        assert listed == [invoice.payment_hash]
        open_one = await node.look_up(unpaid.payment_hash)
        assert open_one is not None
        assert open_one.state is InvoiceState.OPEN
        assert await node.look_up(secrets.token_bytes(32)) is None
        assert [one async for one in node.settled_since((int(time.time()) + 60) * 1000)] == []
        holdings = await node.holdings()
        assert holdings is not None
        assert holdings.channels > 0
        await node.close()

    run(asyncio.wait_for(story(), 120))


def test_a_second_invoice_of_the_same_preimage_is_refused_in_its_words(real: RealCln) -> None:
    async def story() -> None:
        node = real.adapter()
        preimage = secrets.token_bytes(32)
        await invoice_of(node, preimage)
        with pytest.raises(NodeUnavailable, match=r"preimage already used \(error 901\)"):
            await invoice_of(node, preimage)
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_an_expired_invoice_is_over(real: RealCln) -> None:
    async def story() -> None:
        node = real.adapter()
        invoice = await node.create_invoice(
            sats(50), preimage=secrets.token_bytes(32), memo="a call", expiry_seconds=1
        )

        async def over() -> bool:
            status = await node.look_up(invoice.payment_hash)
            return status is not None and status.state is InvoiceState.CANCELLED

        await eventually(over, 30)
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_every_line_of_the_check_up_is_ok(real: RealCln) -> None:
    async def story() -> None:
        node = real.adapter()
        lines = [line async for line in node.checkup(Demands(challenge=sats(50), largest=sats(1000)))]
        await node.close()

        troubles = {line.name for line in lines if line.verdict is not Verdict.OK}
        assert troubles <= {"spending"}  # behind a fence it is ok, too

    run(asyncio.wait_for(story(), 60))


def test_a_challenge_and_a_session_are_paid_and_buy_calls(tmp_path: Path, real: RealCln) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            credential = await stage.buy_credential()
            token = await stage.fund_token(500)

            assert (await stage.chat(credential.header)).status_code == 200
            assert (await stage.chat(token)).status_code == 200
            assert (await stage.balance(token))["balance_sats"] == 450
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 120))


def test_a_restart_of_the_node_between_invoice_and_call_loses_nothing(tmp_path: Path, real: RealCln) -> None:
    if real.restart_command is None:
        pytest.skip(f"{RESTART} is not set")

    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            challenge = (await stage.chat()).json()
            session = (await stage.http.post("/v1/sessions", json={"amount_sats": 300})).json()
            await real.restart()

            async def reconnected() -> bool:
                return (await stage.chat()).status_code == 402

            await eventually(reconnected, 60)
            paid = await paid_once_connected(real, challenge["invoice"])
            await real.pay(session["funding"]["lightning_invoice"])
            token = {"Authorization": f"Bearer {session['token']}"}

            async def active() -> bool:
                return bool((await stage.balance(token))["balance_sats"] == 300)

            await eventually(active, 60)
            credential = Credential(challenge["macaroon"], paid.hex(), challenge["invoice"])
            assert (await stage.chat(credential.header)).status_code == 200
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 240))


async def paid_once_connected(real: RealCln, invoice: str) -> bytes:
    """Pays when the payer has found the restarted node again."""
    found: list[bytes] = []

    async def paid() -> bool:
        try:
            found.append(await real.pay(invoice))
        except (subprocess.SubprocessError, KeyError):  # there is no route yet
            await asyncio.sleep(1)
        return bool(found)

    await eventually(paid, 90)
    return found[0]
