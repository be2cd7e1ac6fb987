"""LND as it behaves in the wild: after each story every payment is credited once, and one line says why."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate.gateway.readiness import FRESH_SECONDS
from arkgate.nodes.lnd import PAGE_INVOICES
from arkgate.nodes.lnd_checkup import BAKE
from arkgate.simulator import credentials
from arkgate.simulator.habits import NodeState
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from arkgate.store import read_store
from arkgate.web.admin import COMMAND_HEADER, RECONCILE_PATH

OLD_INVOICES = 200_000
MONTH_SECONDS = 30 * 24 * 3600
READY_WITHIN_SECONDS = 2.0
Lines = list[Any]


@contextlib.asynccontextmanager
async def simulated(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation.running(
        data_dir=tmp_path / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, durable=False
    ) as simulation:
        yield simulation


def play(
    tmp_path: Path,
    story: Callable[[Stage, Lines], Awaitable[None]],
    *,
    before: Callable[[Simulation], Awaitable[None]] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Runs a story on a fresh stage with the lines that the gateway logs; the books are sound after it."""

    async def played() -> None:
        with capture_logs() as lines:
            async with simulated(tmp_path) as simulation:
                if before is not None:
                    await before(simulation)
                async with staged(tmp_path, simulation=simulation, extra=extra) as stage:
                    await story(stage, lines)
                    assert await stage.verify() == []

    run(asyncio.wait_for(played(), 90))


def told(lines: Lines, event: str) -> Lines:
    """The lines of an event that an operator reads."""
    return [line for line in lines if line["event"] == event and line["log_level"] != "debug"]


async def told_once(lines: Lines, event: str) -> Any:
    """Waits for a line of an event, and gives the only one."""

    async def is_told() -> bool:
        return bool(told(lines, event))

    await eventually(is_told)
    (line,) = told(lines, event)
    return line


async def open_session(stage: Stage, amount_sats: int) -> tuple[dict[str, str], str, bytes]:
    """A session that waits: its token's header, its invoice and its payment hash."""
    body = (await stage.http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
    funding = body["funding"]
    header = {"Authorization": f"Bearer {body['token']}"}
    return header, funding["lightning_invoice"], bytes.fromhex(funding["payment_hash"])


async def credited(stage: Stage, lines: Lines, amounts: Sequence[int]) -> None:
    """Waits until exactly these amounts (sats) were credited, each with one line."""

    async def all_are() -> bool:
        async with read_store(stage.settings.store_url) as statements:
            entered = (await statements.totals()).credited
        return entered == sum(amounts) * 1000 and len(told(lines, "payment credited")) >= len(amounts)

    await eventually(all_are, 20)
    said = [line["amount_msat"] // 1000 for line in told(lines, "payment credited")]
    assert sorted(said) == sorted(amounts)


async def sells(stage: Stage) -> bool:
    """Whether a challenge can be had."""
    return (await stage.chat()).status_code == 402


async def streaming(stage: Stage) -> None:
    async def is_open() -> bool:
        return stage.simulation.gate.open_streams > 0

    await eventually(is_open, 20)


async def health(stage: Stage) -> dict[str, Any]:
    """What the operator reads of the node."""
    node: dict[str, Any] = (await stage.http.get(f"{stage.operator_url}/health/ready")).json()["node:gate"]
    return node


async def health_is(stage: Stage, state: str) -> dict[str, Any]:
    async def it_is() -> bool:
        return bool((await health(stage))["state"] == state)

    await eventually(it_is)
    return await health(stage)


@pytest.mark.parametrize("away", ["stopped", "locked"])
def test_a_node_with_many_old_invoices_sells_two_seconds_after_its_first_answer(
    tmp_path: Path, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.RECONCILE_CHECK_SECONDS", 0.5)

    async def before(simulation: Simulation) -> None:
        simulation.gate.fill_with_old_invoices(OLD_INVOICES, age_seconds=MONTH_SECONDS)
        if away == "stopped":
            await simulation.gate.stop()
        else:
            simulation.gate.habits.state = NodeState.LOCKED

    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        line = await told_once(lines, "the node makes no invoices")
        assert ("lncli unlock" in line["reason"]) is (away == "locked")
        await asyncio.sleep(4)  # so that connecting and following have backed off
        assert not await sells(stage)
        if away == "stopped":
            await gate.start()
        gate.habits.state = NodeState.ACTIVE
        answers = time.monotonic()
        await eventually(lambda: sells(stage))
        sold_after = time.monotonic() - answers
        await health_is(stage, "ready")
        ready_after = time.monotonic() - answers

        assert sold_after < READY_WITHIN_SECONDS
        assert ready_after < READY_WITHIN_SECONDS + FRESH_SECONDS
        await told_once(lines, "the node makes invoices again")
        await told_once(lines, "follows the settlements again")
        await told_once(lines, "reconciled with the node")
        await streaming(stage)
        await stage.fund_token(100)
        await credited(stage, lines, [100])
        assert 0 < gate.pages_listed <= 8
        assert gate.invoices_read <= 8 * PAGE_INVOICES

    play(tmp_path, story, before=before)


def test_a_node_that_is_locked_at_start_sells_when_it_is_unlocked(tmp_path: Path) -> None:
    async def before(simulation: Simulation) -> None:
        simulation.gate.habits.state = NodeState.LOCKED

    async def story(stage: Stage, lines: Lines) -> None:
        line = await told_once(lines, "the node makes no invoices")
        assert line["log_level"] == "warning"
        assert "lncli unlock" in line["reason"]
        assert (await health(stage))["state"] == "locked"
        refused = await stage.chat()
        assert (refused.status_code, refused.json()["code"]) == (503, "node_unavailable")
        await asyncio.sleep(2)  # some attempts to follow the stream
        for state in (NodeState.STARTING, NodeState.ACTIVE):
            stage.simulation.gate.habits.state = state
        await told_once(lines, "the node makes invoices again")
        await stage.fund_token(100)

        await credited(stage, lines, [100])
        for event in ("the node makes no invoices", "lost the stream of settlements"):
            assert len(told(lines, event)) == 1
        await told_once(lines, "follows the settlements again")

    play(tmp_path, story, before=before)


def test_a_node_that_is_back_is_followed_at_once_and_not_after_the_back_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.random.uniform", lambda _low, _high: 1000.0)

    async def before(simulation: Simulation) -> None:
        simulation.gate.habits.state = NodeState.LOCKED

    async def story(stage: Stage, lines: Lines) -> None:
        await told_once(lines, "lost the stream of settlements")
        await told_once(lines, "the node makes no invoices")
        await asyncio.sleep(0.5)  # it has asked how the node is, and waits
        stage.simulation.gate.habits.state = NodeState.ACTIVE
        await streaming(stage)
        await stage.fund_token(100)

        await credited(stage, lines, [100])

    play(tmp_path, story, before=before)


def test_a_node_that_still_syncs_is_told_and_its_payments_count(tmp_path: Path) -> None:
    async def before(simulation: Simulation) -> None:
        simulation.gate.habits.synced = False

    async def story(stage: Stage, lines: Lines) -> None:
        line = await told_once(lines, "the node makes invoices where no other does")
        assert "still catching up" in line["reason"]
        assert (await health(stage))["state"] == "syncing"
        assert await sells(stage)
        stage.simulation.gate.habits.synced = True
        await told_once(lines, "the node has caught up")
        await stage.fund_token(100)

        await credited(stage, lines, [100])

    admin = tmp_path / "simulator" / "gate" / "admin.macaroon"
    play(tmp_path, story, before=before, extra={"[[nodes]]": f'macaroon_file = "{admin}"'})


def test_a_node_that_restarts_with_open_invoices_has_them_credited(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        _, session, _ = await open_session(stage, 300)
        offer = (await stage.chat()).json()
        await streaming(stage)
        await gate.stop()
        await told_once(lines, "lost the stream of settlements")
        await gate.start()
        await stage.simulation.pay(session)
        await stage.simulation.pay(offer["invoice"])

        await credited(stage, lines, [300, 50])
        await told_once(lines, "follows the settlements again")
        gate.cut_streams()

        async def both_are_told_twice() -> bool:
            return len(told(lines, "lost the stream of settlements")) == 2 == len(told(lines, back))

        back = "follows the settlements again"
        await eventually(both_are_told_twice)
        await asyncio.sleep(2)
        assert await both_are_told_twice()

    play(tmp_path, story)


def test_a_node_that_moved_to_another_address_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        with capture_logs() as lines:
            async with simulated(tmp_path) as simulation:
                async with staged(tmp_path, simulation=simulation) as stage:
                    await stage.fund_token(100)
                    _, session, _ = await open_session(stage, 300)
                    offer = (await stage.chat()).json()
                    before = simulation.gate.address
                    await simulation.gate.stop()
                    simulation.gate.port = 0
                    await simulation.gate.start()
                    assert simulation.gate.address != before
                    await simulation.pay(offer["invoice"])
                    await told_once(lines, "lost the stream of settlements")
                async with staged(tmp_path, simulation=simulation) as stage:
                    await simulation.pay(session)
                    await credited(stage, lines, [100, 300, 50])
                    assert await sells(stage)
                    assert await stage.verify() == []

    run(asyncio.wait_for(story(), 90))


def test_a_certificate_that_is_renewed_while_the_gateway_runs_costs_no_payment(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        _, session, _ = await open_session(stage, 300)
        await streaming(stage)
        await gate.stop()
        for file in (gate.credentials.tls_cert, gate.credentials.tls_key):
            file.unlink()
        credentials.issue(gate.credentials.tls_cert.parent, gate.macaroon_key)
        await gate.start()
        await stage.simulation.pay(session)

        await credited(stage, lines, [300])
        await eventually(lambda: sells(stage))

    play(tmp_path, story)


def test_a_macaroon_that_is_too_weak_is_told_before_the_first_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        line = await told_once(lines, "the node makes no invoices")
        assert "lacks invoices:write" in line["reason"]
        node = await health_is(stage, "refused")
        assert "lacks invoices:write" in node["sentence"]
        assert BAKE in node["sentence"]
        assert not stage.simulation.gate.peer.invoices
        refused = await stage.chat()
        assert refused.status_code == 503
        assert "macaroon" not in refused.text
        assert "permission" not in refused.text

    readonly = tmp_path / "simulator" / "gate" / "readonly.macaroon"
    play(tmp_path, story, extra={"[[nodes]]": f'macaroon_file = "{readonly}"'})


def test_a_macaroon_that_is_revoked_is_told_and_a_new_file_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    macaroon = tmp_path / "arkgate.macaroon"
    needed = ("invoices:read", "invoices:write", "info:read")

    async def before(simulation: Simulation) -> None:
        macaroon.write_bytes(simulation.gate.bake(*needed, root_key_id="7"))

    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        token = await stage.fund_token(100)
        _, session, _ = await open_session(stage, 300)
        del gate.root_keys["7"]
        gate.cut_streams()
        for answer in (await stage.chat(), await stage.http.post("/v1/sessions", json={"amount_sats": 10})):
            assert (answer.status_code, answer.json()["code"]) == (503, "node_unavailable")
            assert "root key" not in answer.text
            assert "macaroon" not in answer.text
        line = await told_once(lines, "the node makes no invoices")
        assert "root key with id 7 doesn't exist" in line["reason"]
        assert "root key with id 7" in (await health_is(stage, "refused"))["sentence"]
        assert (await stage.chat(token)).status_code == 200
        await stage.simulation.pay(session)

        macaroon.write_bytes(gate.bake(*needed, root_key_id="8"))
        await told_once(lines, "the node makes invoices again")
        await health_is(stage, "ready")
        assert await sells(stage)
        await credited(stage, lines, [100, 300])
        assert len(told(lines, "the node makes no invoices")) == 1

    play(tmp_path, story, before=before, extra={"[[nodes]]": f'macaroon_file = "{macaroon}"'})


@pytest.mark.parametrize("habit", ["streams_silent", "settlements_hidden"])
def test_a_stream_that_missed_a_payment_is_told_and_opened_anew_once_a_minute(
    tmp_path: Path, habit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr("arkgate.gateway.silence.MISSED_AFTER_SECONDS", 0.5)

    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        await streaming(stage)
        await asyncio.sleep(1)  # so that the stream has caught up
        setattr(gate.habits, habit, True)
        streams = gate.streams_opened
        for amount in (300, 301):
            _, session, payment_hash = await open_session(stage, amount)
            await stage.simulation.pay(session)
            if amount == 300:
                line = await told_once(
                    lines, "the stream of settlements missed payments that look-ups found; opening it anew"
                )
                assert (line["log_level"], line["missed"]) == ("warning", 1)
                assert line["payment"] == payment_hash.hex()
        await credited(stage, lines, [300, 301])
        await asyncio.sleep(2)

        assert gate.streams_opened == streams + 1
        assert len(told(lines, line["event"])) == 1
        assert "stream" not in {said["reported_by"] for said in told(lines, "payment credited")}

    play(tmp_path, story)


def test_what_is_settled_while_no_stream_is_open_is_not_held_against_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr("arkgate.gateway.silence.MISSED_AFTER_SECONDS", 0.5)

    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        offer = (await stage.chat()).json()
        await streaming(stage)
        await asyncio.sleep(1)  # so that the stream has caught up
        gate.habits.settlements_hidden = True
        gate.cut_streams()
        await stage.simulation.pay(offer["invoice"])
        gate.habits.settlements_hidden = False

        await credited(stage, lines, [50])
        await asyncio.sleep(3)
        assert gate.streams_opened == 2
        assert not [line for line in lines if "missed" in line["event"]]

    play(tmp_path, story)


def test_a_stream_that_tells_later_than_a_proof_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr("arkgate.gateway.silence.MISSED_AFTER_SECONDS", 2.0)

    async def story(stage: Stage, lines: Lines) -> None:
        await streaming(stage)
        await asyncio.sleep(1)
        stage.simulation.gate.habits.stream_lag_seconds = 0.5
        for _ in range(4):
            credential = await stage.buy_credential()
            assert (await stage.chat(credential.header)).status_code == 200
        await asyncio.sleep(4)

        assert stage.simulation.gate.streams_opened == 1
        assert [line["reported_by"] for line in told(lines, "payment credited")] == ["proof"] * 4
        await credited(stage, lines, [50] * 4)

    play(tmp_path, story)


def test_an_invoice_that_the_node_forgot_ends_unpaid_when_it_has_expired_and_not_before(
    tmp_path: Path,
) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        gate = stage.simulation.gate
        _, session, payment_hash = await open_session(stage, 300)
        gate.cancel(payment_hash)
        assert gate.collect_garbage() == 1
        with pytest.raises(PaymentFailed):
            await stage.simulation.pay(session)
        await eventually(lambda: looked_up_again(stage, payment_hash))
        assert not told(lines, "an invoice ended unpaid")
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE invoice SET expires_at_ms = 1, next_lookup_ms = 1")
        line = await told_once(lines, "an invoice ended unpaid")

        assert (line["payment_hash"], line["state"]) == (payment_hash.hex(), "expired")
        await credited(stage, lines, [])

    play(tmp_path, story)


async def looked_up_again(stage: Stage, payment_hash: bytes) -> bool:
    """Whether a look-up of that invoice was put off once."""
    with sqlite3.connect(stage.database) as database:
        query = "SELECT next_lookup_ms - created_at_ms FROM invoice WHERE payment_hash = ?"
        (later_ms,) = database.execute(query, (payment_hash,)).fetchone()
    return bool(later_ms > 4000)


def test_a_cancelled_invoice_ends_with_one_line(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        _, _, payment_hash = await open_session(stage, 300)
        stage.simulation.gate.cancel(payment_hash)
        line = await told_once(lines, "an invoice ended unpaid")

        assert (line["payment_hash"], line["state"]) == (payment_hash.hex(), "cancelled")
        await credited(stage, lines, [])

    play(tmp_path, story)


def test_an_underpayment_is_refused_by_the_node_and_credits_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        _, session, _ = await open_session(stage, 300)
        stage.simulation.payer.habits.overpay_msat = -1
        with pytest.raises(PaymentFailed, match="INCORRECT_PAYMENT_DETAILS"):
            await stage.simulation.pay(session)
        stage.simulation.payer.habits.overpay_msat = 0
        await credited(stage, lines, [])
        await stage.simulation.pay(session)

        await credited(stage, lines, [300])

    play(tmp_path, story)


def test_a_payment_in_several_parts_is_one_credit(tmp_path: Path) -> None:
    async def story(stage: Stage, lines: Lines) -> None:
        payer = stage.simulation.payer.habits
        payer.parts, payer.settle_delay_seconds = 4, 0.7
        header, session, payment_hash = await open_session(stage, 301)
        payment = asyncio.create_task(stage.simulation.pay(session))

        async def some_are_held() -> bool:
            return len(stage.simulation.gate.peer.parts.get(payment_hash, [])) == 3

        await eventually(some_are_held)
        assert (await stage.balance(header))["status"] == "awaiting_payment"
        await payment
        await credited(stage, lines, [301])
        row = stage.simulation.gate.invoice(payment_hash)
        assert row is not None
        assert len(stage.simulation.gate.describe(row).htlcs) == 4

    play(tmp_path, story)


@pytest.mark.parametrize("off_seconds", [3600, -3600], ids=["ahead", "behind"])
def test_a_node_whose_clock_is_an_hour_off_is_told_once_and_its_payments_count_once(
    tmp_path: Path, off_seconds: int
) -> None:
    async def before(simulation: Simulation) -> None:
        simulation.gate.habits.clock_off_seconds = off_seconds

    async def story(stage: Stage, lines: Lines) -> None:
        now_seconds = time.time()
        credential = await stage.buy_credential()
        assert (await stage.chat(credential.header)).status_code == 200
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 300})).json()
        await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        await stage.simulation.pay((await stage.chat()).json()["invoice"])

        await credited(stage, lines, [50, 300, 50])
        line = await told_once(lines, "the node's clock is off")
        assert (line["log_level"], line["off_seconds"]) == ("warning", pytest.approx(off_seconds, abs=2))
        async with read_store(stage.settings.store_url) as statements:
            session = await statements.session(opened["session_id"])
        assert session is not None
        assert session.invoice is not None
        assert session.invoice.expires_at_ms / 1000 - now_seconds == pytest.approx(7200, abs=20)
        await stage.http.post(f"{stage.operator_url}{RECONCILE_PATH}", headers={COMMAND_HEADER: "yes"})
        found = await told_once(lines, "reconciled fully")
        assert (found["ours"], found["missing"]) == (3, 0)
        await credited(stage, lines, [50, 300, 50])

    expiry = "invoice_expiry_seconds = 7200"
    play(tmp_path, story, before=before, extra={"[l402]": expiry, "[sessions]": expiry})
