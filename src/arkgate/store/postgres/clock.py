"""The database's time on this host: measured now and then, kept in between by a clock that never steps."""

import asyncio
import time

import structlog

from arkgate.core.errors import Refusal, StoreUnavailable
from arkgate.store.postgres.reads import Reads

MEASURE_SECONDS = 10.0
SLOWEST_SECONDS = 0.5
TRIES = 5
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
log = structlog.get_logger(__name__)


class DatabaseClock:
    """`ports.Clock` of the database, right to half the way there and back.

    Every replica goes by it, so that a day ends for all of them at the same moment, whatever is done
    to the clocks of their hosts.
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._offset_ms = 0.0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(time.monotonic() * 1000 + self._offset_ms)

    async def measure(self) -> None:
        """Asks the database. Raises StoreUnavailable."""
        for _ in range(TRIES):
            before = time.monotonic()
            database_ms = int(await self._reads.value(_NOW))
            after = time.monotonic()
            if after - before < SLOWEST_SECONDS:  # a slow answer says when it was, not what time it is
                self._offset_ms = database_ms - (before + after) / 2 * 1000
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
