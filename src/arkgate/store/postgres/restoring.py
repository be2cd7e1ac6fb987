"""Fills an empty ledger on PostgreSQL from an archive: all of it in one transaction, or nothing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arkgate.core.reports import Table
from arkgate.store.postgres import schema
from arkgate.store.postgres.connections import PATIENT_SECONDS, Connection, close, connect, refusing, shown
from arkgate.store.restoring import OPENING_TABLES, not_empty, other_revision, other_table

_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = $1
"""
_NOTE_FACT = """
INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


class PostgresLoader:
    """Keeps the promises of `store.restoring.Loader`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def load(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `store.restoring.Loader`."""
        columns = [column.name for column in table.columns]
        await self._connection.copy_records_to_table(table.name, records=rows, columns=columns)

    async def note(self, fact: str, value: int) -> None:
        """See `store.restoring.Loader`."""
        await self._connection.execute(_NOTE_FACT, fact, value)


@asynccontextmanager
async def restore_postgres(
    url: str, *, revision: str, tables: Sequence[Table]
) -> AsyncIterator[PostgresLoader]:
    """See `store.restoring.Opener`. Gateways that run on the empty books wait with their changes."""
    where = shown(url)
    with refusing(f"The ledger {where} cannot be restored"):
        connection = await connect(url, seconds=PATIENT_SECONDS)
        try:
            await _prepare(url, connection, revision)
            async with connection.transaction():
                await _refuse_others(connection, tables)
                names = ", ".join(f'"{table.name}"' for table in tables)
                await connection.execute(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
                await _refuse_used(connection, where, tables)
                yield PostgresLoader(connection)
        finally:
            await close(connection)


async def _prepare(url: str, connection: Connection, revision: str) -> None:
    found = await schema.revision_of(connection)
    if found is None:
        await schema.upgrade(url, up_to=revision)
    elif found != revision:
        raise other_revision(shown(url), found, revision)


async def _refuse_others(connection: Connection, tables: Sequence[Table]) -> None:
    """The archive's names go into statements: they must be those of tables and columns that are there."""
    for table in tables:
        known = [row[0] for row in await connection.fetch(_COLUMNS, table.name)]
        if sorted(column.name for column in table.columns) != sorted(known):
            raise other_table(table)


async def _refuse_used(connection: Connection, where: str, tables: Sequence[Table]) -> None:
    """Refuses books in which anything has happened, and clears what a first start wrote."""
    for table in tables:
        used = f'SELECT 1 FROM "{table.name}" LIMIT 1'  # noqa: S608 - the name was checked
        if table.name not in OPENING_TABLES and await connection.fetchval(used):
            raise not_empty(where)
    if await connection.fetchval("SELECT 1 FROM account WHERE kind = 'customer' LIMIT 1"):
        raise not_empty(where)
    for name in OPENING_TABLES:
        await connection.execute(f'DELETE FROM "{name}"')  # noqa: S608 - a constant
