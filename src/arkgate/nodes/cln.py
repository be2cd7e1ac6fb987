"""Core Lightning over the gRPC of its plugin cln-grpc: invoices, look-ups and the payments one by one.

Sources: cln-grpc's node.proto, lightningd/invoice.c and wallet/invoices.c.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from arkgate._proto.cln import node_pb2 as cln
from arkgate._proto.cln import node_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.invoice import InvoiceError, read_created_at
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import Msat, sats
from arkgate.nodes.channel import CredentialsRefused, MutualTls, open_mutual_channel
from arkgate.nodes.cln_checkup import ClnCheckup
from arkgate.nodes.cln_rpc import TIMED_OUT, behind, error_code, label_of, map_cln_errors, network_of
from arkgate.nodes.connection import Connection
from arkgate.nodes.invoices import LISTED_BEYOND_SECONDS, InvoiceCheck, cut
from arkgate.ports import Check, Clock, Demands, Health, Holdings, Invoice, InvoiceStatus, NodeEvent

PREIMAGE_BYTES = 32
UNARY_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 3.0
LIST_TIMEOUT_SECONDS = 60.0
PAGE_INVOICES = 500
WAIT_SECONDS = 30
"""How long the node is asked to wait for a payment: whoever says nothing at all for longer is gone."""
BACKLOG_PAYMENTS = 20
"""How many payments are told again to a gateway that has no cursor yet; the node may have a million."""
CALLS_AT_ONCE = 32
"""The plugin opens a connection to lightningd for each call, and fails when some 128 wait to be accepted."""
_KEYSEND = "keysend-"
"""What the labels of payments that nobody asked for begin with (plugins/keysend.c)."""
_OURS = (cln.ChanneldNormal, cln.ChanneldAwaitingSplice, cln.ChanneldShuttingDown, cln.ClosingdSigexchange)
"""The states in which our side of a channel is ours to spend, or comes back to the wallet."""
_STATES = {
    cln.ListinvoicesInvoices.UNPAID: InvoiceState.OPEN,
    cln.ListinvoicesInvoices.PAID: InvoiceState.SETTLED,
    cln.ListinvoicesInvoices.EXPIRED: InvoiceState.CANCELLED,  # lightningd takes no payment for it any more
}
Paid = cln.ListinvoicesInvoices | cln.WaitanyinvoiceResponse


class ClnNode:
    """`ports.PaymentNode` for Core Lightning. A broken channel is rebuilt, with the TLS files of then.

    The `settle_index` of its cursors is Core Lightning's `pay_index`. Their `add_index` is above 0 as soon as
    there is a cursor: what it is else does not matter.
    """

    def __init__(
        self,
        name: str,
        number: int,
        credentials: MutualTls,
        clock: Clock,
        *,
        invoice_minimum: Msat = sats(1),
        invoice_maximum: Msat = sats(1_000_000),
        network: str | None = None,
        timeout_seconds: float = UNARY_TIMEOUT_SECONDS,
        page_invoices: int = PAGE_INVOICES,
        wait_seconds: int = WAIT_SECONDS,
    ) -> None:
        self.name = name
        self.number = number
        self.invoice_minimum = invoice_minimum
        self.invoice_maximum = invoice_maximum
        self.draws_preimages = False
        self._credentials = credentials
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._page_invoices = page_invoices
        self._wait_seconds = wait_seconds
        self._connection = Connection(lambda: open_mutual_channel(credentials), credentials.files)
        self._invoices = InvoiceCheck(name, clock, network)
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """See `ports.PaymentNode`."""
        preimage = preimage or secrets.token_bytes(PREIMAGE_BYTES)  # the label names the hash
        payment_hash = hashlib.sha256(preimage).digest()
        request = cln.InvoiceRequest(
            description=cut(memo),
            label=label_of(payment_hash),
            preimage=preimage,
            expiry=expiry_seconds,
            amount_msat=cln.AmountOrAny(amount=cln.Amount(msat=amount)),
        )
        answer = await self._unary("Invoice", request, "making an invoice")
        return self._invoices.checked(
            answer.bolt11,
            stated_hash=answer.payment_hash,
            payment_hash=payment_hash,
            amount=amount,
            expiry_seconds=expiry_seconds,
        )

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """See `ports.PaymentNode`."""
        request = cln.ListinvoicesRequest(payment_hash=payment_hash)
        answer = await self._unary("ListInvoices", request, "a look-up")
        if not answer.invoices:
            return None
        invoice = answer.invoices[0]
        if invoice.payment_hash != payment_hash:
            raise self._invoices.refused("answered a look-up with another invoice")
        state = _STATES.get(invoice.status, InvoiceState.OPEN)
        return InvoiceStatus(state, self._settlement(invoice) if state is InvoiceState.SETTLED else None)

    def _settlement(self, paid: Paid) -> Settlement | None:
        """The settlement of an invoice that was paid; not of a payment that nobody asked for."""
        if len(paid.payment_hash) != 32 or not paid.amount_received_msat.msat:
            return None
        if paid.label.startswith(_KEYSEND):
            return None
        return Settlement(
            node=self.name,
            payment_hash=paid.payment_hash,
            amount_paid=Msat(paid.amount_received_msat.msat),
            memo=paid.description,
            settled_at_ms=paid.paid_at * 1000,
        )

    async def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """See `ports.PaymentNode`. Without a cursor only the newest payments are told again."""
        index = since.settle_index
        if since == Cursor():
            index = max(0, await self._newest_payment() - BACKLOG_PAYMENTS)
            if index:
                yield NodeEvent(None, Cursor(1, index))
        while True:
            paid = await self._paid_after(index, wait_seconds=self._wait_seconds)
            if paid is None:
                continue
            if paid.pay_index <= index:
                raise self._invoices.refused("tells of the same payment again and again")
            index = paid.pay_index
            yield NodeEvent(self._settlement(paid), Cursor(paid.created_index, index))

    async def _paid_after(self, index: int, *, wait_seconds: int) -> cln.WaitanyinvoiceResponse | None:
        """The first payment after that index, or None when there is none in that time."""
        request = cln.WaitanyinvoiceRequest(lastpay_index=index, timeout=wait_seconds)
        action, timeout = "waiting for a payment", wait_seconds + self._timeout_seconds
        try:
            answer = await self._call("WaitAnyInvoice", request, action, timeout=timeout)
        except NodeUnavailable as refusal:
            if error_code(refusal) == TIMED_OUT:
                return None
            raise
        assert isinstance(answer, cln.WaitanyinvoiceResponse)
        return answer

    async def _newest_payment(self) -> int:
        """The highest pay_index, found in some forty questions; 0 when nothing was ever paid."""
        low, step = 0, 1
        while (paid := await self._paid_after(low + step - 1, wait_seconds=0)) is not None:
            low, step = paid.pay_index, step * 2
        high = low + step - 1
        while low < high:
            middle = (low + high) // 2
            paid = await self._paid_after(middle, wait_seconds=0)
            low, high = (low, middle) if paid is None else (paid.pay_index, high)
        return low

    async def settled_since(self, created_after_ms: int) -> AsyncIterator[Settlement]:
        """See `ports.PaymentNode`. Oldest first, from the first invoice that can be wanted.

        When an invoice was made stands in its text only, so where to begin is searched for.
        """
        created_after = created_after_ms // 1000
        start = await self._first_made_after(created_after - LISTED_BEYOND_SECONDS)
        while True:
            invoices = await self._page(start, self._page_invoices)
            for invoice in invoices:
                settlement = self._settlement(invoice)
                if settlement is not None and _made_at(invoice) >= created_after:
                    yield settlement
            if len(invoices) < self._page_invoices:
                return
            start = invoices[-1].created_index + 1

    async def _first_made_after(self, created_after: int) -> int:
        """A created index before which nothing was made as late as that (Unix seconds).

        Right also where the clock was set back in between by less than a day, which is why the caller asks
        for a day more than it needs.
        """
        low, step = 1, 1
        while (invoice := await self._next(low + step - 1)) and _made_at(invoice) < created_after:
            low, step = invoice.created_index + 1, step * 2
        high = low + step - 1
        while low < high:
            middle = (low + high) // 2
            invoice = await self._next(middle)
            if invoice is not None and _made_at(invoice) < created_after:
                low = invoice.created_index + 1
            else:
                high = middle
        return low

    async def _next(self, start: int) -> cln.ListinvoicesInvoices | None:
        """The first invoice from that created index on."""
        invoices = await self._page(start, 1)
        return invoices[0] if invoices else None

    async def _page(self, start: int, limit: int) -> list[cln.ListinvoicesInvoices]:
        """Invoices in order of their created index, from that one on."""
        request = cln.ListinvoicesRequest(index=cln.ListinvoicesRequest.CREATED, start=start, limit=limit)
        answer = await self._unary("ListInvoices", request, "listing invoices", timeout=LIST_TIMEOUT_SECONDS)
        invoices = list(answer.invoices)
        indexes = [invoice.created_index for invoice in invoices]
        if indexes and (indexes[0] < start or indexes != sorted(set(indexes))):
            raise self._invoices.refused("lists invoices out of order")
        return invoices

    async def holdings(self) -> Holdings | None:
        """See `ports.PaymentNode`."""
        funds = await self._unary("ListFunds", cln.ListfundsRequest(), "a balance")
        channels = sum(found.our_amount_msat.msat for found in funds.channels if found.state in _OURS)
        confirmed = cln.ListfundsOutputs.CONFIRMED
        onchain = sum(found.amount_msat.msat for found in funds.outputs if found.status == confirmed)
        return Holdings(Msat(channels), Msat(onchain))

    async def health(self) -> Health:
        """See `ports.PaymentNode`."""
        try:
            self._connection.open()
        except NodeUnavailable as refusal:
            return Health(False, "refused", refusal.message)
        try:
            info = await self._call(
                "Getinfo", cln.GetinfoRequest(), "to answer", timeout=HEALTH_TIMEOUT_SECONDS
            )
        except CredentialsRefused as refusal:
            return Health(False, "refused", refusal.message)
        except NodeUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)
        if warning := behind(info):
            sentence = f"node {self.name} is at block {info.blockheight} and says: {warning}"
            return Health(False, "syncing", sentence, info.version, network_of(info))
        sentence = f"node {self.name} is synced{self._invoices.clock_offset.sentence}"
        return Health(True, "ready", sentence, info.version, network_of(info))

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """See `ports.PaymentNode`."""
        return ClnCheckup(self, self._credentials, self._clock, self._invoices.network, demands).run()

    async def close(self) -> None:
        """See `ports.PaymentNode`."""
        await self._connection.close()

    async def _unary(
        self, method: str, request: Message, action: str, *, timeout: float | None = None
    ) -> Any:  # noqa: ANN401 - the generated stubs' methods share no type
        """One call, when it is its turn; its timeout begins then."""
        async with self._turn(action):
            return await self._call(method, request, action, timeout=timeout)

    @contextlib.asynccontextmanager
    async def _turn(self, action: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise self._invoices.refused(f"failed {action}: too many calls wait for it") from error
        try:
            yield
        finally:
            self._turns.release()

    async def _call(self, method: str, request: Message, action: str, *, timeout: float | None) -> Any:  # noqa: ANN401 - as `_unary`
        channel = self._connection.open()
        call: Callable[..., Awaitable[Any]] = getattr(node_pb2_grpc.NodeStub(channel.grpc), method)
        try:
            with map_cln_errors(self.name, action):
                answer = await call(request, timeout=timeout or self._timeout_seconds)
        except NodeUnavailable as refusal:
            await self._connection.count_failure(refusal.__cause__)
            raise
        self._connection.worked()
        return answer


def _made_at(invoice: cln.ListinvoicesInvoices) -> int:
    """When it was made (Unix seconds); for one of an offer, whose text is BOLT12, no earlier than that."""
    try:
        return read_created_at(invoice.bolt11)
    except InvoiceError:
        return invoice.expires_at
