"""A log that cannot be written costs nobody anything: no answer, no money, no thread."""

import subprocess
import sys
from pathlib import Path

import pytest

# Books whose disk becomes full, and whose log is on the same disk.
BOOKS = """
import asyncio, sqlite3, sys
from pathlib import Path
from arkgate.cli.running import set_up_logs
from arkgate.core.errors import StoreUnavailable
from arkgate.store.sqlite.opening import open_sqlite

def full(database, now_ms):
    raise sqlite3.OperationalError("database or disk is full")

async def main():
    set_up_logs("debug")
    async with open_sqlite(Path(sys.argv[1]), None) as store:
        for _ in range(2):
            try:
                async with asyncio.timeout(5):
                    await store.writer.run(full)
            except StoreUnavailable as refusal:
                print(refusal.message)
        await store.ledger.note("written_again", 1)
        store.ledger.check()

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_books_go_on_when_neither_they_nor_their_log_can_be_written(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", BOOKS, str(tmp_path / "ledger.db")],
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
            check=False,
            text=True,
        )

    assert ended.returncode == 0
    assert ended.stdout.splitlines() == ["The ledger cannot be written now: database or disk is full."] * 2
