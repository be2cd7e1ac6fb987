"""One moment of a PostgreSQL database: a connection of its own in one repeatable-read transaction."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from arkgate.ports import Clock
from arkgate.store import revisions
from arkgate.store.postgres import schema
from arkgate.store.postgres.connections import Connection, refusing
from arkgate.store.postgres.reads import UNREADABLE, Reads
from arkgate.store.snapshot import BATCH_ROWS, BooksSnapshot, Row


class PostgresReader:
    """Keeps the promises of `store.snapshot.Reader`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def batches(self, statement: str) -> AsyncIterator[Sequence[Row]]:
        """See `store.snapshot.Reader`."""
        with refusing(UNREADABLE):
            batch: list[Row] = []
            async for row in self._connection.cursor(statement, prefetch=BATCH_ROWS):
                batch.append(row)
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
            if batch:
                yield batch


@asynccontextmanager
async def postgres_snapshot(reads: Reads, clock: Clock) -> AsyncIterator[BooksSnapshot]:
    """The books as they are when the block begins."""
    async with reads.snapshot() as connection:
        revision = await schema.revision_of(connection)  # the first read decides which moment it is
        revisions.refuse_behind(revision, "in this database")
        assert revision is not None, "tables without a revision are behind"
        yield BooksSnapshot(PostgresReader(connection), taken_at_ms=clock.now_ms(), revision=revision)
