"""Whether the gateway can do its job now, dependency by dependency."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arkgate.core.errors import Draining, Paused, StoreUnavailable
from arkgate.gateway.meter import Calls
from arkgate.ports import Backend, Health, Ledger, PaymentNode, Statements

FRESH_SECONDS = 2.0
NODE = "node:"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Health by name: `store`, `backend` (or `backend:<service>`), `node:<name>`.

    And `gateway` while it is draining or paused.
    """

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
        backends: Mapping[str, Backend],
        statements: Statements,
        calls: Calls,
        *,
        ledger: Ledger | None = None,
    ) -> None:
        self._nodes = nodes
        self._backends = backends
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
        asked = {"store": self._store(), **self._of_backends()}
        asked |= {NODE + node.name: node.health() for node in self._nodes}
        dependencies = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        try:
            self._calls.check_open()
        except (Draining, Paused) as refusal:
            state = "paused" if isinstance(refusal, Paused) else "draining"
            dependencies["gateway"] = Health(False, state, refusal.message)
        return Readiness(dependencies)

    def _of_backends(self) -> dict[str, Coroutine[Any, Any, Health]]:
        """`backend` where there is one service; else one for each, by its name."""
        alone = len(self._backends) == 1
        return {
            "backend" if alone else f"backend:{name}": backend.health()
            for name, backend in self._backends.items()
        }

    async def _store(self) -> Health:
        try:
            await self._statements.facts()
            if self._ledger is not None:
                self._ledger.check()
        except StoreUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)
        return Health(True, "ready", "the ledger can be read and written")
