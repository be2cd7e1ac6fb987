"""Several nodes: the first that can makes the invoices, each answers for its own, none is missed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from tests.gateway.node_stories import comes_from, made_by
from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate.core.errors import StoreUnavailable
from arkgate.gateway import desk
from arkgate.simulator.habits import NodeState
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.simulation import Simulation

QUICK_SECONDS = 1.0
"""Far below the time that a node which does not answer is waited for."""
PATIENCE_SECONDS = 2.0
HANGS_SECONDS = 600.0
pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedNode, SimulatedNode], Awaitable[None]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PATIENCE_SECONDS", PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def two_gates(directory: Path) -> AsyncIterator[Simulation]:
    async with Simulation.running(
        data_dir=directory / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, spares=("spare",)
    ) as simulation:
        yield simulation


def play(tmp_path: Path, story: Story) -> None:
    """Runs a story with two nodes of the gateway's owner, and looks whether the books are sound after it."""

    async def played() -> None:
        async with two_gates(tmp_path) as simulation, staged(tmp_path, simulation=simulation) as stage:
            await story(stage, simulation.gate, simulation.spares[0])
            assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def challenged(stage: Stage) -> tuple[str, float]:
    """An unpaid call's invoice, and the seconds that the 402 took."""
    began = time.monotonic()
    answer = await stage.chat()
    assert answer.status_code == 402, answer.text
    return answer.json()["invoice"], time.monotonic() - began


async def states(stage: Stage) -> tuple[int, dict[str, str]]:
    answer = await stage.http.get("/health/ready")
    named = answer.json()["dependencies"]
    return answer.status_code, {name: named[name]["state"] for name in ("node:gate", "node:spare")}


def test_the_first_node_makes_the_invoices_and_each_settles_its_own(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        by_first = await stage.buy_credential()
        await first.stop()
        await comes_from(stage, second)
        by_second = await stage.buy_credential()
        session = await stage.fund_token(500)

        assert made_by(first, by_first.invoice)
        assert made_by(second, by_second.invoice)
        assert (await stage.chat(by_second.header)).status_code == 200
        assert (await stage.balance(session))["balance_sats"] == 500
        await first.start()
        assert (await stage.chat(by_first.header)).status_code == 200
        assert await stage.metric("arkgate_payments_total") == 3

    play(tmp_path, story)


def test_a_node_that_is_lost_costs_no_402_and_takes_over_again(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        await first.stop()
        for _ in range(20):
            invoice, seconds = await challenged(stage)
            assert made_by(second, invoice)
            assert seconds < QUICK_SECONDS
        await first.start()
        await comes_from(stage, first)

    play(tmp_path, story)


def test_a_node_that_does_not_answer_costs_one_slow_402(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        first.habits.delays_seconds["*"] = HANGS_SECONDS
        began = time.monotonic()
        together = await asyncio.gather(*(challenged(stage) for _ in range(20)))
        assert time.monotonic() - began < PATIENCE_SECONDS + QUICK_SECONDS
        later = [await challenged(stage) for _ in range(20)]

        assert all(made_by(second, invoice) for invoice, _ in [*together, *later])
        assert max(seconds for _, seconds in later) < QUICK_SECONDS
        first.habits.delays_seconds.clear()
        await comes_from(stage, first)

    play(tmp_path, story)


@pytest.mark.parametrize("state", [NodeState.LOCKED, NodeState.STARTING, NodeState.WAITING])
def test_a_node_that_has_not_started_makes_no_invoices(tmp_path: Path, state: NodeState) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        first.habits.state = state
        await comes_from(stage, second)
        first.habits.state = NodeState.ACTIVE
        await comes_from(stage, first)

    play(tmp_path, story)


def test_a_node_that_lags_behind_the_chain_makes_invoices_where_no_other_does(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        for node in (first, second):
            info = node.credentials.invoice_macaroon
            info.write_bytes(node.bake("invoices:read", "invoices:write", "info:read"))
        await first.stop()
        await first.start()  # a new channel reads the macaroon again
        first.habits.synced = False
        await comes_from(stage, second)
        await second.stop()
        together = await asyncio.gather(*(challenged(stage) for _ in range(10)))
        assert all(made_by(first, invoice) for invoice, _ in together)
        await second.start()
        await comes_from(stage, second)
        first.habits.synced = True
        await comes_from(stage, first)

    play(tmp_path, story)


def test_one_node_is_enough_to_be_ready_and_none_is_not(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        assert await states(stage) == (200, {"node:gate": "ready", "node:spare": "ready"})
        await first.stop()

        async def told(status: int, gate: str, spare: str) -> None:
            async def so() -> bool:
                return await states(stage) == (status, {"node:gate": gate, "node:spare": spare})

            await eventually(so)

        await told(200, "unreachable", "ready")
        await second.stop()
        await told(503, "unreachable", "unreachable")
        answer = await stage.chat()
        assert answer.status_code == 503
        assert answer.json()["code"] == "node_unavailable"
        assert int(answer.headers["retry-after"]) > 0
        await second.start()
        await comes_from(stage, second)

    play(tmp_path, story)


def test_what_was_paid_to_a_node_that_is_lost_is_credited_once_when_it_is_back(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 300})).json()
        token = {"Authorization": f"Bearer {opened['token']}"}
        await first.stop()
        await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        other = await stage.fund_token(500)
        assert (await stage.balance(token))["status"] == "awaiting_payment"
        assert (await stage.chat(other)).status_code == 200

        await first.start()

        async def active() -> bool:
            return bool((await stage.balance(token))["balance_sats"] == 300)

        await eventually(active)
        assert await stage.metric("arkgate_payments_total") == 2

    play(tmp_path, story)


def test_a_node_that_does_not_answer_look_ups_keeps_no_other_nodes_payers_waiting(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        for _ in range(4):
            waiting = await stage.http.post("/v1/sessions", json={"amount_sats": 300})
            assert waiting.status_code == 201
        first.habits.delays_seconds["*"] = HANGS_SECONDS
        second.habits.streams_silent = True
        await comes_from(stage, second)
        began = time.monotonic()

        await stage.fund_token(500)

        assert (
            time.monotonic() - began < 10
        )  # the other one's look-ups take five seconds each, three in a row

    play(tmp_path, story)


def test_a_proof_for_a_node_that_is_lost_is_put_off_and_then_counts(tmp_path: Path) -> None:
    async def story(stage: Stage, first: SimulatedNode, second: SimulatedNode) -> None:
        first.habits.settlements_hidden = True
        challenge = (await stage.chat()).json()
        await first.stop()
        paid = await stage.simulation.pay(challenge["invoice"])
        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        meanwhile = await stage.chat(header)
        assert meanwhile.status_code == 503
        assert int(meanwhile.headers["retry-after"]) > 0

        await first.start()

        async def answered() -> bool:
            return (await stage.chat(header)).status_code == 200

        await eventually(answered)

    play(tmp_path, story)


def test_an_amount_that_only_the_second_node_takes_is_its(tmp_path: Path) -> None:
    async def played() -> None:
        async with (
            two_gates(tmp_path) as simulation,
            staged(tmp_path, simulation=simulation, extra={"[[nodes]]": "maximum_sats = 1000"}) as stage,
        ):
            invoices = []
            for amount in (1000, 1001):
                session = await stage.http.post("/v1/sessions", json={"amount_sats": amount})
                invoices.append(session.json()["funding"]["lightning_invoice"])
            assert made_by(simulation.gate, invoices[0])
            assert made_by(simulation.spares[0], invoices[1])

    run(asyncio.wait_for(played(), 60))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("number = 9", "gate has number 9, and these books know gate under number 0"),
        ('name = "other"', "other has number 0, and these books know gate under that number"),
    ],
    ids=["another number", "another name"],
)
def test_books_refuse_a_node_under_another_ones_number(tmp_path: Path, lines: str, sentence: str) -> None:
    async def played() -> None:
        async with two_gates(tmp_path) as simulation:
            async with staged(tmp_path, simulation=simulation):
                pass
            with pytest.raises(StoreUnavailable, match=sentence):
                async with staged(tmp_path, simulation=simulation, extra={"[[nodes]]": lines}):
                    pass
            async with staged(tmp_path, simulation=simulation) as stage:
                assert isinstance(await stage.chat(), httpx.Response)

    run(asyncio.wait_for(played(), 60))
