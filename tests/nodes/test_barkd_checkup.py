"""What a barkd's check-up says when one thing after the other is wrong with it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.stage import eventually, run

from arkgate.core.money import sats
from arkgate.nodes.barkd import BarkdNode
from arkgate.nodes.barkd_rest import BearerToken
from arkgate.ports import Check, Demands, Verdict
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DEMANDS = Demands(challenge=sats(1_000), largest=sats(1_000_000), smallest=sats(2_000))
NEEDS_THE_ABOVE = "everything else"
UNKNOWN = grpc.StatusCode.UNKNOWN
Break = Callable[[SimulatedBarkd], Awaitable[None] | None]


def examined(
    tmp_path: Path,
    broken: Break | None = None,
    *,
    demands: Demands = DEMANDS,
    network: str | None = "regtest",
) -> dict[str, Check]:
    """The lines by name, of a node that something was done to. No wait is left behind on it."""

    async def story() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "simulation", barkds=("ark",)) as simulation:
            (barkd,) = simulation.barkds
            if broken is not None:
                done = broken(barkd)
                if done is not None:
                    await done
            found = BearerToken(barkd.address, barkd.token_file)
            node = BarkdNode("ark", 7, found, SystemClock(), network=network)
            try:
                lines = {check.name: check async for check in node.checkup(demands)}
            finally:
                await node.close()
            await eventually(lambda: nobody_waits(barkd))
            return lines

    return run(asyncio.wait_for(story(), 60))


async def nobody_waits(barkd: SimulatedBarkd) -> bool:
    return barkd.open_streams == 0


def troubles(lines: dict[str, Check]) -> dict[str, Verdict]:
    """The lines that are not ok, but for what barkd can never say."""
    return {
        name: check.verdict
        for name, check in lines.items()
        if check.verdict is not Verdict.OK and name != "receiving capacity"
    }


def test_a_healthy_node_passes_every_line(tmp_path: Path) -> None:
    lines = examined(tmp_path)

    assert troubles(lines) == {}
    assert list(lines) == [
        "address",
        "wallet",
        "network",
        "Ark server",
        "receiving capacity",
        "fees",
        "an invoice",
        "clock",
        "news of payments",
    ]
    assert lines["receiving capacity"].verdict is Verdict.NOT_CHECKED
    assert lines["fees"].seen == (
        "The Ark server keeps 102 sats of a challenge (1000 sats) and "
        "104 sats of the smallest session (2000 sats)."
    )


def test_the_invoice_of_a_checkup_is_deleted(tmp_path: Path) -> None:
    kept: list[SimulatedBarkd] = []
    lines = examined(tmp_path, kept.append)

    (row,) = kept[0].peer.invoices.values()
    assert lines["an invoice"].seen == "One over 1000 sats was made and deleted."
    assert row.canceled


async def stopped(barkd: SimulatedBarkd) -> None:
    await barkd.stop()


def without_a_token(barkd: SimulatedBarkd) -> None:
    barkd.token_file.unlink()


def with_another_token(barkd: SimulatedBarkd) -> None:
    barkd.token_file.write_text("another")


def without_a_wallet(barkd: SimulatedBarkd) -> None:
    barkd.ark.has_wallet = False


def without_its_server(barkd: SimulatedBarkd) -> None:
    barkd.stop_server()


async def started_without_its_server(barkd: SimulatedBarkd) -> None:
    barkd.stop_server()
    await barkd.stop()
    await barkd.start()


def on_mainnet(barkd: SimulatedBarkd) -> None:
    barkd.ark.network = "bitcoin"


def without_lightning(barkd: SimulatedBarkd) -> None:
    barkd.ark.has_lightning = False


def failing_to_delete(barkd: SimulatedBarkd) -> None:
    barkd.habits.failures["DELETE /lightning/receives/{identifier}"] = UNKNOWN


def failing_to_tell(barkd: SimulatedBarkd) -> None:
    barkd.habits.failures["GET /notifications/wait"] = UNKNOWN


def silent_about_fees(barkd: SimulatedBarkd) -> None:
    barkd.habits.failures["GET /wallet/ark-info"] = UNKNOWN


def with_a_clock_that_is_off(barkd: SimulatedBarkd) -> None:
    barkd.habits.clock_off_seconds = 3_000


def with_dear_fees(barkd: SimulatedBarkd) -> None:
    barkd.ark.base_fee_sats = 200


@pytest.mark.parametrize(
    ("broken", "found", "words"),
    [
        (without_a_token, {"token file": Verdict.FAILURE}, "auth_token"),
        (stopped, {"address": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}, "Start barkd"),
        (with_another_token, {"wallet": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}, "auth_token"),
        (without_a_wallet, {"wallet": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}, "create"),
        (
            without_its_server,
            {"Ark server": Verdict.FAILURE, "an invoice": Verdict.FAILURE, "clock": Verdict.NOT_CHECKED},
            "log",
        ),
        (
            started_without_its_server,
            {
                "network": Verdict.NOT_CHECKED,
                "fees": Verdict.NOT_CHECKED,
                "Ark server": Verdict.FAILURE,
                "an invoice": Verdict.FAILURE,
                "clock": Verdict.NOT_CHECKED,
            },
            "",
        ),
        (on_mainnet, {"network": Verdict.FAILURE}, "network in [[nodes]]"),
        (without_lightning, {"an invoice": Verdict.FAILURE, "clock": Verdict.NOT_CHECKED}, "no Lightning"),
        (failing_to_delete, {}, ""),
        (failing_to_tell, {"news of payments": Verdict.FAILURE}, "log"),
        (silent_about_fees, {"network": Verdict.NOT_CHECKED, "fees": Verdict.NOT_CHECKED}, ""),
        (with_a_clock_that_is_off, {"clock": Verdict.FAILURE}, "NTP"),
        (with_dear_fees, {"fees": Verdict.WARNING}, "minimum_sats"),
    ],
)
def test_what_is_wrong_is_said_and_what_to_do(
    tmp_path: Path, broken: Break, found: dict[str, Verdict], words: str
) -> None:
    lines = examined(tmp_path, broken)

    assert troubles(lines) == found
    for name in list(found)[:1]:
        assert words in lines[name].remedy
    if broken is failing_to_delete:
        assert "cannot be deleted" in lines["an invoice"].seen


@pytest.mark.parametrize(
    ("smallest", "verdict"),
    [(50, Verdict.FAILURE), (100, Verdict.FAILURE), (700, Verdict.WARNING), (900, Verdict.OK)],
)
def test_a_fee_that_eats_a_small_session_is_said(tmp_path: Path, smallest: int, verdict: Verdict) -> None:
    lines = examined(tmp_path, demands=Demands(sats(1_000), sats(1_000_000), sats(smallest)))

    assert lines["fees"].verdict is verdict


def test_an_ark_address_is_tried_where_they_are_given_out(tmp_path: Path) -> None:
    demands = replace(DEMANDS, addresses=True)

    def gives_none(barkd: SimulatedBarkd) -> None:
        barkd.habits.failures["POST /wallet/addresses/next"] = UNKNOWN

    healthy = examined(tmp_path / "healthy", demands=demands)
    lines = examined(tmp_path / "broken", gives_none, demands=demands)

    assert troubles(healthy) == {}
    assert "tark1" in healthy["an Ark address"].seen
    assert troubles(lines) == {"an Ark address": Verdict.FAILURE}
    assert "Sessions are offered over Lightning only" in lines["an Ark address"].meaning


def test_a_node_without_lightning_is_asked_for_no_invoice_and_no_fees(tmp_path: Path) -> None:
    def without(barkd: SimulatedBarkd) -> None:
        barkd.ark.has_lightning = False

    lines = examined(tmp_path, without, demands=replace(DEMANDS, invoices=False, addresses=True))

    assert troubles(lines) == {}
    assert "an Ark address" in lines
    assert "an invoice" not in lines
    assert "fees" not in lines
    assert "news of payments" in lines
