"""waved, the daemon of Wavelength's Ark wallet, over gRPC: invoices, look-ups and the stream of its activity.

Source: Wavelength b7de4da0 (swapwallet, swapclientserver, waved/rpc_auth.go), and what the real daemon did.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from arkgate._proto.waved import daemon_pb2, daemon_pb2_grpc, swap_client_pb2_grpc, wallet_pb2_grpc
from arkgate._proto.waved import swap_client_pb2 as swaps
from arkgate._proto.waved import wallet_pb2 as wallet
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import Msat, sats
from arkgate.nodes.channel import (
    CredentialsRefused,
    CredentialsUnreadable,
    NodeCredentials,
    PermissionDenied,
    open_channel,
)
from arkgate.nodes.invoices import LISTED_BEYOND_SECONDS, InvoiceCheck, cut
from arkgate.nodes.macaroon_calls import MacaroonCalls, Stub, code_of
from arkgate.nodes.waved_checkup import WavedCheckup, network_of
from arkgate.nodes.waved_credits import Credits
from arkgate.nodes.waved_entries import Received, read_entry, read_swap
from arkgate.ports import Check, Clock, Demands, Health, Holdings, Invoice, InvoiceStatus, NodeEvent

UNARY_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 3.0
LIST_TIMEOUT_SECONDS = 60.0
PAGE_ENTRIES = 1000
"""The most that waved puts on a page."""
BACKLOG_PAYMENTS = 20
"""How many payments are told again to a gateway that has no cursor yet."""
REREAD_SECONDS = 5.0
"""How old what we know of credits may be: waved asks its operator about them no more often."""
ADVANCED_EACH = 500
"""After how many rows without a payment the place in the stream is told all the same."""
PINGS_SECONDS = 330
"""waved takes gRPC's default: who pings more often than every five minutes is hung up on."""
_RECEIVES: Final = (wallet.ENTRY_KIND_RECV,)
_WALLET_STATES = {
    daemon_pb2.WALLET_STATE_NONE: ("locked", "has no wallet yet: create one with wavecli create"),
    daemon_pb2.WALLET_STATE_LOCKED: ("locked", "is locked: unlock it with wavecli unlock"),
    daemon_pb2.WALLET_STATE_SYNCING: ("syncing", "is unlocked and still catching up with the chain"),
}


class WavedNode:
    """`ports.PaymentNode` for waved. A broken channel is rebuilt, with the certificate as it is then.

    The `settle_index` of its cursors is a position in waved's log of activity; their `add_index` stays 0.
    """

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
        page_entries: int = PAGE_ENTRIES,
        reread_seconds: float = REREAD_SECONDS,
    ) -> None:
        self.name = name
        self.number = number
        self.invoice_minimum = invoice_minimum
        self.invoice_maximum = invoice_maximum
        self.draws_preimages = True
        self._credentials = credentials
        self._clock = clock
        self._page_entries = page_entries
        self._calls = MacaroonCalls(
            name,
            credentials,
            lambda: open_channel(credentials, pings_seconds=PINGS_SECONDS),
            timeout_seconds=timeout_seconds,
            tls_files=(credentials.tls_cert_file,),
            renewed=self._forget_permission,
        )
        self._invoices = InvoiceCheck(name, clock, network)
        self._credits = Credits(self._received_since, clock, reread_seconds=reread_seconds)
        self._may_receive = False

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """See `ports.PaymentNode`. waved decides the expiry, which is an hour.

        Below its operator's floor the invoice is the operator's own, and what comes in becomes a credit.
        """
        if preimage is not None:
            raise ValueError("waved draws preimages itself")
        if amount % 1000 or amount <= 0:
            raise self._invoices.refused("makes invoices of whole sats only")
        request = wallet.RecvRequest(amt_sat=amount // 1000, memo=cut(memo))
        answer = await self._wallet("Recv", request, "making an invoice")
        stated = answer.entry.request.lightning_invoice.payment_hash
        invoice = self._invoices.checked(
            answer.invoice, stated_hash=self._hash(stated) if stated else None, amount=amount
        )
        if answer.HasField("credit_receive"):
            if self._hash(answer.credit_receive.payment_hash) != invoice.payment_hash:
                raise self._invoices.refused("returned an invoice for another payment hash")
            self._credits.learn(
                Received(
                    invoice.payment_hash,
                    invoice.created_at_ms // 1000,
                    InvoiceStatus(InvoiceState.OPEN),
                )
            )
        return invoice

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """See `ports.PaymentNode`. What the swaps do not know may be a credit."""
        request = swaps.GetSwapRequest(payment_hash=payment_hash.hex())
        stub = swap_client_pb2_grpc.SwapClientServiceStub
        try:
            answer = await self._calls.unary(stub, "GetSwap", request, "a look-up")
        except NodeUnavailable as refusal:
            if code_of(refusal) == grpc.StatusCode.NOT_FOUND:
                return await self._credits.find(payment_hash)
            raise
        if self._hash(answer.swap.payment_hash) != payment_hash:
            raise self._invoices.refused("answered a look-up with another invoice")
        status = read_swap(self.name, answer.swap)
        if status is not None and status.settlement and status.settlement.payment_hash != payment_hash:
            raise self._invoices.refused("answered a look-up with another invoice")
        if status is None:  # the wallet paid that hash; what it paid may be a credit of its own
            return await self._credits.find(payment_hash)
        return status

    async def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """See `ports.PaymentNode`. Without a cursor only the newest payments are told again.

        waved tells a reader who is too slow that it left something out; it is asked for again at once.
        """
        position = since.settle_index
        while True:
            if not position:
                async for settlement in self._newest(BACKLOG_PAYMENTS):
                    yield NodeEvent(settlement, since)
            request = wallet.SubscribeWalletRequest(kinds=_RECEIVES, cursor=position)
            stub, action = wallet_pb2_grpc.WalletServiceStub, "the stream of payments"
            stream = self._calls.stream(stub, "SubscribeWallet", request, action)
            missed = False
            async with contextlib.aclosing(stream):  # type: ignore[type-var]  # a generator
                async for told in stream:
                    position = max(position, told.cursor)
                    missed = told.HasField("gap")
                    if missed:
                        break
                    learned = self._learned(told.entry)
                    # A cursor is written down: not for each invoice that somebody asked for.
                    counts = learned is not None or position % ADVANCED_EACH == 0
                    yield NodeEvent(learned, Cursor(0, position) if counts else Cursor())
            if not missed:
                return

    def _learned(self, entry: wallet.WalletEntry) -> Settlement | None:
        received = read_entry(self.name, entry)
        if received is None:
            return None
        self._credits.learn(received)
        return received.status.settlement

    async def _newest(self, count: int) -> AsyncIterator[Settlement]:
        """The newest payments, oldest first, of those on the first page."""
        page, _ = await anext(aiter(self._pages(count)))
        for received in reversed(page):
            if received.status.settlement is not None:
                yield received.status.settlement

    async def settled_since(self, created_after_ms: int) -> AsyncIterator[Settlement]:
        """See `ports.PaymentNode`. Newest first, and no further back than needed."""
        created_after = created_after_ms // 1000
        async for received in self._received_since(created_after - LISTED_BEYOND_SECONDS):
            if received.status.settlement is not None and received.created_at >= created_after:
                yield received.status.settlement

    async def _received_since(self, created_after: int) -> AsyncIterator[Received]:
        """Rows of Lightning invoices, newest first, of all pages that have any from that time on."""
        async for page, oldest in self._pages(self._page_entries):
            for received in page:
                yield received
            if oldest < created_after:
                return

    async def _pages(self, limit: int) -> AsyncIterator[tuple[list[Received], int]]:
        """The activity, newest first: the rows of Lightning invoices, and when the oldest row was made."""
        cursor, told = "", set[str]()
        while True:
            request = wallet.ListRequest(
                view=wallet.LIST_VIEW_ACTIVITY, kinds=_RECEIVES, limit=limit, cursor=cursor
            )
            answer = await self._wallet("List", request, "listing payments", timeout=LIST_TIMEOUT_SECONDS)
            entries = answer.activity.entries
            rows = (read_entry(self.name, entry) for entry in entries)
            oldest = min((entry.created_at_unix for entry in entries), default=0)
            cursor = answer.activity.next_cursor if answer.activity.has_more else ""
            yield [row for row in rows if row is not None], oldest if cursor else 0
            if not cursor:
                return
            if cursor in told:
                raise self._invoices.refused("lists the same payments again and again")
            told.add(cursor)

    async def holdings(self) -> Holdings | None:
        """See `ports.PaymentNode`. What its operator holds for it as credits is the wallet's, too."""
        try:
            balance = await self._wallet("Balance", wallet.BalanceRequest(), "a balance")
        except PermissionDenied:
            return None
        return Holdings(sats(balance.confirmed_sat + balance.credit_available_sat))

    async def health(self) -> Health:
        """See `ports.PaymentNode`. waved notices late that its operator went away."""
        try:
            stub = daemon_pb2_grpc.DaemonServiceStub
            info = await self._calls.unary(
                stub, "GetInfo", daemon_pb2.GetInfoRequest(), "to answer", timeout=HEALTH_TIMEOUT_SECONDS
            )
            network = network_of(info)
            word, sentence = _WALLET_STATES.get(info.wallet_state, ("", ""))
            if word:
                return self._not_ready(word, sentence, info.version, network)
            if not info.server_connected or not info.HasField("server_info"):
                return self._not_ready("starting", "does not reach its Ark operator", info.version, network)
            await self._prove_permission()
        except (CredentialsRefused, CredentialsUnreadable) as refusal:
            return Health(False, "refused", refusal.message)
        except NodeUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)
        if self._invoices.network not in (None, network):
            sentence = f"is on {network}, and the settings say {self._invoices.network}"
            return self._not_ready("refused", sentence, info.version, network)
        sentence = f"node {self.name} reaches its Ark operator{self._invoices.clock_offset.sentence}"
        return Health(True, "ready", sentence, info.version, network)

    def _not_ready(self, state: str, sentence: str, version: str, network: str) -> Health:
        return Health(False, state, f"node {self.name} {sentence}", version, network)

    async def _prove_permission(self) -> None:
        """Finds out once whether the macaroon may make invoices: one over nothing is refused afterwards.

        waved looks at the macaroon first (rpc_auth.go), at the amount next (recv.go: "amt_sat is required").
        """
        if self._may_receive:
            return
        try:
            await self._wallet("Recv", wallet.RecvRequest(), "a permission", timeout=HEALTH_TIMEOUT_SECONDS)
        except PermissionDenied as refusal:
            raise PermissionDenied(
                f"node {self.name}: the macaroon {self._credentials.macaroon_file} may not make invoices "
                "(address:write): use waved's admin.macaroon"
            ) from refusal
        except NodeUnavailable as refusal:
            if code_of(refusal) != grpc.StatusCode.INVALID_ARGUMENT:
                raise
        self._may_receive = True

    def _forget_permission(self) -> None:
        self._may_receive = False

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """See `ports.PaymentNode`."""
        return WavedCheckup(self, self._credentials, self._clock, self._invoices.network, demands).run()

    async def close(self) -> None:
        """See `ports.PaymentNode`."""
        await self._credits.close()
        await self._calls.close()

    async def _wallet(
        self, method: str, request: Message, action: str, *, timeout: float | None = None
    ) -> Any:  # noqa: ANN401 - the generated stubs' methods share no type
        stub: Stub = wallet_pb2_grpc.WalletServiceStub
        return await self._calls.unary(stub, method, request, action, timeout=timeout)

    def _hash(self, text: str) -> bytes:
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise self._invoices.refused(
                f"answered with a payment hash that is none: {text[:80]!r}"
            ) from error
