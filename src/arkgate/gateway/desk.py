"""The desk where invoices are made: at the first node that can, and at the next when it cannot."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arkgate.core.errors import NodeUnavailable, Overloaded
from arkgate.core.keys import Keyring, Purpose
from arkgate.core.money import Msat
from arkgate.gateway.counter import Counter, away
from arkgate.ports import Invoice, PaymentNode

PREIMAGE_BYTES = 32
INVOICES_WAITING_MAX = 256
INVOICE_WAIT_SECONDS_MAX = 5.0
PATIENCE_SECONDS = 1.5
"""How long one node is waited for while another could make the invoice."""
SLOW_SECONDS = 0.5
"""A failure that took longer is not tried again by payers: the node is asked first how it is."""


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


class InvoiceDesk:
    """Makes invoices, with a bound on those that wait.

    The nodes are asked in the order of the settings. One that fails or is slow is left to itself, and the
    payer is served by the next; new payers do not wait for it again before it says that it is well.
    """

    def __init__(self, nodes: Sequence[PaymentNode], keyring: Keyring) -> None:
        self._counters = [Counter(node, offer="invoices") for node in nodes]
        self._keyring = keyring
        self._waiting = 0

    @property
    def has_nodes(self) -> bool:
        """Whether any node makes invoices at all."""
        return bool(self._counters)

    @property
    def minimum(self) -> Msat:
        """The smallest invoice that any node makes, where there is one."""
        return min(counter.node.invoice_minimum for counter in self._counters)

    @property
    def maximum(self) -> Msat:
        """The largest invoice that any node makes."""
        return max(counter.node.invoice_maximum for counter in self._counters)

    def takes(self, amount: Msat) -> bool:
        """Whether some node makes invoices of that amount."""
        return any(_takes(counter.node, amount) for counter in self._counters)

    async def invoice(
        self, wanted: Callable[[PaymentNode], Wanted], purpose: Purpose, *, expiry_seconds: int
    ) -> Issued:
        """An invoice whose memo ends in the keyed tag of its purpose and payment hash, where it has one.

        What is wanted may differ from node to node, because their smallest amounts do. Raises
        NodeUnavailable when no node makes it, and Overloaded when too many wait already.
        """
        asked = [(counter, wanted(counter.node)) for counter in self._counters]
        asked = [(counter, want) for counter, want in asked if _takes(counter.node, want.amount)]
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
        self, counter: Counter, want: Wanted, purpose: Purpose, expiry_seconds: int, *, another: bool
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
                raise away(f"node {counter.node.name} is slow") from None
            except NodeUnavailable as refusal:
                counter.close(refusal.message, trial=loop.time() - started < SLOW_SECONDS)
                raise

    async def _made(self, counter: Counter, want: Wanted, purpose: Purpose, expiry_seconds: int) -> Invoice:
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


def _takes(node: PaymentNode, amount: Msat) -> bool:
    """Whether the node makes invoices of that amount."""
    return node.invoice_minimum <= amount <= node.invoice_maximum


def _busy() -> Overloaded:
    return Overloaded("Too many invoices are being made. Try again in a few seconds.", retry_after_seconds=3)
