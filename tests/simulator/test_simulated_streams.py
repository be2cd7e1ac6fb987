"""SubscribeInvoices of a simulated LND, with the habits that an adapter has to live with."""

import asyncio
from pathlib import Path

import grpc
import pytest

from arkgate.simulator.simulation import Simulation
from tests.simulator.simulated import Client, Invoice, client_of, is_open, refusal, run, settlement


async def _paid(simulation: Simulation, gate: Client) -> bytes:
    added = await gate.add()
    await simulation.pay(added.payment_request)
    return added.r_hash


async def _says_nothing(stream: object) -> bool:
    try:
        await asyncio.wait_for(stream.read(), 0.1)  # type: ignore[attr-defined]
    except TimeoutError:
        return True
    return False


def test_a_stream_reports_adds_and_settlements_but_no_cancellation(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        stream = gate.subscribe()
        await is_open(simulation)
        canceled = await gate.add()
        simulation.gate.cancel(canceled.r_hash)
        paid = await _paid(simulation, gate)
        events = [await stream.read() for _ in range(3)]

        assert [(event.r_hash, event.settle_index) for event in events] == [
            (canceled.r_hash, 0),
            (paid, 0),
            (paid, 1),
        ]
        assert events[2].state == Invoice.SETTLED

    run(tmp_path, story)


def test_a_subscription_from_zero_sends_no_backlog(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        await _paid(simulation, gate)
        assert await _says_nothing(gate.subscribe())

    run(tmp_path, story)


def test_a_subscription_sends_the_backlog_after_its_index(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        hashes = [await _paid(simulation, gate) for _ in range(3)]
        settled = gate.subscribe(settle_index=1)
        added = gate.subscribe(add_index=2)

        assert [(await settled.read()).r_hash for _ in range(2)] == hashes[1:]
        assert (await added.read()).r_hash == hashes[2]

    run(tmp_path, story)


def test_a_backlog_may_come_out_of_order_and_events_twice(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        hashes = [await _paid(simulation, gate) for _ in range(3)]
        simulation.gate.habits.backlog_out_of_order = True
        simulation.gate.habits.duplicate_events = True
        stream = gate.subscribe(settle_index=1)

        assert [(await stream.read()).r_hash for _ in range(4)] == [hashes[2]] * 2 + [hashes[1]] * 2

    run(tmp_path, story)


def test_streams_can_be_cut_with_an_error_or_politely(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        rudely = gate.subscribe()
        await is_open(simulation)
        assert simulation.gate.cut_streams() == 1
        assert (await refusal(rudely.read()))[0] == grpc.StatusCode.UNAVAILABLE
        politely = gate.subscribe()
        await is_open(simulation)
        simulation.gate.cut_streams(politely=True)
        assert await politely.read() is grpc.aio.EOF

    run(tmp_path, story)


def test_a_silent_stream_loses_what_happens(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        stream = gate.subscribe()
        await is_open(simulation)
        simulation.gate.habits.streams_silent = True
        paid = await _paid(simulation, gate)

        assert await _says_nothing(stream)
        assert (await gate.look_up(paid)).state == Invoice.SETTLED

    run(tmp_path, story)


def test_a_hidden_settlement_never_shows_on_a_stream(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        await _paid(simulation, gate)
        stream = gate.subscribe()
        await is_open(simulation)
        simulation.gate.habits.settlements_hidden = True
        hidden = await _paid(simulation, gate)
        simulation.gate.habits.settlements_hidden = False
        shown = await _paid(simulation, gate)

        assert (await settlement(stream)).r_hash == shown
        assert (await settlement(gate.subscribe(settle_index=1))).r_hash == shown
        assert (await gate.look_up(hidden)).state == Invoice.SETTLED

    run(tmp_path, story)


def test_other_peoples_payments_show_on_the_stream(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        stream = gate.subscribe()
        await is_open(simulation)
        keysend = simulation.gate.receive_keysend(9_000)
        first = await settlement(stream)
        foreign = simulation.gate.add_foreign_invoice(3_000, memo="shop")
        await simulation.pay(foreign.payment_request)
        second = await settlement(stream)

        assert (first.r_hash, first.is_keysend, first.amt_paid_msat) == (keysend.payment_hash, True, 9_000)
        assert (second.r_hash, second.memo) == (foreign.payment_hash, "shop")

    run(tmp_path, story)


def test_a_restart_breaks_calls_and_keeps_port_certificate_and_state(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add()
        stream = gate.subscribe()
        await is_open(simulation)
        address, certificate = simulation.gate.address, simulation.gate.credentials.tls_cert.read_bytes()
        await simulation.gate.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        assert (await refusal(gate.look_up(added.r_hash)))[0] == grpc.StatusCode.UNAVAILABLE
        await simulation.gate.start()

        assert simulation.gate.address == address
        assert simulation.gate.credentials.tls_cert.read_bytes() == certificate
        async with client_of(simulation.gate) as again:
            assert (await again.look_up(added.r_hash)).state == Invoice.OPEN

    run(tmp_path, story)
