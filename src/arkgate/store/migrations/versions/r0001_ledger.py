"""The first tables of the ledger."""
# ruff: noqa: ANN401

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

from arkgate.store.revisions import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CLUSTERED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}
PLAIN: dict[str, Any] = {"sqlite_strict": True}
# Ids sort by their bytes on both engines.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
FUNCTIONS = Path(__file__).with_name("r0001_functions.sql")


def _text(name: str, *constraints: Any, **options: Any) -> sa.Column[str]:
    return sa.Column(name, TEXT, *constraints, **{"nullable": False, **options})


def _int(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, INT64, **{"nullable": False, **options})


def _blob(name: str, *constraints: Any, **options: Any) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), *constraints, **{"nullable": False, **options})


def _account() -> sa.ForeignKey:
    return sa.ForeignKey("account.account_id")


def _index(
    name: str, table: str, columns: list[str], *, where: str | None = None, unique: bool = False
) -> None:
    partial: dict[str, Any] = (
        {} if where is None else {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}
    )
    op.create_index(name, table, columns, unique=unique, **partial)


def upgrade() -> None:
    """Makes the tables of an empty database."""
    _accounts()
    _transfers()
    _holds()
    _answers()
    _funding()
    op.create_table("meta", _text("name", primary_key=True), _int("value"), **PLAIN)
    if op.get_bind().dialect.name == "postgresql":
        run_script(op.get_bind(), FUNCTIONS.read_text())


def _accounts() -> None:
    op.create_table(
        "account",
        _text("account_id", primary_key=True),
        _text("kind"),
        _int("posted_msat"),
        _int("held_msat"),
        _blob("token_digest", nullable=True),
        _int("token_key_version", nullable=True),
        _int("created_at_ms"),
        sa.CheckConstraint(
            "kind IN ('customer', 'asset', 'income', 'expense', 'equity')", name="account_kind"
        ),
        sa.CheckConstraint("held_msat >= 0", name="account_held"),
        sa.CheckConstraint("posted_msat - held_msat >= 0", name="account_available"),
        sa.CheckConstraint("kind = 'customer' OR (posted_msat = 0 AND held_msat = 0)", name="account_shared"),
        sa.CheckConstraint("(token_digest IS NULL) = (token_key_version IS NULL)", name="account_token"),
        **CLUSTERED,
    )
    _index("account_by_token", "account", ["token_digest"], where="token_digest IS NOT NULL", unique=True)


def _transfers() -> None:
    op.create_table(
        "transfer",
        _text("transfer_id", primary_key=True),
        _text("kind"),
        _text("debit_account_id"),
        _text("credit_account_id"),
        _int("amount_msat"),
        _int("at_ms"),
        _text("detail"),
        sa.CheckConstraint("kind IN ('credit', 'charge')", name="transfer_kind"),
        sa.CheckConstraint("amount_msat > 0", name="transfer_amount"),
        sa.CheckConstraint("debit_account_id <> credit_account_id", name="transfer_moves"),
        # PostgreSQL would lock the row of the income account for each charge: one hot row for all payers.
        *(
            sa.ForeignKeyConstraint([side], ["account.account_id"]).ddl_if(dialect="sqlite")
            for side in ("debit_account_id", "credit_account_id")
        ),
        **CLUSTERED,
    )
    _index("transfer_credits", "transfer", ["credit_account_id", "amount_msat"], where="kind = 'credit'")
    if op.get_bind().dialect.name != "sqlite":
        return
    for verb in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER transfer_no_{verb} BEFORE {verb.upper()} ON transfer "
            "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
        )


def _holds() -> None:
    op.create_table(
        "hold",
        _text("call_id", primary_key=True),
        _text("account_id", _account()),
        _text("service"),
        _text("state"),
        _int("amount_msat"),
        _int("cost_msat"),
        _int("day"),
        _int("calls_per_day", nullable=True),
        _int("taken_at_ms"),
        _int("deadline_ms"),
        _int("resolved_at_ms", nullable=True),
        _text("reason"),
        _text("request_id"),
        _text("claimed_request_id", nullable=True),
        _blob("request_hash"),
        _blob("idempotency_key", nullable=True),
        sa.CheckConstraint("state IN ('open', 'settled', 'released')", name="hold_state"),
        sa.CheckConstraint("amount_msat > 0", name="hold_amount"),
        sa.CheckConstraint("cost_msat >= 0 AND cost_msat <= amount_msat", name="hold_cost"),
        sa.CheckConstraint("state = 'settled' OR cost_msat = 0", name="hold_charged"),
        sa.CheckConstraint("(state = 'open') = (resolved_at_ms IS NULL)", name="hold_resolved"),
        sa.CheckConstraint(
            "(state = 'released') = (claimed_request_id IS NULL)"
            " AND (state <> 'released' OR idempotency_key IS NULL)",
            name="hold_claims",
        ),
        **CLUSTERED,
    )
    _index("hold_request", "hold", ["account_id", "claimed_request_id"], unique=True)
    _index(
        "hold_idempotency",
        "hold",
        ["account_id", "idempotency_key"],
        where="idempotency_key IS NOT NULL",
        unique=True,
    )
    _index("hold_open", "hold", ["deadline_ms"], where="state = 'open'")


def _answers() -> None:
    op.create_table(
        "allowance",
        _text("account_id", _account(), primary_key=True),
        _text("service", primary_key=True),
        _int("day", primary_key=True, autoincrement=False),
        _int("used"),
        _text("last_settled_call_id", nullable=True),
        sa.CheckConstraint("used >= 0", name="allowance_used"),
        **CLUSTERED,
    )
    op.create_table(
        "answer",
        _text("call_id", sa.ForeignKey("hold.call_id"), primary_key=True),
        _int("status"),
        _text("content_type"),
        _int("expires_at_ms"),
        _blob("body"),
        **PLAIN,
    )
    _index("answer_expiry", "answer", ["expires_at_ms"])


def _funding() -> None:
    op.create_table(
        "invoice",
        _blob("payment_hash", primary_key=True),
        _text("account_id", _account()),
        _text("node"),
        _text("purpose"),
        _text("payment_request"),
        _int("amount_msat"),
        _int("amount_paid_msat"),
        _text("state"),
        _int("created_at_ms"),
        _int("expires_at_ms"),
        _int("settled_at_ms", nullable=True),
        _int("next_lookup_ms", nullable=True),
        sa.CheckConstraint("length(payment_hash) = 32", name="invoice_hash"),
        sa.CheckConstraint("purpose IN ('session', 'topup', 'challenge')", name="invoice_purpose"),
        sa.CheckConstraint("state IN ('open', 'settled', 'expired', 'cancelled')", name="invoice_state"),
        sa.CheckConstraint("amount_msat > 0", name="invoice_amount"),
        sa.CheckConstraint(
            "amount_paid_msat >= 0 AND (state = 'settled') = (amount_paid_msat > 0)", name="invoice_paid"
        ),
        sa.CheckConstraint("(state = 'settled') = (settled_at_ms IS NOT NULL)", name="invoice_settled"),
        **PLAIN,
    )
    _index("invoice_lookup", "invoice", ["node", "next_lookup_ms"], where="next_lookup_ms IS NOT NULL")
    op.create_table(
        "session",
        _text("session_id", primary_key=True),
        _text("account_id", _account()),
        _blob("payment_hash", sa.ForeignKey("invoice.payment_hash")),
        **PLAIN,
    )
    op.create_table(
        "cursor",
        _text("node", primary_key=True),
        _int("add_index"),
        _int("settle_index"),
        **PLAIN,
    )
