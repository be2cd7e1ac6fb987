"""A storm says who did not finish and why, and what ended by itself, so that nobody has to guess."""

import asyncio
import signal
from pathlib import Path

from tests.stage import eventually, run
from tests.storm import report
from tests.storm.audit import differences
from tests.storm.fleet import Gate, fleet
from tests.storm.shoppers import Journal, Shopper


def test_a_client_that_waits_is_named_with_what_it_was_told_and_its_books_are_audited(tmp_path: Path) -> None:
    async def story() -> None:
        journal, over = Journal(), asyncio.Event()
        async with fleet(tmp_path, "sqlite", f"sqlite:///{tmp_path / 'ledger.db'}", 1, tmp_path) as one:
            one.simulation.chat.faults.always = "500"
            shoppers = [Shopper(one, journal, seed) for seed in range(3)]
            shopping = [asyncio.create_task(shopper.run(over)) for shopper in shoppers]

            async def all_insist() -> bool:
                told = [shopper.asking.told for shopper in shoppers if shopper.asking is not None]
                return told == ["502 upstream_error"] * len(shoppers)

            await eventually(all_insist, 60)
            over.set()

            found = await report.unfinished(shoppers, shopping, within_seconds=1)
            (state,) = await report.states(one)
            one.simulation.chat.faults.always = None
            await shoppers[0].learn()

            assert len(found) == 3, found
            for shopper, sentence in zip(shoppers, found, strict=True):
                assert shopper.name in sentence
                assert "POST /api/ai-chat" in sentence
                assert "502 upstream_error" in sentence
            assert "200 ready: store ready" in state
            assert journal.accounts

            async def no_difference() -> bool:  # a large Ark payment is credited when it has become final
                return await differences(one, journal) == []

            await eventually(no_difference, 30)

    run(asyncio.wait_for(story(), 130))


def test_a_gateway_that_ends_by_itself_is_started_again_and_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with fleet(tmp_path, "sqlite", f"sqlite:///{tmp_path / 'ledger.db'}", 1, tmp_path) as one:
            (gate,) = one.gates
            await _is_ready(gate)
            await gate.restart(signal.SIGKILL)
            await _is_ready(gate)
            assert report.misbehaviour(one) == []

            await _ends_by(gate, signal.SIGTERM)
            (sentence,) = report.misbehaviour(one)
            assert "gate-0 ended by itself: status 0" in sentence

            await _is_ready(gate)
            (gate.home / "arkgate.toml").write_text("nonsense")
            await gate.restart(signal.SIGKILL)
            await _ends_by(gate, None)
            assert len(report.misbehaviour(one)) == 1
            assert gate.refused_to_start.total() == 1

    run(asyncio.wait_for(story(), 100))


async def _is_ready(gate: Gate) -> None:
    assert gate.running is not None
    await gate.running.ready()


async def _ends_by(gate: Gate, number: signal.Signals | None) -> None:
    """Waits until the process has ended, by a signal that is not the storm's or because of itself."""
    ended = gate.running
    assert ended is not None
    if number is not None:
        ended.process.send_signal(number)

    async def over() -> bool:
        return ended.process.poll() is not None

    await eventually(over, 30)
    await gate.supervise()
