"""The ledger's tables: what a row may be, said by the database itself.

Amounts and times are 64-bit whatever the engine; on SQLite every table is STRICT. The hot tables
(hold, transfer, answer) are appended to in the order of time-ordered ids, and carry only the indexes
that a promise needs: a secondary index with random leaves doubles what a commit writes.
"""

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    event,
    text,
)
from sqlmodel import Field, SQLModel

# SQLite's STRICT tables know the name INTEGER only, and it is 64-bit there.
INT64 = BigInteger().with_variant(Integer(), "sqlite")
# Ids sort by their bytes on both engines.
TEXT = Text().with_variant(Text(collation="C"), "postgresql")

# A table that is its own primary key's tree: one tree less to write in each commit.
CLUSTERED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}
PLAIN: dict[str, Any] = {"sqlite_strict": True}


def _states(column: str, *states: str) -> str:
    return f"{column} IN ({', '.join(repr(state) for state in states)})"


class Account(SQLModel, table=True):
    """Who owns money. Only customers' balances are kept up to date; a shared account's is a sum."""

    __table_args__ = (
        CheckConstraint(
            _states("kind", "customer", "asset", "income", "expense", "equity"), name="account_kind"
        ),
        CheckConstraint("held_msat >= 0", name="account_held"),
        CheckConstraint("posted_msat - held_msat >= 0", name="account_available"),
        CheckConstraint("kind = 'customer' OR (posted_msat = 0 AND held_msat = 0)", name="account_shared"),
        CheckConstraint("(token_digest IS NULL) = (token_key_version IS NULL)", name="account_token"),
        Index(
            "account_by_token",
            "token_digest",
            unique=True,
            sqlite_where=text("token_digest IS NOT NULL"),
            postgresql_where=text("token_digest IS NOT NULL"),
        ),
        CLUSTERED,
    )

    account_id: str = Field(sa_column=Column(TEXT, primary_key=True))
    kind: str = Field(sa_column=Column(TEXT, nullable=False))
    posted_msat: int = Field(sa_column=Column(INT64, nullable=False))
    held_msat: int = Field(sa_column=Column(INT64, nullable=False))
    token_digest: bytes | None = Field(sa_column=Column(LargeBinary))
    token_key_version: int | None = Field(sa_column=Column(INT64))
    created_at_ms: int = Field(sa_column=Column(INT64, nullable=False))


class Transfer(SQLModel, table=True):
    """Money that moved from one account to another; append-only, and its id is the idempotency key."""

    __table_args__ = (
        CheckConstraint(
            f"{_states('kind', 'credit', 'charge', 'fee')}"
            " AND (kind <> 'fee' OR substr(transfer_id, 1, 4) = 'fee:')",
            name="transfer_kind",
        ),
        CheckConstraint("amount_msat > 0", name="transfer_amount"),
        CheckConstraint("debit_account_id <> credit_account_id", name="transfer_moves"),
        # PostgreSQL would lock the row of the income account for each charge: one hot row for all payers.
        *(
            ForeignKeyConstraint([side], ["account.account_id"]).ddl_if(dialect="sqlite")
            for side in ("debit_account_id", "credit_account_id")
        ),
        # An account's credits; its charges are found by its holds, so that a charge writes no index.
        Index(
            "transfer_credits",
            "credit_account_id",
            "amount_msat",
            sqlite_where=text("kind = 'credit'"),
            postgresql_where=text("kind = 'credit'"),
        ),
        CLUSTERED,
    )

    transfer_id: str = Field(sa_column=Column(TEXT, primary_key=True))
    kind: str = Field(sa_column=Column(TEXT, nullable=False))
    debit_account_id: str = Field(sa_column=Column(TEXT, nullable=False))
    credit_account_id: str = Field(sa_column=Column(TEXT, nullable=False))
    amount_msat: int = Field(sa_column=Column(INT64, nullable=False))
    at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    # What it was for, in a word for people: the purpose of a credit, the service of a charge, a fee's node.
    detail: str = Field(sa_column=Column(TEXT, nullable=False))


class Hold(SQLModel, table=True):
    """A call of an account and the money held for it. It leaves `open` exactly once."""

    __table_args__ = (
        CheckConstraint(_states("state", "open", "settled", "released"), name="hold_state"),
        CheckConstraint("amount_msat > 0", name="hold_amount"),
        CheckConstraint("cost_msat >= 0 AND cost_msat <= amount_msat", name="hold_cost"),
        CheckConstraint("state = 'settled' OR cost_msat = 0", name="hold_charged"),
        CheckConstraint("(state = 'open') = (resolved_at_ms IS NULL)", name="hold_resolved"),
        CheckConstraint(
            "(state = 'released') = (claimed_request_id IS NULL)"
            " AND (state <> 'released' OR idempotency_key IS NULL)",
            name="hold_claims",
        ),
        # A release clears both claims, so that the caller may try again under the same names. The
        # first index is also the account's history: it holds every call of an account.
        Index("hold_request", "account_id", "claimed_request_id", unique=True),
        Index(
            "hold_idempotency",
            "account_id",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index(
            "hold_open",
            "deadline_ms",
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        CLUSTERED,
    )

    call_id: str = Field(sa_column=Column(TEXT, primary_key=True))
    account_id: str = Field(sa_column=Column(TEXT, ForeignKey("account.account_id"), nullable=False))
    service: str = Field(sa_column=Column(TEXT, nullable=False))
    state: str = Field(sa_column=Column(TEXT, nullable=False))
    amount_msat: int = Field(sa_column=Column(INT64, nullable=False))
    cost_msat: int = Field(sa_column=Column(INT64, nullable=False))
    # UTC days since 1970-01-01; the unit of allowance belongs to this day for ever.
    day: int = Field(sa_column=Column(INT64, nullable=False))
    # The limit in force when the hold was taken; null: any number.
    calls_per_day: int | None = Field(sa_column=Column(INT64))
    taken_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    deadline_ms: int = Field(sa_column=Column(INT64, nullable=False))
    resolved_at_ms: int | None = Field(sa_column=Column(INT64))
    reason: str = Field(sa_column=Column(TEXT, nullable=False))
    request_id: str = Field(sa_column=Column(TEXT, nullable=False))
    claimed_request_id: str | None = Field(sa_column=Column(TEXT))
    request_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    idempotency_key: bytes | None = Field(sa_column=Column(LargeBinary))


class Allowance(SQLModel, table=True):
    """How many calls of a UTC day an account has open or settled, and which it settled last that day."""

    __table_args__ = (CheckConstraint("used >= 0", name="allowance_used"), CLUSTERED)

    account_id: str = Field(sa_column=Column(TEXT, ForeignKey("account.account_id"), primary_key=True))
    service: str = Field(sa_column=Column(TEXT, primary_key=True))
    day: int = Field(sa_column=Column(INT64, primary_key=True, autoincrement=False))
    used: int = Field(sa_column=Column(INT64, nullable=False))
    last_settled_call_id: str | None = Field(sa_column=Column(TEXT))


class Answer(SQLModel, table=True):
    """The stored answer of a settled call, until it is past its time."""

    __table_args__ = (Index("answer_expiry", "expires_at_ms"), PLAIN)

    call_id: str = Field(sa_column=Column(TEXT, ForeignKey("hold.call_id"), primary_key=True))
    status: int = Field(sa_column=Column(INT64, nullable=False))
    content_type: str = Field(sa_column=Column(TEXT, nullable=False))
    expires_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Invoice(SQLModel, table=True):
    """A payment hash that was given out, or that paid a challenge; it keeps its account for ever.

    A row that ended unpaid may be let go: the tag in the invoice's memo names the same account.
    """

    __table_args__ = (
        CheckConstraint("length(payment_hash) = 32", name="invoice_hash"),
        CheckConstraint(_states("purpose", "session", "topup", "challenge"), name="invoice_purpose"),
        CheckConstraint(_states("state", "open", "settled", "expired", "cancelled"), name="invoice_state"),
        CheckConstraint("amount_msat > 0", name="invoice_amount"),
        CheckConstraint(
            "amount_paid_msat >= 0 AND (state = 'settled') = (amount_paid_msat > 0)", name="invoice_paid"
        ),
        CheckConstraint("(state = 'settled') = (settled_at_ms IS NOT NULL)", name="invoice_settled"),
        Index(
            "invoice_lookup",
            "node",
            "next_lookup_ms",
            sqlite_where=text("next_lookup_ms IS NOT NULL"),
            postgresql_where=text("next_lookup_ms IS NOT NULL"),
        ),
        # What may be let go some day, longest ended first.
        Index(
            "invoice_ended",
            "expires_at_ms",
            sqlite_where=text("state IN ('expired', 'cancelled')"),
            postgresql_where=text("state IN ('expired', 'cancelled')"),
        ),
        PLAIN,
    )

    payment_hash: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    account_id: str = Field(sa_column=Column(TEXT, ForeignKey("account.account_id"), nullable=False))
    node: str = Field(sa_column=Column(TEXT, nullable=False))
    purpose: str = Field(sa_column=Column(TEXT, nullable=False))
    # Empty for a challenge, which leaves no row before it is paid.
    payment_request: str = Field(sa_column=Column(TEXT, nullable=False))
    amount_msat: int = Field(sa_column=Column(INT64, nullable=False))
    amount_paid_msat: int = Field(sa_column=Column(INT64, nullable=False))
    state: str = Field(sa_column=Column(TEXT, nullable=False))
    created_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    expires_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    settled_at_ms: int | None = Field(sa_column=Column(INT64))
    # Null: not looked up any more on our own account.
    next_lookup_ms: int | None = Field(sa_column=Column(INT64))


class ArkAddress(SQLModel, table=True):
    """An Ark address that was given out. It keeps its account for ever: addresses do not expire."""

    __tablename__ = "ark_address"
    __table_args__ = (
        CheckConstraint("length(address) > 0", name="ark_address_text"),
        CheckConstraint(_states("purpose", "session", "topup"), name="ark_address_purpose"),
        CheckConstraint("amount_msat > 0", name="ark_address_amount"),
        Index(
            "ark_address_lookup",
            "node",
            "next_lookup_ms",
            sqlite_where=text("next_lookup_ms IS NOT NULL"),
            postgresql_where=text("next_lookup_ms IS NOT NULL"),
        ),
        PLAIN,
    )

    address: str = Field(sa_column=Column(TEXT, primary_key=True))
    account_id: str = Field(sa_column=Column(TEXT, ForeignKey("account.account_id"), nullable=False))
    node: str = Field(sa_column=Column(TEXT, nullable=False))
    purpose: str = Field(sa_column=Column(TEXT, nullable=False))
    # What was asked for; whatever comes in is credited.
    amount_msat: int = Field(sa_column=Column(INT64, nullable=False))
    created_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    expires_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    # Null: not looked up any more on our own account.
    next_lookup_ms: int | None = Field(sa_column=Column(INT64))


class ArkPayment(SQLModel, table=True):
    """A coin that came in at an Ark address of ours, by its outpoint; it is credited once."""

    __tablename__ = "ark_payment"
    __table_args__ = (
        CheckConstraint("length(outpoint) > 0", name="ark_payment_outpoint"),
        CheckConstraint(_states("state", "waiting", "credited"), name="ark_payment_state"),
        CheckConstraint("amount_msat > 0", name="ark_payment_amount"),
        CheckConstraint("(state = 'credited') = (credited_at_ms IS NOT NULL)", name="ark_payment_credited"),
        Index("ark_payment_address", "address"),
        PLAIN,
    )

    outpoint: str = Field(sa_column=Column(TEXT, primary_key=True))
    address: str = Field(sa_column=Column(TEXT, ForeignKey("ark_address.address"), nullable=False))
    amount_msat: int = Field(sa_column=Column(INT64, nullable=False))
    state: str = Field(sa_column=Column(TEXT, nullable=False))
    received_at_ms: int = Field(sa_column=Column(INT64, nullable=False))
    credited_at_ms: int | None = Field(sa_column=Column(INT64))


class Session(SQLModel, table=True):
    """A funding request: an account, its first invoice, and the Ark address beside it or instead.

    It goes with that invoice, never before it.
    """

    # Without its index every invoice that is let go would read all sessions.
    __table_args__ = (
        CheckConstraint("payment_hash IS NOT NULL OR ark_address IS NOT NULL", name="session_payable"),
        Index("session_invoice", "payment_hash"),
        PLAIN,
    )

    session_id: str = Field(sa_column=Column(TEXT, primary_key=True))
    account_id: str = Field(sa_column=Column(TEXT, ForeignKey("account.account_id"), nullable=False))
    payment_hash: bytes | None = Field(sa_column=Column(LargeBinary, ForeignKey("invoice.payment_hash")))
    ark_address: str | None = Field(sa_column=Column(TEXT, ForeignKey("ark_address.address")))


class Cursor(SQLModel, table=True):
    """How far a node's stream of events has been read; never moves back."""

    __table_args__ = (PLAIN,)

    node: str = Field(sa_column=Column(TEXT, primary_key=True))
    add_index: int = Field(sa_column=Column(INT64, nullable=False))
    settle_index: int = Field(sa_column=Column(INT64, nullable=False))


class Meta(SQLModel, table=True):
    """Facts about these books: when they were opened, last probed, last reconciled."""

    __table_args__ = (PLAIN,)

    name: str = Field(sa_column=Column(TEXT, primary_key=True))
    value: int = Field(sa_column=Column(INT64, nullable=False))


APPEND_ONLY = tuple(
    f"CREATE TRIGGER transfer_no_{verb} BEFORE {verb.upper()} ON transfer "
    "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
    for verb in ("update", "delete")
)

metadata = SQLModel.metadata
for _statement in APPEND_ONLY:
    _trigger = DDL(_statement).execute_if(dialect="sqlite")  # type: ignore[no-untyped-call]
    event.listen(metadata.tables["transfer"], "after_create", _trigger)
