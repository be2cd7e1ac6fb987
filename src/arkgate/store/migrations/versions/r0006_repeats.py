"""A request that is repeated meets its call under way before any older answer; no table changes."""

from pathlib import Path

from alembic import op

from arkgate.store.revisions import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FUNCTIONS = Path(__file__).with_name("r0006_repeats.sql")


def upgrade() -> None:
    """Replaces a function that only reads; SQLite's statements live in the program."""
    if op.get_bind().dialect.name == "postgresql":
        run_script(op.get_bind(), FUNCTIONS.read_text())
