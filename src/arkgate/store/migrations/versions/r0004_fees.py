"""What a node kept of a payment becomes a transfer of its own kind; older programs do not mind it."""

from pathlib import Path

from alembic import op
from sqlalchemy import text

from arkgate.store.revisions import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FUNCTIONS = Path(__file__).with_name("r0004_fees.sql")
BEFORE = "kind IN ('credit', 'charge')"
AFTER = "kind IN ('credit', 'charge', 'fee') AND (kind <> 'fee' OR substr(transfer_id, 1, 4) = 'fee:')"


def upgrade() -> None:
    """Lets a transfer be a fee. No row is written."""
    if op.get_bind().dialect.name == "postgresql":
        run_script(op.get_bind(), FUNCTIONS.read_text())
    else:
        _widen_on_sqlite()


def _widen_on_sqlite() -> None:
    """Changes the CHECK in the schema's own text, as SQLite's documentation of ALTER TABLE says.

    The other way, a new table, would copy every transfer that was ever made.
    """
    bind = op.get_bind()
    (version,) = bind.execute(text("PRAGMA schema_version")).one()
    bind.exec_driver_sql("PRAGMA writable_schema = ON")
    bind.execute(
        text("UPDATE sqlite_master SET sql = replace(sql, :before, :after) WHERE name = 'transfer'"),
        {"before": BEFORE, "after": AFTER},
    )
    (changed,) = bind.execute(text("SELECT sql FROM sqlite_master WHERE name = 'transfer'")).one()
    assert AFTER in changed, "the transfers have the table that the first revision made"
    bind.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    bind.exec_driver_sql("PRAGMA writable_schema = RESET")
