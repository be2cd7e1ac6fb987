"""What Boltz asks of Lightning payments into the Ark: limits and fees, over its REST.

Sources: Boltz' API v2 (`GET /swap/reverse`, `GET /swap/submarine`), and Fulmine's boltz.go, which holds an
invoice against the limits of the submarine pair although it makes a reverse swap.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx
import orjson

from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import Msat, sats
from arkgate.nodes.channel import RETRY_AFTER_SECONDS

MINIMUM: Final = sats(333)
"""The smallest amount on Boltz' Ark pair; its answer counts where it is another."""
USUAL_PERCENT: Final = Decimal("0.4")
TERMS_SECONDS = 30.0
CALL_SECONDS = 3.0
ANSWER_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Terms:
    """What of an invoice arrives, and how large it may be."""

    least: Msat
    most: Msat
    percent: Decimal = USUAL_PERCENT
    flat: Msat = Msat(0)

    def takes(self, amount: Msat) -> bool:
        """Whether an invoice over that amount may be asked for."""
        return self.least <= amount <= self.most

    def kept(self, amount: Msat) -> Msat:
        """What Boltz keeps of an invoice's amount: its percentage, rounded up to a sat, and a flat part."""
        share = math.ceil(amount // 1000 * self.percent / 100)
        return Msat(sats(share) + self.flat)

    def paid_for(self, received: Msat) -> Msat:
        """The largest invoice of which that much arrives: the payer loses nothing to rounding."""
        amount = Msat(sats(int((received + self.flat) // 1000 / (1 - self.percent / 100))) + 2000)
        while amount - self.kept(amount) > received:
            amount = Msat(amount - 1000)
        return amount


def usual_fee(amount: Msat) -> Msat:
    """What Boltz usually keeps."""
    return Terms(MINIMUM, sats(4_000_000)).kept(amount)


class Boltz:
    """Boltz' terms of now. Raises NodeUnavailable without them: then no invoice may be asked for."""

    def __init__(self, node: str, url: str) -> None:
        self._node = node
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), trust_env=False, follow_redirects=False, timeout=CALL_SECONDS
        )
        self._terms: Terms | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def terms(self) -> Terms:
        """The terms, which may be half a minute old."""
        async with self._asking:
            if self._terms is None or time.monotonic() >= self._until:
                self._terms = None
                self._terms = await self._ask()
                self._until = time.monotonic() + TERMS_SECONDS
            return self._terms

    async def _ask(self) -> Terms:
        reverse = await self._pair("/v2/swap/reverse", "BTC", "ARK")
        submarine = await self._pair("/v2/swap/submarine", "ARK", "BTC")
        try:
            limits = [pair["limits"] for pair in (reverse, submarine)]
            return Terms(
                least=sats(max(int(one["minimal"]) for one in limits)),
                most=sats(min(int(one["maximal"]) for one in limits)),
                percent=Decimal(str(reverse["fees"]["percentage"])),
                flat=sats(_flat(reverse["fees"].get("minerFees", 0))),
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise self._refused(f"answered with terms that are none: {error}") from error

    async def _pair(self, path: str, sold: str, bought: str) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(CALL_SECONDS), self._http.stream("GET", path) as answer:
                content = b""
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > ANSWER_BYTES_MAX:
                        raise self._refused("answered with far too much")
            if answer.status_code != httpx.codes.OK:
                raise self._refused(f"answered {answer.status_code}")
            found = orjson.loads(content)[sold][bought]
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._refused(f"does not answer: {str(error) or type(error).__name__}") from error
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise self._refused(f"has no pair {sold}/{bought}") from error
        if not isinstance(found, dict):
            raise self._refused(f"has no pair {sold}/{bought}")
        return found

    def _refused(self, sentence: str) -> NodeUnavailable:
        return NodeUnavailable(
            f"node {self._node}: Boltz {sentence}", retry_after_seconds=RETRY_AFTER_SECONDS
        )

    async def close(self) -> None:
        """Gives back the connections."""
        await self._http.aclose()


def _flat(miner_fees: object) -> int:
    """The flat part: a number, or one for each transaction, of which Boltz pays that of the lock-up."""
    if isinstance(miner_fees, dict):
        return int(miner_fees.get("lockup", 0))
    return int(str(miner_fees))
