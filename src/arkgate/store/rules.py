"""What a verb refuses before any engine is asked: mistakes of the caller, as ValueError."""

import re

from arkgate.core.ledger import GRACE_MS_MIN, Answer, ArkPayment, InvoiceState, Reservation, Settlement
from arkgate.core.money import SATS_MAX, Msat, sats

SWEPT_REASON = "deadline passed"
"""The reason of a release by the sweep."""

_CUSTOMER = re.compile(r"[0-9a-f]{32}")
_AMOUNT_MAX = sats(SATS_MAX)


def reservation(asked: Reservation) -> None:
    """A hold holds something."""
    if asked.price <= 0:
        raise ValueError("a free call needs no hold")


def charge(call_id: str, cost: Msat, answer: Answer | None) -> None:
    """A charge is no gift, and an answer belongs to its call."""
    if cost < 0:
        raise ValueError("a cost is not negative")
    if answer is not None and answer.call_id != call_id:
        raise ValueError(f"the answer of call {answer.call_id} does not belong to call {call_id}")


def customer(account_id: str) -> None:
    """Only a customer's account is opened by a payment or a session."""
    if not _CUSTOMER.fullmatch(account_id):
        raise ValueError(f"{account_id!r} is not a customer's account id")


def amount_paid(settlement: Settlement) -> None:
    """What a node reports is an amount that can exist."""
    amount, fee = settlement.amount_paid, settlement.fee
    if not 0 < amount <= _AMOUNT_MAX:
        raise ValueError(f"{settlement.node} reports {amount} msat for {settlement.payment_hash.hex()}")
    if not 0 <= fee <= amount:
        raise ValueError(f"{settlement.node} kept {fee} of {amount} msat for {settlement.payment_hash.hex()}")


def coin(payment: ArkPayment) -> None:
    """A coin that a wallet reports is one that can exist."""
    if not 0 < payment.amount_paid <= _AMOUNT_MAX:
        raise ValueError(f"{payment.node} reports {payment.amount_paid} msat for {payment.outpoint}")


def unpaid_end(state: InvoiceState) -> None:
    """An invoice is marked with an end without payment; `fund` notes the other one."""
    if state not in {InvoiceState.EXPIRED, InvoiceState.CANCELLED}:
        raise ValueError(f"an invoice is not marked {state.value}: `add_invoice` and `fund` do that")


def grace(grace_ms: int) -> None:
    """An invoice that ended unpaid stays for a while all the same."""
    if grace_ms < GRACE_MS_MIN:
        raise ValueError(f"an invoice is kept for {GRACE_MS_MIN} ms after its expiry, not for {grace_ms}")
