"""Brings a SQLite file to this version's tables, or refuses one that this version does not know."""

import sqlite3

from arkgate.store import revisions
from arkgate.store.sqlite import queries


def revision_of(database: sqlite3.Connection) -> str | None:
    """The revision of a database's tables; None when it has none yet."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    if database.execute(known).fetchone() is None:
        return None
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def refuse_unknown(database: sqlite3.Connection) -> str | None:
    """The revision of the tables. Raises StoreUnavailable when this version cannot work on them."""
    revision = revision_of(database)
    if revision is not None:
        row = database.execute(queries.FACT, (revisions.FLOOR_FACT,)).fetchone()
        revisions.refuse_unknown(revision, None if row is None else row[0])
    return revision


def prepare(database: sqlite3.Connection, now_ms: int) -> None:
    """Upgrades the tables and opens the books, each in one transaction; called under the lock only."""
    if revisions.is_behind(refuse_unknown(database)):
        upgrade(database)
    _open_books(database, now_ms)


def upgrade(database: sqlite3.Connection) -> None:
    """All revisions that are missing, in one transaction, or none. Raises StoreUnavailable."""
    # SQLAlchemy takes half a second to import, and most starts have nothing to upgrade.
    from arkgate.store.sqlite.upgrade import apply_revisions  # noqa: PLC0415

    apply_revisions(database)


def _open_books(database: sqlite3.Connection, now_ms: int) -> None:
    if database.execute(queries.FACT, ("opened_at_ms",)).fetchone():
        return
    database.execute("BEGIN IMMEDIATE")
    database.execute(queries.NOTE_FACT, ("opened_at_ms", now_ms))
    database.executemany(
        queries.OPEN_ACCOUNT,
        [(account_id, kind, now_ms) for account_id, kind in revisions.SHARED_ACCOUNTS],
    )
    database.execute("COMMIT")
