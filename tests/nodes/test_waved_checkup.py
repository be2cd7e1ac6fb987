"""What a waved's check-up says when one thing after the other is wrong with it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.lines import troubles
from tests.stage import eventually, run

from arkgate._proto.waved import daemon_pb2
from arkgate.core.money import sats
from arkgate.nodes.channel import NodeCredentials
from arkgate.nodes.waved import WavedNode
from arkgate.ports import Check, Demands, Verdict
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.waved import SimulatedWaved
from arkgate.store.clock import SystemClock

DEMANDS = Demands(challenge=sats(1_000), largest=sats(1_000_000), smallest=sats(1_000))
NEEDS_THE_ABOVE = "everything else"
ALWAYS = {"macaroon": Verdict.WARNING}
"""waved has no macaroon that only receives."""
Break = Callable[[SimulatedWaved], Awaitable[None] | None]


def examined(
    tmp_path: Path,
    broken: Break | None = None,
    *,
    demands: Demands = DEMANDS,
    network: str = "regtest",
    macaroon: Path | None = None,
) -> dict[str, Check]:
    """The lines by name, of a node that something was done to."""

    async def story() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "simulation", waveds=("wave",)) as simulation:
            (daemon,) = simulation.waveds
            daemon.credit_patience_seconds = 0.1
            if broken is not None:
                done = broken(daemon)
                if done is not None:
                    await done
            files = daemon.credentials
            found = NodeCredentials(daemon.address, files.tls_cert, macaroon or files.admin_macaroon)
            node = WavedNode("wave", 7, found, SystemClock(), network=network)
            try:
                lines = {check.name: check async for check in node.checkup(demands)}
            finally:
                await node.close()
            assert len(daemon.peer.invoices) <= 1
            await eventually(lambda: nobody_follows(daemon))
            return lines

    return run(asyncio.wait_for(story(), 60))


async def nobody_follows(daemon: SimulatedWaved) -> bool:
    return daemon.open_streams == 0


def test_a_healthy_one_passes_every_line_but_for_what_its_macaroon_may(tmp_path: Path) -> None:
    lines = examined(tmp_path)

    assert troubles(lines) == ALWAYS
    assert list(lines) == [
        "address",
        "TLS certificate",
        "version",
        "wallet",
        "network",
        "macaroon",
        "Ark operator",
        "amounts",
        "an invoice",
        "clock",
        "stream of payments",
    ]
    assert "onchain:write" in lines["macaroon"].seen
    assert "docs/nodes/waved.md" in lines["macaroon"].remedy
    assert lines["amounts"].seen == "The operator takes 1000 sats and more, without a limit."


def test_a_macaroon_that_only_watches_makes_no_invoices(tmp_path: Path) -> None:
    watching = tmp_path / "watching.macaroon"

    def broken(daemon: SimulatedWaved) -> None:
        watching.write_bytes(daemon.credentials.readonly_macaroon.read_bytes())

    lines = examined(tmp_path, broken, macaroon=watching)

    assert lines["macaroon"].verdict is Verdict.FAILURE
    assert "admin.macaroon" in lines["macaroon"].remedy
    assert lines[NEEDS_THE_ABOVE].verdict is Verdict.NOT_CHECKED


def test_a_macaroon_of_another_waved_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.macaroon"
    foreign.write_bytes(b"no macaroon at all")

    lines = examined(tmp_path, macaroon=foreign)

    assert lines["macaroon"].verdict is Verdict.FAILURE
    assert list(lines)[-1] == NEEDS_THE_ABOVE


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (daemon_pb2.WALLET_STATE_NONE, "wavecli create"),
        (daemon_pb2.WALLET_STATE_LOCKED, "wavecli unlock"),
        (daemon_pb2.WALLET_STATE_SYNCING, "Wait"),
    ],
)
def test_a_wallet_that_is_not_open_fails_with_what_to_do(
    tmp_path: Path, state: daemon_pb2.WalletState.ValueType, remedy: str
) -> None:
    def broken(daemon: SimulatedWaved) -> None:
        daemon.wallet_state = state

    lines = examined(tmp_path, broken)

    assert lines["wallet"].verdict is Verdict.FAILURE
    assert remedy in lines["wallet"].remedy
    assert list(lines)[-1] == NEEDS_THE_ABOVE


def test_an_operator_that_is_away_fails_whether_or_not_waved_has_noticed(tmp_path: Path) -> None:
    def noticed(daemon: SimulatedWaved) -> None:
        daemon.operator_up = False

    def unnoticed(daemon: SimulatedWaved) -> None:
        daemon.operator_up, daemon.believes_connected = False, True

    assert examined(tmp_path / "noticed", noticed)["Ark operator"].verdict is Verdict.FAILURE
    lines = examined(tmp_path / "unnoticed", unnoticed)
    assert lines["Ark operator"].verdict is Verdict.OK
    assert lines["an invoice"].verdict is Verdict.FAILURE
    assert "connection refused" in lines["an invoice"].seen


def test_amounts_below_the_operators_floor_are_said_to_be_credits(tmp_path: Path) -> None:
    lines = examined(tmp_path, demands=Demands(challenge=sats(50), largest=sats(1_000), smallest=sats(100)))

    assert troubles(lines) == ALWAYS | {"amounts": Verdict.WARNING}
    assert "a challenge (50 sats) and the smallest session (100 sats)" in lines["amounts"].seen
    assert "minimum_sats of this node to 1000" in lines["amounts"].remedy


def test_an_operator_without_credits_fails_where_the_challenge_needs_one(tmp_path: Path) -> None:
    def broken(daemon: SimulatedWaved) -> None:
        daemon.has_credits = False

    lines = examined(tmp_path, broken, demands=Demands(challenge=sats(50), largest=sats(1_000)))

    assert lines["an invoice"].verdict is Verdict.FAILURE
    assert "receive at least 1000 sat instead" in lines["an invoice"].seen


def test_sessions_above_the_operators_largest_coin_are_a_warning(tmp_path: Path) -> None:
    def broken(daemon: SimulatedWaved) -> None:
        daemon.most_sats = 100_000

    lines = examined(tmp_path, broken)

    assert lines["amounts"].verdict is Verdict.WARNING
    assert "maximum_sats of this node to 100000" in lines["amounts"].remedy


def test_another_network_than_in_the_settings_fails(tmp_path: Path) -> None:
    assert examined(tmp_path, network="mainnet")["network"].verdict is Verdict.FAILURE


def test_a_stream_that_breaks_is_a_failure(tmp_path: Path) -> None:
    def broken(daemon: SimulatedWaved) -> None:
        daemon.habits.failures["SubscribeWallet"] = grpc.StatusCode.INTERNAL

    lines = examined(tmp_path, broken)

    assert troubles(lines) == ALWAYS | {"stream of payments": Verdict.FAILURE}


def test_a_clock_that_is_off_is_told(tmp_path: Path) -> None:
    def broken(daemon: SimulatedWaved) -> None:
        daemon.habits.clock_off_seconds = 120

    assert examined(tmp_path, broken)["clock"].verdict is Verdict.WARNING
