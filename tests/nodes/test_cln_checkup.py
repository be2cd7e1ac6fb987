"""What a Core Lightning's check-up says when one thing after the other is wrong with it."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.lines import troubles
from tests.stage import eventually, run

from arkgate.core.money import sats
from arkgate.nodes.channel import MutualTls
from arkgate.nodes.cln import ClnNode
from arkgate.ports import Check, Demands, Verdict
from arkgate.simulator import cln_credentials
from arkgate.simulator.cln import SimulatedCln
from arkgate.simulator.habits import Lie
from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DEMANDS = Demands(challenge=sats(50), largest=sats(1_000_000))
DAY = datetime.timedelta(days=1)
NEEDS_THE_ABOVE = "everything else"
Break = Callable[[SimulatedCln], Awaitable[None] | None]


def node_of(gate: SimulatedCln, **options: str | None) -> ClnNode:
    files = gate.credentials
    found = MutualTls(
        options.get("address") or gate.address,
        files.ca,
        files.client,
        files.client_key,
        options.get("tls_server_name", "cln"),
    )
    return ClnNode("cln", 7, found, SystemClock(), network=options.get("network", "regtest"))


def examined(tmp_path: Path, broken: Break | None = None, **options: str | None) -> dict[str, Check]:
    """The lines by name, of a node that something was done to. Nothing is left behind on it."""

    async def story() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "simulation", clns=("lightning",)) as simulation:
            (gate,) = simulation.clns
            gate.fenced = True
            if broken is not None:
                done = broken(gate)
                if done is not None:
                    await done
            node = node_of(gate, **options)
            try:
                lines = {check.name: check async for check in node.checkup(DEMANDS)}
            finally:
                await node.close()
            assert [row for row in gate.peer.invoices.values() if row.expiry_seconds > 60] == []
            await eventually(lambda: nobody_waits(gate))
            return lines

    return run(asyncio.wait_for(story(), 60))


async def nobody_waits(gate: SimulatedCln) -> bool:
    return gate.open_streams == 0


async def restart(gate: SimulatedCln) -> None:
    await gate.stop()
    await gate.start()


def test_a_healthy_node_passes_every_line(tmp_path: Path) -> None:
    lines = examined(tmp_path)

    assert troubles(lines) == {}
    assert list(lines) == [
        "address",
        "TLS certificate",
        "client certificate",
        "spending",
        "version",
        "chain",
        "network",
        "receiving capacity",
        "an invoice",
        "clock",
        "news of payments",
    ]
    assert lines["receiving capacity"].seen == "It can receive 19800000 sats over 1 channel that is up."


def test_a_key_that_may_spend_is_a_warning_with_what_to_do(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.fenced = False

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"spending": Verdict.WARNING}
    assert "can empty the node" in lines["spending"].meaning
    assert "docs/nodes/cln.md" in lines["spending"].remedy


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE])
def test_only_a_refusal_to_pay_is_a_fence(tmp_path: Path, code: grpc.StatusCode) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.failures["Xpay"] = code

    refused = code is grpc.StatusCode.UNIMPLEMENTED
    assert troubles(examined(tmp_path, broken)) == ({} if refused else {"spending": Verdict.NOT_CHECKED})


def test_the_invoice_of_a_checkup_is_deleted(tmp_path: Path) -> None:
    kept: list[SimulatedCln] = []
    lines = examined(tmp_path, kept.append)

    (row,) = kept[0].peer.invoices.values()
    assert lines["an invoice"].seen == "One over 50 sats was made and deleted."
    assert row.collected
    assert (row.amount_msat, row.expiry_seconds) == (50_000, 60)


def test_an_invoice_that_cannot_be_deleted_expires(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.failures["DelInvoice"] = grpc.StatusCode.UNKNOWN

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {}
    assert "expires by itself in a minute" in lines["an invoice"].seen


def test_a_node_that_is_down_fails_at_its_address(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda gate: gate.stop())

    assert troubles(lines) == {"address": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}
    assert "grpc-port" in lines["address"].remedy


def test_a_certificate_for_another_name_says_which_names_it_has(tmp_path: Path) -> None:
    lines = examined(tmp_path, tls_server_name=None)

    assert lines["TLS certificate"].verdict is Verdict.FAILURE
    assert lines["TLS certificate"].seen.endswith("is not for 127.0.0.1, but for cln, localhost.")
    assert 'tls_server_name = "cln"' in lines["TLS certificate"].remedy


def test_files_of_before_a_renewal_fail_with_what_to_copy(tmp_path: Path) -> None:
    async def broken(gate: SimulatedCln) -> None:
        old = gate.credentials.ca.read_bytes()
        gate.renew_certificate()
        await restart(gate)
        gate.credentials.ca.write_bytes(old)

    lines = examined(tmp_path, broken)

    assert lines["TLS certificate"].verdict is Verdict.FAILURE
    assert "was not made by the authority in ca_cert_file" in lines["TLS certificate"].seen
    assert "they belong together" in lines["TLS certificate"].remedy


@pytest.mark.parametrize(
    ("days", "verdict", "word"), [(-1, Verdict.FAILURE, "expired"), (10, Verdict.WARNING, "expires in")]
)
def test_a_server_certificate_that_ends_is_told(
    tmp_path: Path, days: int, verdict: Verdict, word: str
) -> None:
    async def broken(gate: SimulatedCln) -> None:
        until = datetime.datetime.now(datetime.UTC) + days * DAY + DAY / 2
        cln_credentials.make(gate.credentials, server_until=until)
        await restart(gate)

    lines = examined(tmp_path, broken)

    assert lines["TLS certificate"].verdict is verdict
    assert word in lines["TLS certificate"].seen


def test_a_client_certificate_of_another_authority_fails(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        stranger = cln_credentials.issue(tmp_path / "another")
        gate.credentials.client.write_bytes(stranger.client.read_bytes())
        gate.credentials.client_key.write_bytes(stranger.client_key.read_bytes())

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"client certificate": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}
    assert "another authority made it" in lines["client certificate"].seen


def test_a_client_certificate_that_has_expired_fails(tmp_path: Path) -> None:
    async def broken(gate: SimulatedCln) -> None:
        cln_credentials.make(gate.credentials, client_until=datetime.datetime.now(datetime.UTC) - DAY)
        await restart(gate)

    lines = examined(tmp_path, broken)

    assert lines["client certificate"].verdict is Verdict.FAILURE
    assert "It has expired on" in lines["client certificate"].seen


@pytest.mark.parametrize("content", [b"nonsense", None])
def test_a_key_that_does_not_belong_to_the_certificate_fails(tmp_path: Path, content: bytes | None) -> None:
    def broken(gate: SimulatedCln) -> None:
        stranger = cln_credentials.issue(tmp_path / "another")
        gate.credentials.client_key.write_bytes(content or stranger.client_key.read_bytes())

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"client certificate": Verdict.FAILURE, NEEDS_THE_ABOVE: Verdict.NOT_CHECKED}
    assert "is not the key of" in lines["client certificate"].seen


def test_a_client_certificate_that_is_none_fails(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.credentials.client.write_bytes(b"nonsense")

    lines = examined(tmp_path, broken)

    assert lines["client certificate"].verdict is Verdict.FAILURE
    assert "holds no certificate in PEM" in lines["client certificate"].seen


def test_a_key_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda gate: gate.credentials.client_key.chmod(0o640))

    assert troubles(lines) == {"client certificate": Verdict.WARNING}
    assert "whatever we can" in lines["client certificate"].meaning
    assert "chmod 600" in lines["client certificate"].remedy


def test_a_file_that_is_not_there_is_the_only_line(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda gate: gate.credentials.client_key.unlink())

    assert troubles(lines) == {"files": Verdict.FAILURE}
    assert "client-key.pem cannot be read" in lines["files"].seen


def test_an_old_version_is_a_warning(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.version = "v23.05.2"

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"version": Verdict.WARNING}
    assert lines["version"].remedy == "Upgrade Core Lightning to 23.08 or later."


@pytest.mark.parametrize(
    ("bitcoind", "words"),
    [(False, "Bitcoind is not up-to-date with network."), (True, "Still loading latest blocks")],
)
def test_a_node_that_is_not_synced_fails(tmp_path: Path, bitcoind: bool, words: str) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.bitcoind_synced, gate.habits.synced = bitcoind, False

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"chain": Verdict.FAILURE}
    assert words in lines["chain"].seen


def test_another_network_than_in_the_settings_fails(tmp_path: Path) -> None:
    lines = examined(tmp_path, network="mainnet")

    assert lines["network"].verdict is Verdict.FAILURE
    assert lines["network"].seen == "It is on regtest; the settings say mainnet."
    assert lines["an invoice"].verdict is Verdict.FAILURE


def test_a_node_that_does_not_answer_leaves_the_rest_unchecked(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.failures["*"] = grpc.StatusCode.UNKNOWN

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {
        "spending": Verdict.NOT_CHECKED,
        "answers": Verdict.FAILURE,
        NEEDS_THE_ABOVE: Verdict.NOT_CHECKED,
    }


@pytest.mark.parametrize(
    ("remote_sats", "connected", "verdict"),
    [
        (200_040, True, Verdict.FAILURE),
        (900_000, True, Verdict.WARNING),
        (20_000_000, False, Verdict.FAILURE),
    ],
)
def test_only_what_open_channels_can_receive_counts(
    tmp_path: Path, remote_sats: int, connected: bool, verdict: Verdict
) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.remote_sats, gate.habits.connected = remote_sats, connected

    assert troubles(examined(tmp_path, broken)) == {"receiving capacity": verdict}


def test_an_invoice_that_is_not_what_was_asked_for_fails(tmp_path: Path) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.lie = Lie.AMOUNT

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"an invoice": Verdict.FAILURE, "clock": Verdict.NOT_CHECKED}


@pytest.mark.parametrize(("seconds", "verdict"), [(90, Verdict.WARNING), (-4000, Verdict.FAILURE)])
def test_a_clock_that_is_off_is_told(tmp_path: Path, seconds: int, verdict: Verdict) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.clock_off_seconds = seconds

    assert troubles(examined(tmp_path, broken)) == {"clock": verdict}


@pytest.mark.parametrize("method", ["WaitAnyInvoice", "ListPeerChannels"])
def test_what_fails_by_itself_is_one_line(tmp_path: Path, method: str) -> None:
    def broken(gate: SimulatedCln) -> None:
        gate.habits.failures[method] = grpc.StatusCode.UNKNOWN

    found = troubles(examined(tmp_path, broken))

    assert found == (
        {"news of payments": Verdict.FAILURE}
        if method == "WaitAnyInvoice"
        else {"receiving capacity": Verdict.NOT_CHECKED}
    )


def test_a_node_that_does_not_say_that_nothing_was_paid_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.nodes.checkup.CALL_SECONDS", 1.5)

    def broken(gate: SimulatedCln) -> None:
        gate.habits.streams_silent = True

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"news of payments": Verdict.FAILURE}
    assert "look-ups" in lines["news of payments"].meaning
