"""Look-ups: whatever else waits or goes wrong, a payment that no stream tells of is found."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.stage import Stage, eventually, run, staged

UNPAID = 150


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

    await eventually(enough, 20)


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
