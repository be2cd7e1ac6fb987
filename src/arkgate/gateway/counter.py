"""A node's place at a desk: payers are served there while the node does what they need."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from arkgate.core.errors import NodeUnavailable
from arkgate.ports import Health, PaymentNode

log = structlog.get_logger()
AT_ONCE_MAX = 8
"""What one node is asked for at the same time."""
LOOK_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 1.0
"""How often a node is asked how it is, and how often while it makes no invoices."""
UNHEARD_SECONDS_MAX = 30.0
"""After so long without news of a node it is tried."""
RETRY_AFTER_SECONDS = 5
_CERTAIN = frozenset({"locked", "starting", "refused"})
"""What a node says of itself; that it could not be asked is believed the second time."""
_LAGS = "syncing"
"""Such a node makes good invoices, and LND says it of itself after two hours without a block."""


@dataclass(frozen=True, slots=True)
class _Closed:
    """Why a counter is closed."""

    reason: str
    since: float
    trial: bool
    """A payer may try it, because a failure costs no time."""
    lags: bool = False
    """Payers are served here where no other node serves them."""


class Counter:
    """One node's place at a desk: open while the node makes what is asked for there."""

    def __init__(self, node: PaymentNode, *, offer: str) -> None:
        """`offer` is what is asked for, in the plural."""
        self.node = node
        self._offer = offer
        self.slots = asyncio.Semaphore(AT_ONCE_MAX)
        self.failed = asyncio.Event()
        self._closed: _Closed | None = None
        self._unreachable = 0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether payers are served, as far as is known."""
        closed = self._closed
        return closed is None or asyncio.get_running_loop().time() - closed.since > UNHEARD_SECONDS_MAX

    @property
    def lags(self) -> bool:
        """Whether payers are served only where no other node serves them."""
        return not self.is_open and self._closed is not None and self._closed.lags

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """A payer is served here. Raises NodeUnavailable at once while closed, but to one who tries it."""
        closed = None if self.is_open else self._closed
        if closed is not None and not closed.lags:
            if not closed.trial or self._trying:
                raise away(closed.reason)
            self._trying = True
            try:
                yield
            finally:
                self._trying = False
        else:
            yield
        if not self.lags:
            self.open()

    def open(self) -> None:
        """The node makes what is asked for."""
        self._unreachable = 0
        closed, self._closed = self._closed, None
        if closed is not None:
            again = "the node has caught up" if closed.lags else f"the node makes {self._offer} again"
            log.info(again, node=self.node.name)

    def close(self, reason: str, *, trial: bool) -> None:
        """The node makes nothing: it is asked how it is, until it says that it is well."""
        if self._closed is None or self._closed.lags:
            log.warning(f"the node makes no {self._offer}", node=self.node.name, reason=reason)
        self._closed = _Closed(reason, asyncio.get_running_loop().time(), trial)
        self.failed.set()

    def heed(self, health: Health) -> None:
        """What the node says of itself decides."""
        if health.ready:
            self.open()
        elif health.state == _LAGS:
            self._lag(health.sentence)
        elif health.state in _CERTAIN:
            self.close(health.sentence, trial=False)
        else:
            self._unreachable += 1
            if self._unreachable > 1 or self._closed is not None:
                self.close(health.sentence, trial=self._closed is not None and self._closed.trial)

    def _lag(self, reason: str) -> None:
        if self._closed is None or not self._closed.lags:
            log.warning(
                f"the node makes {self._offer} where no other does", node=self.node.name, reason=reason
            )
        self._unreachable = 0
        self._closed = _Closed(reason, asyncio.get_running_loop().time(), trial=True, lags=True)

    async def watch(self) -> None:
        """Asks the node how it is, for ever, and at once when a payer was not served."""
        while True:
            self.failed.clear()
            self.heed(await self.node.health())
            if self._closed is not None:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if not self._unreachable else LOOK_AGAIN_SECONDS):
                    await self.failed.wait()


def away(sentence: str) -> NodeUnavailable:
    """The refusal of a node that cannot be asked now."""
    return NodeUnavailable(sentence, retry_after_seconds=RETRY_AFTER_SECONDS)
