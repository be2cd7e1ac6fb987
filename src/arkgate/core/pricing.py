"""What a request costs, how much an invoice must ask for, and what a challenge offers."""

from dataclasses import dataclass
from enum import Enum

from arkgate.core.money import Msat, sats, whole_sats


class BalanceExpiry(Enum):
    """When a balance that nobody uses is lost; the value is what payers are told."""

    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Quote:
    """What one call costs at most, and how many a day an account may make (None: any number)."""

    service: str
    price: Msat
    calls_per_day: int | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a challenge sells: whole calls for a whole number of sats."""

    calls: int
    amount: Msat


@dataclass(frozen=True, slots=True)
class Challenge:
    """An offer to a payer: an invoice and the macaroon that its preimage turns into a credential."""

    quote: Quote
    bundle: Bundle
    macaroon: str
    """Binary V2, standard padded base64."""
    payment_request: str
    """BOLT11, lower case."""
    payment_hash: bytes
    expires_at_ms: int
    """When the invoice expires, Unix milliseconds."""
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER


def bundle_for(quote: Quote, *, calls: int, minimum: Msat = Msat(0)) -> Bundle:
    """The smallest number of whole calls that is at least `calls` and at least `minimum` msat.

    The amount is rounded up to whole sats, because wallets and the clients' budgets count in sats.
    """
    if quote.price <= 0:
        raise ValueError("a free call needs no invoice")
    calls = max(calls, 1, -(-minimum // quote.price))
    return Bundle(calls=calls, amount=sats(whole_sats(Msat(calls * quote.price), asked_for=True)))
