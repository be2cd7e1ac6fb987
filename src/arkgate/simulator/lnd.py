"""A simulated LND: its gRPC services over TLS with macaroons, answering from the shared network."""

# ruff: noqa: N802  the methods have LND's names

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

from arkgate._proto.lnd import (
    invoices_pb2,
    invoices_pb2_grpc,
    lightning_pb2,
    lightning_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    stateservice_pb2,
    stateservice_pb2_grpc,
    verrpc_pb2,
    verrpc_pb2_grpc,
)
from arkgate.simulator import credentials
from arkgate.simulator.daemon import Context, GrpcDaemon, abort, leave, macaroons_of
from arkgate.simulator.habits import VERSION, NodeState
from arkgate.simulator.messages import (
    decoded_message,
    invoice_message,
    list_invoices,
    payment_message,
)
from arkgate.simulator.network import Network, Refused, lying_answer
from arkgate.simulator.records import InvoiceRow
from arkgate.simulator.serving import LOOPBACK

STREAM_EVENTS_MAX = 100_000
_STATE_POLL_SECONDS = 0.02

_PERMISSIONS = {
    "AddInvoice": "invoices:write",
    "LookupInvoice": "invoices:read",
    "ListInvoices": "invoices:read",
    "SubscribeInvoices": "invoices:read",
    "DecodePayReq": "offchain:read",
    "GetInfo": "info:read",
    "WalletBalance": "onchain:read",
    "ChannelBalance": "offchain:read",
    "ListChannels": "offchain:read",
    "CancelInvoice": "invoices:write",
    "GetVersion": "info:read",
    "SendPaymentV2": "offchain:write",
    "TrackPaymentV2": "offchain:read",
}
_SERVICES = {
    "GetVersion": "verrpc.Versioner",
    "SendPaymentV2": "routerrpc.Router",
    "TrackPaymentV2": "routerrpc.Router",
    "CancelInvoice": "invoicesrpc.Invoices",
}
"""The services of the methods that are not in lnrpc.Lightning."""
# While the node is not active every call but State's fails with code UNKNOWN and this text.
_NOT_ACTIVE = {
    NodeState.WAITING: "waiting to start, RPC services not available",
    NodeState.LOCKED: "wallet locked, unlock it to enable full RPC access",
    NodeState.STARTING: (
        "the RPC server is in the process of starting up, but not yet ready to accept calls"
    ),
}
_WALLET_STATES = {
    NodeState.WAITING: stateservice_pb2.WAITING_TO_START,
    NodeState.LOCKED: stateservice_pb2.LOCKED,
    NodeState.STARTING: stateservice_pb2.UNLOCKED,
    NodeState.ACTIVE: stateservice_pb2.SERVER_ACTIVE,
}


class SimulatedNode(GrpcDaemon):
    """One simulated LND."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self.macaroon_key = credentials.macaroon_key(self.peer.key.secret)
        self.root_keys = {credentials.ROOT_KEY_ID: self.macaroon_key}
        """The root keys of macaroons by their ids; one that is taken away revokes what was baked with it."""
        self.credentials = credentials.issue(self.data_dir, self.macaroon_key)
        self.hidden: set[bytes] = set()
        """Payment hashes whose settlement no stream reports."""
        self.streams_opened = 0
        """How many SubscribeInvoices there have been."""
        self.pages_listed = 0
        self.invoices_read = 0
        """What ListInvoices had to read, wanted or not."""
        self.cut_politely = False
        """How streams that are cut now end."""
        self._streams: set[asyncio.Queue[InvoiceRow | None]] = set()
        self.peer.listeners.append(self._announce)

    def add_services(self, server: grpc.aio.Server) -> None:
        """See `SimulatedDaemon`."""
        lightning_pb2_grpc.add_LightningServicer_to_server(_Lightning(self), server)
        router_pb2_grpc.add_RouterServicer_to_server(_Router(self), server)
        if "invoicesrpc" not in self.habits.parts_missing:
            invoices_pb2_grpc.add_InvoicesServicer_to_server(_Invoices(self), server)
        stateservice_pb2_grpc.add_StateServicer_to_server(_State(self), server)
        verrpc_pb2_grpc.add_VersionerServicer_to_server(_Versioner(self), server)

    def server_credentials(self) -> grpc.ServerCredentials:
        """See `SimulatedDaemon`."""
        found = self.credentials
        return grpc.ssl_server_credentials([(found.tls_key.read_bytes(), found.tls_cert.read_bytes())])

    def renew_certificate(self) -> None:
        """See `SimulatedDaemon`."""
        credentials.make_certificate(self.credentials)

    def cut_streams(self, *, politely: bool = False) -> int:
        """Ends every open SubscribeInvoices, with UNAVAILABLE or as if all were said; answers how many."""
        streams = list(self._streams)
        for stream in streams:
            while not stream.empty():
                stream.get_nowait()
            stream.put_nowait(None)
        self.cut_politely = politely
        return len(streams)

    @property
    def open_streams(self) -> int:
        """How many SubscribeInvoices are open."""
        return len(self._streams)

    def collect_garbage(self) -> int:
        """Forgets canceled and expired invoices, as LND's garbage collection does; answers how many."""
        return self.network.collect_garbage(self.peer)

    def bake(self, *permissions: str, root_key_id: str = credentials.ROOT_KEY_ID) -> bytes:
        """A macaroon with these permissions, binary; a root key that is new is made."""
        if root_key_id not in self.root_keys:
            self.root_keys[root_key_id] = secrets.token_bytes(32)
        return credentials.bake(self.root_keys[root_key_id], frozenset(permissions), root_key_id)

    def describe(self, row: InvoiceRow) -> lightning_pb2.Invoice:
        """LND's message of an invoice as it is now."""
        parts = self.peer.parts.get(row.payment_hash, ())
        return invoice_message(row, self.network.now_at(self.peer), parts)

    def list_page(self, request: lightning_pb2.ListInvoiceRequest) -> lightning_pb2.ListInvoiceResponse:
        """The answer of ListInvoices."""
        self.pages_listed += 1
        rows = self._counted(self.peer.walk(request.index_offset, backwards=request.reversed))
        return list_invoices(rows, request, self.network.now_at(self.peer))

    def _counted(self, rows: Iterator[InvoiceRow]) -> Iterator[InvoiceRow]:
        for row in rows:
            self.invoices_read += 1
            yield row

    def check(self, method: str, macaroons: list[str]) -> None:
        """Refuses a call as LND does: by the node's state first, then by the macaroon."""
        if self.habits.state is not NodeState.ACTIVE:
            raise Refused(_NOT_ACTIVE[self.habits.state])
        try:
            allowed = credentials.allowed(self.root_keys, macaroons)
        except credentials.BadMacaroon as exc:
            raise Refused(str(exc)) from exc
        service = _SERVICES.get(method, "lnrpc.Lightning")
        if not allowed & {_PERMISSIONS[method], f"uri:/{service}/{method}"}:
            raise Refused("permission denied")
        failure = self.habits.failure(method)
        if failure is not None:
            raise Refused(f"simulated failure of {method}", failure)

    def information(self) -> lightning_pb2.GetInfoResponse:
        """The answer of GetInfo."""
        return lightning_pb2.GetInfoResponse(
            version=f"{self.habits.version} commit=simulated",
            commit_hash="0" * 40,
            identity_pubkey=self.public_key,
            alias=f"simulated-{self.name}",
            color="#3399ff",
            num_active_channels=1,
            num_peers=1,
            block_height=100 if self.habits.synced else 42,
            block_hash=hashlib.sha256(b"simulated block").hexdigest(),
            best_header_timestamp=int(self.network.now_at(self.peer)),
            synced_to_chain=self.habits.synced,
            synced_to_graph=self.habits.synced,
            chains=[lightning_pb2.Chain(chain="bitcoin", network="regtest")],
            uris=[f"{self.public_key}@{LOOPBACK}:9735"],
        )

    def channel_balance(self) -> lightning_pb2.ChannelBalanceResponse:
        """The answer of ChannelBalance: what was received, less what the node's owner took away."""
        local = self.received_msat
        remote = self.habits.remote_sats
        return lightning_pb2.ChannelBalanceResponse(
            local_balance=lightning_pb2.Amount(sat=local // 1000, msat=local),
            remote_balance=lightning_pb2.Amount(sat=remote, msat=remote * 1000),
        )

    def channels(self, request: lightning_pb2.ListChannelsRequest) -> lightning_pb2.ListChannelsResponse:
        """The answer of ListChannels: one channel, which no payment makes smaller."""
        if request.active_only and not self.habits.connected:
            return lightning_pb2.ListChannelsResponse()
        local, remote = self.channel_balance().local_balance.sat, self.habits.remote_sats
        reserve = lightning_pb2.ChannelConstraints(chan_reserve_sat=self.habits.reserve_sats)
        channel = lightning_pb2.Channel(
            active=self.habits.connected,
            capacity=local + remote,
            local_balance=local,
            remote_balance=remote,
            local_constraints=reserve,
            remote_constraints=reserve,
        )
        return lightning_pb2.ListChannelsResponse(channels=[channel])

    @contextlib.contextmanager
    def subscribed(self) -> Iterator[asyncio.Queue[InvoiceRow | None]]:
        """A queue of what happens from now on; None ends the stream."""
        stream: asyncio.Queue[InvoiceRow | None] = asyncio.Queue(STREAM_EVENTS_MAX)
        self._streams.add(stream)
        self.streams_opened += 1
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    def backlog(self, request: lightning_pb2.InvoiceSubscription) -> list[InvoiceRow]:
        """Past events after the given indices; none for an index of 0, which is LND's trap."""
        rows = [row for row in self.peer.invoices.values() if not row.collected]
        added = [row for row in rows if 0 < request.add_index < row.add_index]
        settled = [
            row
            for row in rows
            if 0 < request.settle_index < row.settle_index and row.payment_hash not in self.hidden
        ]
        settled.sort(key=lambda row: row.settle_index, reverse=self.habits.backlog_out_of_order)
        return added + settled

    def _announce(self, row: InvoiceRow) -> None:
        if row.settled and self.habits.settlements_hidden:
            self.hidden.add(row.payment_hash)
        if self.habits.streams_silent or row.payment_hash in self.hidden:
            return
        if self.habits.stream_lag_seconds:
            asyncio.get_running_loop().call_later(self.habits.stream_lag_seconds, self._tell, row)
        else:
            self._tell(row)

    def _tell(self, row: InvoiceRow) -> None:
        for stream in self._streams:
            if stream.full():
                stream.get_nowait()
            stream.put_nowait(row)


async def _enter(node: SimulatedNode, method: str, context: Context) -> None:
    """What comes before every call: state, macaroon, and the delay or failure that a test asked for."""
    delay = node.habits.delay_seconds(method)
    if delay:
        await asyncio.sleep(delay)
    try:
        node.check(method, macaroons_of(context))
    except Refused as refused:
        await abort(context, refused)


class _Lightning(lightning_pb2_grpc.LightningServicer):
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def AddInvoice(
        self, request: lightning_pb2.Invoice, context: Context
    ) -> lightning_pb2.AddInvoiceResponse:
        node = self._node
        await _enter(node, "AddInvoice", context)
        try:
            row = node.network.add_invoice(
                node.peer,
                amount_msat=_amount_msat(request),
                memo=request.memo,
                expiry_seconds=request.expiry,
                preimage=request.r_preimage,
                description_hash=request.description_hash,
                cltv_expiry=request.cltv_expiry,
                private=request.private,
            )
        except Refused as refused:
            await abort(context, refused)
        await leave(node, "AddInvoice", context)
        payment_hash, text = lying_answer(node.peer, row)
        return lightning_pb2.AddInvoiceResponse(
            r_hash=payment_hash,
            payment_request=text,
            add_index=row.add_index,
            payment_addr=row.payment_secret,
        )

    async def LookupInvoice(
        self, request: lightning_pb2.PaymentHash, context: Context
    ) -> lightning_pb2.Invoice:
        await _enter(self._node, "LookupInvoice", context)
        payment_hash = request.r_hash or _from_hex(request.r_hash_str)
        if len(payment_hash) not in (0, 32):
            text = f"payment hash must be exactly 32 bytes, is instead {len(payment_hash)}"
            await abort(context, Refused(text))
        row = self._node.invoice(payment_hash)
        if row is None:
            await abort(context, Refused("unable to locate invoice", grpc.StatusCode.NOT_FOUND))
        return self._node.describe(row)

    async def ListInvoices(
        self, request: lightning_pb2.ListInvoiceRequest, context: Context
    ) -> lightning_pb2.ListInvoiceResponse:
        await _enter(self._node, "ListInvoices", context)
        return self._node.list_page(request)

    async def SubscribeInvoices(
        self, request: lightning_pb2.InvoiceSubscription, context: Context
    ) -> AsyncIterator[lightning_pb2.Invoice]:
        node = self._node
        await _enter(node, "SubscribeInvoices", context)
        with node.subscribed() as stream:
            for row in () if node.habits.streams_silent else node.backlog(request):
                for _ in range(1 + node.habits.duplicate_events):
                    yield node.describe(row)
            while (event := await stream.get()) is not None:
                for _ in range(1 + node.habits.duplicate_events):
                    yield node.describe(event)
        if not node.cut_politely:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def DecodePayReq(
        self, request: lightning_pb2.PayReqString, context: Context
    ) -> lightning_pb2.PayReq:
        await _enter(self._node, "DecodePayReq", context)
        try:
            return decoded_message(self._node.network.read(request.pay_req))
        except Refused as refused:
            await abort(context, refused)

    async def GetInfo(
        self, request: lightning_pb2.GetInfoRequest, context: Context
    ) -> lightning_pb2.GetInfoResponse:
        await _enter(self._node, "GetInfo", context)
        return self._node.information()

    async def WalletBalance(
        self, request: lightning_pb2.WalletBalanceRequest, context: Context
    ) -> lightning_pb2.WalletBalanceResponse:
        await _enter(self._node, "WalletBalance", context)
        wallet = self._node.habits.wallet_sats
        return lightning_pb2.WalletBalanceResponse(total_balance=wallet, confirmed_balance=wallet)

    async def ChannelBalance(
        self, request: lightning_pb2.ChannelBalanceRequest, context: Context
    ) -> lightning_pb2.ChannelBalanceResponse:
        await _enter(self._node, "ChannelBalance", context)
        return self._node.channel_balance()

    async def ListChannels(
        self, request: lightning_pb2.ListChannelsRequest, context: Context
    ) -> lightning_pb2.ListChannelsResponse:
        await _enter(self._node, "ListChannels", context)
        return self._node.channels(request)


class _Invoices(invoices_pb2_grpc.InvoicesServicer):
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def CancelInvoice(
        self, request: invoices_pb2.CancelInvoiceMsg, context: Context
    ) -> invoices_pb2.CancelInvoiceResp:
        await _enter(self._node, "CancelInvoice", context)
        row = self._node.invoice(request.payment_hash)
        if row is None:
            await abort(context, Refused("unable to locate invoice"))
        if row.settled:
            await abort(context, Refused("invoice already settled"))
        self._node.cancel(request.payment_hash)
        return invoices_pb2.CancelInvoiceResp()


class _Router(router_pb2_grpc.RouterServicer):
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def SendPaymentV2(
        self, request: router_pb2.SendPaymentRequest, context: Context
    ) -> AsyncIterator[lightning_pb2.Payment]:
        await _enter(self._node, "SendPaymentV2", context)
        try:
            payment = self._node.network.pay(
                self._node.peer,
                request.payment_request,
                amount_msat=request.amt_msat or request.amt * 1000,
                allow_self_payment=request.allow_self_payment,
            )
        except Refused as refused:
            await abort(context, refused)
        await leave(self._node, "SendPaymentV2", context)
        if not request.no_inflight_updates:
            yield payment_message(payment)
        yield payment_message(await self._node.network.finished(self._node.peer, payment.payment_hash))

    async def TrackPaymentV2(
        self, request: router_pb2.TrackPaymentRequest, context: Context
    ) -> AsyncIterator[lightning_pb2.Payment]:
        await _enter(self._node, "TrackPaymentV2", context)
        try:
            payment = await self._node.network.finished(self._node.peer, request.payment_hash)
        except Refused as refused:
            await abort(context, refused)
        yield payment_message(payment)


class _State(stateservice_pb2_grpc.StateServicer):
    """The one service that needs no macaroon and answers in every state."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def GetState(
        self, request: stateservice_pb2.GetStateRequest, context: Context
    ) -> stateservice_pb2.GetStateResponse:
        return stateservice_pb2.GetStateResponse(state=_WALLET_STATES[self._node.habits.state])

    async def SubscribeState(
        self, request: stateservice_pb2.SubscribeStateRequest, context: Context
    ) -> AsyncIterator[stateservice_pb2.SubscribeStateResponse]:
        told: NodeState | None = None
        while True:
            state = self._node.habits.state
            if state is not told:
                told = state
                yield stateservice_pb2.SubscribeStateResponse(state=_WALLET_STATES[state])
            await asyncio.sleep(_STATE_POLL_SECONDS)


class _Versioner(verrpc_pb2_grpc.VersionerServicer):
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def GetVersion(self, request: verrpc_pb2.VersionRequest, context: Context) -> verrpc_pb2.Version:
        await _enter(self._node, "GetVersion", context)
        # Payers' libraries refuse a node that was built without these parts.
        tags = ["signrpc", "walletrpc", "chainrpc", "invoicesrpc", "routerrpc"]
        return verrpc_pb2.Version(
            commit="simulated", version=VERSION, app_minor=20, app_pre_release="beta", build_tags=tags
        )


def _amount_msat(request: lightning_pb2.Invoice) -> int:
    if request.value and request.value_msat:
        raise Refused("sat and msat arguments are mutually exclusive")
    return request.value_msat or request.value * 1000


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
