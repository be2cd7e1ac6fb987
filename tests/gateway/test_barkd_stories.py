"""A gateway whose only node is a barkd: sessions and calls, its fees in the books, restarts on every side."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.gateway.node_stories import has, opened
from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate.core.invoice import read_bolt11
from arkgate.core.ledger import EXPENSE_ACCOUNT
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store

pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedBarkd], Awaitable[None]]
ONE_CALL_A_CHALLENGE = {"[[services]]": "price_sats = 1000"}


@contextlib.asynccontextmanager
async def simulated(directory: Path) -> AsyncIterator[Simulation]:
    async with Simulation.running(
        data_dir=directory / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, barkds=("ark",)
    ) as simulation:
        yield simulation


def play(tmp_path: Path, story: Story, extra: dict[str, str] | None = None) -> None:
    """Runs a story with one barkd and no other node; the books are sound after it."""

    async def played() -> None:
        async with simulated(tmp_path) as simulation:
            (barkd,) = simulation.barkds
            async with staged(tmp_path, simulation=simulation, nodes=[barkd], extra=extra) as stage:
                await story(stage, barkd)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def totals(stage: Stage) -> dict[str, int]:
    """What each account was credited less what it was debited, in msat."""
    async with read_store(stage.settings.store_url) as statements, statements.snapshot() as snapshot:
        return {
            one.account_id: one.credit_less_debit
            async for batch in snapshot.totals_before(2**62)
            for one in batch
        }


async def silent(barkd: SimulatedBarkd) -> None:
    """Waits until the gateway follows the node."""

    async def so() -> bool:
        return barkd.open_streams > 0

    await eventually(so)


def test_a_session_is_funded_with_what_was_paid_and_the_fee_is_the_operators(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, invoice = await opened(stage, 6_000)
        await stage.simulation.pay(invoice)
        await has(stage, token, 6_000)
        assert (await stage.chat(token)).status_code == 200

        found = await totals(stage)
        assert found[EXPENSE_ACCOUNT] == -112_000
        assert found["asset:node:ark"] == -5_888_000
        assert barkd.wallet.spendable_sats == 5_888

    play(tmp_path, story)


def test_an_l402_call_is_sold_through_barkd_without_a_tag(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        credential = await stage.buy_credential()
        answer = await stage.chat(credential.header)

        assert answer.status_code == 200
        assert read_bolt11(credential.invoice).description == "1 x /api/ai-chat"
        assert (await totals(stage))[EXPENSE_ACCOUNT] == -102_000

    play(tmp_path, story, ONE_CALL_A_CHALLENGE)


def test_a_small_price_makes_a_bundle_that_is_worth_its_fee(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        credential = await stage.buy_credential()
        assert (await stage.chat(credential.header)).status_code == 200

        assert read_bolt11(credential.invoice).description == "20 x /api/ai-chat"
        assert (await stage.balance(credential.header))["balance_sats"] == 950

    play(tmp_path, story)


def test_a_challenges_payment_that_the_stream_tells_first_is_credited_by_its_proof(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        await silent(barkd)
        challenge = (await stage.chat()).json()
        token, invoice = await opened(stage, 2_000)
        paid = await stage.simulation.pay(challenge["invoice"])
        await stage.simulation.pay(invoice)
        await has(stage, token, 2_000)  # told after the challenge's, which nobody's row or tag claimed

        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        assert (await stage.chat(header)).status_code == 200
        assert (await stage.balance(header))["balance_sats"] == 0

    play(tmp_path, story, ONE_CALL_A_CHALLENGE)


def test_a_payment_is_credited_after_barkd_restarted_between_it_and_the_credit(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        await silent(barkd)
        token, invoice = await opened(stage, 6_000)
        paying = asyncio.create_task(stage.simulation.pay(invoice))
        await barkd.stop()
        await asyncio.sleep(0.2)
        await barkd.start()
        await paying

        await has(stage, token, 6_000)

    play(tmp_path, story)


def test_a_payment_whose_notification_a_restart_forgot_is_credited(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        await silent(barkd)
        token, invoice = await opened(stage, 6_000)
        barkd.ark.notifications_lost = True
        await stage.simulation.pay(invoice)
        await barkd.stop()
        await barkd.start()

        await has(stage, token, 6_000)

    play(tmp_path, story)


def test_payments_are_credited_while_barkd_is_blind_after_its_server_restarted(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        await silent(barkd)
        token, invoice = await opened(stage, 6_000)
        challenge = (await stage.chat()).json()
        barkd.stop_server()
        barkd.start_server()
        paid, _ = await asyncio.gather(
            stage.simulation.pay(challenge["invoice"]), stage.simulation.pay(invoice)
        )

        await has(stage, token, 6_000)
        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        assert (await stage.chat(header)).status_code == 200

    play(tmp_path, story)


def test_a_server_that_is_down_makes_no_invoice_and_sells_again_when_it_is_back(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token = await stage.fund_token(6_000)
        barkd.stop_server()
        refused = await stage.chat()
        assert refused.status_code == 503
        assert (await stage.chat(token)).status_code == 200  # who has paid notices nothing
        barkd.start_server()

        async def sells() -> bool:
            return (await stage.chat()).status_code == 402

        await eventually(sells)

    play(tmp_path, story)


def test_what_was_paid_while_the_gateway_was_away_is_credited(tmp_path: Path) -> None:
    async def played() -> None:
        async with simulated(tmp_path) as simulation:
            (barkd,) = simulation.barkds
            async with staged(tmp_path, simulation=simulation, nodes=[barkd]) as stage:
                token, invoice = await opened(stage, 6_000)
                challenge = (await stage.chat()).json()
            await simulation.pay(invoice)
            paid = await simulation.pay(challenge["invoice"])
            async with staged(tmp_path, simulation=simulation, nodes=[barkd]) as stage:
                await has(stage, token, 6_000)
                header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
                assert (await stage.chat(header)).status_code == 200
                assert (await totals(stage))[EXPENSE_ACCOUNT] == -(112_000 + 102_000)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


def test_books_from_before_the_invoice_take_no_session_and_take_the_proof(tmp_path: Path) -> None:
    """What a restored backup does: the keys are the same, and nothing of the invoices is in the books."""

    async def played() -> None:
        restored = tmp_path / "restored"
        restored.mkdir()
        async with simulated(tmp_path) as simulation:
            (barkd,) = simulation.barkds
            async with staged(tmp_path, simulation=simulation, nodes=[barkd]) as stage:
                _, invoice = await opened(stage, 6_000)
                challenge = (await stage.chat()).json()
                keys = stage.settings.keys_file.read_bytes()
            await simulation.pay(invoice)
            paid = await simulation.pay(challenge["invoice"])
            keys_file = restored / "arkgate-keys.json"
            keys_file.touch(mode=0o600)
            keys_file.write_bytes(keys)
            async with staged(restored, simulation=simulation, nodes=[barkd]) as stage:
                header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
                assert (await stage.chat(header)).status_code == 200
                assert sorted(value for value in (await totals(stage)).values() if value > 0) == [
                    50_000,  # what the call earned
                    950_000,  # what is left of the proof's 1,000; nothing of the session's 6,000
                ]

    run(asyncio.wait_for(played(), 60))
