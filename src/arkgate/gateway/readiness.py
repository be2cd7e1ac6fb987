"""Whether the gateway can do its job now, dependency by dependency."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from arkgate.core.errors import Draining, Paused, StoreUnavailable
from arkgate.gateway.meter import Calls
from arkgate.ports import Backend, Health, Ledger, PaymentNode, Statements

FRESH_SECONDS = 2.0
NODE = "node:"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Health by name: `store`, `backend`, `node:<name>`, and `gateway` while it is draining or paused."""

    dependencies: dict[str, Health]

    @property
    def ready(self) -> bool:
        """Whether every dependency is; of the nodes one is enough."""
        nodes = [health.ready for name, health in self.dependencies.items() if name.startswith(NODE)]
        others = [health.ready for name, health in self.dependencies.items() if not name.startswith(NODE)]
        return all(others) and (any(nodes) or not nodes)


class ReadinessCheck:
    """Asks every dependency, at most every two seconds however many ask."""

    def __init__(
        self,
        nodes: Sequence[PaymentNode],
        backend: Backend,
        statements: Statements,
        calls: Calls,
        *,
        ledger: Ledger | None = None,
    ) -> None:
        self._nodes = nodes
        self._backend = backend
        self._statements = statements
        self._calls = calls
        self._ledger = ledger
        self._latest: Readiness | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def check(self) -> Readiness:
        """The state of everything, at most two seconds old."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._latest is None or now - self._asked_at > FRESH_SECONDS:
                self._latest = await self._ask()
                self._asked_at = now
            return self._latest

    async def _ask(self) -> Readiness:
        store, backend, *nodes = await asyncio.gather(
            self._store(), self._backend.health(), *(node.health() for node in self._nodes)
        )
        named = {NODE + node.name: health for node, health in zip(self._nodes, nodes, strict=True)}
        dependencies = {"store": store, "backend": backend, **named}
        try:
            self._calls.check_open()
        except (Draining, Paused) as refusal:
            state = "paused" if isinstance(refusal, Paused) else "draining"
            dependencies["gateway"] = Health(False, state, refusal.message)
        return Readiness(dependencies)

    async def _store(self) -> Health:
        try:
            await self._statements.facts()
            if self._ledger is not None:
                self._ledger.check()
        except StoreUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)
        return Health(True, "ready", "the ledger can be read and written")
