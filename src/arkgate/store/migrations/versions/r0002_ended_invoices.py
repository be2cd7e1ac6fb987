"""Indexes by which invoices that ended unpaid are found and let go; older programs do not mind them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ENDED = "state IN ('expired', 'cancelled')"


def upgrade() -> None:
    """Adds the indexes, and notes that programs of the first revision go on working on these tables."""
    op.create_index(
        "invoice_ended",
        "invoice",
        ["expires_at_ms"],
        sqlite_where=sa.text(ENDED),
        postgresql_where=sa.text(ENDED),
    )
    op.create_index("session_invoice", "session", ["payment_hash"])
    op.execute("INSERT INTO meta (name, value) VALUES ('revision_floor', 1) ON CONFLICT (name) DO NOTHING")
