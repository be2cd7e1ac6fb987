"""The full reconcile: every payment that the nodes know and the books do not is credited now.

After a restore nothing is sold before it has finished with every node.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from arkgate.core.errors import NodeUnavailable, StoreUnavailable
from arkgate.core.ledger import FundOutcome
from arkgate.core.money import Msat
from arkgate.core.reports import PAUSED_FACT
from arkgate.gateway.fund import RECONCILE_MARGIN_MS, RECONCILED_FACT, Funding, LookedUp
from arkgate.gateway.meter import Calls
from arkgate.ports import Clock, Ledger, PaymentNode, Statements

log = structlog.get_logger()
PAUSE_CHECK_SECONDS = 60.0
RESUME_RETRY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a full reconcile with one node found."""

    node: str
    listed: int
    """Settled invoices that the node listed, of whoever uses it."""
    ours: int
    """Those that carry our tag or stand in our books."""
    credited: int
    """Those that the books had missed, and the invoices that a look-up found paid."""
    amount: Msat
    """What was credited now."""
    refused: int
    """Payments that the books did not take: a person must look at them."""
    asked: int
    """Our unpaid invoices that the node was asked about one by one."""
    put_off: int
    """Those of them that it could not be asked about now."""


@dataclass(frozen=True, slots=True)
class FullReconcile:
    """A reconcile with every node, and whether it ended a pause."""

    nodes: Sequence[Reconciled]
    resumed: bool


class Reconcile:
    """Reconciles with every node, one run at a time, and ends the pause of restored books."""

    def __init__(
        self,
        funding: Funding,
        ledger: Ledger,
        statements: Statements,
        nodes: Sequence[PaymentNode],
        clock: Clock,
        calls: Calls,
    ) -> None:
        self._funding = funding
        self._ledger = ledger
        self._statements = statements
        self._nodes = nodes
        self._clock = clock
        self._calls = calls
        self._one_at_a_time = asyncio.Lock()

    async def with_every_node(self) -> FullReconcile:
        """Asks every node about every payment hash that is ours; safe at any time.

        A node that cannot be asked keeps no other waiting. Raises NodeUnavailable for it when the
        others are done, and StoreUnavailable; what was credited stays credited.
        """
        async with self._one_at_a_time:
            done: list[Reconciled] = []
            away: NodeUnavailable | None = None
            for node in self._nodes:
                try:
                    done.append(await self._with(node))
                except NodeUnavailable as refusal:
                    away = away or refusal
            if away is not None:
                raise away
            paused = await self._is_paused()
            if paused:
                await self._ledger.note(PAUSED_FACT, 0)
                self._calls.resume()
                log.info("the restored books are reconciled; calls are sold again")
            return FullReconcile(done, resumed=paused)

    async def pause_if_restored(self) -> bool:
        """Sells nothing while the books say that they are paused; answers whether they do."""
        paused = await self._is_paused()
        if paused:
            self._calls.pause()
        else:
            self._calls.resume()
        return paused

    async def resume(self) -> None:
        """Background work: ends a pause as soon as every node was asked, and notices another."""
        while True:
            try:
                if await self.pause_if_restored():
                    await self.with_every_node()
                pause_seconds = PAUSE_CHECK_SECONDS
            except (NodeUnavailable, StoreUnavailable) as refusal:
                log.warning("paused: the restored books wait for their reconcile", reason=refusal.message)
                pause_seconds = RESUME_RETRY_SECONDS
            await asyncio.sleep(pause_seconds)

    async def _is_paused(self) -> bool:
        return bool((await self._statements.facts()).get(PAUSED_FACT))

    async def _with(self, node: PaymentNode) -> Reconciled:
        now = self._clock.now_ms()
        opened_at_ms = (await self._statements.facts())["opened_at_ms"]
        listed, ours, refused, found = 0, 0, 0, LookedUp()
        async for settlement in node.settled_since(opened_at_ms - RECONCILE_MARGIN_MS):
            listed += 1
            funded = await self._funding.credit_or_alarm(settlement, reported_by="reconcile")
            refused += funded is None
            ours += funded is not None and funded.outcome is not FundOutcome.FOREIGN
            if funded is not None and funded.outcome is FundOutcome.APPLIED:
                found = found.and_then(LookedUp(credited=1, amount=settlement.amount_paid))
        found = found.and_then(await self._funding.look_up_awaited(node))
        await self._ledger.note(RECONCILED_FACT + node.name, now)
        log.info("reconciled fully", node=node.name, listed=listed, ours=ours, missing=found.credited)
        return Reconciled(
            node=node.name,
            listed=listed,
            ours=ours,
            credited=found.credited,
            amount=found.amount,
            refused=refused,
            asked=found.asked,
            put_off=found.put_off,
        )
