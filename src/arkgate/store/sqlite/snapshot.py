"""One moment of a SQLite file: a reading connection of its own that stays in one transaction."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from arkgate.ports import Clock
from arkgate.store import revisions
from arkgate.store.snapshot import BATCH_ROWS, BooksSnapshot, Row
from arkgate.store.sqlite import schema
from arkgate.store.sqlite.connections import connect_reader, refusing

_UNREADABLE = "The ledger cannot be read now"


class SqliteReader:
    """Keeps the promises of `store.snapshot.Reader`; what reads many rows runs in a thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    async def batches(self, statement: str) -> AsyncIterator[Sequence[Row]]:
        """See `store.snapshot.Reader`."""
        with refusing(_UNREADABLE):
            cursor = await asyncio.to_thread(self._database.execute, statement)
            try:
                while batch := await asyncio.to_thread(cursor.fetchmany, BATCH_ROWS):
                    yield batch
            finally:
                cursor.close()


@asynccontextmanager
async def sqlite_snapshot(path: Path, clock: Clock) -> AsyncIterator[BooksSnapshot]:
    """The books as they are when the block begins.

    The write-ahead log cannot be written back beyond that moment, and grows, until the block ends.
    """
    with refusing(_UNREADABLE), closing(connect_reader(path)) as database:
        database.execute("BEGIN")
        revision = schema.revision_of(database)  # the first read decides which moment it is
        revisions.refuse_behind(revision, str(path))
        assert revision is not None, "tables without a revision are behind"
        try:
            yield BooksSnapshot(SqliteReader(database), taken_at_ms=clock.now_ms(), revision=revision)
        finally:
            database.interrupt()  # or a command that is stopped waits for its longest read
