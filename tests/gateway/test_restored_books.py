"""Books from a backup: what was paid since then comes back, and works as it did."""

import asyncio
import shutil
from pathlib import Path

from tests.stage import MODEL, eventually, run, staged

from arkgate.simulator.simulation import Simulation
from arkgate.store.keyfile import rotate


def test_a_session_paid_after_the_backup_has_its_balance_and_its_token_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(tmp_path, simulation=simulation) as stage:
                before = await stage.fund_token(100)
                books = stage.database
                keys = stage.settings.keys_file
            shutil.copy(books, tmp_path / "backup")
            async with staged(tmp_path, simulation=simulation) as stage:
                since = await stage.fund_token(500)
            shutil.copy(tmp_path / "backup", books)
            rotate(keys)  # the token stays that of the key it was made under

            async with staged(tmp_path, simulation=simulation) as stage:

                async def is_back() -> bool:
                    return (await stage.balance(since)).get("balance_sats") == 500

                await eventually(is_back)
                assert (await stage.chat(since)).status_code == 200
                assert (await stage.balance(before))["balance_sats"] == 100
                assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))
