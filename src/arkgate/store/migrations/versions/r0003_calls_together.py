"""PostgreSQL's functions that do a statement's money calls together; older programs go on with theirs."""

from pathlib import Path

from alembic import op

from arkgate.store.revisions import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FUNCTIONS = Path(__file__).with_name("r0003_calls_together.sql")


def upgrade() -> None:
    """Adds the functions. SQLite's verbs are in the program, and its tables stay as they are."""
    if op.get_bind().dialect.name == "postgresql":
        run_script(op.get_bind(), FUNCTIONS.read_text())
