"""The desk where invoices are made: at the first node that can, and at the next when it cannot."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from arkgate.core.errors import NodeUnavailable, Overloaded
from arkgate.core.keys import Keyring, Purpose
from arkgate.core.money import Msat
from arkgate.ports import Health, Invoice, PaymentNode

log = structlog.get_logger()
PREIMAGE_BYTES = 32
INVOICES_AT_ONCE_MAX = 8
"""Invoices that one node is asked for at the same time."""
INVOICES_WAITING_MAX = 256
INVOICE_WAIT_SECONDS_MAX = 5.0
PATIENCE_SECONDS = 1.5
"""How long one node is waited for while another could make the invoice."""
SLOW_SECONDS = 0.5
"""A failure that took longer is not tried again by payers: the node is asked first how it is."""
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
class Wanted:
    """What is asked of a node: an amount, and the memo but for the tag at its end."""

    amount: Msat
    title: str


@dataclass(frozen=True, slots=True)
class Issued:
    """An invoice and the node that made it."""

    node: PaymentNode
    invoice: Invoice


@dataclass(frozen=True, slots=True)
class _Closed:
    """Why a counter is closed."""

    reason: str
    since: float
    trial: bool
    """A payer may try it, because a failure costs no time."""
    lags: bool = False
    """Payers are served here where no other node serves them."""


class _Counter:
    """One node's place at the desk: open while the node makes invoices."""

    def __init__(self, node: PaymentNode) -> None:
        self.node = node
        self.slots = asyncio.Semaphore(INVOICES_AT_ONCE_MAX)
        self.failed = asyncio.Event()
        self._closed: _Closed | None = None
        self._unreachable = 0
        self._trying = False

    def takes(self, amount: Msat) -> bool:
        """Whether the node makes invoices of that amount."""
        return self.node.invoice_minimum <= amount <= self.node.invoice_maximum

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
                raise _away(closed.reason)
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
        """The node makes invoices."""
        self._unreachable = 0
        closed, self._closed = self._closed, None
        if closed is not None:
            again = "the node has caught up" if closed.lags else "the node makes invoices again"
            log.info(again, node=self.node.name)

    def close(self, reason: str, *, trial: bool) -> None:
        """The node makes no invoices: it is asked how it is, until it says that it is well."""
        if self._closed is None or self._closed.lags:
            log.warning("the node makes no invoices", node=self.node.name, reason=reason)
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
            log.warning("the node makes invoices where no other does", node=self.node.name, reason=reason)
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


class InvoiceDesk:
    """Makes invoices, with a bound on those that wait.

    The nodes are asked in the order of the settings. One that fails or is slow is left to itself, and the
    payer is served by the next; new payers do not wait for it again before it says that it is well.
    """

    def __init__(self, nodes: Sequence[PaymentNode], keyring: Keyring) -> None:
        self._counters = [_Counter(node) for node in nodes]
        self._keyring = keyring
        self._waiting = 0

    @property
    def minimum(self) -> Msat:
        """The smallest invoice that any node makes."""
        return min(counter.node.invoice_minimum for counter in self._counters)

    @property
    def maximum(self) -> Msat:
        """The largest invoice that any node makes."""
        return max(counter.node.invoice_maximum for counter in self._counters)

    def takes(self, amount: Msat) -> bool:
        """Whether some node makes invoices of that amount."""
        return any(counter.takes(amount) for counter in self._counters)

    async def invoice(
        self, wanted: Callable[[PaymentNode], Wanted], purpose: Purpose, *, expiry_seconds: int
    ) -> Issued:
        """An invoice whose memo ends in the keyed tag of its purpose and payment hash, where it has one.

        What is wanted may differ from node to node, because their smallest amounts do. Raises
        NodeUnavailable when no node makes it, and Overloaded when too many wait already.
        """
        asked = [(counter, wanted(counter.node)) for counter in self._counters]
        asked = [(counter, want) for counter, want in asked if counter.takes(want.amount)]
        if not asked:
            raise NodeUnavailable("No node makes an invoice of that amount.")
        able = [one for one in asked if one[0].is_open] + [one for one in asked if one[0].lags]
        able = able or asked
        refusal: NodeUnavailable | None = None
        for counter, want in able:
            another = counter is not able[-1][0]
            try:
                return await self._served(counter, want, purpose, expiry_seconds, another=another)
            except NodeUnavailable as why:
                refusal = why
        assert refusal is not None, "somebody was asked"
        raise refusal

    async def _served(
        self, counter: _Counter, want: Wanted, purpose: Purpose, expiry_seconds: int, *, another: bool
    ) -> Issued:
        """One node's invoice. Raises NodeUnavailable, and then its counter is closed."""
        loop = asyncio.get_running_loop()
        with counter.serving():
            started = loop.time()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS if another else None):
                    return Issued(counter.node, await self._made(counter, want, purpose, expiry_seconds))
            except TimeoutError:
                counter.close(f"node {counter.node.name} is slow", trial=False)
                raise _away(f"node {counter.node.name} is slow") from None
            except NodeUnavailable as refusal:
                counter.close(refusal.message, trial=loop.time() - started < SLOW_SECONDS)
                raise

    async def _made(self, counter: _Counter, want: Wanted, purpose: Purpose, expiry_seconds: int) -> Invoice:
        """The preimage is drawn here, because the tag must name the hash; only the node keeps it.

        A memo that was copied would make a foreign payment ours otherwise. An invoice of a node that draws
        its preimages has no tag: whose it is stands in our books, or in the payer's credential.
        """
        if self._waiting >= INVOICES_WAITING_MAX:
            raise _busy()
        preimage, memo = None, want.title
        if not counter.node.draws_preimages:
            preimage = secrets.token_bytes(PREIMAGE_BYTES)
            memo = f"{want.title} {self._keyring.tag(purpose, hashlib.sha256(preimage).digest())}"
        self._waiting += 1
        try:
            async with asyncio.timeout(INVOICE_WAIT_SECONDS_MAX):
                await counter.slots.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1
        try:
            return await counter.node.create_invoice(
                want.amount, preimage=preimage, memo=memo, expiry_seconds=expiry_seconds
            )
        finally:
            counter.slots.release()

    async def watch(self) -> None:
        """Background work: asks every node how it is, for ever."""
        async with asyncio.TaskGroup() as group:
            for counter in self._counters:
                group.create_task(counter.watch())


def _away(sentence: str) -> NodeUnavailable:
    return NodeUnavailable(sentence, retry_after_seconds=RETRY_AFTER_SECONDS)


def _busy() -> Overloaded:
    return Overloaded("Too many invoices are being made. Try again in a few seconds.", retry_after_seconds=3)
