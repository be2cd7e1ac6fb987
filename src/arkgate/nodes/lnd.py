"""LND over gRPC: invoices, look-ups and the stream of settlements.

Source: LND's lightning.proto and stateservice.proto. Works with LND's stock `invoice.macaroon`;
what that one may not do (GetInfo) is done without.
"""

import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from arkgate._proto.lnd import lightning_pb2 as lnrpc
from arkgate._proto.lnd import lightning_pb2_grpc, stateservice_pb2, stateservice_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import Msat, sats
from arkgate.nodes.channel import (
    Channel,
    CredentialsRefused,
    NodeCredentials,
    PermissionDenied,
    map_grpc_errors,
    open_channel,
)
from arkgate.nodes.invoices import LISTED_BEYOND_SECONDS, InvoiceCheck, cut
from arkgate.nodes.lnd_checkup import BAKE, LndCheckup
from arkgate.nodes.macaroon_calls import MacaroonCalls, code_of
from arkgate.ports import Check, Clock, Demands, Health, Holdings, Invoice, InvoiceStatus, NodeEvent

UNARY_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 3.0
LIST_TIMEOUT_SECONDS = 60.0
PAGE_INVOICES = 100
"""A node with a huge database may need a third of a second for each invoice (lnd#9716)."""
_STATES = {
    lnrpc.Invoice.OPEN: InvoiceState.OPEN,
    lnrpc.Invoice.ACCEPTED: InvoiceState.OPEN,  # HTLCs are held and not settled: not a payment yet
    lnrpc.Invoice.SETTLED: InvoiceState.SETTLED,
    lnrpc.Invoice.CANCELED: InvoiceState.CANCELLED,
}
_WALLET_STATES = {
    stateservice_pb2.NON_EXISTING: ("locked", "has no wallet yet: create one with lncli create"),
    stateservice_pb2.LOCKED: ("locked", "is locked: unlock it with lncli unlock"),
    stateservice_pb2.UNLOCKED: ("starting", "is unlocked and still starting"),
    stateservice_pb2.RPC_ACTIVE: ("starting", "is starting: its RPC server is up, the rest is not yet"),
    stateservice_pb2.WAITING_TO_START: ("starting", "waits to become the leader of its cluster"),
}
_ANSWERS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
_ONE_INVOICE = lnrpc.ListInvoiceRequest(reversed=True, num_max_invoices=1)


class LndNode:
    """`ports.PaymentNode` for LND. A broken channel is rebuilt, with the certificate as it is then."""

    def __init__(
        self,
        name: str,
        number: int,
        credentials: NodeCredentials,
        clock: Clock,
        *,
        invoice_minimum: Msat = sats(1),
        invoice_maximum: Msat = sats(1_000_000),
        network: str | None = None,
        timeout_seconds: float = UNARY_TIMEOUT_SECONDS,
        page_invoices: int = PAGE_INVOICES,
    ) -> None:
        self.name = name
        self.number = number
        self.invoice_minimum = invoice_minimum
        self.invoice_maximum = invoice_maximum
        self.draws_preimages = False
        self._credentials = credentials
        self._clock = clock
        self._page_invoices = page_invoices
        self._calls = MacaroonCalls(
            name,
            credentials,
            lambda: open_channel(credentials),
            timeout_seconds=timeout_seconds,
            tls_files=(credentials.tls_cert_file,),
            renewed=self._forget_permissions,
        )
        self._invoices = InvoiceCheck(name, clock, network)
        self._permissions_proven = False
        self._may_get_info = True

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """See `ports.PaymentNode`."""
        request = lnrpc.Invoice(
            value_msat=amount,
            r_preimage=preimage or b"",
            memo=cut(memo),
            expiry=expiry_seconds,
            private=False,
        )
        answer = await self._unary("AddInvoice", request, "making an invoice")
        return self._invoices.checked(
            answer.payment_request,
            stated_hash=answer.r_hash,
            payment_hash=hashlib.sha256(preimage).digest() if preimage else None,
            amount=amount,
            expiry_seconds=expiry_seconds,
        )

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """See `ports.PaymentNode`."""
        try:
            invoice = await self._unary("LookupInvoice", lnrpc.PaymentHash(r_hash=payment_hash), "a look-up")
        except NodeUnavailable as error:
            if code_of(error) == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        if invoice.r_hash != payment_hash:
            raise self._invoices.refused("answered a look-up with another invoice")
        return InvoiceStatus(_STATES.get(invoice.state, InvoiceState.OPEN), self._settlement(invoice))

    def _settlement(self, invoice: lnrpc.Invoice) -> Settlement | None:
        """The settlement of an invoice that settled one payment hash: not keysend, not AMP."""
        if invoice.state != lnrpc.Invoice.SETTLED or invoice.is_keysend or invoice.is_amp:
            return None
        if len(invoice.r_hash) != 32 or invoice.amt_paid_msat <= 0:
            return None
        return Settlement(
            node=self.name,
            payment_hash=invoice.r_hash,
            amount_paid=Msat(invoice.amt_paid_msat),
            memo=invoice.memo,
            settled_at_ms=invoice.settle_date * 1000,
        )

    async def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """See `ports.PaymentNode`. With settle_index 0 LND replays nothing: use `settled_since` first.

        The add_index stays 0, so that LND does not replay every invoice that was made meanwhile.
        """
        request = lnrpc.InvoiceSubscription(settle_index=since.settle_index)
        stub, action = lightning_pb2_grpc.LightningStub, "the stream of settlements"
        stream = self._calls.stream(stub, "SubscribeInvoices", request, action)
        async with contextlib.aclosing(stream):  # type: ignore[type-var]  # a generator
            async for invoice in stream:
                yield NodeEvent(self._settlement(invoice), Cursor(invoice.add_index, invoice.settle_index))

    async def settled_since(self, created_after_ms: int) -> AsyncIterator[Settlement]:
        """See `ports.PaymentNode`. Newest first, and no further back than needed.

        LND's own filter by date is not used: it reads every invoice of the node, from the first one on.
        """
        created_after = created_after_ms // 1000
        offset = 0
        while True:
            page = await self._unary(
                "ListInvoices",
                lnrpc.ListInvoiceRequest(
                    reversed=True, index_offset=offset, num_max_invoices=self._page_invoices
                ),
                "listing invoices",
                timeout=LIST_TIMEOUT_SECONDS,
            )
            for invoice in reversed(page.invoices):
                settlement = self._settlement(invoice)
                if settlement is not None and invoice.creation_date >= created_after:
                    yield settlement
            newest = max((invoice.creation_date for invoice in page.invoices), default=0)
            if len(page.invoices) < self._page_invoices or newest < created_after - LISTED_BEYOND_SECONDS:
                return
            if 0 < offset <= page.first_index_offset:
                raise self._invoices.refused("lists the same invoices again and again")
            offset = page.first_index_offset

    async def holdings(self) -> Holdings | None:
        """See `ports.PaymentNode`. LND's stock invoice.macaroon may not ask for the channels."""
        channels = await self._if_allowed("ChannelBalance", lnrpc.ChannelBalanceRequest())
        if channels is None:
            return None
        wallet = await self._if_allowed("WalletBalance", lnrpc.WalletBalanceRequest())
        onchain = Msat(0) if wallet is None else sats(wallet.confirmed_balance)
        return Holdings(Msat(channels.local_balance.msat), onchain)

    async def _if_allowed(self, method: str, request: Message) -> Any | None:  # noqa: ANN401 - as `_unary`
        try:
            return await self._unary(method, request, "a balance")
        except PermissionDenied:
            return None

    async def health(self) -> Health:
        """See `ports.PaymentNode`. Asks State, which needs no macaroon, then what the macaroon may do."""
        health = await self._health()
        used = self._calls.connection.channel
        if health.state == "refused" and used and self._calls.renew_macaroon(used):
            health = await self._health()
        return health

    async def _health(self) -> Health:
        try:
            channel = self._calls.connection.open()
        except NodeUnavailable as refusal:
            return Health(False, "refused", refusal.message)
        try:
            with map_grpc_errors(self.name, "to answer"):
                state = await stateservice_pb2_grpc.StateStub(channel.grpc).GetState(
                    stateservice_pb2.GetStateRequest(), timeout=HEALTH_TIMEOUT_SECONDS
                )
        except NodeUnavailable as refusal:
            await self._calls.connection.count_failure(refusal.__cause__)
            return Health(False, "unreachable", refusal.message)
        word, sentence = _WALLET_STATES.get(state.state, ("", ""))
        if word:
            return Health(False, word, f"node {self.name} {sentence}")
        try:
            await self._prove_permissions(channel)
            return await self._info(channel)
        except CredentialsRefused as refusal:
            return Health(False, "refused", f"{refusal.message}. Put one in its place that has all: {BAKE}")
        except NodeUnavailable as refusal:
            await self._calls.connection.count_failure(refusal.__cause__)
            return Health(False, "unreachable", refusal.message)

    async def _prove_permissions(self, channel: Channel) -> None:
        """Finds out once, before anybody waits for an invoice, whether the macaroon is enough.

        LND looks at the macaroon first. Then it refuses these requests, or answers them, and makes nothing:
        rpcserver.go, where an amount is negative or stands in both fields. Raises CredentialsRefused, and
        NodeUnavailable when it does not answer.
        """
        if self._permissions_proven:
            return
        for permission, method, request in _probes():
            try:
                await self._ask(channel, method, request)
            except PermissionDenied as refusal:
                sentence = f"the macaroon {self._credentials.macaroon_file} lacks {permission} ({method})"
                raise PermissionDenied(f"node {self.name}: {sentence}") from refusal
            except CredentialsRefused:
                raise
            except NodeUnavailable as refusal:
                if code_of(refusal) not in _ANSWERS:
                    raise
        self._permissions_proven = True

    async def _info(self, channel: Channel) -> Health:
        """What GetInfo says; where it may not be asked, that the macaroon is still good."""
        try:
            info = await self._ask(channel, "GetInfo", lnrpc.GetInfoRequest()) if self._may_get_info else None
        except PermissionDenied:
            info = None
        if info is None:
            self._may_get_info = False  # LND's log has a line for each refusal
            await self._ask(channel, "ListInvoices", _ONE_INVOICE)
            sentence = f"node {self.name} is active{self._invoices.clock_offset.sentence}"
            return Health(True, "ready", sentence, network=self._invoices.network or "")
        network = info.chains[0].network if info.chains else self._invoices.network or ""
        if not info.synced_to_chain:
            sentence = f"node {self.name} is still catching up with the chain at block {info.block_height}"
            return Health(False, "syncing", sentence, info.version, network)
        sentence = f"node {self.name} is synced{self._invoices.clock_offset.sentence}"
        return Health(True, "ready", sentence, info.version, network)

    async def _ask(self, channel: Channel, method: str, request: Message) -> Any:  # noqa: ANN401 - as `_unary`
        call = getattr(lightning_pb2_grpc.LightningStub(channel.grpc), method)
        with map_grpc_errors(self.name, method):
            return await call(request, timeout=HEALTH_TIMEOUT_SECONDS, metadata=channel.metadata)

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """See `ports.PaymentNode`."""
        return LndCheckup(self, self._credentials, self._clock, self._invoices.network, demands).run()

    async def close(self) -> None:
        """See `ports.PaymentNode`."""
        await self._calls.close()

    def _forget_permissions(self) -> None:
        self._permissions_proven = False
        self._may_get_info = True

    async def _unary(
        self,
        method: str,
        request: Message,
        action: str,
        *,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401 - the generated stubs' methods share no type
        return await self._calls.unary(
            lightning_pb2_grpc.LightningStub, method, request, action, timeout=timeout
        )


def _probes() -> Iterator[tuple[str, str, Message]]:
    """What the gateway calls, with the permission that it needs and a request that changes nothing."""
    yield "invoices:write", "AddInvoice", lnrpc.Invoice(value=-1, value_msat=-1)
    yield "invoices:read", "LookupInvoice", lnrpc.PaymentHash(r_hash=secrets.token_bytes(32))
    yield "invoices:read", "ListInvoices", _ONE_INVOICE
