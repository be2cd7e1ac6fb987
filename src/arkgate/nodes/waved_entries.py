"""What `waved` says of a payment that comes in: as a swap, or as a row of its activity.

Sources: Wavelength b7de4da0, swapwallet's normalize.go, recv.go and credit_projector.go. A swap is not paid
before it is COMPLETED: its funding can still fail. A row of the activity may belong to a swap or to a credit,
which the operator's server holds for the wallet; the swaps know nothing of credits.
"""

from dataclasses import dataclass

from arkgate._proto.waved import swap_client_pb2 as swaps
from arkgate._proto.waved import wallet_pb2 as wallet
from arkgate.core.invoice import Bolt11, InvoiceError, read_bolt11
from arkgate.core.ledger import InvoiceState, Settlement
from arkgate.core.money import Msat, sats
from arkgate.ports import InvoiceStatus

_OPEN = InvoiceStatus(InvoiceState.OPEN)
_CANCELLED = InvoiceStatus(InvoiceState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Received:
    """A row by which a Lightning invoice is paid, or waits for it."""

    payment_hash: bytes
    created_at: int
    """Unix seconds."""
    status: InvoiceStatus


def read_entry(node: str, entry: wallet.WalletEntry) -> Received | None:
    """A row of the activity; None when no Lightning invoice stands behind it.

    What comes in at an Ark address has none, and neither has an attempt to make one that failed.
    """
    if entry.kind != wallet.ENTRY_KIND_RECV:
        return None
    invoice = _invoice(entry.request.lightning_invoice.invoice)
    if invoice is None:
        return None
    return Received(invoice.payment_hash, entry.created_at_unix, _entry_status(node, entry, invoice))


def _entry_status(node: str, entry: wallet.WalletEntry, invoice: Bolt11) -> InvoiceStatus:
    if entry.status == wallet.ENTRY_STATUS_COMPLETE:
        received = sats(max(0, entry.amount_sat))
        return _settled(node, invoice, received, entry.updated_at_unix)
    if entry.status == wallet.ENTRY_STATUS_FAILED and _is_final(entry):
        return _CANCELLED
    return _OPEN


def _is_final(entry: wallet.WalletEntry) -> bool:
    """Whether a row that failed can become a payment no more: a wallet that lost patience still takes one."""
    code = entry.failure_code
    return code not in (
        wallet.ENTRY_FAILURE_CODE_TIMED_OUT,
        wallet.ENTRY_FAILURE_CODE_NEEDS_INTERVENTION,
        wallet.ENTRY_FAILURE_CODE_UNSPECIFIED,
    )


def read_swap(node: str, swap: swaps.SwapSummary) -> InvoiceStatus | None:
    """What a swap says; None when it is one by which the wallet pays."""
    invoice = _invoice(swap.invoice)
    if swap.direction != swaps.SWAP_DIRECTION_RECEIVE or invoice is None:
        return None
    if swap.pending:
        return _OPEN
    if swap.state == swaps.SWAP_STATE_COMPLETED:
        received = sats(max(0, (swap.vhtlc_amount_sat or swap.amount_sat) - swap.attached_credit_sat))
        return _settled(node, invoice, received, swap.updated_at_unix)
    return _CANCELLED if swap.state == swaps.SWAP_STATE_EXPIRED else _OPEN


def _settled(node: str, invoice: Bolt11, received: Msat, settled_at: int) -> InvoiceStatus:
    """The payer is credited what the invoice says, and what the wallet lacks of it is a fee.

    That somebody paid more does not show: what the wallet has above it are credits of its own.
    """
    paid = received if invoice.amount is None else invoice.amount
    settlement = Settlement(
        node=node,
        payment_hash=invoice.payment_hash,
        amount_paid=paid,
        memo=invoice.description,
        settled_at_ms=settled_at * 1000,
        fee=Msat(max(0, paid - received)),
    )
    return InvoiceStatus(InvoiceState.SETTLED, settlement)


def _invoice(text: str) -> Bolt11 | None:
    try:
        return read_bolt11(text) if text else None
    except InvoiceError:
        return None
