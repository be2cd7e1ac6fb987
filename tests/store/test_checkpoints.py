"""SQLite's log is written back beside the commits, and begins anew although nobody pauses."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from arkgate.store.sqlite.checkpoints import FRAMES_LEFT, Checkpoints
from arkgate.store.sqlite.connections import PAGE_BYTES, connect_reader, connect_writer
from arkgate.store.sqlite.writer import Writer
from tests.store.books import ManualClock, run

LOG_BYTES = 1024 * 1024
ROW_BYTES = 16 * 1024
PAUSE_SECONDS = 0.01
WAIT_SECONDS = 20.0


@asynccontextmanager
async def books(directory: Path) -> AsyncIterator[Writer]:
    """A table of blobs whose log is written back a hundred times a second."""
    path = directory / "ledger.db"
    database = connect_writer(path, log_bytes=LOG_BYTES)
    database.execute("CREATE TABLE blob (content BLOB)")
    writer = Writer(database, ManualClock())
    checkpoints = Checkpoints(path, writer.finish_log, log_bytes=LOG_BYTES, pause_seconds=PAUSE_SECONDS)
    try:
        yield writer
    finally:
        await checkpoints.close()
        await writer.close()


def _add(database: sqlite3.Cursor, _now_ms: int) -> None:
    database.execute("INSERT INTO blob VALUES (zeroblob(?))", (ROW_BYTES,))


async def write(writer: Writer, megabytes: int) -> None:
    """Four writers that never rest."""

    async def rows() -> None:
        for _ in range(megabytes * 1024 * 1024 // ROW_BYTES // 4):
            await writer.run(_add)

    await asyncio.gather(*(rows() for _ in range(4)))


def log_file(directory: Path) -> Path:
    """SQLite's write-ahead log."""
    return directory / "ledger.db-wal"


def test_the_log_begins_anew_under_load_that_never_pauses(tmp_path: Path) -> None:
    async def story() -> None:
        async with books(tmp_path) as writer:
            await write(writer, 48)
            assert log_file(tmp_path).stat().st_size < 24 * LOG_BYTES

    run(story())


def test_what_was_written_during_a_long_read_is_written_back_without_a_commit(tmp_path: Path) -> None:
    async def story() -> None:
        async with books(tmp_path) as writer:
            await write(writer, 1)
            with closing(connect_reader(tmp_path / "ledger.db")) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM blob").fetchone()
                await write(writer, 8)
                during = log_file(tmp_path).stat().st_size
                assert during > 8 * 1024 * 1024
            before = (tmp_path / "ledger.db").stat().st_size
            until = time.monotonic() + WAIT_SECONDS
            while (tmp_path / "ledger.db").stat().st_size < before + 7 * 1024 * 1024:
                assert time.monotonic() < until, "the log is not written back"
                await asyncio.sleep(PAUSE_SECONDS)

    run(story())


def test_a_commit_writes_back_a_few_pages_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    finish = Writer.finish_log

    def counted(writer: Writer) -> None:
        asked.append(1)
        finish(writer)

    monkeypatch.setattr(Writer, "finish_log", counted)

    async def story() -> None:
        async with books(tmp_path) as writer:
            with closing(connect_reader(tmp_path / "ledger.db")) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM blob").fetchone()
                await write(writer, 4 + FRAMES_LEFT * PAGE_BYTES // 1024**2)
                await asyncio.sleep(20 * PAUSE_SECONDS)
                assert not asked  # most of it waits for the reader
            await write(writer, 1)
            until = time.monotonic() + WAIT_SECONDS
            while not asked:
                assert time.monotonic() < until, "the log never ends"
                await write(writer, 1)

    run(story())
