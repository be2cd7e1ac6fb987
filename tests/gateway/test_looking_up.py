"""Look-ups: whatever else waits or goes wrong, a payment that no stream tells of is found."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.stage import Stage, eventually, run, staged

from arkgate.simulator.lnd import SimulatedNode

UNPAID = 150
OPEN = 100_000
MANY_MORE = """
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
INSERT INTO invoice
SELECT randomblob(32), account_id, node, purpose, 'one of many', amount_msat, 0, 'open', created_at_ms,
  expires_at_ms, NULL, 1
FROM number, (SELECT * FROM invoice LIMIT 1)
"""
"""As many open invoices, all due."""


async def open_sessions(stage: Stage, count: int) -> list[bytes]:
    """Sessions that wait; their payment hashes."""
    answers = [await stage.http.post("/v1/sessions", json={"amount_sats": 10}) for _ in range(count)]
    return [bytes.fromhex(answer.json()["funding"]["payment_hash"]) for answer in answers]


async def pay_unseen(stage: Stage, amount_sats: int = 500) -> dict[str, str]:
    """A session that is paid while no stream tells of it; its token's header."""
    stage.simulation.gate.habits.settlements_hidden = True
    session = (await stage.http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
    await stage.simulation.pay(session["funding"]["lightning_invoice"])
    return {"Authorization": f"Bearer {session['token']}"}


async def has(stage: Stage, header: dict[str, str], sats: int) -> None:
    async def enough() -> bool:
        return bool((await stage.balance(header)).get("balance_sats") == sats)

    await eventually(enough, 40)


def awaited(stage: Stage) -> int:
    """How many invoices the books will look up again."""
    with sqlite3.connect(stage.database) as database:
        (count,) = database.execute(
            "SELECT count(*) FROM invoice WHERE next_lookup_ms IS NOT NULL"
        ).fetchone()
    return int(count)


def play(tmp_path: Path, story: Callable[[Stage], Awaitable[None]]) -> None:
    async def played() -> None:
        async with staged(tmp_path) as stage:
            await story(stage)
            assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


@pytest.mark.parametrize("forgotten", [False, True], ids=["cancelled", "garbage-collected"])
def test_expired_sessions_do_not_keep_a_paid_one_waiting(tmp_path: Path, forgotten: bool) -> None:
    async def story(stage: Stage) -> None:
        for payment_hash in await open_sessions(stage, UNPAID):
            stage.simulation.gate.cancel(payment_hash)
        if forgotten:
            stage.simulation.gate.collect_garbage()
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE invoice SET expires_at_ms = 1, next_lookup_ms = 1")
        header = await pay_unseen(stage)

        await has(stage, header, 500)

        async def let_go() -> bool:
            return awaited(stage) == 0

        await eventually(let_go, 20)

    play(tmp_path, story)


def test_any_number_of_open_sessions_costs_the_node_twenty_look_ups_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    check = SimulatedNode.check

    def counted(node: SimulatedNode, method: str, macaroons: list[str]) -> None:
        if method == "LookupInvoice":
            asked.append(time.monotonic())
        check(node, method, macaroons)

    monkeypatch.setattr(SimulatedNode, "check", counted)
    monkeypatch.setattr("arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS", 0.1)

    async def looking_up() -> bool:
        return len(asked) > 2

    async def story(stage: Stage) -> None:
        await open_sessions(stage, 1)
        with sqlite3.connect(stage.database) as database:
            database.execute(MANY_MORE, (OPEN,))
        began = time.monotonic()
        stage.simulation.gate.cut_streams()  # what follows catches up with all of them
        await eventually(looking_up)  # so that no listing finds what is paid now
        await has(stage, await pay_unseen(stage), 500)  # who is there does not wait behind them
        await asyncio.sleep(max(0.0, began + 6 - time.monotonic()))

        seconds = time.monotonic() - began
        looked_up = sum(at >= began for at in asked)
        assert 10 < looked_up <= 20 * (seconds + 1)
        with sqlite3.connect(stage.database) as database:
            database.execute("DELETE FROM invoice WHERE payment_request = 'one of many'")

    play(tmp_path, story)


def test_every_awaited_invoice_is_asked_about_after_a_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.LOOK_UP_BATCH", 4)

    async def story(stage: Stage) -> None:
        await open_sessions(stage, 20)
        headers = [await pay_unseen(stage, 20 + number) for number in range(3)]
        with sqlite3.connect(stage.database) as database:
            database.execute(
                "UPDATE invoice SET next_lookup_ms = 9000000000000 WHERE next_lookup_ms IS NOT NULL"
            )
        stage.simulation.gate.cut_streams()

        for number, header in enumerate(headers):
            await has(stage, header, 20 + number)

    play(tmp_path, story)


def test_an_invoice_that_the_node_answers_wrongly_keeps_no_other_waiting(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for payment_hash in await open_sessions(stage, 5):
            row = stage.simulation.gate.invoice(payment_hash)
            assert row is not None
            # What LndNode then says: "answered a look-up with another invoice".
            stage.simulation.gate.peer.invoices[payment_hash] = replace(row, payment_hash=bytes(32))
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE invoice SET next_lookup_ms = 1")
        header = await pay_unseen(stage)

        await has(stage, header, 500)

        async def alarmed() -> bool:
            return await stage.metric("arkgate_alarms_total") >= 1

        await eventually(alarmed)

    play(tmp_path, story)


def test_a_payment_that_the_books_cannot_take_ends_neither_look_ups_nor_the_stream(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        payer = stage.simulation.payer.habits
        session = (await stage.http.post("/v1/sessions", json={"amount_sats": 10})).json()
        absurd = (await stage.chat()).json()
        payer.overpay_msat = 2_200_000_000_000_000_000
        await stage.simulation.pay(session["funding"]["lightning_invoice"])
        await stage.simulation.pay(absurd["invoice"])
        payer.overpay_msat = 0
        told = await stage.buy_credential()

        async def credited() -> bool:
            metric = await stage.metric("arkgate_payments_total")
            return bool(metric == 1)

        await eventually(credited)  # by the stream: nobody came back with the credential
        assert (await stage.balance(told.header))["balance_sats"] == 50
        await has(stage, await pay_unseen(stage), 500)
        assert await stage.metric("arkgate_alarms_total") >= 2

    play(tmp_path, story)


def test_a_node_that_is_away_is_not_asked_about_every_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await open_sessions(stage, 60)
        failures = stage.simulation.gate.habits.failures
        failures["LookupInvoice"] = grpc.StatusCode.UNAVAILABLE
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE invoice SET next_lookup_ms = 1")
        await asyncio.sleep(3)
        with sqlite3.connect(stage.database) as database:
            (asked,) = database.execute("SELECT count(*) FROM invoice WHERE next_lookup_ms > 1").fetchone()
        failures.clear()
        header = await pay_unseen(stage)

        assert 3 <= asked <= 30
        await has(stage, header, 500)
        assert await stage.metric("arkgate_alarms_total") == 0

    play(tmp_path, story)
