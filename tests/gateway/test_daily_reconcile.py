"""The daily reconcile happens however often the gateway is started, from where the last one ended."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate.simulator.simulation import Simulation
from arkgate.store.clock import SystemClock

DAY_MS = 24 * 3600 * 1000


def reconciled_at_ms(stage: Stage) -> int | None:
    with sqlite3.connect(stage.database) as database:
        row = database.execute("SELECT value FROM meta WHERE name = 'reconciled_at_ms:gate'").fetchone()
    return None if row is None else int(row[0])


async def lost_for_good(stage: Stage, *, last_reconcile_ms: int) -> None:
    """A paid challenge that no stream, no look-up and no early cursor brings back, in older books."""
    stage.simulation.gate.habits.settlements_hidden = True
    await stage.simulation.pay((await stage.chat()).json()["invoice"])
    with sqlite3.connect(stage.database) as database:
        database.execute("REPLACE INTO cursor VALUES ('gate', 1000, 1000)")
        database.execute("REPLACE INTO meta VALUES ('reconciled_at_ms:gate', ?)", (last_reconcile_ms,))


def test_a_start_reconciles_when_the_last_one_is_more_than_a_day_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS", 0.2)

    async def story() -> None:
        now_ms = SystemClock().now_ms()
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(tmp_path, simulation=simulation) as stage:

                async def noted() -> bool:
                    return reconciled_at_ms(stage) is not None

                await eventually(noted)
                await lost_for_good(stage, last_reconcile_ms=now_ms - DAY_MS // 2)
            async with staged(tmp_path, simulation=simulation) as stage:
                await asyncio.sleep(1)
                assert await stage.metric("arkgate_payments_total") == 0
                await lost_for_good(stage, last_reconcile_ms=now_ms - DAY_MS - 1)
            async with staged(tmp_path, simulation=simulation) as stage:

                async def both_found() -> bool:
                    return bool(await stage.metric("arkgate_payments_total") == 2)

                await eventually(both_found)
                await eventually(lambda: noted_since(stage, now_ms))
                assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


async def noted_since(stage: Stage, at_ms: int) -> bool:
    return (reconciled_at_ms(stage) or 0) >= at_ms
