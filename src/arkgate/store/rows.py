"""Rows as both engines' statements name them, and the values that they stand for."""

from typing import Any

from arkgate.core.ledger import InvoiceRecord, InvoiceState

INVOICE_COLUMNS = """payment_hash, account_id, node, purpose, payment_request, amount_msat, state,
  created_at_ms, expires_at_ms, amount_paid_msat"""


def invoice_of(row: Any) -> InvoiceRecord:  # noqa: ANN401 - a driver's row
    """The invoice of a row of INVOICE_COLUMNS."""
    payment_hash, account_id, node, purpose, text, amount, state, created_at_ms, expires_at_ms, paid = row
    return InvoiceRecord(
        payment_hash=payment_hash,
        account_id=account_id,
        node=node,
        purpose=purpose,
        payment_request=text,
        amount=amount,
        state=InvoiceState(state),
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
        amount_paid=paid,
    )
