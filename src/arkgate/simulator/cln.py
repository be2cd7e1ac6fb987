"""A simulated Core Lightning: its gRPC plugin over mutual TLS, answering from the shared network.

Sources: cln-grpc's server.rs and convert.rs for the texts of errors, lightningd/invoice.c and
wallet/invoices.c for what they are about. Labels live in memory: they are no part of the network.
"""

# ruff: noqa: N802  the methods have Core Lightning's names

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import grpc

from arkgate._proto.cln import node_pb2 as cln
from arkgate._proto.cln import node_pb2_grpc
from arkgate.simulator import cln_credentials
from arkgate.simulator.daemon import Context, GrpcDaemon, abort, leave
from arkgate.simulator.network import Network, Refused, lying_answer
from arkgate.simulator.records import InvoiceRow

VERSION = "v26.06"
"""The Core Lightning that is simulated, unless a test says otherwise."""
DESCRIPTION_BYTES_MAX = 639
LABEL_BYTES_MAX = 128
EXPIRY_SECONDS_DEFAULT = 7 * 24 * 3600
OVERPAID_TIMES_MAX = 2
CALLS_AT_ONCE_MAX = 128
"""How many connections to lightningd may wait to be accepted; the plugin opens one for each call."""
_INVALID_PARAMETERS = -32602
_DUPLICATE_LABEL = 900
_DUPLICATE_PREIMAGE = 901
_TIMED_OUT = 904
_UNKNOWN_INVOICE = 905
_OTHER_STATUS = 906
_INVOICE_STATUS = cln.ListinvoicesInvoices.ListinvoicesInvoicesStatus


def rpc_error(method: str, code: int, text: str, *, data: str = "None") -> Refused:
    """How the plugin hands on an error of lightningd's JSON-RPC: as Rust prints it."""
    error = f"code: Some({code}), message: {json.dumps(text, ensure_ascii=False)}, data: {data}"
    return Refused(f"Error calling method {method}: RpcError {{ {error} }}")


class SimulatedCln(GrpcDaemon):
    """One simulated Core Lightning."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self.habits.version = VERSION
        self.habits.overpaid_times_max = OVERPAID_TIMES_MAX
        self.credentials = cln_credentials.issue(self.data_dir)
        self.bitcoind_synced = True
        """Whether its bitcoind has caught up; `habits.synced` is about lightningd."""
        self.fenced = False
        """Whether a proxy before it lets through only what the gateway needs."""
        self.entering = 0
        """How many calls are on their way into lightningd."""
        self.waits_asked = 0
        """How many WaitAnyInvoice there have been."""
        self.waits_opened = 0
        """How many of them had to wait."""
        self.pages_listed = 0
        self.invoices_read = 0
        """How many invoices ListInvoices has answered with."""
        self._labels: dict[str, bytes] = {}
        self._label_of: dict[bytes, str] = {}
        self._paid: dict[int, bytes] = {}
        self._waiting: dict[asyncio.Event, bool] = {}
        for row in self.peer.invoices.values():
            self._note_paid(row)
        self.peer.listeners.append(self._announce)

    def add_services(self, server: grpc.aio.Server) -> None:
        """See `SimulatedDaemon`."""
        node_pb2_grpc.add_NodeServicer_to_server(_Node(self), server)

    def server_credentials(self) -> grpc.ServerCredentials:
        """See `SimulatedDaemon`."""
        found = self.credentials
        return grpc.ssl_server_credentials(
            [(found.server_key.read_bytes(), found.server.read_bytes())],
            root_certificates=found.ca.read_bytes(),
            require_client_auth=True,
        )

    def renew_certificate(self) -> None:
        """See `SimulatedDaemon`."""
        cln_credentials.make(self.credentials)

    @property
    def open_streams(self) -> int:
        """See `SimulatedDaemon`."""
        return len(self._waiting)

    def cut_streams(self) -> int:
        """See `SimulatedDaemon`."""
        for event in self._waiting:
            self._waiting[event] = True
            event.set()
        return len(self._waiting)

    def fill_with_old_invoices(self, count: int, *, age_seconds: float) -> None:
        """See `SimulatedDaemon`."""
        super().fill_with_old_invoices(count, age_seconds=age_seconds)
        for row in self.peer.invoices.values():
            self._note_paid(row)

    def delete(self, payment_hash: bytes) -> None:
        """Forgets an invoice, paid or not, as autoclean does."""
        self.network.forget(self.peer, payment_hash)

    # What lightningd knows.

    def label_of(self, row: InvoiceRow) -> str:
        """The label that the invoice was made with; for others' one that is as good."""
        other = f"keysend-{row.created_at}.000000001" if row.is_keysend else f"order-{row.add_index}"
        return self._label_of.setdefault(row.payment_hash, other)

    def call_it(self, row: InvoiceRow, label: str) -> None:
        """Gives an invoice a label."""
        self._labels[label] = row.payment_hash
        self._label_of[row.payment_hash] = label

    def labelled(self, label: str) -> InvoiceRow | None:
        """The invoice of a label that is not deleted."""
        payment_hash = self._labels.get(label)
        return None if payment_hash is None else self.invoice(payment_hash)

    def add(self, request: cln.InvoiceRequest) -> InvoiceRow:
        """A new invoice. Raises Refused where lightningd does."""
        length = len(request.description.encode())
        if request.amount_msat.WhichOneof("value") is None:
            # The plugin panics, and the connection with it.
            text = "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))"
            raise Refused(text, grpc.StatusCode.CANCELLED)
        if request.amount_msat.HasField("amount") and not request.amount_msat.amount.msat:
            text = "amount_msat: should be positive msat or 'any': invalid token '0'"
            raise rpc_error("Invoice", _INVALID_PARAMETERS, text)
        if len(request.label) > LABEL_BYTES_MAX:
            text = f"Label '{request.label}' over {LABEL_BYTES_MAX} bytes"
            raise rpc_error("Invoice", _INVALID_PARAMETERS, text)
        if length > DESCRIPTION_BYTES_MAX:
            limit = f"Description greater than {DESCRIPTION_BYTES_MAX} bytes"
            text = f"{limit} invalid (description length {length})"
            raise rpc_error("Invoice", _INVALID_PARAMETERS, text)
        if self.peer.invoice(hashlib.sha256(request.preimage).digest()) is not None:
            raise rpc_error("Invoice", _DUPLICATE_PREIMAGE, "preimage already used")
        if self.labelled(request.label) is not None:
            raise rpc_error("Invoice", _DUPLICATE_LABEL, f"Duplicate label '{request.label}'")
        row = self.network.add_invoice(
            self.peer,
            amount_msat=request.amount_msat.amount.msat,
            memo=request.description,
            expiry_seconds=request.expiry if request.HasField("expiry") else EXPIRY_SECONDS_DEFAULT,
            preimage=request.preimage,
        )
        self.call_it(row, request.label)
        return row

    def listed(self, request: cln.ListinvoicesRequest) -> list[InvoiceRow]:
        """What ListInvoices answers with. Raises Refused where lightningd does."""
        if request.HasField("payment_hash"):
            row = self.invoice(request.payment_hash)
            found = [] if row is None else [row]
        elif request.HasField("label"):
            row = self.labelled(request.label)
            found = [] if row is None else [row]
        else:
            found = self._page(request)
        self.pages_listed += 1
        self.invoices_read += len(found)
        return found

    def _page(self, request: cln.ListinvoicesRequest) -> list[InvoiceRow]:
        if not request.HasField("index") and (request.start or request.HasField("limit")):
            which = "start" if request.start else "limit"
            text = f"Can only specify {{{which}}} with {{index}}"
            raise rpc_error("ListInvoices", _INVALID_PARAMETERS, text)
        if request.index != cln.ListinvoicesRequest.CREATED:
            raise Refused("this simulation lists by the created index only", grpc.StatusCode.UNIMPLEMENTED)
        limit = request.limit if request.HasField("limit") else 2**31
        found: list[InvoiceRow] = []
        for row in self.peer.walk(max(0, request.start - 1), backwards=False):
            if len(found) == limit:
                break
            if not row.collected:
                found.append(row)
        return found

    def paid_after(self, pay_index: int) -> InvoiceRow | None:
        """The first that was paid after that index, and is still known."""
        for number in range(pay_index + 1, self.peer.settle_index + 1):
            payment_hash = self._paid.get(number)
            if payment_hash is not None and self.peer.invoice(payment_hash) is not None:
                return self.peer.invoices[payment_hash]
        return None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """An event for whenever something was paid; `was_cut` says whether that is not why it is set."""
        event = asyncio.Event()
        self._waiting[event] = False
        self.waits_opened += 1
        try:
            yield event
        finally:
            del self._waiting[event]

    def was_cut(self, event: asyncio.Event) -> bool:
        """Whether `cut_streams` broke that call."""
        return self._waiting[event]

    def status(self, row: InvoiceRow) -> "_INVOICE_STATUS.ValueType":
        """What lightningd calls the state of an invoice now."""
        if row.settled:
            return cln.ListinvoicesInvoices.PAID
        if row.canceled_at(self.network.now_at(self.peer)):
            return cln.ListinvoicesInvoices.EXPIRED
        return cln.ListinvoicesInvoices.UNPAID

    def _announce(self, row: InvoiceRow) -> None:
        if not row.settled:
            return
        self._note_paid(row)
        for event in self._waiting:
            event.set()

    def _note_paid(self, row: InvoiceRow) -> None:
        if row.settled:
            self._paid[row.settle_index] = row.payment_hash


async def _enter(node: SimulatedCln, method: str, context: Context) -> None:
    """What comes before every call: the way into lightningd, and the failure that a test asked for."""
    if node.entering >= CALLS_AT_ONCE_MAX:
        text = "Resource temporarily unavailable (os error 11)"
        await abort(context, Refused(text, grpc.StatusCode.INTERNAL))
    node.entering += 1
    try:
        await asyncio.sleep(node.habits.delay_seconds(method))
    finally:
        node.entering -= 1
    failure = node.habits.failure(method)
    if failure is not None:
        await abort(context, Refused(f"simulated failure of {method}", failure))


class _Node(node_pb2_grpc.NodeServicer):
    def __init__(self, node: SimulatedCln) -> None:
        self._node = node

    async def Getinfo(self, request: cln.GetinfoRequest, context: Context) -> cln.GetinfoResponse:
        node = self._node
        await _enter(node, "Getinfo", context)
        answer = cln.GetinfoResponse(
            id=bytes.fromhex(node.public_key),
            alias=f"simulated-{node.name}",
            num_peers=1,
            num_active_channels=1,
            version=node.habits.version,
            blockheight=100 if node.habits.synced else 42,
            network="regtest",
        )
        if not node.bitcoind_synced:
            answer.warning_bitcoind_sync = "Bitcoind is not up-to-date with network."
        elif not node.habits.synced:
            answer.warning_lightningd_sync = "Still loading latest blocks from bitcoind."
        return answer

    async def ListFunds(self, request: cln.ListfundsRequest, context: Context) -> cln.ListfundsResponse:
        node = self._node
        await _enter(node, "ListFunds", context)
        local, remote = node.received_msat, node.habits.remote_sats * 1000
        confirmed = cln.ListfundsOutputs(
            amount_msat=cln.Amount(msat=node.habits.wallet_sats * 1000), status=cln.ListfundsOutputs.CONFIRMED
        )
        unconfirmed = cln.ListfundsOutputs(
            amount_msat=cln.Amount(msat=5_000), status=cln.ListfundsOutputs.UNCONFIRMED
        )
        channels = [
            _funds(local, local + remote, cln.ChanneldNormal, connected=node.habits.connected),
            _funds(7_000, 7_000, cln.Onchain, connected=False),
        ]
        return cln.ListfundsResponse(outputs=[confirmed, unconfirmed], channels=channels)

    async def ListPeerChannels(
        self, request: cln.ListpeerchannelsRequest, context: Context
    ) -> cln.ListpeerchannelsResponse:
        node = self._node
        await _enter(node, "ListPeerChannels", context)
        receivable = max(0, node.habits.remote_sats - node.habits.reserve_sats) * 1000
        return cln.ListpeerchannelsResponse(
            channels=[
                cln.ListpeerchannelsChannels(
                    peer_id=bytes(33),
                    peer_connected=connected,
                    state=state,
                    receivable_msat=cln.Amount(msat=receivable),
                )
                for connected, state in (
                    (node.habits.connected, cln.ChanneldNormal),
                    (True, cln.ChanneldAwaitingLockin),
                )
            ]
        )

    async def Pay(self, request: cln.PayRequest, context: Context) -> cln.PayResponse:
        await self._refuse_to_pay("Pay", context)
        return cln.PayResponse()

    async def Xpay(self, request: cln.XpayRequest, context: Context) -> cln.XpayResponse:
        await self._refuse_to_pay("Xpay", context)
        return cln.XpayResponse()

    async def _refuse_to_pay(self, method: str, context: Context) -> None:
        """The gateway tries only whether it may, with a text that is no invoice."""
        await _enter(self._node, method, context)
        if self._node.fenced:
            text = "Received http2 header with status: 403"
            await abort(context, Refused(text, grpc.StatusCode.PERMISSION_DENIED))
        text = "Invalid bolt11 invoice: Bad bech32 string"
        await abort(context, rpc_error(method, _INVALID_PARAMETERS, text))

    async def Invoice(self, request: cln.InvoiceRequest, context: Context) -> cln.InvoiceResponse:
        node = self._node
        await _enter(node, "Invoice", context)
        try:
            row = node.add(request)
        except Refused as refused:
            await abort(context, refused)
        await leave(node, "Invoice", context)
        payment_hash, text = lying_answer(node.peer, row)
        return cln.InvoiceResponse(
            bolt11=text,
            payment_hash=payment_hash,
            payment_secret=row.payment_secret,
            expires_at=row.created_at + row.expiry_seconds,
            created_index=row.add_index,
        )

    async def ListInvoices(
        self, request: cln.ListinvoicesRequest, context: Context
    ) -> cln.ListinvoicesResponse:
        await _enter(self._node, "ListInvoices", context)
        try:
            rows = self._node.listed(request)
        except Refused as refused:
            await abort(context, refused)
        return cln.ListinvoicesResponse(invoices=[self._listed(row) for row in rows])

    def _listed(self, row: InvoiceRow) -> cln.ListinvoicesInvoices:
        found = cln.ListinvoicesInvoices(
            label=self._node.label_of(row),
            description=row.memo,
            payment_hash=row.payment_hash,
            status=self._node.status(row),
            expires_at=row.created_at + row.expiry_seconds,
            created_index=row.add_index,
        )
        if row.payment_request:
            found.bolt11 = row.payment_request
        if row.amount_msat:
            found.amount_msat.msat = row.amount_msat
        if row.settled:
            found.pay_index = row.settle_index
            found.amount_received_msat.msat = row.paid_msat
            found.paid_at = row.settled_at
        return found

    async def DelInvoice(self, request: cln.DelinvoiceRequest, context: Context) -> cln.DelinvoiceResponse:
        node = self._node
        await _enter(node, "DelInvoice", context)
        row = node.labelled(request.label)
        if row is None:
            await abort(context, rpc_error("DelInvoice", _UNKNOWN_INVOICE, "Unknown invoice"))
        actual = _INVOICE_STATUS.Name(node.status(row)).lower()
        wanted = cln.DelinvoiceRequest.DelinvoiceStatus.Name(request.status).lower()
        if actual != wanted:
            text = f"Invoice status is {actual} not {wanted}"
            said = f'"current_status": String("{actual}"), "expected_status": String("{wanted}")'
            data = f"Some(Object {{{said}}})"
            await abort(context, rpc_error("DelInvoice", _OTHER_STATUS, text, data=data))
        node.delete(row.payment_hash)
        return cln.DelinvoiceResponse(label=request.label, payment_hash=row.payment_hash)

    async def WaitAnyInvoice(
        self, request: cln.WaitanyinvoiceRequest, context: Context
    ) -> cln.WaitanyinvoiceResponse:
        node = self._node
        await _enter(node, "WaitAnyInvoice", context)
        node.waits_asked += 1
        row = None if node.habits.streams_silent else node.paid_after(request.lastpay_index)
        if row is None and (request.timeout or not request.HasField("timeout")):
            row = await self._wait(request, context)
        if row is None:
            text = "Timed out while waiting for invoice to be paid"
            await abort(context, rpc_error("WaitAnyInvoice", _TIMED_OUT, text))
        paid = self._listed(row)
        return cln.WaitanyinvoiceResponse(
            label=paid.label,
            description=paid.description,
            payment_hash=paid.payment_hash,
            status=cln.WaitanyinvoiceResponse.PAID,
            expires_at=paid.expires_at,
            amount_msat=paid.amount_msat if row.amount_msat else None,
            bolt11=paid.bolt11 if row.payment_request else None,
            pay_index=paid.pay_index,
            amount_received_msat=paid.amount_received_msat,
            paid_at=paid.paid_at,
            created_index=paid.created_index,
        )

    async def _wait(self, request: cln.WaitanyinvoiceRequest, context: Context) -> InvoiceRow | None:
        """What is paid in time. A node whose streams are silent says nothing, not even that nothing was."""
        node = self._node
        seconds = request.timeout if request.HasField("timeout") else None
        with node.waiting() as event:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if node.habits.streams_silent else seconds):
                    while True:
                        await event.wait()
                        event.clear()
                        if node.was_cut(event):
                            break
                        row = node.paid_after(request.lastpay_index)
                        if row is not None and not node.habits.streams_silent:
                            return row
            if node.was_cut(event):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return None


def _funds(
    ours: int, total: int, state: cln.ChannelState.ValueType, *, connected: bool
) -> cln.ListfundsChannels:
    return cln.ListfundsChannels(
        our_amount_msat=cln.Amount(msat=ours),
        amount_msat=cln.Amount(msat=total),
        connected=connected,
        state=state,
    )
