"""A gateway on a Core Lightning: alone, restarted on either side, with new files, as the spare of an LND."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.gateway.node_stories import comes_from, has, made_by, opened
from tests.stage import MODEL, Stage, run, staged

from arkgate.core.ledger import Cursor
from arkgate.gateway import fund
from arkgate.simulator.cln import SimulatedCln
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store

pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedCln], Awaitable[None]]


@contextlib.asynccontextmanager
async def simulated(directory: Path) -> AsyncIterator[Simulation]:
    async with Simulation.running(
        data_dir=directory / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, clns=("lightning",)
    ) as simulation:
        yield simulation


def play(tmp_path: Path, story: Story) -> None:
    """Runs a story with one Core Lightning and no other node; the books are sound after it."""

    async def played() -> None:
        async with simulated(tmp_path) as simulation:
            (node,) = simulation.clns
            async with staged(tmp_path, simulation=simulation, nodes=[node]) as stage:
                await story(stage, node)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def cursor_of(stage: Stage) -> Cursor:
    async with read_store(stage.settings.store_url) as statements:
        return await statements.cursor("lightning")


def test_a_challenge_and_a_session_are_paid_and_buy_calls(tmp_path: Path) -> None:
    async def story(stage: Stage, node: SimulatedCln) -> None:
        credential = await stage.buy_credential()
        session = await stage.fund_token(500)

        assert made_by(node, credential.invoice)
        assert (await stage.chat(credential.header)).status_code == 200
        assert (await stage.chat(session)).status_code == 200
        assert (await stage.balance(session))["balance_sats"] == 450
        assert await stage.metric("arkgate_payments_total") == 2
        ready = (await stage.http.get("/health/ready")).json()
        assert ready["dependencies"]["node:lightning"]["state"] == "ready"

    play(tmp_path, story)


def test_payments_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    async def story(stage: Stage, node: SimulatedCln) -> None:
        foreign = node.add_foreign_invoice(7_000)
        await stage.simulation.pay(foreign.payment_request)
        node.receive_keysend(9_000, memo="for you")
        token = await stage.fund_token(500)

        assert (await stage.balance(token))["balance_sats"] == 500
        assert await stage.metric("arkgate_payments_total") == 1
        assert (await cursor_of(stage)).settle_index == 3

    play(tmp_path, story)


def test_twice_the_amount_is_credited_as_it_arrived(tmp_path: Path) -> None:
    async def story(stage: Stage, node: SimulatedCln) -> None:
        stage.simulation.payer.habits.overpay_msat = 300_000
        token, invoice = await opened(stage, 300)
        await stage.simulation.pay(invoice)

        await has(stage, token, 600)

    play(tmp_path, story)


def test_what_is_paid_while_the_gateway_is_away_is_told_by_the_cursor(tmp_path: Path) -> None:
    async def played() -> None:
        async with simulated(tmp_path) as simulation:
            (node,) = simulation.clns
            async with staged(tmp_path, simulation=simulation, nodes=[node]) as stage:
                await stage.fund_token(100)
                token, invoice = await opened(stage, 300)
            await simulation.pay(invoice)
            for _ in range(2 * fund.CURSOR_MARGIN):
                await simulation.pay(node.add_foreign_invoice(1_000).payment_request)
            node.habits.failures["ListInvoices"] = grpc.StatusCode.UNAVAILABLE
            async with staged(tmp_path, simulation=simulation, nodes=[node]) as stage:
                await has(stage, token, 300)

                assert await stage.verify() == []
                assert await stage.metric("arkgate_payments_total") == 1

    run(asyncio.wait_for(played(), 60))


def test_what_is_paid_while_the_node_is_away_is_credited_once_when_it_is_back(tmp_path: Path) -> None:
    async def story(stage: Stage, node: SimulatedCln) -> None:
        token, invoice = await opened(stage, 300)
        await node.stop()
        await stage.simulation.pay(invoice)
        refused = await stage.chat()
        assert refused.status_code == 503
        assert refused.json()["code"] == "node_unavailable"
        await node.start()

        await has(stage, token, 300)
        await comes_from(stage, node)
        assert await stage.metric("arkgate_payments_total") == 1

    play(tmp_path, story)


def test_renewed_files_are_taken_up_without_a_restart(tmp_path: Path) -> None:
    async def story(stage: Stage, node: SimulatedCln) -> None:
        await stage.fund_token(100)
        await node.stop()
        node.renew_certificate()
        await node.start()

        await comes_from(stage, node)
        token = await stage.fund_token(200)
        assert (await stage.balance(token))["balance_sats"] == 200

    play(tmp_path, story)


def test_it_stands_in_for_an_lnd_that_is_lost(tmp_path: Path) -> None:
    async def played() -> None:
        async with simulated(tmp_path) as simulation, staged(tmp_path, simulation=simulation) as stage:
            lnd, (lightning,) = simulation.gate, simulation.clns
            by_lnd = await stage.buy_credential()
            await lnd.stop()
            await comes_from(stage, lightning)
            by_lightning = await stage.buy_credential()
            session = await stage.fund_token(500)

            assert made_by(lnd, by_lnd.invoice)
            assert made_by(lightning, by_lightning.invoice)
            assert (await stage.chat(by_lightning.header)).status_code == 200
            assert (await stage.balance(session))["balance_sats"] == 500
            await lnd.start()
            assert (await stage.chat(by_lnd.header)).status_code == 200
            await comes_from(stage, lnd)
            assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))
