"""Applies the revisions of `migrations` to a database, through Alembic."""

import sqlite3
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from sqlalchemy import StaticPool, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from arkgate.core.errors import StoreUnavailable


def apply_revisions(database: sqlite3.Connection) -> None:
    """All revisions that are missing, or none. Raises StoreUnavailable."""
    engine = create_engine("sqlite://", creator=lambda: database, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    try:
        with as_file(files("arkgate.store") / "migrations") as scripts, engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(scripts).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as exc:
        raise StoreUnavailable(f"The ledger's tables cannot be upgraded: {exc}.") from exc


def _begin(connection: Connection) -> None:
    # sqlite3 is in autocommit mode, so that nothing but this begins a transaction.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
