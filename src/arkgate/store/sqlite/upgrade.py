"""Applies the missing revisions to a SQLite connection, through Alembic."""

import sqlite3

from sqlalchemy import StaticPool, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from arkgate.core.errors import StoreUnavailable
from arkgate.store import revisions


def apply_revisions(database: sqlite3.Connection, *, up_to: str | None = None) -> None:
    """All revisions that are missing, in one transaction, or none. Raises StoreUnavailable."""
    engine = create_engine("sqlite://", creator=lambda: database, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            revisions.apply_missing(connection, up_to=up_to)
    except SQLAlchemyError as exc:
        raise StoreUnavailable(f"The ledger's tables cannot be upgraded: {exc}.") from exc


def _begin(connection: Connection) -> None:
    # sqlite3 is in autocommit mode, so that nothing but this begins a transaction.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
