"""What a request costs, at most and in the end; what an invoice must ask for and a challenge offers."""

import math
from dataclasses import dataclass
from enum import Enum

from arkgate.core.money import Msat, sats, whole_sats


class BalanceExpiry(Enum):
    """When a balance that nobody uses is lost; the value is what payers are told."""

    NEVER = "never"


TOKENS_PRICED_TOGETHER = 1_000_000
BYTES_PRICED_TOGETHER = 1024
MICROSECONDS = 1_000_000
"""In a second."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used, in everything that may have a price."""

    input_tokens: int = 0
    """All tokens of the question, the cached ones included."""
    cached_tokens: int = 0
    """Those of them that the backend had in its own cache."""
    written_tokens: int = 0
    """Those of them that it put there, for later calls."""
    output_tokens: int = 0
    microseconds: int = 0
    """From the request to the backend until the end of its answer."""
    answer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a call costs: a fixed part, and a part for each thing that it uses."""

    call: Msat = Msat(0)
    input_tokens: Msat = Msat(0)
    """For a million tokens of the question that the backend did not have in its cache."""
    cached_tokens: Msat = Msat(0)
    """For a million that it had."""
    written_tokens: Msat | None = None
    """For a million that it put there; None: as for any that it had not."""
    output_tokens: Msat = Msat(0)
    """For a million tokens of the answer."""
    second: Msat = Msat(0)
    kilobyte: Msat = Msat(0)
    """For 1,024 bytes of the answer."""

    @property
    def is_fixed(self) -> bool:
        """Whether every call costs the same."""
        return not (self.by_tokens or self.second or self.kilobyte)

    @property
    def by_tokens(self) -> bool:
        """Whether tokens are priced."""
        return bool(self.input_tokens or self.cached_tokens or self.output_tokens)

    def most(self, question_tokens: int, answer_tokens: int) -> Msat:
        """What so many tokens cost at most: all of the question may go into the backend's cache."""
        is_dearer = (self.written_tokens or 0) > self.input_tokens
        return self.cost(
            Used(question_tokens, written_tokens=question_tokens * is_dearer, output_tokens=answer_tokens)
        )

    def cost(self, used: Used) -> Msat:
        """What it comes to, floored to the msat: the parts are added up exactly first."""
        cached = min(used.cached_tokens, used.input_tokens)
        written = min(used.written_tokens, used.input_tokens - cached)
        tokens = (
            (used.input_tokens - cached - written) * self.input_tokens
            + cached * self.cached_tokens
            + written * (self.input_tokens if self.written_tokens is None else self.written_tokens)
            + used.output_tokens * self.output_tokens
        )
        # One division, so that only one thing is rounded: the sum.
        parts = (
            tokens * MICROSECONDS * BYTES_PRICED_TOGETHER
            + used.microseconds * self.second * TOKENS_PRICED_TOGETHER * BYTES_PRICED_TOGETHER
            + used.answer_bytes * self.kilobyte * TOKENS_PRICED_TOGETHER * MICROSECONDS
        )
        return Msat(self.call + parts // (TOKENS_PRICED_TOGETHER * MICROSECONDS * BYTES_PRICED_TOGETHER))


MSAT_A_BITCOIN = 100_000_000_000


@dataclass(frozen=True, slots=True)
class FiatRate:
    """What a bitcoin is worth elsewhere: shown beside prices, and never charged by."""

    currency: str
    """Three letters, such as EUR."""
    per_bitcoin: float
    at_ms: int
    """When it was learned, Unix milliseconds."""

    def of(self, amount: Msat) -> str:
        """An amount in that currency, to three digits and at least to the cent."""
        value = amount / MSAT_A_BITCOIN * self.per_bitcoin
        digits = 2 if value >= 1 or value == 0 else max(2, 2 - math.floor(math.log10(value)))
        return f"{value:.{min(digits, 12)}f}"


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


def bundle_for(quote: Quote, *, calls: int, minimum: Msat = Msat(0), has: Msat = Msat(0)) -> Bundle:
    """The smallest number of whole calls that is at least `calls` and at least `minimum` msat.

    The amount is rounded up to whole sats, because wallets and the clients' budgets count in sats. For an
    account that `has` a part of a call's price, one call and what is missing to it is enough.
    """
    if quote.price <= 0:
        raise ValueError("a free call needs no invoice")
    if 0 < has < quote.price:
        missing = max(Msat(quote.price - has), minimum)
        return Bundle(calls=1, amount=sats(whole_sats(missing, asked_for=True)))
    calls = max(calls, 1, -(-minimum // quote.price))
    return Bundle(calls=calls, amount=sats(whole_sats(Msat(calls * quote.price), asked_for=True)))
