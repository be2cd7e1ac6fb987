"""Lanes of money calls: all that wait in a lane go to the database in one statement, one transaction.

An account's calls stay in one lane, so that a hot account fills its own lane's statements and the
others do not wait for its row. Whoever asked may be cancelled: what was taken into a lane happens.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from arkgate.core.errors import IN_DOUBT, InternalError, StoreUnavailable
from arkgate.ports import Clock
from arkgate.store.postgres.connections import (
    CROSSED,
    LOST,
    Connection,
    NotConnectedError,
    Row,
    close,
    connect,
    refuse_unfit,
    shown,
    unavailable,
)

LANES = 2
WAITING_MAX = 2048
"""Calls that may wait in one lane; beyond it new ones are refused at once."""
BATCH_MAX = 256
BATCH_BYTES_MAX = 8 * 1024 * 1024
"""Stored answers in one statement."""
PATIENCE_SECONDS = 8.0
"""How long a call that was sent is repeated on new connections before its caller is told."""
RECONNECT_SECONDS = 0.1
RECONNECT_SECONDS_MAX = 2.0
CROSSED_PAUSE_SECONDS = 0.005

_UNWRITTEN = "The ledger cannot be written now"
_PROBE = """
INSERT INTO meta (name, value) VALUES ('lane_probed_at_ms', 0)
ON CONFLICT (name) DO UPDATE SET value = meta.value + 1
"""
_APPLIED = {"reserve": "reserved", "settle": "settled", "release": "released"}
log = structlog.get_logger(__name__)


def statement_of(function: str) -> str:
    """The statement that hands money calls to `calls_v1` or one of its successors."""
    return f"SELECT * FROM {function}({', '.join(f'${number}' for number in range(1, 17))})"  # noqa: S608 - places only


CALLS = statement_of("calls_v2")


@dataclass(slots=True, eq=False)
class MoneyCall:
    """One call in a lane: the values of `calls_v2` in their order, and who waits for its row."""

    values: tuple[Any, ...]
    future: "asyncio.Future[Mapping[str, Any]]"
    bytes_: int = 0
    asked_at: float = field(default=0.0)
    sent: bool = False
    """Whether it was sent before on a connection that broke: it may have happened."""

    @property
    def verb(self) -> str:
        """`reserve`, `settle` or `release`."""
        verb: str = self.values[0]
        return verb

    def answer(self, row: Row) -> None:
        """Wakes who waits. What a broken connection hid is told as if it had happened now."""
        if self.future.done():
            return
        answer: dict[str, Any] = dict(row)
        if self.sent and answer["outcome"] == "replayed":
            answer["outcome"] = _APPLIED[self.verb]
        self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Wakes who waits with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class Lane:
    """One connection that writes, and the calls that wait for it."""

    def __init__(self, url: str, clock: Clock, *, batch_max: int = BATCH_MAX) -> None:
        self._url = url
        self._batch_max = batch_max
        self._clock = clock
        self._waiting: deque[MoneyCall] = deque()
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None
        self._closing = False
        self.failure: BaseException | None = None
        self._task = asyncio.create_task(self._run(), name="ledger lane")

    async def call(self, values: tuple[Any, ...], *, size: int = 0) -> Mapping[str, Any]:
        """The row that `calls_v2` answers, once it is durable. Raises StoreUnavailable, InternalError."""
        if self._closing:
            raise StoreUnavailable("The ledger is closed.")
        if self.failure is not None:
            raise unavailable(_UNWRITTEN, self.failure)
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailable("Too many changes wait for the ledger.", retry_after_seconds=1)
        loop = asyncio.get_running_loop()
        waiting = MoneyCall(values, loop.create_future(), size, loop.time())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.future

    async def close(self) -> None:
        """Does what waits, then gives up the connection."""
        self._closing = True
        self._arrived.set()
        await asyncio.wait({self._task})
        if self._connection is not None:
            await close(self._connection)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                await self._do(batch)
                await self._recover()
                await asyncio.sleep(0)  # who was answered now may ask again: it can still come along
            if self._closing:
                return

    async def _recover(self) -> None:
        """Waits until the books can be written again: nobody sends a call here before they can."""
        pause = RECONNECT_SECONDS
        while self.failure is not None and not self._closing:
            for call in self._waiting:
                call.fail(unavailable(_UNWRITTEN, self.failure))
            self._waiting.clear()
            try:
                await (await self._connected()).execute(_PROBE)
            except Exception as exc:  # noqa: BLE001 - a dead lane would refuse every call for ever
                await self._lost(exc)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RECONNECT_SECONDS_MAX)
            else:
                self.failure = None
                log.info("the ledger can be written again")

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await connect(self._url)
            try:
                await refuse_unfit(connection, shown(self._url))  # it may be another server than before
            except StoreUnavailable as refusal:
                await close(connection)
                raise NotConnectedError(refusal.message) from refusal
            self._connection = connection
        return self._connection

    def _take(self) -> list[MoneyCall]:
        batch: list[MoneyCall] = []
        size = 0
        while self._waiting and len(batch) < self._batch_max and size <= BATCH_BYTES_MAX:
            batch.append(self._waiting.popleft())
            size += batch[-1].bytes_
        return batch

    async def _do(self, batch: Sequence[MoneyCall]) -> None:
        """Sends the calls until each has a row or an error."""
        pause = RECONNECT_SECONDS
        while batch:
            try:
                await self._send(batch)
            except CROSSED as exc:
                log.info("money calls crossed another replica's", error=str(exc), calls=len(batch))
                batch = self._without_the_impatient(batch, exc)
                await asyncio.sleep(CROSSED_PAUSE_SECONDS)
            except LOST as exc:
                await self._lost(exc)
                for call in batch:
                    call.sent = True
                batch = self._without_the_impatient(batch, exc)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RECONNECT_SECONDS_MAX)
            except Exception as exc:  # noqa: BLE001 - a dead lane would leave every caller waiting for ever
                await self._apart(batch, exc)
                return
            else:
                return

    async def _send(self, batch: Sequence[MoneyCall]) -> None:
        connection = await self._connected()
        columns = zip(*(call.values for call in batch), strict=True)
        rows = await connection.fetch(CALLS, self._clock.now_ms(), *map(list, columns))
        self.failure = None
        for row in rows:
            batch[row["place"] - 1].answer(row)
        for call in batch:
            if not call.future.done():
                call.fail(InternalError("The ledger did not say what it did."))

    async def _lost(self, exc: BaseException) -> None:
        first, self.failure = self.failure is None, exc
        if first:
            log.error("ledger not written", error=str(exc) or type(exc).__name__)
        if self._connection is not None:
            await close(self._connection)
            self._connection = None

    def _without_the_impatient(self, batch: Sequence[MoneyCall], exc: BaseException) -> Sequence[MoneyCall]:
        """Tells those who waited long enough; the same verb with the same id says later what happened."""
        since = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        for call in batch:
            if call.asked_at < since or self._closing:
                call.fail(unavailable(_UNWRITTEN, exc, code=IN_DOUBT if call.sent else None))
        return [call for call in batch if not call.future.done()]

    async def _apart(self, batch: Sequence[MoneyCall], exc: Exception) -> None:
        """What one call did wrong by itself harms no other: each is sent alone."""
        if len(batch) > 1:
            for call in batch:
                await self._do([call])
            return
        log.error("ledger refused a change", error=str(exc))
        error = InternalError("The ledger's own rules refused this change.")
        error.__cause__ = exc
        batch[0].fail(error)
