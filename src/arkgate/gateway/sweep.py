"""Work that nobody asks for: release what a dead call held, forget old answers, check the books."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from arkgate.core.errors import StoreUnavailable
from arkgate.ports import Ledger, Observer, Statements

log = structlog.get_logger()
SWEEP_SECONDS = 5.0
PRUNE_SECONDS = 60.0
PRUNE_PAUSE_SECONDS = 0.02
"""Between two batches, so that calls are not kept waiting: 10 000 answers a second at most."""
PRUNE_INVOICES_SECONDS = 600.0
UNPAID_KEPT_MS = 90 * 86_400_000
VERIFY_SECONDS = 3600.0
TRY_AGAIN_SECONDS = 3.0
PROBE_SECONDS = 60.0
"""Where nobody buys, nothing is written: a disk that became full must be found out all the same."""
BATCH = 200


class Sweep:
    """Periodic work on the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        statements: Statements,
        observer: Observer,
        *,
        unpaid_kept_ms: int = UNPAID_KEPT_MS,
    ) -> None:
        self._ledger = ledger
        self._statements = statements
        self._observer = observer
        self._unpaid_kept_ms = unpaid_kept_ms

    async def release_overdue(self) -> int:
        """Releases every hold whose deadline has passed; answers how many."""
        released = 0
        while swept := await self._ledger.sweep(BATCH):
            released += len(swept)
            for hold in swept:
                log.warning("hold swept", call=hold.call_id, account=hold.account_id, amount_msat=hold.amount)
            if len(swept) < BATCH:
                break
        return released

    async def prune(self) -> int:
        """Forgets every stored answer that is past its time; answers how many."""

        async def batch() -> int:
            return await self._ledger.prune_answers(BATCH)

        return await _in_batches(batch)

    async def prune_invoices(self) -> int:
        """Forgets every invoice that ended unpaid long ago; answers how many."""

        async def batch() -> int:
            return await self._ledger.prune_invoices(BATCH, grace_ms=self._unpaid_kept_ms)

        return await _in_batches(batch)

    async def try_again(self) -> None:
        """Finds out whether books that could not be written can be written again."""
        try:
            self._ledger.check()
        except StoreUnavailable:
            await self._ledger.probe()
            log.info("the ledger can be written again")

    async def probe(self) -> None:
        """Finds out whether the books can be written, also where nobody buys."""
        await self._ledger.probe()

    async def verify(self) -> bool:
        """Checks the invariants and raises an alarm for each that fails; repairs nothing."""
        failed = [finding for finding in await self._statements.verify() if not finding.holds]
        for finding in failed:
            self._observer.alarm(f"invariant_{finding.invariant}")
            log.error(
                "an invariant of the ledger fails", invariant=finding.invariant, finding=finding.sentence
            )
        return not failed

    async def run(self) -> None:
        """Does all of it, for ever. A fault in one part ends the others, so that none runs twice."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(_every(SWEEP_SECONDS, self.release_overdue))
            parts.create_task(_every(TRY_AGAIN_SECONDS, self.try_again))
            parts.create_task(_every(PROBE_SECONDS, self.probe))
            parts.create_task(_every(PRUNE_SECONDS, self.prune))
            parts.create_task(_every(PRUNE_INVOICES_SECONDS, self.prune_invoices))
            parts.create_task(_every(VERIFY_SECONDS, self.verify))


async def _in_batches(prune: Callable[[], Awaitable[int]]) -> int:
    """Prunes until a batch is not full, with a pause after each; answers how many it were."""
    forgotten = 0
    while pruned := await prune():
        forgotten += pruned
        if pruned < BATCH:
            break
        await asyncio.sleep(PRUNE_PAUSE_SECONDS)
    return forgotten


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StoreUnavailable as refusal:
            log.warning("periodic work waits for the ledger", reason=refusal.message)
