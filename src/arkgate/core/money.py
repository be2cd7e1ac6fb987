"""Money as integer millisatoshis, and the only rounding there is."""

from typing import NewType

Msat = NewType("Msat", int)
"""An amount in millisatoshis (1 sat = 1000 msat), never negative unless a docstring says so."""

MSAT_PER_SAT = 1000
SATS_MAX = 2_100_000_000_000_000
"""Every bitcoin there will be, in sats: an amount above it is a mistake."""


def sats(amount_sats: int) -> Msat:
    """Whole sats as msat. Raises ValueError for an amount that cannot exist."""
    if not 0 <= amount_sats <= SATS_MAX:
        raise ValueError(f"{amount_sats} sats is not an amount between 0 and {SATS_MAX}")
    return Msat(amount_sats * MSAT_PER_SAT)


def whole_sats(amount: Msat, *, asked_for: bool = False) -> int:
    """The whole sats of an amount, rounded in the house's favour.

    A balance that is shown is rounded down, so nobody is promised a sat that is not there; an
    amount that is `asked_for` (an invoice) is rounded up, so what is bought is covered.
    """
    if asked_for:
        return -(-amount // MSAT_PER_SAT)
    return amount // MSAT_PER_SAT


def format_sats(amount: Msat) -> str:
    """An amount for people: `50 sats`, `1 sat`, `0.5 sats`."""
    whole, rest = divmod(amount, MSAT_PER_SAT)
    if rest:
        return f"{whole}.{rest:03d}".rstrip("0") + " sats"
    return "1 sat" if whole == 1 else f"{whole} sats"
