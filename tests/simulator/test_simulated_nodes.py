"""A simulated LND's doors: macaroons, states, ports, slow and failing calls."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from arkgate._proto.lnd import lightning_pb2, stateservice_pb2, verrpc_pb2
from arkgate.simulator.habits import NodeState
from arkgate.simulator.serving import PortTaken
from arkgate.simulator.simulation import Simulation
from tests.simulator.simulated import Client, client_of, refusal, run

UNKNOWN = grpc.StatusCode.UNKNOWN


def _information(
    client: Client,
) -> grpc.aio.UnaryUnaryCall[lightning_pb2.GetInfoRequest, lightning_pb2.GetInfoResponse]:
    return client.lightning.GetInfo(lightning_pb2.GetInfoRequest(), metadata=client.metadata)


def test_the_invoice_macaroon_makes_invoices_but_reads_no_info(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        invoices = simulation.gate.credentials.invoice_macaroon.read_bytes()
        readonly = simulation.gate.credentials.readonly_macaroon.read_bytes()
        async with client_of(simulation.gate, invoices) as client:
            added = await client.add()
            assert (await client.look_up(added.r_hash)).r_hash == added.r_hash
            assert await refusal(_information(client)) == (UNKNOWN, "permission denied")
        async with client_of(simulation.gate, readonly) as client:
            assert (await _information(client)).chains[0].network == "regtest"
            assert await refusal(client.add()) == (UNKNOWN, "permission denied")

    run(tmp_path, story)


def test_a_foreign_or_missing_macaroon_is_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        foreign = simulation.payer.credentials.admin_macaroon.read_bytes()
        async with client_of(simulation.gate, foreign) as client:
            assert (await refusal(client.add()))[1].startswith("verification failed")
        async with client_of(simulation.gate, b"nonsense") as client:
            assert (await refusal(client.add()))[0] is UNKNOWN
        gate.metadata = ()  # type: ignore[assignment]
        assert await refusal(gate.add()) == (UNKNOWN, "expected 1 macaroon, got 0")

    run(tmp_path, story)


def test_a_baked_macaroon_allows_what_it_says(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        baked = simulation.gate.bake("invoices:read", "invoices:write", "info:read")
        async with client_of(simulation.gate, baked) as client:
            await client.add()
            assert (await _information(client)).synced_to_chain

    run(tmp_path, story)


def test_a_macaroon_whose_root_key_was_deleted_is_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        baked = simulation.gate.bake("invoices:write", root_key_id="7")
        async with client_of(simulation.gate, baked) as client:
            await client.add()
            del simulation.gate.root_keys["7"]
            assert await refusal(client.add()) == (
                UNKNOWN,
                "cannot retrieve macaroon: cannot get macaroon: root key with id 7 doesn't exist",
            )
        await gate.add()

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("state", "told", "text"),
    [
        (NodeState.LOCKED, stateservice_pb2.LOCKED, "wallet locked, unlock it to enable full RPC access"),
        (
            NodeState.STARTING,
            stateservice_pb2.UNLOCKED,
            "the RPC server is in the process of starting up, but not yet ready to accept calls",
        ),
        (
            NodeState.WAITING,
            stateservice_pb2.WAITING_TO_START,
            "waiting to start, RPC services not available",
        ),
    ],
)
def test_a_node_that_is_not_ready_says_so_without_a_macaroon(
    tmp_path: Path, state: NodeState, told: int, text: str
) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.state = state

        assert await refusal(gate.add()) == (UNKNOWN, text)
        assert (await gate.state.GetState(stateservice_pb2.GetStateRequest())).state == told

    run(tmp_path, story)


def test_the_state_is_followed_until_the_node_is_ready(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.state = NodeState.LOCKED
        stream = gate.state.SubscribeState(stateservice_pb2.SubscribeStateRequest())
        first = await stream.read()
        simulation.gate.habits.state = NodeState.ACTIVE
        second = await stream.read()

        assert isinstance(first, stateservice_pb2.SubscribeStateResponse)
        assert isinstance(second, stateservice_pb2.SubscribeStateResponse)
        assert (first.state, second.state) == (stateservice_pb2.LOCKED, stateservice_pb2.SERVER_ACTIVE)

    run(tmp_path, story)


def test_a_node_may_be_behind_the_chain(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.synced = False

        assert not (await _information(gate)).synced_to_chain

    run(tmp_path, story)


def test_the_version_has_the_parts_that_payers_libraries_ask_for(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        version = await gate.versioner.GetVersion(verrpc_pb2.VersionRequest(), metadata=gate.metadata)

        assert (version.app_major, version.app_minor) >= (0, 19)
        assert {"signrpc", "walletrpc", "chainrpc", "invoicesrpc"} <= set(version.build_tags)

    run(tmp_path, story)


def test_calls_can_be_slow_fail_or_lose_their_answers(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.delays_seconds["AddInvoice"] = 0.1
        begun = time.monotonic()
        await gate.add()
        assert time.monotonic() - begun >= 0.1
        simulation.gate.habits.failures["*"] = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await refusal(gate.add()))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        simulation.gate.habits.failures.clear()
        simulation.gate.habits.lost_answers.add("AddInvoice")
        assert (await refusal(gate.add()))[0] == grpc.StatusCode.UNAVAILABLE
        assert len((await gate.list_invoices()).invoices) == 2

    run(tmp_path, story)


@pytest.mark.parametrize("name", ["gate_port", "payer_port", "payer_rest_port", "chat_port"])
def test_a_taken_port_is_named(tmp_path: Path, name: str) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        taken = simulation.gate.port
        with pytest.raises(PortTaken, match=f"port {taken}, which is for the simulated"):
            async with Simulation.running(data_dir=tmp_path / "other", **{name: taken}):  # type: ignore[arg-type]
                await asyncio.sleep(0)

    run(tmp_path, story)


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        found = simulation.gate.credentials
        for path in (found.tls_key, found.admin_macaroon, found.invoice_macaroon):
            assert path.stat().st_mode & 0o077 == 0

    run(tmp_path, story)
