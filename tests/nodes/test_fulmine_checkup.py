"""What a Fulmine's check-up says when one thing after the other is wrong with it."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from tests.nodes.lines import troubles
from tests.stage import run

from arkgate.core.money import sats
from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.ports import Check, Demands, Verdict
from arkgate.simulator.fulmine import SimulatedFulmine, Wallet
from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DEMANDS = Demands(challenge=sats(1_000), largest=sats(1_000_000), smallest=sats(1_000))
NEEDS_THE_ABOVE = "everything else"
ALWAYS = {"macaroon": Verdict.WARNING}
"""Fulmine has one macaroon only, which may spend."""
Break = Callable[[SimulatedFulmine], None]


def examined(
    tmp_path: Path, broken: Break = lambda _: None, *, demands: Demands = DEMANDS, network: str = "regtest"
) -> dict[str, Check]:
    """The lines by name, of a node that something was done to."""

    async def story() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "simulation", fulmines=("bolt",)) as simulation:
            (daemon,) = simulation.fulmines
            daemon.admin_macaroon.chmod(0o600)
            broken(daemon)
            found = FulmineCredentials(daemon.address, daemon.admin_macaroon, daemon.boltz.url)
            node = FulmineNode("bolt", 7, found, SystemClock(), network=network)
            try:
                return {check.name: check async for check in node.checkup(demands)}
            finally:
                await node.close()
                assert len(daemon.peer.invoices) <= 1
                assert not daemon.is_dead or daemon.wallet is Wallet.BROKEN

    return run(asyncio.wait_for(story(), 60))


def test_a_healthy_one_passes_every_line_but_for_what_its_macaroon_may(tmp_path: Path) -> None:
    lines = examined(tmp_path)

    assert troubles(lines) == ALWAYS
    assert list(lines) == [
        "macaroon file",
        "wallet",
        "macaroon",
        "version",
        "network",
        "Boltz",
        "amounts",
        "fees",
        "an invoice",
        "clock",
        "payments",
    ]
    assert lines["fees"].seen == "Boltz keeps 4 sats of a challenge (1000 sats)."


def test_a_macaroon_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda daemon: daemon.admin_macaroon.chmod(0o644))

    assert troubles(lines) == ALWAYS | {"macaroon file": Verdict.WARNING}
    assert "chmod 600" in lines["macaroon file"].remedy


def test_a_macaroon_that_is_not_there_yet_fails(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda daemon: daemon.admin_macaroon.unlink())

    assert list(lines) == ["macaroon file"]
    assert lines["macaroon file"].verdict is Verdict.FAILURE


def test_a_macaroon_of_another_fulmine_fails(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda daemon: (daemon.admin_macaroon.write_bytes(b"nonsense"), None)[1])

    assert lines["macaroon"].verdict is Verdict.FAILURE
    assert list(lines)[-1] == NEEDS_THE_ABOVE


@pytest.mark.parametrize(
    ("wallet", "remedy"),
    [(Wallet.NONE, "Create one"), (Wallet.LOCKED, "restart Fulmine first"), (Wallet.SYNCING, "Wait")],
)
def test_a_wallet_that_is_not_open_fails_with_what_to_do(tmp_path: Path, wallet: Wallet, remedy: str) -> None:
    def broken(daemon: SimulatedFulmine) -> None:
        daemon.wallet = wallet

    lines = examined(tmp_path, broken)

    assert lines["wallet"].verdict is Verdict.FAILURE
    assert remedy in lines["wallet"].remedy
    assert list(lines)[-1] == NEEDS_THE_ABOVE


def test_boltz_that_does_not_answer_fails(tmp_path: Path) -> None:
    def broken(daemon: SimulatedFulmine) -> None:
        daemon.boltz.up = False

    lines = examined(tmp_path, broken)

    assert lines["Boltz"].verdict is Verdict.FAILURE
    assert "FULMINE_BOLTZ_URL" in lines["Boltz"].remedy


def test_a_challenge_that_boltz_does_not_take_fails_and_does_not_bring_it_down(tmp_path: Path) -> None:
    lines = examined(tmp_path, demands=Demands(challenge=sats(50), largest=sats(1_000), smallest=sats(1_000)))

    assert lines["amounts"].verdict is Verdict.FAILURE
    assert "minimum_sats of this node to 333" in lines["amounts"].remedy
    assert lines["an invoice"].verdict is Verdict.FAILURE


def test_sessions_that_boltz_does_not_take_are_a_warning(tmp_path: Path) -> None:
    lines = examined(
        tmp_path, demands=Demands(challenge=sats(1_000), largest=sats(5_000_000), smallest=sats(1))
    )

    assert troubles(lines) == ALWAYS | {"amounts": Verdict.WARNING}


def test_fees_that_eat_the_price_are_a_warning(tmp_path: Path) -> None:
    def broken(daemon: SimulatedFulmine) -> None:
        daemon.boltz.percent = Decimal(20)

    assert troubles(examined(tmp_path, broken)) == ALWAYS | {"fees": Verdict.WARNING}


def test_another_network_than_in_the_settings_fails(tmp_path: Path) -> None:
    assert examined(tmp_path, network="mainnet")["network"].verdict is Verdict.FAILURE


def test_an_ark_server_that_shows_no_transactions_is_a_failure(tmp_path: Path) -> None:
    def broken(daemon: SimulatedFulmine) -> None:
        daemon.receive_at_address(1_000)
        daemon.indexer_behind = True

    lines = examined(tmp_path, broken)

    assert troubles(lines) == ALWAYS | {"payments": Verdict.FAILURE}
    assert "credited to nobody" in lines["payments"].meaning


def test_coins_that_cannot_be_read_are_a_failure(tmp_path: Path) -> None:
    def broken(daemon: SimulatedFulmine) -> None:
        daemon.habits.failures["GetVtxos"] = grpc.StatusCode.INTERNAL

    assert troubles(examined(tmp_path, broken)) == ALWAYS | {"payments": Verdict.FAILURE}
