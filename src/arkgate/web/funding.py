"""How a session or a top-up is shown: where it may be paid, and what became of it."""

from urllib.parse import urlencode

from arkgate.core.ledger import AccountRecord, AddressRecord, InvoiceRecord, InvoiceState, SessionRecord
from arkgate.core.money import Msat, whole_sats
from arkgate.core.pricing import BalanceExpiry
from arkgate.web.respond import timestamp

_SATS_PER_BITCOIN_DIGITS = 8


def session_body(
    session: SessionRecord,
    account: AccountRecord | None,
    now_ms: int,
    *,
    public_url: str,
    balance_expiry: BalanceExpiry,
) -> dict[str, object]:
    """A session as its id shows it: never with its token. `account` is None for one that was just opened."""
    body = payable_body(session.invoice, session.address, now_ms)
    if account is not None and account.funded:
        body["status"] = "active"  # wherever it was paid
    where = f"{public_url}/v1/sessions/{session.session_id}"
    return {
        "session_id": session.session_id,
        **body,
        "balance_sats": 0 if account is None else whole_sats(account.balance.available),
        "balance_expires": balance_expiry.value,
        "status_url": where,
        "events_url": f"{where}/events",
        "pay_url": f"{public_url}/pay/{session.session_id}",
    }


def payable_body(
    invoice: InvoiceRecord | None, address: AddressRecord | None, now_ms: int
) -> dict[str, object]:
    """The fields that sessions and top-ups share. One of the two is there."""
    one = invoice or address
    assert one is not None, "a session can be paid somewhere"
    body: dict[str, object] = {
        "funding": _funding(invoice, address, one.amount),
        "amount_sats": whole_sats(one.amount),
        "status": _status(invoice, address, now_ms),
        "expires_in": _seconds_left(one.expires_at_ms - now_ms),
        "expires_at": timestamp(one.expires_at_ms),
    }
    if address is not None and address.waiting:
        body["waiting_sats"] = whole_sats(address.waiting)
    return body


def _funding(invoice: InvoiceRecord | None, address: AddressRecord | None, amount: Msat) -> dict[str, object]:
    return {
        "lightning_invoice": None if invoice is None else invoice.payment_request,
        "payment_hash": None if invoice is None else invoice.payment_hash.hex(),
        "ark_address": None if address is None else address.address,
        "bip321": bip321(invoice, address, amount),
    }


def bip321(invoice: InvoiceRecord | None, address: AddressRecord | None, amount: Msat) -> str:
    """One URI for a wallet that knows Lightning, Ark or both. The amount is in bitcoin.

    Source: BIP 321 (`lightning`, an empty path where no on-chain address is given); `ark` as wallets of
    both Ark implementations write it.
    """
    sats = whole_sats(amount)
    whole, part = divmod(sats, 10**_SATS_PER_BITCOIN_DIGITS)
    fields = {"amount": f"{whole}.{part:0{_SATS_PER_BITCOIN_DIGITS}d}"}
    if address is not None:
        fields["ark"] = address.address
    if invoice is not None:
        fields["lightning"] = invoice.payment_request
    return f"bitcoin:?{urlencode(fields)}"


def _status(invoice: InvoiceRecord | None, address: AddressRecord | None, now_ms: int) -> str:
    """`active` as soon as anything was credited; what came in and waits outranks what is still awaited."""
    paid = invoice is not None and invoice.state is InvoiceState.SETTLED
    if paid or (address is not None and address.credited):
        return "active"
    if address is not None and address.waiting:
        return "awaiting_finality"
    cancelled = invoice is not None and invoice.state is InvoiceState.CANCELLED
    if invoice is not None and invoice.state is InvoiceState.OPEN and now_ms < invoice.expires_at_ms:
        return "awaiting_payment"
    if address is not None and now_ms < address.expires_at_ms:
        return "awaiting_payment"
    return "cancelled" if cancelled else "expired"


def _seconds_left(milliseconds: int) -> int:
    """Rounded up, so that a new invoice has the whole life that the settings give it."""
    return max(0, -(-milliseconds // 1000))
