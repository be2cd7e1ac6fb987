"""What an Ark server keeps of a Lightning payment, and what follows from it for small amounts."""

from dataclasses import dataclass
from typing import Final

from arkgate.core.money import Msat, sats

MINIMUM: Final = sats(1_000)
"""The smallest invoice unless the settings say otherwise.

Of less the server's default fee is more than a tenth; more than that L402 clients do not pay by default.
"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A server's fees for payments that come in over Lightning; the default is captaind's own."""

    base_sats: int = 100
    parts_per_million: int = 2_000

    def fee(self, amount: Msat) -> Msat:
        """What it keeps of that amount, which may be more than there is."""
        return Msat(sats(self.base_sats) + amount * self.parts_per_million // 1_000_000)


def usual_fee(amount: Msat) -> Msat:
    """The fee in the default configuration of bark's server, captaind."""
    return Schedule().fee(amount)


def is_dear(fee: Msat, *, of: Msat) -> bool:
    """Whether an operator should be told: it is more than an eighth, which the default minimum is not."""
    return fee * 8 > of
