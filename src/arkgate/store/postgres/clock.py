"""The database's time on this host: measured now and then, kept in between by a clock that never steps."""

import asyncio
import time

import structlog

from arkgate.core.errors import Refusal, StoreUnavailable
from arkgate.ports import Clock
from arkgate.store.postgres.reads import Reads

MEASURE_SECONDS = 10.0
SLOWEST_SECONDS = 0.5
TRIES = 5
STEP_MS_MAX = 2_000.0
"""What measuring and drifting explain; more is a step. A hold outlives its call by five seconds at least."""
DISPUTE_MS = 7_260_000.0
"""The longest that the settings let a hold live, and a minute in which every replica notices the step."""
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
STEPPED = "the database's clock stepped"
BEHIND = "this host's clock is behind the database's"
log = structlog.get_logger(__name__)


class ToldTime:
    """The time that the database tells, and beside it the time as it would be without any step.

    A step is believed at once: replicas share their days and deadlines, and a new one knows no other
    time. But it makes nothing overdue. Until every hold from before it has ended, a hold is only swept
    that is late by both times; so it is also while a replica that has just started finds its host behind
    the database, because then it cannot know which of the two stepped.

    All arguments are milliseconds; `at` is the clock's that never steps.
    """

    def __init__(self) -> None:
        self._told: float | None = None
        self._steady = 0.0
        self._by_host = False
        """Nothing else than the host's clock is known to compare with."""
        self._disputed: float | None = None
        self._disputed_at = 0.0

    def tell(self, database_ms: float, *, at: float, host_ms: float) -> None:
        """What the database's and the host's clocks showed at a moment."""
        told = database_ms - at
        if self._told is None or self._by_host:
            behind = database_ms - host_ms
            self._by_host = behind > STEP_MS_MAX
            self._steady = told - behind if self._by_host else told
        self._told = told
        step = told - self._steady
        if abs(step) <= STEP_MS_MAX:
            self._agree("the clocks agree again")
        elif self._disputed is None or abs(told - self._disputed) > STEP_MS_MAX:
            self._disputed, self._disputed_at = told, at
            log.error(BEHIND if self._by_host else STEPPED, milliseconds=round(step))
        elif at - self._disputed_at > DISPUTE_MS:
            self._agree("no hold is left from before a clock stepped")

    def _agree(self, why: str) -> None:
        assert self._told is not None, "told before"
        if self._disputed is not None:
            log.warning(why)
        self._steady, self._disputed, self._by_host = self._told, None, False

    def now_ms(self, at: float) -> int:
        """The database's time."""
        return int(at + (self._told or 0.0))

    def certain_ms(self, at: float) -> int:
        """The earlier of the two times."""
        return int(at + min(self._told or 0.0, self._steady))


class DatabaseClock:
    """`ports.Clock` of the database, right to half the way there and back.

    Every replica goes by it, so that a day ends for all of them at the same moment, whatever is done
    to the clocks of their hosts.
    """

    def __init__(self, reads: Reads, host: Clock) -> None:
        self._reads = reads
        self._host = host
        self._time = ToldTime()

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._time.now_ms(time.monotonic() * 1000)

    def certain_ms(self) -> int:
        """Unix milliseconds that have passed even if a clock stepped; see `ToldTime`."""
        return self._time.certain_ms(time.monotonic() * 1000)

    async def measure(self) -> None:
        """Asks the database. Raises StoreUnavailable."""
        for _ in range(TRIES):
            before = time.monotonic()
            database_ms = int(await self._reads.value(_NOW))
            after = time.monotonic()
            if after - before < SLOWEST_SECONDS:  # a slow answer says when it was, not what time it is
                at = (before + after) / 2 * 1000
                self._time.tell(database_ms, at=at, host_ms=self._host.now_ms())
                return
        raise StoreUnavailable("The database is too slow to tell the time.")

    async def run(self) -> None:
        """Measures for ever."""
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            try:
                await self.measure()
            except Refusal as refusal:
                log.info("the database's time was not measured", reason=refusal.message)
