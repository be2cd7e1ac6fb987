"""What an LND's check-up says when one thing after the other is wrong with it."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from tests.nodes.lines import troubles
from tests.stage import run

from arkgate.core.money import sats
from arkgate.nodes.channel import NodeCredentials
from arkgate.nodes.lnd import LndNode
from arkgate.nodes.lnd_macaroon import MacaroonError, read_permissions
from arkgate.ports import Check, Demands, Verdict
from arkgate.simulator import credentials
from arkgate.simulator.habits import Lie, NodeState
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DEMANDS = Demands(challenge=sats(50), largest=sats(1_000_000))
FULL = ("invoices:read", "invoices:write", "info:read", "offchain:read", "onchain:read")
DAY = datetime.timedelta(days=1)
Break = Callable[[Simulation], Awaitable[None] | None]


def node_of(simulation: Simulation, macaroon: Path, **options: str | None) -> LndNode:
    files = simulation.gate.credentials
    address = options.get("address") or simulation.gate.address
    found = NodeCredentials(address, files.tls_cert, macaroon, options.get("tls_server_name"))
    return LndNode("gate", 7, found, SystemClock(), network=options.get("network", "regtest"))


def examined(
    tmp_path: Path, broken: Break | None = None, *permissions: str, **options: str | None
) -> dict[str, Check]:
    """The lines by name, of a node that something was done to; the macaroon may do what is listed, or all."""

    async def story() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "simulation") as simulation:
            macaroon = tmp_path / "arkgate.macaroon"
            macaroon.write_bytes(simulation.gate.bake(*(permissions or FULL)))
            if broken is not None:
                done = broken(simulation)
                if done is not None:
                    await done
            node = node_of(simulation, macaroon, **options)
            try:
                lines = {check.name: check async for check in node.checkup(DEMANDS)}
            finally:
                await node.close()
            still_open = [row for row in simulation.gate.peer.invoices.values() if row.expiry_seconds > 60]
            assert still_open == []
            return lines

    return run(asyncio.wait_for(story(), 60))


def test_a_healthy_node_passes_every_line(tmp_path: Path) -> None:
    lines = examined(tmp_path)

    assert troubles(lines) == {}
    assert list(lines) == [
        "address",
        "TLS certificate",
        "wallet",
        "macaroon: invoices",
        "macaroon: spending",
        "version",
        "chain",
        "network",
        "receiving capacity",
        "an invoice",
        "clock",
        "stream of settlements",
    ]
    assert lines["receiving capacity"].seen == "It can receive 19800000 sats over 1 channel that is up."


def test_the_invoice_of_a_checkup_is_cancelled(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path) as simulation:
            node = node_of(simulation, simulation.gate.credentials.invoice_macaroon)
            lines = [check async for check in node.checkup(DEMANDS)]
            await node.close()
            (row,) = simulation.gate.peer.invoices.values()

            assert "made and cancelled" in next(line.seen for line in lines if line.name == "an invoice")
            assert row.canceled
            assert (row.amount_msat, row.expiry_seconds) == (50_000, 60)
            assert simulation.gate.open_streams == 0

    run(asyncio.wait_for(story(), 60))


def test_an_lnd_without_invoicesrpc_lets_the_invoice_expire(tmp_path: Path) -> None:
    async def broken(simulation: Simulation) -> None:
        simulation.gate.habits.parts_missing.add("invoicesrpc")
        await restart(simulation.gate)

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {}
    assert "expires by itself in a minute" in lines["an invoice"].seen


def test_what_the_stock_invoice_macaroon_may_not_read_is_not_checked(tmp_path: Path) -> None:
    lines = examined(tmp_path, None, *credentials.INVOICE)

    assert troubles(lines) == {
        "version": Verdict.NOT_CHECKED,
        "chain": Verdict.NOT_CHECKED,
        "receiving capacity": Verdict.NOT_CHECKED,
    }
    assert "info:read" in lines["version"].seen
    assert "offchain:read" in lines["receiving capacity"].seen


def test_an_admin_macaroon_is_a_warning_with_the_command_that_bakes_another(tmp_path: Path) -> None:
    lines = examined(tmp_path, None, *credentials.ADMIN)

    assert troubles(lines) == {"macaroon: spending": Verdict.WARNING}
    assert "offchain:write, onchain:write" in lines["macaroon: spending"].seen
    assert (
        "`lncli bakemacaroon --save_to arkgate.macaroon "
        "invoices:read invoices:write info:read offchain:read onchain:read`"
    ) in lines["macaroon: spending"].remedy


@pytest.mark.parametrize(
    ("permissions", "lacking", "meaning"),
    [
        (tuple(credentials.READONLY), "invoices:write", "makes no invoices"),
        (("invoices:write",), "invoices:read", "credited late or never"),
        (("info:read",), "invoices:read and invoices:write", "makes no invoices"),
    ],
)
def test_a_macaroon_without_the_invoices_fails(
    tmp_path: Path, permissions: tuple[str, ...], lacking: str, meaning: str
) -> None:
    lines = examined(tmp_path, None, *permissions)

    assert lines["macaroon: invoices"].verdict is Verdict.FAILURE
    assert lines["macaroon: invoices"].seen == f"The macaroon does not allow {lacking}."
    assert meaning in lines["macaroon: invoices"].meaning
    assert "an invoice" not in lines


def test_a_macaroon_of_another_node_is_told_apart_from_a_weak_one(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        other = simulation.payer.credentials.invoice_macaroon.read_bytes()
        (tmp_path / "arkgate.macaroon").write_bytes(other)

    lines = examined(tmp_path, broken)

    assert lines["macaroon: invoices"].verdict is Verdict.FAILURE
    assert "verification failed" in lines["macaroon: invoices"].seen
    assert "was revoked" in lines["macaroon: invoices"].remedy
    assert list(lines)[-1] == "everything else"


async def restart(gate: SimulatedNode) -> None:
    await gate.stop()
    await gate.start()


def with_certificate(*, days: float = 400, addresses: tuple[str, ...] = credentials.ADDRESSES) -> Break:
    async def broken(simulation: Simulation) -> None:
        gate = simulation.gate
        credentials.make_certificate(gate.credentials, lifetime=days * DAY, addresses=addresses)
        await restart(gate)

    return broken


def test_an_expired_certificate_fails_and_a_short_one_warns(tmp_path: Path) -> None:
    expired = examined(tmp_path / "a", with_certificate(days=-2))
    short = examined(tmp_path / "b", with_certificate(days=20.5))

    assert troubles(expired) == {
        "TLS certificate": Verdict.FAILURE,
        "everything else": Verdict.NOT_CHECKED,
    }
    assert "has expired on" in expired["TLS certificate"].seen
    assert "tlsautorefresh" in expired["TLS certificate"].remedy
    assert troubles(short) == {"TLS certificate": Verdict.WARNING}
    assert "expires in 20 days" in short["TLS certificate"].seen


def test_a_certificate_for_another_name_says_which_names_it_has(tmp_path: Path) -> None:
    broken = with_certificate(addresses=("192.0.2.7",))
    lines = examined(tmp_path / "a", broken)
    named = examined(tmp_path / "b", broken, tls_server_name="localhost")

    assert lines["TLS certificate"].verdict is Verdict.FAILURE
    assert "not for 127.0.0.1, but for localhost, 192.0.2.7" in lines["TLS certificate"].seen
    assert 'tls_server_name = "localhost"' in lines["TLS certificate"].remedy
    assert troubles(named) == {}


def test_another_certificate_than_the_file_holds_is_said(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        credentials.make_certificate(simulation.gate.credentials)  # not taken up: the node runs on

    lines = examined(tmp_path, broken)

    assert lines["TLS certificate"].verdict is Verdict.FAILURE
    assert "another certificate than the one in tls_cert_file" in lines["TLS certificate"].seen


def test_a_file_without_a_certificate_is_said(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.credentials.tls_cert.write_text("not a certificate")

    lines = examined(tmp_path, broken)

    assert "holds no certificate" in lines["TLS certificate"].seen


def test_a_macaroon_that_cannot_be_read_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    lines = examined(tmp_path, lambda _: (tmp_path / "arkgate.macaroon").unlink())

    assert list(lines) == ["files"]
    assert lines["files"].verdict is Verdict.FAILURE
    assert "arkgate.macaroon cannot be read" in lines["files"].seen


def test_an_address_that_leads_nowhere_is_told_apart(tmp_path: Path) -> None:
    async def stopped(simulation: Simulation) -> None:
        await simulation.gate.stop()

    nobody = examined(tmp_path / "a", stopped)
    no_name = examined(tmp_path / "b", None, address="no-such-host.invalid:10009")

    async def plain() -> dict[str, Check]:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Simulation.running(data_dir=tmp_path / "c") as simulation:
            macaroon = simulation.gate.credentials.invoice_macaroon
            node = node_of(simulation, macaroon, address=f"127.0.0.1:{port}")
            return {check.name: check async for check in node.checkup(DEMANDS)}

    async def https() -> dict[str, Check]:
        async with Simulation.running(data_dir=tmp_path / "d") as simulation:
            files = simulation.gate.credentials
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(files.tls_cert, files.tls_key)
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with server:
                node = node_of(simulation, files.invoice_macaroon, address=address)
                return {check.name: check async for check in node.checkup(DEMANDS)}

    no_tls = run(asyncio.wait_for(plain(), 60))
    no_grpc = run(asyncio.wait_for(https(), 60))

    assert "Nothing listens at 127.0.0.1" in nobody["address"].seen
    assert "no-such-host.invalid has no address (DNS)" in no_name["address"].seen
    assert "does not speak TLS with us" in no_tls["TLS certificate"].seen
    assert "speaks TLS, but not gRPC" in no_grpc["TLS certificate"].seen
    for lines in (nobody, no_name, no_tls, no_grpc):
        assert list(lines.values())[-1].verdict is Verdict.NOT_CHECKED


def test_a_locked_node_fails_and_nothing_else_is_asked(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.state = NodeState.LOCKED

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"wallet": Verdict.FAILURE, "everything else": Verdict.NOT_CHECKED}
    assert "lncli unlock" in lines["wallet"].seen


def test_a_node_that_is_not_synced_fails(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.synced = False

    assert troubles(examined(tmp_path, broken)) == {"chain": Verdict.FAILURE}


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("0.18.5-beta", Verdict.WARNING),
        ("0.19.0-beta", Verdict.OK),
        ("1.0.0", Verdict.OK),
        ("homemade", Verdict.NOT_CHECKED),
    ],
)
def test_an_lnd_below_0_19_is_a_warning(tmp_path: Path, version: str, verdict: Verdict) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.version = version

    assert examined(tmp_path, broken)["version"].verdict is verdict


def test_another_network_than_the_settings_name_fails(tmp_path: Path) -> None:
    lines = examined(tmp_path / "a", None, network="mainnet")
    any_network = examined(tmp_path / "b", None, network=None)

    assert troubles(lines) == {
        "network": Verdict.FAILURE,
        "an invoice": Verdict.FAILURE,
        "clock": Verdict.NOT_CHECKED,
    }
    assert lines["network"].seen == "It is on regtest; the settings say mainnet."
    assert any_network["network"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("remote_sats", "verdict"),
    [
        (200_049, Verdict.FAILURE),
        (200_050, Verdict.WARNING),
        (1_199_999, Verdict.WARNING),
        (1_200_000, Verdict.OK),
        (0, Verdict.FAILURE),
    ],
)
def test_capacity_is_measured_without_the_peers_reserve(
    tmp_path: Path, remote_sats: int, verdict: Verdict
) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.remote_sats = remote_sats

    assert examined(tmp_path, broken)["receiving capacity"].verdict is verdict


def test_a_channel_whose_peer_is_away_receives_nothing(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.connected = False

    lines = examined(tmp_path, broken)

    assert lines["receiving capacity"].verdict is Verdict.FAILURE
    assert "0 channels that are up" in lines["receiving capacity"].seen


@pytest.mark.parametrize(
    ("seconds", "verdict", "word"),
    [
        (20, Verdict.OK, "agree"),
        (45, Verdict.WARNING, "ahead of"),
        (-45, Verdict.WARNING, "behind"),
        (700, Verdict.FAILURE, "ahead of"),
        (-700, Verdict.FAILURE, "behind"),
    ],
)
def test_a_clock_that_is_off_is_measured(tmp_path: Path, seconds: int, verdict: Verdict, word: str) -> None:
    lines = examined(tmp_path, lambda simulation: simulation.skip_seconds(seconds))

    assert lines["clock"].verdict is verdict
    assert word in lines["clock"].seen


def test_a_stream_that_says_nothing_of_a_new_invoice_is_a_warning(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.streams_silent = True

    assert troubles(examined(tmp_path, broken)) == {"stream of settlements": Verdict.WARNING}


def test_a_stream_that_does_not_open_fails(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.failures["SubscribeInvoices"] = grpc.StatusCode.UNAVAILABLE

    lines = examined(tmp_path, broken)

    assert troubles(lines) == {"stream of settlements": Verdict.FAILURE}
    assert "simulated failure of SubscribeInvoices" in lines["stream of settlements"].seen


def test_an_invoice_that_is_not_what_was_asked_for_fails(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        simulation.gate.habits.lie = Lie.AMOUNT

    lines = examined(tmp_path, broken)

    assert lines["an invoice"].verdict is Verdict.FAILURE
    assert "instead of 50000" in lines["an invoice"].seen


def test_a_node_that_does_not_answer_about_invoices_fails(tmp_path: Path) -> None:
    def broken(simulation: Simulation) -> None:
        for method in ("AddInvoice", "LookupInvoice"):
            simulation.gate.habits.failures[method] = grpc.StatusCode.UNAVAILABLE

    lines = examined(tmp_path, broken)

    assert lines["wallet"].verdict is Verdict.FAILURE
    assert "failed AddInvoice" in lines["wallet"].seen


def test_permissions_are_read_from_the_macaroon_itself(tmp_path: Path) -> None:
    by_method = credentials.bake(bytes(32), frozenset({"uri:/lnrpc.Lightning/AddInvoice"}))
    permissions = read_permissions(by_method)

    assert permissions.allow("invoices:write", "/lnrpc.Lightning/AddInvoice")
    assert not permissions.allow("invoices:read", "/lnrpc.Lightning/LookupInvoice")
    assert read_permissions(credentials.bake(bytes(32), credentials.ADMIN)).operations == credentials.ADMIN
    for cut in range(60):
        with pytest.raises(MacaroonError):
            read_permissions(by_method[:cut])


METHODS = ("AddInvoice", "LookupInvoice", "ListInvoices", "SubscribeInvoices")


def test_a_macaroon_for_single_methods_must_name_each_that_is_needed(tmp_path: Path) -> None:
    named = [f"uri:/lnrpc.Lightning/{method}" for method in METHODS]
    enough = examined(tmp_path / "a", None, *named)
    lacking = examined(tmp_path / "b", None, *(name for name in named if "Subscribe" not in name))

    assert enough["macaroon: invoices"].verdict is Verdict.OK
    assert "expires by itself" in enough["an invoice"].seen
    assert lacking["macaroon: invoices"].verdict is Verdict.FAILURE
    assert "uri:/lnrpc.Lightning/SubscribeInvoices" in lacking["macaroon: invoices"].seen
