"""The work that nobody asks for: who does it, and that it goes on whatever happens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog

from arkgate.core.errors import StoreUnavailable
from arkgate.gateway.addresses import AddressDesk
from arkgate.gateway.desk import InvoiceDesk
from arkgate.gateway.fund import Funding
from arkgate.gateway.reconcile import Reconcile
from arkgate.gateway.sweep import Sweep
from arkgate.ports import Backend, Duties, PaymentNode, Rates
from arkgate.web.metrics import Metrics

log = structlog.get_logger()
RESTART_SECONDS = 1.0


def work_of(
    funding: Funding,
    reconcile: Reconcile,
    sweep: Sweep,
    desks: tuple[InvoiceDesk, AddressDesk],
    nodes: list[PaymentNode],
    backends: Mapping[str, Backend],
    rates: Rates | None,
    duties: Duties,
    *,
    invoice_life_seconds: int,
) -> dict[str, Callable[[], Awaitable[None]]]:
    """The background work by name. What one process does for all that share the books is a duty."""
    desk, addresses = desks

    def alone(name: str, work: Callable[[], Awaitable[None]]) -> dict[str, Callable[[], Awaitable[None]]]:
        return {name: lambda: duties.alone(name, work)}

    def watching(node: PaymentNode) -> Callable[[], Awaitable[None]]:
        return lambda: funding.watch(node)

    work: dict[str, Callable[[], Awaitable[None]]] = {
        "look-ups": funding.poll,
        "resume": reconcile.resume,
        "sweep": sweep.run,
        **{f"watch {name}'s backends": backend.watch for name, backend in backends.items()},
        "watch desk": desk.watch,
    }
    if rates is not None:
        work["watch rates"] = rates.watch
    if addresses.has_wallets:
        work["watch addresses"] = addresses.watch
    for node in nodes:
        work |= alone(f"watch {node.name}", watching(node))
    return work | alone(
        "daily reconcile", lambda: funding.reconcile_daily(invoice_life_seconds=invoice_life_seconds)
    )


@contextlib.asynccontextmanager
async def background(metrics: Metrics, work: dict[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Keeps work going until the block ends: a fault is logged, counted, and the work begun again."""

    async def keep(name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except StoreUnavailable as refusal:
                log.warning("background work waits for the ledger", work=name, reason=refusal.message)
            except Exception:
                metrics.alarm("background_work_failed")
                log.exception("background work failed", work=name)
            await asyncio.sleep(RESTART_SECONDS)

    tasks = [asyncio.create_task(keep(name, run), name=name) for name, run in work.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
