"""Which invoices of a `waved` are credits, and whether they were paid: it has no look-up for them.

The stream of activity says so at once. Where it was not read, the newest rows of the activity are, by all who
want to know at the same time together.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import InvoiceState
from arkgate.nodes.waved_entries import Received
from arkgate.ports import Clock, InvoiceStatus

KEPT_SECONDS = 26 * 3600
"""For how long after it was made an invoice is looked for: it lived one hour."""
KNOWN_MAX = 200_000
OVERLAP_SECONDS = 600
"""How far the daemon's clock may be off before a reading begins too late."""
FRESH_SECONDS = 0.5
"""How old a reading may be for a hash that nobody has heard of: another process may just have made it."""


class Credits:
    """What is known of a wallet's credits. `read` gives rows of its activity since a time, newest first."""

    def __init__(
        self, read: Callable[[int], AsyncIterator[Received]], clock: Clock, *, reread_seconds: float
    ) -> None:
        self._read = read
        self._clock = clock
        self._reread_seconds = reread_seconds
        self._known: dict[bytes, Received] = {}
        self._reading: asyncio.Task[NodeUnavailable | None] | None = None
        self._began_at = -float("inf")
        self._read_until: int | None = None
        """Unix seconds; everything that was made before it was read once."""

    def learn(self, received: Received) -> None:
        """Takes note of a row; what was paid stays paid."""
        known = self._known.get(received.payment_hash)
        if known is None or known.status.settlement is None:
            self._known[received.payment_hash] = received
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    async def find(self, payment_hash: bytes) -> InvoiceStatus | None:
        """What became of an invoice; None when there is none that is young enough. Raises NodeUnavailable."""
        known = self._known.get(payment_hash)
        if known is None or known.status.state is InvoiceState.OPEN:
            await self._fresh(FRESH_SECONDS if known is None else self._reread_seconds)
            known = self._known.get(payment_hash)
        return None if known is None else known.status

    async def _fresh(self, seconds: float) -> None:
        """Reads the activity, unless a reading that is no older than that is there or under way."""
        reading, due_at = self._reading, self._began_at + min(seconds, self._reread_seconds)
        if reading is None or (reading.done() and (reading.result() or time.monotonic() >= due_at)):
            self._began_at = time.monotonic()
            reading = self._reading = asyncio.create_task(self._reread())
        if refusal := await asyncio.shield(reading):
            raise refusal

    async def _reread(self) -> NodeUnavailable | None:
        now = self._clock.now_ms() // 1000
        oldest = now - KEPT_SECONDS
        self._known = {key: one for key, one in self._known.items() if one.created_at >= oldest}
        open_ones = (one.created_at for one in self._known.values() if one.status.state is InvoiceState.OPEN)
        begin = oldest if self._read_until is None else min(self._read_until, *open_ones, now)
        begin = max(oldest, begin - OVERLAP_SECONDS)
        try:
            async for received in self._read(begin):
                if received.created_at < begin:
                    break
                self.learn(received)
        except NodeUnavailable as refusal:
            return refusal
        self._read_until = now
        return None

    async def close(self) -> None:
        """Reads no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
