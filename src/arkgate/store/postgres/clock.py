"""The database's time on this host: measured now and then, kept in between by a clock that never steps."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from arkgate.core.errors import Refusal, StoreUnavailable
from arkgate.ports import Clock
from arkgate.store.postgres import queries
from arkgate.store.postgres.reads import Reads
from arkgate.store.told import Step, ToldTime, steady_ms

MEASURE_SECONDS = 10.0
SLOWEST_MS = 500.0
TRIES = 5
STEP_FACT = "clock_step_ms"
STEPPED_AT_FACT = "clock_stepped_at_ms"
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
log = structlog.get_logger(__name__)


class DatabaseClock:
    """`BooksClock` of the database, right to half the way there and back.

    Every replica goes by it, so that a day ends for all of them at the same moment, whatever is done
    to the clocks of their hosts.
    """

    def __init__(self, reads: Reads, host: Clock) -> None:
        self._reads = reads
        self._host = host
        self._time = ToldTime()
        self._noted: Step | None = None

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._time.now_ms(steady_ms())

    def certain_ms(self) -> int:
        """See `ToldTime`."""
        return self._time.certain_ms(steady_ms())

    async def measure(self) -> None:
        """Asks the database. Raises StoreUnavailable."""
        for _ in range(TRIES):
            before = steady_ms()
            database_ms = int(await self._reads.value(_NOW))
            after = steady_ms()
            if after - before < SLOWEST_MS:  # a slow answer says when it was, not what time it is
                self._time.tell(database_ms, at=(before + after) / 2, host_ms=self._host.now_ms())
                return
        raise StoreUnavailable("The database is too slow to tell the time.")

    async def heed_steps(self) -> None:
        """Reads in the books what they say of a step from before this replica. Raises StoreUnavailable."""
        facts = {row["name"]: row["value"] for row in await self._reads.rows(queries.FACTS)}
        if STEP_FACT in facts and STEPPED_AT_FACT in facts:
            self._time.heed(Step(facts[STEP_FACT], facts[STEPPED_AT_FACT]), at=steady_ms())
        self._noted = self._time.noticed

    async def run(self, note: Callable[[Step], Awaitable[None]] | None = None) -> None:
        """Measures for ever, and notes steps in the books, for replicas that start after them."""
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            try:
                await self.measure()
            except Refusal as refusal:
                log.info("the database's time was not measured", reason=refusal.message)
                continue
            if note is not None:
                await self._share(note)

    async def _share(self, note: Callable[[Step], Awaitable[None]]) -> None:
        step = self._time.noticed
        if step is None or step == self._noted:
            return
        try:
            await note(step)
            self._noted = step
        except Refusal as refusal:  # tried again after the next measurement
            log.warning("a step of the ledger's clock was not noted", reason=refusal.message)
