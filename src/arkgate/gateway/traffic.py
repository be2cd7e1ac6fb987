"""How many calls are made at once and how fast, by an account, by an address, and by all."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from arkgate.core.errors import Overloaded, RateLimited
from arkgate.core.ledger import CallLimits
from arkgate.gateway.limits import Buckets, Rate

READ_AT_ONCE = 2
"""How many requests of an address that take long to read are read at once."""


@dataclass(frozen=True, slots=True)
class TrafficTerms:
    """The operator's limits on paid calls."""

    at_once: int = 1024
    at_once_account: int = 64
    at_once_client: int = 128
    account: Rate = field(default_factory=lambda: Rate(6_000, 60))
    client: Rate = field(default_factory=lambda: Rate(12_000, 60))


class Traffic:
    """Counts the calls that are under way, and how fast they come.

    Lives in memory: of several processes each allows as much. What a limit refuses has cost nothing yet.
    """

    def __init__(self, terms: TrafficTerms, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._terms = terms
        self._clock = clock
        self._count = 0
        self._by_account: dict[str, int] = {}
        self._by_client: dict[str, int] = {}
        self._reading: dict[str, _Line] = {}
        self._per_minute = round(terms.account.count * 60 / terms.account.seconds)
        self._accounts = Buckets(terms.account)
        self._clients = Buckets(terms.client)

    def call(self, account_id: str, client: str) -> "Call":
        """One call from its beginning to its end. Raises Overloaded or RateLimited, uncounted."""
        return Call(self, account_id, client)

    @asynccontextmanager
    async def reading(self, client: str) -> AsyncIterator[None]:
        """A request that takes long to read: an address has few read at once.

        Raises RateLimited where as many wait already as it may have calls.
        """
        line = self._reading.setdefault(client, _Line())
        if line.waiting >= self._terms.at_once_client:
            raise _too_many("Your address has")
        line.waiting += 1
        try:
            async with line.turns:
                yield
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._reading[client]

    def leave(self, account_id: str, client: str) -> None:
        """A call has ended."""
        self._count -= 1
        for counter, name in ((self._by_account, account_id), (self._by_client, client)):
            left = counter[name] - 1
            if left > 0:
                counter[name] = left
            else:
                del counter[name]

    def enter(self, account_id: str, client: str) -> CallLimits:
        """Counts a call in; see `call`."""
        terms, now = self._terms, self._clock()
        if self._count >= terms.at_once:
            raise Overloaded(
                "As many calls are under way as this gateway allows; try again.", retry_after_seconds=1
            )
        by_account, by_client = self._by_account.get(account_id, 0), self._by_client.get(client, 0)
        if by_account >= terms.at_once_account or by_client >= terms.at_once_client:
            raise _too_many("This account has" if by_account >= terms.at_once_account else "Your address has")
        account, address = self._accounts.of(account_id, now), self._clients.of(client, now)
        wait = max(account.wait(now), address.wait(now))
        if wait > 0:
            seconds = math.ceil(wait)
            raise RateLimited(
                f"Calls come faster than this gateway allows. Try again in {seconds} s.",
                retry_after_seconds=seconds,
            )
        account.level -= 1
        address.level -= 1
        self._count += 1
        self._by_account[account_id] = by_account + 1
        self._by_client[client] = by_client + 1
        return CallLimits(
            per_minute=self._per_minute,
            left=int(account.level),
            full_in_seconds=(terms.account.count - account.level)
            * terms.account.seconds
            / terms.account.count,
            at_once=terms.at_once_account,
            at_once_left=terms.at_once_account - by_account - 1,
        )


class Call:
    """One call's block. A class, because it is on the paid path."""

    __slots__ = ("_account_id", "_client", "_task", "_traffic", "limits")

    limits: CallLimits

    def __init__(self, traffic: Traffic, account_id: str, client: str) -> None:
        self._traffic = traffic
        self._account_id = account_id
        self._client = client
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self.limits = self._traffic.enter(self._account_id, self._client)
        return self

    def lasts(self, task: asyncio.Task[Any]) -> None:
        """It has not ended before that task has, also when its caller leaves."""
        self._task = task

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None or self._task.done():
            self._leave()
        else:
            self._task.add_done_callback(self._leave)

    def _leave(self, _: object = None) -> None:
        self._traffic.leave(self._account_id, self._client)


class _Line:
    """The requests of one address that take long to read."""

    __slots__ = ("turns", "waiting")

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(READ_AT_ONCE)
        self.waiting = 0
        """Those that are read or wait for it."""


def _too_many(who: str) -> RateLimited:
    return RateLimited(
        f"{who} as many calls under way as one may have. Repeat this one when another has ended.",
        retry_after_seconds=1,
    )
