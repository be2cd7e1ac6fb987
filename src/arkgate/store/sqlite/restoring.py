"""Fills an empty ledger on SQLite from an archive: all of it in one transaction, or nothing."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from arkgate.core.reports import Table
from arkgate.store.lock import writing_lock
from arkgate.store.restoring import OPENING_TABLES, not_empty, other_revision, other_table
from arkgate.store.sqlite import queries, schema
from arkgate.store.sqlite.connections import connect_writer, refusing


class SqliteLoader:
    """Keeps the promises of `store.restoring.Loader`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    async def load(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `store.restoring.Loader`."""
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        places = ", ".join("?" * len(table.columns))
        statement = f'INSERT INTO "{table.name}" ({columns}) VALUES ({places})'  # noqa: S608 - names were checked

        def insert() -> None:
            # Closed here: a cursor that another thread lets go later resets the statement while the
            # next rows run through it.
            self._database.executemany(statement, rows).close()

        await asyncio.to_thread(insert)

    async def note(self, fact: str, value: int) -> None:
        """See `store.restoring.Loader`."""
        self._database.execute(queries.NOTE_FACT, (fact, value))


@asynccontextmanager
async def restore_sqlite(
    path: Path | str, *, revision: str, tables: Sequence[Table]
) -> AsyncIterator[SqliteLoader]:
    """See `store.restoring.Opener`. The lock is held until the block has ended."""
    database_path = Path(path).expanduser().resolve()
    with (
        refusing(f"The ledger {database_path} cannot be restored"),
        writing_lock(database_path),
        closing(connect_writer(database_path)) as database,
    ):
        _prepare(database, database_path, revision)
        database.execute("BEGIN IMMEDIATE")
        try:
            _refuse_others(database, tables)
            _refuse_used(database, database_path, tables)
            yield SqliteLoader(database)
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _prepare(database: sqlite3.Connection, path: Path, revision: str) -> None:
    from arkgate.store.sqlite.upgrade import apply_revisions  # noqa: PLC0415 - it takes long to import

    found = schema.revision_of(database)
    if found is None:
        apply_revisions(database, up_to=revision)
    elif found != revision:
        raise other_revision(str(path), found, revision)


def _refuse_others(database: sqlite3.Connection, tables: Sequence[Table]) -> None:
    """The archive's names go into statements: they must be those of tables and columns that are there."""
    for table in tables:
        known = [row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (table.name,))]
        if sorted(column.name for column in table.columns) != sorted(known):
            raise other_table(table)


def _refuse_used(database: sqlite3.Connection, path: Path, tables: Sequence[Table]) -> None:
    """Refuses books in which anything has happened, and clears what a first start wrote."""
    for table in tables:
        where = " WHERE kind = 'customer'" if table.name == "account" else ""
        if table.name in ("cursor", "meta"):
            continue
        if database.execute(f'SELECT 1 FROM "{table.name}"{where} LIMIT 1').fetchone():  # noqa: S608 - checked
            raise not_empty(str(path))
    for name in OPENING_TABLES:
        database.execute(f'DELETE FROM "{name}"')  # noqa: S608 - a constant
