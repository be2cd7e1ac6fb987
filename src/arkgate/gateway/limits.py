"""Rate limits on what costs us before anybody has paid: challenges and sessions."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from arkgate.core.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `seconds`, refilled evenly."""

    count: int
    seconds: float


class RateLimit:
    """A token bucket for each client and one for all of them.

    Lives in memory and forgets on restart, which costs nothing but a few invoices. Clients are
    bounded; the one that was quiet the longest is forgotten first.
    """

    def __init__(
        self,
        what: str,
        *,
        client: Rate,
        everybody: Rate,
        clock: Callable[[], float] = time.monotonic,
        clients_max: int = 20_000,
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._what = what
        self._clock = clock
        self._clients = Buckets(client, buckets_max=clients_max)
        self._everybody = Bucket(everybody, clock())

    def take(self, client: str, *, alone: bool = False) -> None:
        """Counts one. Raises RateLimited with the true time to wait; then nothing is counted.

        `alone`: only against the client's own share. So are accounts counted that have paid before:
        a flood of strangers must not keep them from paying again.
        """
        now = self._clock()
        bucket = self._clients.of(client, now)
        wait_client, wait_all = bucket.wait(now), 0.0 if alone else self._everybody.wait(now)
        if wait_client > 0 or wait_all > 0:
            who = "you have" if wait_client > 0 else "all clients together have"
            seconds = math.ceil(max(wait_client, wait_all))
            raise RateLimited(
                f"Too many unpaid {self._what}: {who} reached the limit. Try again in {seconds} s, "
                "or pay one that you already have.",
                retry_after_seconds=seconds,
            )
        bucket.level -= 1
        if not alone:
            self._everybody.level -= 1


class Buckets:
    """A token bucket for each of many, bounded: the one that was quiet the longest is forgotten first."""

    def __init__(self, rate: Rate, *, buckets_max: int = 20_000) -> None:
        self._rate = rate
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, name: str, now: float) -> "Bucket":
        """The bucket of that one."""
        bucket = self._buckets.pop(name, None) or Bucket(self._rate, now)
        self._buckets[name] = bucket
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return bucket


class Bucket:
    """What one may still take."""

    __slots__ = ("at", "level", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self.level = float(rate.count)
        self.at = now

    def wait(self, now: float) -> float:
        """Refills to now; the seconds until one may be taken, 0 when one may be taken at once."""
        per_second = self.rate.count / self.rate.seconds
        self.level = min(self.rate.count, self.level + max(0.0, now - self.at) * per_second)
        self.at = now
        return 0.0 if self.level >= 1 else (1 - self.level) / per_second
