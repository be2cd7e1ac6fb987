"""Brings a database to this version's tables, or refuses one that this version does not know."""

import sqlite3

from arkgate.core.errors import StoreUnavailable
from arkgate.core.ledger import EQUITY_ACCOUNT, EXPENSE_ACCOUNT, INCOME_ACCOUNT
from arkgate.store import queries

REVISIONS = ("0001",)
"""Every revision that this version can read or upgrade, oldest first."""

_SHARED = ((INCOME_ACCOUNT, "income"), (EXPENSE_ACCOUNT, "expense"), (EQUITY_ACCOUNT, "equity"))


def revision_of(database: sqlite3.Connection) -> str | None:
    """The revision of a database's tables; None when it has none yet."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    if database.execute(known).fetchone() is None:
        return None
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def refuse_unknown(revision: str | None) -> None:
    """Raises StoreUnavailable for a revision that this version of the program has never heard of."""
    if revision is not None and revision not in REVISIONS:
        raise StoreUnavailable(
            f"The ledger's tables are of revision {revision}, which this version of arkgate does not know"
            f" (it knows up to {REVISIONS[-1]}). Start the version that wrote them, or a newer one.",
            code="store_schema",
        )


def prepare(database: sqlite3.Connection, now_ms: int) -> None:
    """Upgrades the tables and opens the books, each in one transaction; called under the lock only."""
    revision = revision_of(database)
    refuse_unknown(revision)
    if revision != REVISIONS[-1]:
        upgrade(database)
    _open_books(database, now_ms)


def upgrade(database: sqlite3.Connection) -> None:
    """Applies every revision that is missing, in one transaction: all of them or none."""
    # Alembic takes a third of a second to import, and most starts have nothing to upgrade.
    from arkgate.store.upgrade import apply_revisions  # noqa: PLC0415

    apply_revisions(database)


def _open_books(database: sqlite3.Connection, now_ms: int) -> None:
    if database.execute("SELECT 1 FROM meta WHERE name = 'opened_at_ms'").fetchone():
        return
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO meta (name, value) VALUES ('opened_at_ms', ?)", (now_ms,))
    database.executemany(
        queries.OPEN_ACCOUNT,
        [(account_id, kind, now_ms) for account_id, kind in _SHARED],
    )
    database.execute("COMMIT")
