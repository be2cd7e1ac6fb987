"""Rows as both engines' statements name them, and the values that they stand for."""

from typing import Any

from arkgate.core.ledger import AddressRecord, InvoiceRecord, InvoiceState
from arkgate.core.money import Msat

INVOICE_COLUMNS = """payment_hash, account_id, node, purpose, payment_request, amount_msat, state,
  created_at_ms, expires_at_ms, amount_paid_msat"""

ADDRESS_COLUMNS = """address, account_id, node, purpose, amount_msat, created_at_ms, expires_at_ms,
  (SELECT coalesce(sum(p.amount_msat), 0) FROM ark_payment p
    WHERE p.address = ark_address.address AND p.state = 'credited'),
  (SELECT coalesce(sum(p.amount_msat), 0) FROM ark_payment p
    WHERE p.address = ark_address.address AND p.state = 'waiting')"""


def address_of(row: Any) -> AddressRecord:  # noqa: ANN401 - a driver's row
    """The address of a row of ADDRESS_COLUMNS."""
    address, account_id, node, purpose, amount, created_at_ms, expires_at_ms, credited, waiting = row
    return AddressRecord(
        address=address,
        account_id=account_id,
        node=node,
        purpose=purpose,
        amount=amount,
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
        credited=Msat(int(credited)),
        waiting=Msat(int(waiting)),
    )


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
