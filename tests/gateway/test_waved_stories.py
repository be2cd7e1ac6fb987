"""A gateway whose only node is a waved: swaps and credits, restarts, an operator that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.gateway.node_stories import has, opened
from tests.stage import MODEL, Credential, Stage, eventually, run, staged

from arkgate._proto.waved import daemon_pb2
from arkgate.core.invoice import read_bolt11
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.waved import SimulatedWaved

pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedWaved], Awaitable[None]]
SMALL, LARGE = 500, 5_000


def play(tmp_path: Path, story: Story) -> None:
    """Runs a story with one waved and no other node; the books are sound after it."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, waveds=("wave",)
        ) as simulation:
            (daemon,) = simulation.waveds
            async with staged(tmp_path, simulation=simulation, nodes=[daemon]) as stage:
                await story(stage, daemon)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


def is_credit(daemon: SimulatedWaved, invoice: str) -> bool:
    return daemon.operation_of(read_bolt11(invoice).payment_hash) is not None


def test_a_call_for_50_sats_is_paid_as_a_credit_and_sessions_either_way(tmp_path: Path) -> None:
    async def story(stage: Stage, daemon: SimulatedWaved) -> None:
        challenge = (await stage.chat()).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        credential = Credential(challenge["macaroon"], paid.preimage.hex(), challenge["invoice"])
        small, small_invoice = await opened(stage, SMALL)
        large, large_invoice = await opened(stage, LARGE)
        for invoice in (small_invoice, large_invoice):
            await stage.simulation.pay(invoice)

        await has(stage, small, SMALL)
        await has(stage, large, LARGE)
        assert [is_credit(daemon, one) for one in (challenge["invoice"], small_invoice, large_invoice)] == [
            True,
            True,
            False,
        ]
        assert (await stage.chat(credential.header)).status_code == 200
        assert (await stage.chat(large)).status_code == 200

    play(tmp_path, story)


@pytest.mark.parametrize("silent", [False, True])
def test_restarts_between_invoice_and_payment_lose_nothing(tmp_path: Path, silent: bool) -> None:
    async def story(stage: Stage, daemon: SimulatedWaved) -> None:
        small, small_invoice = await opened(stage, SMALL)
        large, large_invoice = await opened(stage, LARGE)
        daemon.habits.streams_silent = silent
        await daemon.stop()
        await stage.simulation.pay(small_invoice)
        daemon.wallet_state = daemon_pb2.WALLET_STATE_LOCKED
        await daemon.start()
        await sells(stage, status=503)
        daemon.wallet_state = daemon_pb2.WALLET_STATE_READY
        daemon.catch_up()

        await sells(stage, status=402)
        await stage.simulation.pay(large_invoice)
        await has(stage, small, SMALL)
        await has(stage, large, LARGE)

    play(tmp_path, story)


def test_an_operator_that_is_away_costs_no_call_of_whoever_has_a_balance(tmp_path: Path) -> None:
    async def story(stage: Stage, daemon: SimulatedWaved) -> None:
        token, invoice = await opened(stage, LARGE)
        await stage.simulation.pay(invoice)
        await has(stage, token, LARGE)
        daemon.operator_up = False
        daemon.credit_patience_seconds = 0.1

        assert (await stage.chat()).status_code == 503
        assert (await stage.chat(token)).status_code == 200
        daemon.operator_up = True
        await sells(stage, status=402)

    play(tmp_path, story)


async def sells(stage: Stage, *, status: int) -> None:
    async def so() -> bool:
        return (await stage.chat()).status_code == status

    await eventually(so)
