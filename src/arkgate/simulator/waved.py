"""A simulated waved: its gRPC over TLS with macaroons, and an operator with swaps and credits.

Sources: Wavelength b7de4da0 (swapwallet, swapclientserver, rpc_auth.go); the texts of errors are those of
the real daemon. Its activity lives in memory: it is no part of the network.
"""

# ruff: noqa: N802  the methods have waved's names

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from arkgate._proto.waved import (
    daemon_pb2,
    daemon_pb2_grpc,
    swap_client_pb2,
    swap_client_pb2_grpc,
    wallet_pb2,
    wallet_pb2_grpc,
)
from arkgate.simulator import credentials, waved_credentials
from arkgate.simulator.daemon import Context, GrpcDaemon, abort, leave, macaroons_of
from arkgate.simulator.network import MEMO_BYTES_MAX, Network, Refused, lying_answer
from arkgate.simulator.records import InvoiceRow, PaymentRow
from arkgate.simulator.waved_activity import CREDIT, Activity

VERSION = "0.1.0"
EXPIRY_SECONDS = 3600
PAGE_DEFAULT, PAGE_MAX = 100, 1000
FLOOR_SATS = 1000
_PERMISSIONS = {
    "GetInfo": "info:read",
    "Recv": "address:write",
    "List": "activity:read",
    "Balance": "info:read",
    "SubscribeWallet": "info:read",
    "GetSwap": "swap:read",
}
_READY = daemon_pb2.WALLET_STATE_READY
_DOWN = (
    "start receive: create swap: rpc error: code = Unavailable desc = connection error: "
    'desc = "transport: Error while dialing: dial tcp 127.0.0.1:10019: connect: connection refused"'
)


class SimulatedWaved(GrpcDaemon):
    """One simulated waved. The switches below are its own; those of `habits` it shares with every node."""

    pings_seconds = 300

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self.habits.version = VERSION
        self.root_keys = {credentials.ROOT_KEY_ID: credentials.macaroon_key(self.peer.key.secret)}
        self.credentials = waved_credentials.issue(self.data_dir, self.root_keys[credentials.ROOT_KEY_ID])
        self.wallet_state: daemon_pb2.WalletState.ValueType = _READY
        self.operator_up = True
        self.believes_connected: bool | None = None
        """What it says of its operator, right or not; None: what is so."""
        self.floor_sats = FLOOR_SATS
        """Below it an invoice is the operator's, and what comes in a credit."""
        self.most_sats = 0
        """The operator's largest coin; 0: no limit."""
        self.has_credits = True
        """Whether the operator has credits at all."""
        self.credit_patience_seconds = 15.0
        """How long it waits for an operator that says nothing of a credit."""
        self.credit_lag_seconds = 0.0
        """How long after the payment it learns that a credit came in."""
        self.timed_out: set[bytes] = set()
        """Payment hashes that its wallet lost patience with; they can be paid all the same."""
        self.paid_by_itself: set[bytes] = set()
        """Payment hashes of credits that the wallet pays: GetSwap shows that swap for them."""
        self.kept_ppm = 0
        """What is missing of a payment when it has come in; nothing with the real one."""
        self.pages_listed = 0
        self.activity = Activity()
        self._operations: dict[bytes, str] = {}
        """The ids of credits by payment hash."""
        self._running = False
        self._learned_late: list[InvoiceRow] = []
        for row in self.peer.invoices.values():
            self.activity.project(self._entry(row))
        self.peer.listeners.append(self._announce)
        self.peer.taker = self._take

    def add_services(self, server: grpc.aio.Server) -> None:
        """See `GrpcDaemon`."""
        wallet_pb2_grpc.add_WalletServiceServicer_to_server(_Wallet(self), server)
        swap_client_pb2_grpc.add_SwapClientServiceServicer_to_server(_Swaps(self), server)
        daemon_pb2_grpc.add_DaemonServiceServicer_to_server(_Daemon(self), server)

    def server_credentials(self) -> grpc.ServerCredentials:
        """See `GrpcDaemon`."""
        found = self.credentials
        return grpc.ssl_server_credentials([(found.tls_key.read_bytes(), found.tls_cert.read_bytes())])

    def renew_certificate(self) -> None:
        """See `GrpcDaemon`."""
        credentials.make_certificate(self.credentials)

    async def start(self) -> None:
        """See `SimulatedDaemon`. What was paid to credits meanwhile is learned from the operator."""
        await super().start()
        self._running = True
        self.catch_up()

    async def stop(self) -> None:
        """See `SimulatedDaemon`."""
        self._running = False
        await super().stop()

    def catch_up(self) -> None:
        """Learns what it could not while it was stopped or locked."""
        if self._running and self.wallet_state == _READY:
            late, self._learned_late = self._learned_late, []
            for row in late:
                self.activity.project(self._entry(row))

    @property
    def open_streams(self) -> int:
        """See `SimulatedDaemon`."""
        return len(self.activity.followers)

    def cut_streams(self) -> int:
        """See `SimulatedDaemon`."""
        return self.activity.cut()

    def bake(self, *permissions: str) -> bytes:
        """A macaroon with these permissions, binary; the real one bakes none but its two."""
        key = self.root_keys[credentials.ROOT_KEY_ID]
        return credentials.bake(key, frozenset(permissions), location="waved")

    # Rows.

    def operation_of(self, payment_hash: bytes) -> str | None:
        """The id of the credit behind an invoice; None of a swap."""
        return self._operations.get(payment_hash)

    def is_over(self, row: InvoiceRow) -> bool:
        """Whether an invoice can be paid no more."""
        return row.canceled_at(self.network.now_at(self.peer))

    def _entry(self, row: InvoiceRow) -> wallet_pb2.WalletEntry:
        """A row of the activity as it is now."""
        operation = self._operations.get(row.payment_hash)
        status, phase = wallet_pb2.ENTRY_STATUS_PENDING, "waiting_for_payment"
        failure: wallet_pb2.EntryFailureCode.ValueType | None = None
        if row.settled:
            status, phase = wallet_pb2.ENTRY_STATUS_COMPLETE, "confirmed"
        elif self.is_over(row):
            status, phase = wallet_pb2.ENTRY_STATUS_FAILED, "failed"
            failure = wallet_pb2.ENTRY_FAILURE_CODE_EXPIRED
            if operation is not None:
                failure = wallet_pb2.ENTRY_FAILURE_CODE_FAILED
        elif row.payment_hash in self.timed_out:
            status, phase = wallet_pb2.ENTRY_STATUS_FAILED, "failed"
            failure = wallet_pb2.ENTRY_FAILURE_CODE_TIMED_OUT
        amount_msat = self._received_msat(row) if row.settled else row.amount_msat
        entry = wallet_pb2.WalletEntry(
            id=operation or row.payment_hash.hex(),
            kind=wallet_pb2.ENTRY_KIND_RECV,
            status=status,
            amount_sat=amount_msat // 1000,
            counterparty=CREDIT if operation else "",
            created_at_unix=row.created_at,
            updated_at_unix=row.settled_at or row.created_at,
            note=row.memo,
            progress=wallet_pb2.WalletEntryProgress(phase_label=phase),
            failure_code=failure,
        )
        if row.payment_request and not (operation and row.settled):
            # A credit that came in is projected without its request, which the row keeps from before.
            entry.request.lightning_invoice.invoice = row.payment_request
            entry.request.lightning_invoice.payment_hash = row.payment_hash.hex()
        return entry

    def _received_msat(self, row: InvoiceRow) -> int:
        return row.amount_msat - row.amount_msat * self.kept_ppm // 1_000_000

    def _announce(self, row: InvoiceRow) -> None:
        """An invoice was added or settled; that a credit came in is learned later."""
        if row.settled and row.payment_hash in self._operations:
            if not self._running or self.wallet_state != _READY:
                self._learned_late.append(row)
                return
            if self.credit_lag_seconds:
                loop = asyncio.get_running_loop()
                loop.call_later(self.credit_lag_seconds, self._learn, row)
                return
        self._learn(row)

    def _learn(self, row: InvoiceRow) -> None:
        self.activity.silent = self.habits.streams_silent
        self.activity.project(self._entry(row))

    async def _take(self, payment: PaymentRow) -> bool:
        """A swap needs both of us; a credit needs the operator only."""
        if payment.payment_hash in self._operations:
            return self.operator_up
        return self.operator_up and self._running and self.wallet_state == _READY

    # What its calls do.

    def check(self, method: str, macaroons: list[str]) -> None:
        """Refuses a call as waved does; every refusal of a macaroon has code UNKNOWN."""
        try:
            allowed = credentials.allowed(self.root_keys, macaroons)
        except credentials.BadMacaroon as exc:
            raise Refused(str(exc)) from exc
        if _PERMISSIONS[method] not in allowed:
            raise Refused("permission denied")
        failure = self.habits.failure(method)
        if failure is not None:
            raise Refused(f"simulated failure of {method}", failure)

    async def receive(self, request: wallet_pb2.RecvRequest) -> wallet_pb2.RecvResponse:
        """The answer of Recv. Raises Refused where waved does."""
        self._check_receive(request)
        is_credit = request.amt_sat < self.floor_sats
        if is_credit and not (self.operator_up and self.has_credits):
            await self._fail_credit(request)
        if not is_credit and not self.operator_up:
            raise Refused(_DOWN, grpc.StatusCode.INTERNAL)
        preimage = secrets.token_bytes(32)
        if is_credit:
            self._operations[hashlib.sha256(preimage).digest()] = secrets.token_hex(16)
        row = self.network.add_invoice(
            self.peer,
            amount_msat=request.amt_sat * 1000,
            memo=request.memo,
            expiry_seconds=EXPIRY_SECONDS,
            preimage=preimage,
        )
        stated, text = lying_answer(self.peer, row)
        entry = self._entry(row)
        entry.request.lightning_invoice.invoice = text
        entry.request.lightning_invoice.payment_hash = stated.hex()
        answer = wallet_pb2.RecvResponse(invoice=text, entry=entry)
        if is_credit:
            answer.credit_receive.operation_id = entry.id
            answer.credit_receive.amount_sat = request.amt_sat
            answer.credit_receive.payment_hash = stated.hex()
        return answer

    def _check_receive(self, request: wallet_pb2.RecvRequest) -> None:
        if self.wallet_state != _READY:
            raise Refused("wallet is not ready", grpc.StatusCode.FAILED_PRECONDITION)
        if not request.amt_sat:
            text = "amt_sat is required for the requested send"
            raise Refused(text, grpc.StatusCode.INVALID_ARGUMENT)
        if request.amt_sat >= 2**63:
            text = "amt_sat is out of range: amt_sat exceeds int64 range"
            raise Refused(text, grpc.StatusCode.INVALID_ARGUMENT)
        if self.most_sats and request.amt_sat > self.most_sats:
            text = "amount exceeds the operator's maximum VTXO size"
            raise Refused(text, grpc.StatusCode.FAILED_PRECONDITION)
        if (length := len(request.memo.encode())) > MEMO_BYTES_MAX:
            text = f"start receive: data length too big to fit within 10 bits: {length * 8 // 5}"
            raise Refused(text, grpc.StatusCode.INTERNAL)

    async def _fail_credit(self, request: wallet_pb2.RecvRequest) -> None:
        """Waits for the operator, leaves a row that nobody can pay, and refuses."""
        await asyncio.sleep(self.credit_patience_seconds)
        now = int(self.network.now_at(self.peer))
        self.activity.project(
            wallet_pb2.WalletEntry(
                id=f"recv:{secrets.token_hex(16)}",
                kind=wallet_pb2.ENTRY_KIND_RECV,
                status=wallet_pb2.ENTRY_STATUS_FAILED,
                amount_sat=request.amt_sat,
                counterparty=CREDIT,
                created_at_unix=now,
                updated_at_unix=now,
                note=request.memo,
                failure_reason="credit receive unavailable",
                failure_code=wallet_pb2.ENTRY_FAILURE_CODE_FAILED,
            )
        )
        text = (
            "sub-dust receive via the operator credit subsystem is unavailable: the operator did not "
            f"complete the credit request for {request.amt_sat} sat and may not support sub-floor receives; "
            f"receive at least {self.floor_sats} sat instead"
        )
        raise Refused(text, grpc.StatusCode.UNAVAILABLE)

    def listed(self, request: wallet_pb2.ListRequest) -> wallet_pb2.ActivityList:
        """The answer of List: newest first, a page of at most 1000."""
        self.pages_listed += 1
        limit = min(request.limit or PAGE_DEFAULT, PAGE_MAX)
        rows = (self._entry(row) for row in self.peer.walk(0, backwards=True))
        entries = [self.activity.rows.get(row.id, row) if _is_settled_credit(row) else row for row in rows]
        entries += [row for row in self.activity.rows.values() if row.id.startswith("recv:")]
        entries.sort(key=lambda row: row.created_at_unix, reverse=True)
        begin = int(request.cursor or 0)
        page = entries[begin : begin + limit]
        more = begin + limit < len(entries)
        return wallet_pb2.ActivityList(
            entries=page, total=len(page), has_more=more, next_cursor=str(begin + limit) if more else ""
        )

    def swap(self, payment_hash_hex: str) -> swap_client_pb2.SwapSummary:
        """The answer of GetSwap. Raises Refused for what is no swap, a credit for one."""
        row = self.peer.invoices.get(bytes.fromhex(payment_hash_hex))
        itself = row is not None and row.payment_hash in self.paid_by_itself
        if row is None or not row.payment_request or (row.payment_hash in self._operations and not itself):
            raise Refused("swap not found", grpc.StatusCode.NOT_FOUND)
        state, pending = swap_client_pb2.SWAP_STATE_INVOICE_CREATED, True
        if row.settled:
            state, pending = swap_client_pb2.SWAP_STATE_COMPLETED, False
        elif self.is_over(row):
            state, pending = swap_client_pb2.SWAP_STATE_EXPIRED, False
        return swap_client_pb2.SwapSummary(
            direction=(
                swap_client_pb2.SWAP_DIRECTION_PAY if itself else swap_client_pb2.SWAP_DIRECTION_RECEIVE
            ),
            payment_hash=row.payment_hash.hex(),
            state=state,
            pending=pending,
            amount_sat=row.amount_msat // 1000,
            vhtlc_amount_sat=self._received_msat(row) // 1000 if row.settled else 0,
            created_at_unix=row.created_at,
            updated_at_unix=row.settled_at or row.created_at,
            deadline_unix=row.created_at + row.expiry_seconds,
            invoice=row.payment_request,
            requested_amount_sat=row.amount_msat // 1000,
        )

    def information(self) -> daemon_pb2.GetInfoResponse:
        """The answer of GetInfo."""
        connected = self.operator_up if self.believes_connected is None else self.believes_connected
        answer = daemon_pb2.GetInfoResponse(
            version=self.habits.version,
            commit="simulated",
            network="regtest",
            block_height=100,
            server_connected=connected,
            wallet_type="lwwallet",
            wallet_state=self.wallet_state,
        )
        if connected:
            answer.server_info.dust_limit = min(330, self.floor_sats)
            answer.server_info.min_vtxo_amount_sat = self.floor_sats
            answer.server_info.max_vtxo_amount = self.most_sats
        return answer

    def balance(self) -> wallet_pb2.BalanceResponse:
        """The answer of Balance. Raises Refused while the wallet is locked."""
        if self.wallet_state != _READY:
            text = (
                "get balance: rpc error: code = FailedPrecondition desc = wallet is not ready (unlock first)"
            )
            raise Refused(text, grpc.StatusCode.FAILED_PRECONDITION)
        paid = [row for row in self.peer.invoices.values() if row.settled]
        credit = sum(row.paid_msat for row in paid if row.payment_hash in self._operations)
        return wallet_pb2.BalanceResponse(
            confirmed_sat=max(0, self.received_msat - credit) // 1000, credit_available_sat=credit // 1000
        )


def _is_settled_credit(entry: wallet_pb2.WalletEntry) -> bool:
    return entry.status == wallet_pb2.ENTRY_STATUS_COMPLETE and entry.counterparty == CREDIT


async def _enter(node: SimulatedWaved, method: str, context: Context) -> None:
    """What comes before every call: the macaroon, and the delay or failure that a test asked for."""
    await asyncio.sleep(node.habits.delay_seconds(method))
    try:
        node.check(method, macaroons_of(context))
    except Refused as refused:
        await abort(context, refused)


class _Wallet(wallet_pb2_grpc.WalletServiceServicer):
    def __init__(self, node: SimulatedWaved) -> None:
        self._node = node

    async def Recv(self, request: wallet_pb2.RecvRequest, context: Context) -> wallet_pb2.RecvResponse:
        await _enter(self._node, "Recv", context)
        try:
            answer = await self._node.receive(request)
        except Refused as refused:
            await abort(context, refused)
        await leave(self._node, "Recv", context)
        return answer

    async def List(self, request: wallet_pb2.ListRequest, context: Context) -> wallet_pb2.ListResponse:
        await _enter(self._node, "List", context)
        return wallet_pb2.ListResponse(activity=self._node.listed(request))

    async def Balance(
        self, request: wallet_pb2.BalanceRequest, context: Context
    ) -> wallet_pb2.BalanceResponse:
        await _enter(self._node, "Balance", context)
        try:
            return self._node.balance()
        except Refused as refused:
            await abort(context, refused)

    async def SubscribeWallet(
        self, request: wallet_pb2.SubscribeWalletRequest, context: Context
    ) -> AsyncIterator[wallet_pb2.SubscribeWalletResponse]:
        await _enter(self._node, "SubscribeWallet", context)
        last = 0
        activity = self._node.activity
        with activity.following() as follower:
            for told in activity.after(request.cursor, everything=request.include_existing):
                last = told.cursor
                yield told
            while (update := await follower.queue.get()) is not None:
                if update.HasField("gap"):
                    update.cursor = last
                elif update.cursor <= last:
                    continue
                last = max(last, update.cursor)
                yield update
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


class _Swaps(swap_client_pb2_grpc.SwapClientServiceServicer):
    def __init__(self, node: SimulatedWaved) -> None:
        self._node = node

    async def GetSwap(
        self, request: swap_client_pb2.GetSwapRequest, context: Context
    ) -> swap_client_pb2.GetSwapResponse:
        await _enter(self._node, "GetSwap", context)
        try:
            return swap_client_pb2.GetSwapResponse(swap=self._node.swap(request.payment_hash))
        except Refused as refused:
            await abort(context, refused)


class _Daemon(daemon_pb2_grpc.DaemonServiceServicer):
    def __init__(self, node: SimulatedWaved) -> None:
        self._node = node

    async def GetInfo(
        self, request: daemon_pb2.GetInfoRequest, context: Context
    ) -> daemon_pb2.GetInfoResponse:
        await _enter(self._node, "GetInfo", context)
        return self._node.information()
