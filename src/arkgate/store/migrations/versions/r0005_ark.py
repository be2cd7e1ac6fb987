"""Ark addresses, the coins that come in at them, and sessions that have one beside their invoice or instead.

Older programs do not mind them. Their `ledger verify` names the credits of Ark payments as credits
without an invoice: replace all replicas before the first address is given out.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

from arkgate.store.revisions import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FUNCTIONS = Path(__file__).with_name("r0005_ark.sql")
INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
PLAIN: dict[str, Any] = {"sqlite_strict": True}
PAYABLE = "payment_hash IS NOT NULL OR ark_address IS NOT NULL"


def upgrade() -> None:
    """Adds the tables, and lets a session have an Ark address. Sessions are copied on SQLite."""
    _addresses()
    _payments()
    if op.get_bind().dialect.name == "postgresql":
        _widen_sessions()
        run_script(op.get_bind(), FUNCTIONS.read_text())
    else:
        _copy_sessions()


def _text(name: str, *constraints: Any, **options: Any) -> sa.Column[str]:  # noqa: ANN401
    return sa.Column(name, TEXT, *constraints, **{"nullable": False, **options})


def _int(name: str, **options: Any) -> sa.Column[int]:  # noqa: ANN401
    return sa.Column(name, INT64, **{"nullable": False, **options})


def _addresses() -> None:
    op.create_table(
        "ark_address",
        _text("address", primary_key=True),
        _text("account_id", sa.ForeignKey("account.account_id")),
        _text("node"),
        _text("purpose"),
        _int("amount_msat"),
        _int("created_at_ms"),
        _int("expires_at_ms"),
        _int("next_lookup_ms", nullable=True),
        sa.CheckConstraint("length(address) > 0", name="ark_address_text"),
        sa.CheckConstraint("purpose IN ('session', 'topup')", name="ark_address_purpose"),
        sa.CheckConstraint("amount_msat > 0", name="ark_address_amount"),
        **PLAIN,
    )
    awaited = sa.text("next_lookup_ms IS NOT NULL")
    op.create_index(
        "ark_address_lookup",
        "ark_address",
        ["node", "next_lookup_ms"],
        sqlite_where=awaited,
        postgresql_where=awaited,
    )


def _payments() -> None:
    op.create_table(
        "ark_payment",
        _text("outpoint", primary_key=True),
        _text("address", sa.ForeignKey("ark_address.address")),
        _int("amount_msat"),
        _text("state"),
        _int("received_at_ms"),
        _int("credited_at_ms", nullable=True),
        sa.CheckConstraint("length(outpoint) > 0", name="ark_payment_outpoint"),
        sa.CheckConstraint("state IN ('waiting', 'credited')", name="ark_payment_state"),
        sa.CheckConstraint("amount_msat > 0", name="ark_payment_amount"),
        sa.CheckConstraint(
            "(state = 'credited') = (credited_at_ms IS NOT NULL)", name="ark_payment_credited"
        ),
        **PLAIN,
    )
    op.create_index("ark_payment_address", "ark_payment", ["address"])


def _widen_sessions() -> None:
    op.add_column("session", _text("ark_address", sa.ForeignKey("ark_address.address"), nullable=True))
    op.alter_column("session", "payment_hash", nullable=True)
    op.create_check_constraint("session_payable", "session", PAYABLE)


def _copy_sessions() -> None:
    """SQLite cannot take NOT NULL from a column; nothing refers to a session, so the table is made anew."""
    columns = "session_id, account_id, payment_hash"
    op.execute(f"CREATE TABLE session_0004 AS SELECT {columns} FROM session")  # noqa: S608
    op.drop_table("session")
    op.create_table(
        "session",
        _text("session_id", primary_key=True),
        _text("account_id", sa.ForeignKey("account.account_id")),
        sa.Column("payment_hash", sa.LargeBinary(), sa.ForeignKey("invoice.payment_hash"), nullable=True),
        _text("ark_address", sa.ForeignKey("ark_address.address"), nullable=True),
        sa.CheckConstraint(PAYABLE, name="session_payable"),
        **PLAIN,
    )
    op.execute(f"INSERT INTO session ({columns}) SELECT {columns} FROM session_0004")  # noqa: S608
    op.drop_table("session_0004")
    op.create_index("session_invoice", "session", ["payment_hash"])
