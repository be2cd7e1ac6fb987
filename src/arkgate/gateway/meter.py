"""The meter of one call: what is reserved is settled or released exactly once, here."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from arkgate.core.errors import IN_DOUBT, Draining, Paused, StoreUnavailable, UpstreamTimeout
from arkgate.core.ledger import (
    Answer,
    ReleaseOutcome,
    Reservation,
    Reserved,
    ReserveOutcome,
    Resolved,
    SettleOutcome,
)
from arkgate.core.money import Msat
from arkgate.ports import Clock, Ledger, Observer

log = structlog.get_logger()
_Result = TypeVar("_Result")
RETRY_SECONDS = 0.2
RETRY_SECONDS_MAX = 5.0
RELEASE_TRIES_SECONDS = 3.0
GIVE_BACK_TRIES = 10
GIVE_BACK_PAUSE_SECONDS = 2.0
PAUSED_RETRY_SECONDS = 30


class Calls:
    """The calls that are under way. Each is a task of its own that no leaving client can cancel."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._paused = False

    def __len__(self) -> int:
        return len(self._tasks)

    def check_open(self) -> None:
        """Raises Draining once the shutdown has begun, Paused while nothing may be sold."""
        if self._draining:
            raise Draining("The gateway is restarting. Try again in a few seconds.", retry_after_seconds=5)
        if self._paused:
            raise Paused(
                "The books were restored from a backup and payments since then are still being found. "
                "Nothing is sold until that is done; balances are kept. Try again in a minute.",
                retry_after_seconds=PAUSED_RETRY_SECONDS,
            )

    def pause(self) -> None:
        """Takes no new calls until `resume`; those under way go on."""
        self._paused = True

    def resume(self) -> None:
        """Takes calls again."""
        self._paused = False

    async def own(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs a call to its end, also when the caller is cancelled meanwhile."""
        return await asyncio.shield(self.begin(call))

    def begin(self, call: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Runs something to its end that nobody waits for, unless a drain does."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, seconds: float) -> int:
        """Takes no more calls and waits for those under way; answers how many had to be given up."""
        self._draining = True
        if self._tasks:
            log.info("waiting for open calls", calls=len(self._tasks))
            await asyncio.wait(self._tasks, timeout=seconds)
        given_up = list(self._tasks)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        return len(given_up)


class Meter:
    """Takes and resolves the hold of one call."""

    def __init__(self, reservation: Reservation, ledger: Ledger, clock: Clock, observer: Observer) -> None:
        self.reservation = reservation
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._started = asyncio.get_running_loop().time()

    async def reserve(self, calls: Calls) -> Reserved:
        """Takes the hold, or says why not. A call that is given up meanwhile leaves none.

        Raises StoreUnavailable. Where that leaves it in doubt whether the hold was taken, it is given back
        as one of `calls`, or the payer's next attempt would meet it.
        """
        try:
            return await self._ledger.reserve(self.reservation)
        except StoreUnavailable as refusal:
            if refusal.reason == IN_DOUBT:
                calls.begin(self._give_back())
            raise
        except asyncio.CancelledError:
            # That did not undo the verb; the same one again says what has happened.
            taken = await self._ledger.reserve(self.reservation)
            if taken.outcome in (ReserveOutcome.RESERVED, ReserveOutcome.REPLAYED):
                await self.release("given up")
            raise

    async def _give_back(self) -> None:
        """Releases a hold that may have been taken; what is not there yet may still come."""
        for _ in range(GIVE_BACK_TRIES):
            with contextlib.suppress(LookupError):
                if await self.release("the books were in doubt") is not None:
                    return
            await asyncio.sleep(GIVE_BACK_PAUSE_SECONDS)

    async def settle(self, cost: Msat, answer: Answer | None) -> Resolved:
        """Charges the call and stores its answer, if it is to be kept; durable when this returns.

        Repeats while the ledger cannot be written, until the hold's deadline. Raises UpstreamTimeout
        when the hold was swept meanwhile, and StoreUnavailable at the deadline: then the payer wins.
        """
        pause = RETRY_SECONDS
        while True:
            try:
                resolved = await self._ledger.settle(self.reservation.call_id, cost, answer)
                break
            except StoreUnavailable as refusal:
                if self._clock.now_ms() + pause * 1000 >= self.reservation.deadline_ms:
                    self._observer.alarm("settle_gave_up")
                    log.error("could not settle before the deadline", call=self.reservation.call_id)
                    raise
                log.warning(
                    "settle waits for the ledger", call=self.reservation.call_id, reason=refusal.message
                )
            await asyncio.sleep(pause)
            pause = min(RETRY_SECONDS_MAX, pause * 2)
        if resolved.outcome is SettleOutcome.RELEASED:
            self._observer.alarm("settle_after_sweep")
            log.error(
                "the answer came after its hold was swept; nothing is charged", call=self.reservation.call_id
            )
            raise UpstreamTimeout(
                "The answer came too late and was not charged.", fields={"refunded": True}
            ).with_standing(resolved.standing)
        self._finished("charged", charged=cost)
        return resolved

    async def release(self, reason: str, *, why: str | None = None) -> Resolved | None:
        """Gives the hold back; `why` says more in the log. None when the ledger cannot be written.

        Then the sweep will do it.
        """
        until = asyncio.get_running_loop().time() + RELEASE_TRIES_SECONDS
        while True:
            try:
                resolved = await self._ledger.release(self.reservation.call_id, reason)
                break
            except StoreUnavailable as refusal:
                if asyncio.get_running_loop().time() > until:
                    log.error(
                        "could not release; the sweep will",
                        call=self.reservation.call_id,
                        reason=refusal.message,
                    )
                    self._finished(reason, charged=Msat(0), why=why)
                    return None
            await asyncio.sleep(RETRY_SECONDS)
        if resolved.outcome is ReleaseOutcome.SETTLED:
            self._observer.alarm("release_after_settle")
        self._finished(reason, charged=Msat(0), why=why)
        return resolved

    def _finished(self, outcome: str, *, charged: Msat, why: str | None = None) -> None:
        held = self.reservation
        seconds = asyncio.get_running_loop().time() - self._started
        self._observer.call_finished(held.service, outcome, held=held.price, charged=charged, seconds=seconds)
        log.info(
            "call finished",
            call=held.call_id,
            request=held.request_id,
            account=held.account_id,
            service=held.service,
            outcome=outcome,
            cost_msat=charged,
            milliseconds=round(seconds * 1000, 1),
            **({} if why is None else {"why": why}),
        )
