"""The verbs by which money comes in: sessions, invoices, tokens, payments and stream cursors."""

from arkgate.core.keys import Purpose
from arkgate.core.ledger import (
    EXPENSE_ACCOUNT,
    Balance,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceRecord,
    InvoiceState,
    SessionRecord,
    Settlement,
    credit_id,
    fee_id,
    node_account,
)
from arkgate.store import rules
from arkgate.store.sqlite import ark, queries
from arkgate.store.sqlite.connections import Executing

_FOREIGN = Funded(outcome=FundOutcome.FOREIGN, account_id=None, balance=None)


def balance_of(database: Executing, account_id: str) -> Balance:
    """The balance of a customer who is there."""
    return Balance(*database.execute(queries.BALANCE, (account_id,)).fetchone())


def open_session(
    database: Executing, now_ms: int, session: SessionRecord, token_digest: bytes, key_version: int
) -> None:
    """Opens the account with its token, the invoice, the address and the session; all of them or none."""
    _open_customer(database, now_ms, session.account_id)
    database.execute(queries.GIVE_TOKEN, (token_digest, key_version, session.account_id))
    invoice, address = session.invoice, session.address
    if invoice is not None:
        add_invoice(database, now_ms, invoice)
    if address is not None:
        ark.add_address(database, now_ms, address)
    payable = (
        None if invoice is None else invoice.payment_hash,
        None if address is None else address.address,
    )
    opened = (session.account_id, *payable)
    database.execute(queries.ADD_SESSION, (session.session_id, *opened))
    if database.execute(queries.SESSION_OF, (session.session_id,)).fetchone() != opened:
        raise ValueError(f"session {session.session_id} was opened before with another invoice or address")


def add_invoice(database: Executing, now_ms: int, invoice: InvoiceRecord) -> None:
    """Records an open invoice, due for a look-up at once."""
    if database.execute(queries.BALANCE, (invoice.account_id,)).fetchone() is None:
        raise LookupError(f"no account {invoice.account_id}")
    owner = database.execute(queries.INVOICE_OWNER, (invoice.payment_hash,)).fetchone()
    if owner not in (None, (invoice.account_id, invoice.purpose)):
        raise ValueError(f"payment hash {invoice.payment_hash.hex()} was given out for something else")
    database.execute(
        queries.ADD_INVOICE,
        (
            invoice.payment_hash,
            invoice.account_id,
            invoice.node,
            invoice.purpose,
            invoice.payment_request,
            invoice.amount,
            invoice.created_at_ms,
            invoice.expires_at_ms,
            now_ms,
        ),
    )


def set_token(
    database: Executing, _now_ms: int, account_id: str, token_digest: bytes, key_version: int
) -> int:
    """Gives the account its first token; answers the key version of the token it has."""
    database.execute(queries.GIVE_TOKEN, (token_digest, key_version, account_id))
    row = database.execute(queries.TOKEN_VERSION, (account_id,)).fetchone()
    if row is None:
        raise LookupError(f"no account {account_id}")
    return int(row[0])


def fund(
    database: Executing,
    now_ms: int,
    settlement: Settlement,
    purpose: Purpose | None,
    cursor: Cursor | None,
) -> Funded:
    """Credits a payment once, and saves the cursor whatever the payment is."""
    if cursor is not None:
        advance(database, now_ms, settlement.node, cursor)
    credited = database.execute(queries.CREDITED_TO, (credit_id(settlement.payment_hash),)).fetchone()
    if credited is not None:
        return Funded(FundOutcome.REPLAYED, credited[0], balance_of(database, credited[0]))
    owner = _owner(database, settlement.payment_hash, purpose)
    if owner is None:
        return _FOREIGN
    account_id, detail = owner
    _open_customer(database, now_ms, account_id)
    return Funded(FundOutcome.APPLIED, account_id, _credit(database, now_ms, settlement, account_id, detail))


def _owner(database: Executing, payment_hash: bytes, purpose: Purpose | None) -> tuple[str, str] | None:
    """Whose payment it is and what for: our own record first, then what the caller verified."""
    row = database.execute(queries.INVOICE_OWNER, (payment_hash,)).fetchone()
    if row is not None:
        return row[0], row[1]
    return None if purpose is None else (purpose.account_id, purpose.kind.name.lower())


def _credit(
    database: Executing, now_ms: int, settlement: Settlement, account_id: str, detail: str
) -> Balance:
    amount, at_ms, payment_hash = settlement.amount_paid, settlement.settled_at_ms, settlement.payment_hash
    rules.amount_paid(settlement)
    asset = node_account(settlement.node)
    database.execute(queries.OPEN_ACCOUNT, (asset, "asset", now_ms))
    row = (payment_hash, account_id, settlement.node, detail, amount, amount, at_ms, at_ms, at_ms)
    settled = database.execute(queries.SETTLE_INVOICE, row).rowcount
    assert settled == 1, "an invoice that was not credited was settled"
    transfer = (credit_id(payment_hash), "credit", asset, account_id, amount, now_ms, detail)
    database.execute(queries.ADD_TRANSFER, transfer)
    if settlement.fee:
        kept = (fee_id(payment_hash), "fee", EXPENSE_ACCOUNT, asset, settlement.fee, now_ms, settlement.node)
        database.execute(queries.ADD_TRANSFER, kept)
    database.execute(queries.CREDIT_ACCOUNT, (amount, account_id))
    return balance_of(database, account_id)


def _open_customer(database: Executing, now_ms: int, account_id: str) -> None:
    rules.customer(account_id)
    database.execute(queries.OPEN_ACCOUNT, (account_id, "customer", now_ms))


def advance(database: Executing, _now_ms: int, node: str, cursor: Cursor) -> None:
    """Saves the cursor; each of its parts only ever grows."""
    database.execute(queries.ADVANCE, (node, cursor.add_index, cursor.settle_index))


def mark_invoice(database: Executing, _now_ms: int, payment_hash: bytes, state: InvoiceState) -> None:
    """Notes an end without payment; the invoice is not looked up again."""
    rules.unpaid_end(state)
    database.execute(queries.MARK_INVOICE, (state.value, payment_hash))


def prune_invoices(database: Executing, now_ms: int, limit: int, grace_ms: int) -> int:
    """Forgets invoices that ended unpaid, longest ended first, with the sessions that waited for them."""
    rules.grace(grace_ms)
    ended = database.execute(queries.ENDED_INVOICES, (now_ms - grace_ms, limit)).fetchall()
    database.executemany(queries.FORGET_SESSION, ended)
    database.executemany(queries.FORGET_INVOICE, ended)
    return len(ended)


def mark_looked_up(
    database: Executing, _now_ms: int, payment_hash: bytes, next_lookup_ms: int | None
) -> None:
    """Notes when an unpaid invoice is due next."""
    database.execute(queries.MARK_LOOKED_UP, (next_lookup_ms, payment_hash))
