"""A real barkd keeps the adapter's promises, and a gateway on it sells calls and books its fees."""

import asyncio
import secrets
from pathlib import Path

import pytest

from arkgate.core.ledger import Cursor, InvoiceState
from arkgate.core.money import sats
from arkgate.nodes.barkd import BarkdNode
from arkgate.ports import Demands, Invoice, NodeEvent, Verdict
from tests.node.real_barkd import ARK_INSTANT_SATS, RealBarkd, configured
from tests.node.staged_real import staged_with
from tests.stage import Credential, Stage, eventually, run

pytestmark = pytest.mark.node
STREAM_SECONDS = 30.0


@pytest.fixture(scope="module")
def real() -> RealBarkd:
    found = configured()
    if isinstance(found, str):
        pytest.skip(found)
    return found


async def invoice_of(node: BarkdNode) -> Invoice:
    return await node.create_invoice(sats(6_000), preimage=None, memo="a call", expiry_seconds=600)


async def event_of(node: BarkdNode, payment_hash: bytes) -> NodeEvent:
    async for event in node.events(Cursor()):
        if event.settlement is not None and event.settlement.payment_hash == payment_hash:
            return event
    raise AssertionError("the events ended")


def test_a_payment_is_told_found_and_listed_with_its_fee(real: RealBarkd) -> None:
    async def story() -> None:
        node = real.adapter()
        invoice, unpaid = await invoice_of(node), await invoice_of(node)
        before = await node.holdings()
        telling = asyncio.create_task(event_of(node, invoice.payment_hash))
        await real.pay(invoice.payment_request)
        event = await asyncio.wait_for(telling, STREAM_SECONDS)
        status = await node.look_up(invoice.payment_hash)
        listed = [one.reference async for one in node.settled_since(invoice.created_at_ms - 60_000)]
        after = await node.holdings()

        assert event.settlement is not None
        assert (event.settlement.amount_paid, event.settlement.memo) == (6_000_000, "a call")
        assert status is not None
        assert status.settlement == event.settlement
        assert invoice.payment_hash.hex() in listed
        assert unpaid.payment_hash.hex() not in listed
        open_one = await node.look_up(unpaid.payment_hash)
        assert open_one is not None
        assert open_one.state is InvoiceState.OPEN
        assert await node.look_up(secrets.token_bytes(32)) is None
        assert before is not None
        assert after is not None
        assert after.total - before.total == 6_000_000 - event.settlement.fee
        await node.close()

    run(asyncio.wait_for(story(), 120))


def test_no_line_of_the_check_up_fails(real: RealBarkd) -> None:
    async def story() -> None:
        node = real.adapter()
        demands = Demands(challenge=sats(1_000), largest=sats(10_000), smallest=sats(1_000))
        lines = [line async for line in node.checkup(demands)]
        await node.close()

        troubles = {line.name for line in lines if line.verdict is not Verdict.OK}
        assert troubles == {"receiving capacity"}

    run(asyncio.wait_for(story(), 60))


def test_a_challenge_and_a_session_are_paid_and_buy_calls(tmp_path: Path, real: RealBarkd) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            credential = await stage.buy_credential()
            token = await stage.fund_token(6_000)

            assert (await stage.chat(credential.header)).status_code == 200
            assert (await stage.chat(token)).status_code == 200
            assert (await stage.balance(token))["balance_sats"] == 5_950
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 120))


def test_a_session_is_paid_over_ark_and_a_coin_is_credited_once(tmp_path: Path, real: RealBarkd) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            token, funding = await session_of(stage)
            await real.run("PAY_ARK", funding["ark_address"], "6000")
            await has(stage, token, 6_000)
            await real.run("PAY_ARK", funding["ark_address"], "500")
            await has(stage, token, 6_500)

            assert (await stage.chat(token)).status_code == 200
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 120))


def test_a_large_ark_payment_is_credited_when_a_round_has_made_it_final(
    tmp_path: Path, real: RealBarkd
) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            token, funding = await session_of(stage)
            await real.run("PAY_ARK", funding["ark_address"], str(ARK_INSTANT_SATS + 1_000))

            async def waits() -> bool:
                status = (await stage.http.get(f"/v1/sessions/{funding['session_id']}")).json()
                return bool(status["status"] == "awaiting_finality")

            await eventually(waits, 60)
            assert (await stage.balance(token))["balance_sats"] == 0

            async def final() -> bool:
                await real.run("MINE")
                await asyncio.sleep(1)
                return bool((await stage.balance(token))["balance_sats"] == ARK_INSTANT_SATS + 1_000)

            await eventually(final, 240)
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 360))


@pytest.mark.parametrize("way", ["ark", "lightning"])
@pytest.mark.parametrize("with_server", [False, True])
def test_what_was_paid_while_barkd_was_down_is_credited(
    tmp_path: Path, real: RealBarkd, way: str, with_server: bool
) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            token, funding = await session_of(stage)
            await real.run("STOP")
            if way == "ark":
                await real.run("PAY_ARK", funding["ark_address"], "6000")
                paying = None
            else:
                paying = asyncio.create_task(real.pay(funding["lightning_invoice"]))
                await asyncio.sleep(3)
            if with_server:
                await real.run("RESTART_SERVER")
            await real.run("START")

            await has(stage, token, 6_000)
            if paying is not None:
                await paying
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 300))


def test_what_is_paid_after_its_server_restarted_is_credited_soon(tmp_path: Path, real: RealBarkd) -> None:
    async def story() -> None:
        async with staged_with(real, tmp_path) as stage:
            challenge = (await stage.chat()).json()
            token, funding = await session_of(stage)
            await real.run("RESTART_SERVER")
            await sells(stage)
            paid = await real.pay(challenge["invoice"])
            await real.pay(funding["lightning_invoice"])

            await has(stage, token, 6_000)  # by itself barkd would not know for two minutes
            credential = Credential(challenge["macaroon"], paid.hex(), challenge["invoice"])
            assert (await stage.chat(credential.header)).status_code == 200
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 300))


async def session_of(stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """A new session's token as a header, and where it may be paid, with its id."""
    answer = await stage.http.post("/v1/sessions", json={"amount_sats": 6_000})
    assert answer.status_code == 201, answer.text
    opened = answer.json()
    funding = opened["funding"] | {"session_id": opened["session_id"]}
    return {"Authorization": f"Bearer {opened['token']}"}, funding


async def has(stage: Stage, token: dict[str, str], balance_sats: int) -> None:
    async def so() -> bool:
        return bool((await stage.balance(token))["balance_sats"] == balance_sats)

    await eventually(so, 90)


async def sells(stage: Stage) -> None:
    async def so() -> bool:
        return (await stage.chat()).status_code == 402

    await eventually(so, 120)
