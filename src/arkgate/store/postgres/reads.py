"""Reading from PostgreSQL: a few connections that cannot write, and one apart for what takes long."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arkgate.store.postgres.connections import (
    ACQUIRE_SECONDS,
    PATIENT_SECONDS,
    Connection,
    Pool,
    Row,
    close,
    connect,
    open_pool,
    refusing,
)

UNREADABLE = "The ledger cannot be read now"
CONNECTIONS_MAX = 4


class Reads:
    """Point reads. Each statement is prepared once on each connection."""

    def __init__(self, url: str, pool: Pool) -> None:
        self._url = url
        self._pool = pool

    async def rows(self, statement: str, *values: object) -> Sequence[Row]:
        """All rows. Raises StoreUnavailable."""
        with refusing(UNREADABLE):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                return await connection.fetch(statement, *values)

    async def row(self, statement: str, *values: object) -> Row | None:
        """The first row, if any. Raises StoreUnavailable."""
        with refusing(UNREADABLE):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                return await connection.fetchrow(statement, *values)

    async def value(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - whatever the column holds
        """The first column of the first row. Raises StoreUnavailable."""
        with refusing(UNREADABLE):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                return await connection.fetchval(statement, *values)

    @asynccontextmanager
    async def snapshot(self, *, seconds: float = PATIENT_SECONDS) -> AsyncIterator[Connection]:
        """A connection of its own on which every read sees the same moment; it blocks no writer.

        Each read may take so many seconds.
        """
        with refusing(UNREADABLE):
            connection = await connect(self._url, reads_only=True, seconds=seconds)
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    yield connection
            finally:
                await close(connection)


@asynccontextmanager
async def open_reads(url: str) -> AsyncIterator[Reads]:
    """Connections for reading, made when they are needed."""
    async with open_pool(url, size=CONNECTIONS_MAX, reads_only=True) as pool:
        yield Reads(url, pool)
