"""A gateway whose only node is a Fulmine: calls and sessions, its Boltz' fees in the books, restarts."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.gateway.node_stories import has, opened
from tests.stage import MODEL, Credential, Stage, eventually, run, staged

from arkgate.core.invoice import read_bolt11
from arkgate.core.ledger import EXPENSE_ACCOUNT
from arkgate.core.money import sats
from arkgate.simulator.fulmine import SimulatedFulmine, Wallet
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store

pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedFulmine], Awaitable[None]]


def play(tmp_path: Path, story: Story) -> None:
    """Runs a story with one Fulmine and no other node; the books are sound after it."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulator",
            chat_models=(MODEL,),
            settle_delay_seconds=0.01,
            fulmines=("bolt",),
        ) as simulation:
            (daemon,) = simulation.fulmines
            async with staged(tmp_path, simulation=simulation, nodes=[daemon]) as stage:
                await story(stage, daemon)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def expense(stage: Stage) -> int:
    """What the books have as fees, in msat."""
    async with read_store(stage.settings.store_url) as statements, statements.snapshot() as snapshot:
        totals = {
            one.account_id: one.credit_less_debit
            async for batch in snapshot.totals_before(2**62)
            for one in batch
        }
    return -totals.get(EXPENSE_ACCOUNT, 0)


def test_a_challenge_sells_as_many_calls_as_boltz_least_pays_for_and_its_fee_is_an_expense(
    tmp_path: Path,
) -> None:
    async def story(stage: Stage, daemon: SimulatedFulmine) -> None:
        challenge = (await stage.chat()).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        credential = Credential(challenge["macaroon"], paid.preimage.hex(), challenge["invoice"])
        answer = await stage.chat(credential.header)
        token, invoice = await opened(stage, 5_000)
        await stage.simulation.pay(invoice)
        await has(stage, token, 5_000)

        assert read_bolt11(challenge["invoice"]).amount == sats(350)
        assert (answer.status_code, answer.json()["balance_remaining"]) == (200, 300)
        assert await expense(stage) == sats(daemon.boltz.keeps(350) + daemon.boltz.keeps(5_000))

    play(tmp_path, story)


def test_a_restart_of_fulmine_costs_open_invoices_and_no_payment(tmp_path: Path) -> None:
    async def story(stage: Stage, daemon: SimulatedFulmine) -> None:
        token, invoice = await opened(stage, 5_000)
        daemon.indexer_behind = True
        await stage.simulation.pay(invoice)
        await daemon.stop()
        daemon.wallet = Wallet.LOCKED
        await daemon.start()
        await sells(stage, status=503)
        daemon.wallet, daemon.indexer_behind = Wallet.OPEN, False

        await has(stage, token, 5_000)
        await sells(stage, status=402)

    play(tmp_path, story)


def test_without_boltz_nothing_is_sold_to_new_payers_and_balances_go_on(tmp_path: Path) -> None:
    async def story(stage: Stage, daemon: SimulatedFulmine) -> None:
        token, invoice = await opened(stage, 5_000)
        await stage.simulation.pay(invoice)
        await has(stage, token, 5_000)
        daemon.boltz.up = False
        await sells(stage, status=503, patience_seconds=40)

        assert (await stage.chat(token)).status_code == 200
        assert not daemon.is_dead

    play(tmp_path, story)


async def sells(stage: Stage, *, status: int, patience_seconds: float = 10) -> None:
    async def so() -> bool:
        return (await stage.chat()).status_code == status

    await eventually(so, patience_seconds)
