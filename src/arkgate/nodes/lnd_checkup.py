"""What the doctor asks an LND: each line tries one thing that a paid call needs, and says it in plain words.

What a macaroon may do is read from its bytes and then tried with calls that LND refuses only after it
looked at the macaroon: AddInvoice of a negative amount (rpcserver.go and lnrpc.UnmarshallAmt: "amount
cannot be negative"), LookupInvoice of a random hash, SendPaymentV2 of a text that is no invoice
(routerrpc: extractIntentFromSendRequest decodes it before anything is prepared).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from arkgate._proto.lnd import (
    invoices_pb2,
    invoices_pb2_grpc,
    lightning_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)
from arkgate._proto.lnd import lightning_pb2 as lnrpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.invoice import read_bolt11
from arkgate.core.ledger import Cursor
from arkgate.core.money import format_sats, sats
from arkgate.nodes import checkup
from arkgate.nodes.certificate import NO_INVOICES, Daemon, Server, connection_checks
from arkgate.nodes.channel import (
    Channel,
    CredentialsRefused,
    NodeCredentials,
    PermissionDenied,
    map_grpc_errors,
    open_channel,
)
from arkgate.nodes.lnd_macaroon import MacaroonError, Permissions, read_permissions
from arkgate.ports import Check, Clock, Demands, Invoice, PaymentNode, Verdict

STREAM_OPENS_SECONDS = 0.5
STREAM_SPEAKS_SECONDS = 3.0
VERSION_MIN = (0, 19)
_OLDER = "Payers notice nothing; LND 0.18.5 and earlier have known ways to lose funds."
BAKE = (
    "`lncli bakemacaroon --save_to arkgate.macaroon "
    "invoices:read invoices:write info:read offchain:read onchain:read`"
)
"""A macaroon that can do all that the gateway and its commands ask, and cannot spend."""
_LND = Daemon(
    listen="rpclisten",
    setting="tls_cert_file",
    its_file="tls.cert",
    another="The node shows another certificate than the one in tls_cert_file.",
    copy=(
        "Copy the node's tls.cert there; it is made anew when LND renews it. If it did not change, "
        "something else answers at this address."
    ),
    renew=(
        "Start LND with tlsautorefresh=true, or delete its tls.cert and tls.key and restart it; "
        "where tls_cert_file is a copy, copy the new one."
    ),
    add_name="Add {name} to LND's tlsextradomain or tlsextraip and let it make a new certificate.",
)
_NEEDED = (
    ("invoices:read", "/lnrpc.Lightning/LookupInvoice"),
    ("invoices:read", "/lnrpc.Lightning/ListInvoices"),
    ("invoices:read", "/lnrpc.Lightning/SubscribeInvoices"),
    ("invoices:write", "/lnrpc.Lightning/AddInvoice"),
)


class _Leave(Enum):
    """What a node says of a macaroon when it is asked for one call."""

    GIVEN = auto()
    DENIED = auto()
    """The macaroon is good and does not allow that call."""
    MACAROON_REFUSED = auto()
    UNKNOWN = auto()
    """No answer."""


@dataclass(slots=True)
class LndCheckup:
    """One check-up. `node` is what the gateway uses; what that cannot ask goes over a channel of its own."""

    node: PaymentNode
    credentials: NodeCredentials
    clock: Clock
    network: str | None
    """The network of the settings, where they name one."""
    demands: Demands
    _channel: Channel | None = field(default=None, init=False)

    async def run(self) -> AsyncIterator[Check]:
        """Every line in order; see `ports.PaymentNode.checkup`."""
        try:
            self._channel = open_channel(self.credentials)
        except NodeUnavailable as refusal:
            yield Check("files", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, "Check [[nodes]].")
            return
        try:
            async for check in self._at_all():
                yield check
                if check.verdict is Verdict.FAILURE:
                    yield checkup.not_checked("everything else", "It needs the line above.")
                    return
            async for check in self._asked():
                yield check
        finally:
            await self._channel.grpc.close(grace=0)

    async def _at_all(self) -> AsyncIterator[Check]:
        """Whether it can be asked at all; a FAILURE is the last line."""
        async for check in connection_checks(self._server, now_ms=self.clock.now_ms()):
            yield check
            if check.verdict is Verdict.FAILURE:
                return
        health = await self.node.health()
        if health.state in ("locked", "starting", "unreachable"):
            remedy = "Look at its log."
            if health.state != "unreachable":
                remedy = "Unlock it or wait; with wallet-unlock-password-file LND unlocks itself."
            yield Check("wallet", Verdict.FAILURE, checkup.capital(health.sentence), NO_INVOICES, remedy)
            return
        yield Check("wallet", Verdict.OK, "It is unlocked and its RPC server is active.")

    async def _asked(self) -> AsyncIterator[Check]:
        permissions = self._permissions()
        invoices, known = await self._invoices(permissions)
        yield invoices
        if not known:
            yield checkup.not_checked("everything else", "It needs a macaroon that LND takes.")
            return
        yield await self._spending(permissions)
        async for check in self._information():
            yield check
        yield await self._capacity()
        if invoices.verdict is Verdict.FAILURE:
            why = "The macaroon does not allow it."
            yield checkup.not_checked("an invoice, the clock, the stream", why, _use_another())
            return
        async for check in self._invoice():
            yield check

    # The macaroon.

    def _permissions(self) -> Permissions | None:
        """What the macaroon says of itself; None when only the node can read it."""
        with contextlib.suppress(MacaroonError, OSError):
            return read_permissions(self.credentials.macaroon_file.read_bytes())
        return None

    async def _invoices(self, permissions: Permissions | None) -> tuple[Check, bool]:
        """The line, and whether LND takes the macaroon for one of its own."""
        name = "macaroon: invoices"
        reading = lnrpc.PaymentHash(r_hash=secrets.token_bytes(32))
        may_read, said = await self._leave(self._lightning.LookupInvoice, reading)
        may_write, _ = await self._leave(self._lightning.AddInvoice, lnrpc.Invoice(value=-1))
        if _Leave.MACAROON_REFUSED in (may_read, may_write):
            remedy = f"It is another node's, was revoked or has expired. {_use_another()}"
            seen = f"LND refuses the macaroon: {said}."
            return Check(name, Verdict.FAILURE, seen, NO_INVOICES, remedy), False
        answers = (("invoices:read", may_read), ("invoices:write", may_write))
        missing = [permission for permission, leave in answers if leave is _Leave.DENIED]
        missing += [f"uri:{method}" for method in _lacking(permissions)] if not missing else []
        if missing:
            seen = f"The macaroon does not allow {' and '.join(missing)}."
            meaning = NO_INVOICES if may_write is _Leave.DENIED else "Payments are credited late or never."
            return Check(name, Verdict.FAILURE, seen, meaning, _use_another()), True
        if _Leave.UNKNOWN in (may_read, may_write):
            seen = f"LND does not answer: {said}."
            return Check(name, Verdict.FAILURE, seen, NO_INVOICES, "Look at its log."), True
        return Check(name, Verdict.OK, "The macaroon allows invoices:read and invoices:write."), True

    async def _spending(self, permissions: Permissions | None) -> Check:
        name = "macaroon: spending"
        unpayable = router_pb2.SendPaymentRequest(payment_request="not an invoice", timeout_seconds=1)
        router = router_pb2_grpc.RouterStub(self._open.grpc)
        leave, said = await self._leave(_first(router.SendPaymentV2), unpayable)
        allowed = permissions.spending if permissions else []
        if leave is _Leave.GIVEN or allowed:
            seen = f"The macaroon may spend: {', '.join(allowed) or 'SendPaymentV2'}."
            meaning = "Payers notice nothing; who gets into this host can empty the node."
            return Check(name, Verdict.WARNING, seen, meaning, _use_another())
        if leave is _Leave.DENIED:
            return Check(name, Verdict.OK, "The macaroon cannot spend.")
        return checkup.not_checked(name, f"LND says: {said}.")

    async def _leave(self, call: "_Call", request: Message) -> tuple[_Leave, str]:
        """Whether the macaroon allows a call that does nothing, and LND's words."""
        try:
            await self._ask(call, request, "a permission")
        except PermissionDenied as refusal:
            return _Leave.DENIED, checkup.said(refusal)[0]
        except CredentialsRefused as refusal:
            return _Leave.MACAROON_REFUSED, checkup.said(refusal)[0]
        except NodeUnavailable as refusal:
            said, code = checkup.said(refusal)
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, None):
                return _Leave.UNKNOWN, said
        return _Leave.GIVEN, ""

    # What the node says of itself.

    async def _information(self) -> AsyncIterator[Check]:
        try:
            info = await self._ask(self._lightning.GetInfo, lnrpc.GetInfoRequest(), "GetInfo")
        except NodeUnavailable as refusal:
            for name in ("version", "chain"):
                yield _unasked(name, refusal, "info:read")
            return
        yield checkup.version("LND", info.version, minimum=VERSION_MIN, older=_OLDER)
        if info.synced_to_chain:
            yield Check("chain", Verdict.OK, f"It is synced, at block {info.block_height}.")
        else:
            seen = f"It is still catching up with the chain, at block {info.block_height}."
            yield Check("chain", Verdict.FAILURE, seen, "Payments to it may fail.", "Wait; see LND's log.")
        network = info.chains[0].network if info.chains else ""
        yield checkup.network(network, self.network)

    async def _capacity(self) -> Check:
        """Over channels that are up, and without what their peers must keep: LND's payers split payments."""
        request = lnrpc.ListChannelsRequest(active_only=True)
        try:
            answer = await self._ask(self._lightning.ListChannels, request, "listing channels")
        except NodeUnavailable as refusal:
            return _unasked("receiving capacity", refusal, "offchain:read")
        receivable = sats(
            sum(
                max(0, channel.remote_balance - channel.remote_constraints.chan_reserve_sat)
                for channel in answer.channels
            )
        )
        return checkup.capacity(receivable, len(answer.channels), self.demands)

    # An invoice, and what it shows.

    async def _invoice(self) -> AsyncIterator[Check]:
        stream = asyncio.create_task(self._first_event())
        try:
            await asyncio.wait({stream}, timeout=STREAM_OPENS_SECONDS)
            made_after_ms = self.clock.now_ms()
            try:
                invoice = await self.node.create_invoice(
                    self.demands.challenge,
                    preimage=secrets.token_bytes(32),
                    memo=checkup.MEMO,
                    expiry_seconds=checkup.INVOICE_SECONDS,
                )
            except NodeUnavailable as refusal:
                remedy = "Look at LND's log; check network in [[nodes]]."
                yield Check("an invoice", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
                yield checkup.not_checked("clock", "No invoice was made.")
                yield await _stream(stream, spoken_to=False)
                return
            made_before_ms = self.clock.now_ms()
            told = await _stream(stream, spoken_to=True)
            yield await self._cancelled(invoice)
            yield checkup.clock(
                read_bolt11(invoice.payment_request).created_at, made_after_ms, made_before_ms
            )
            yield told
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)

    async def _first_event(self) -> None:
        """Returns when the stream has told something. Raises NodeUnavailable, also when it ends."""
        async with contextlib.aclosing(self.node.events(Cursor())) as events:  # type: ignore[type-var]  # a generator
            async for _ in events:
                return
        raise NodeUnavailable("the stream of settlements ended at once")

    async def _cancelled(self, invoice: Invoice) -> Check:
        made = f"One over {format_sats(invoice.amount)} was made"
        stub = invoices_pb2_grpc.InvoicesStub(self._open.grpc)
        request = invoices_pb2.CancelInvoiceMsg(payment_hash=invoice.payment_hash)
        try:
            await self._ask(stub.CancelInvoice, request, "cancelling an invoice")
        except NodeUnavailable as refusal:
            said, _ = checkup.said(refusal)
            seen = f"{made}; it cannot be cancelled ({said}) and expires by itself in a minute."
        else:
            seen = f"{made} and cancelled."
        return Check("an invoice", Verdict.OK, seen)

    # Calls.

    @property
    def _server(self) -> Server:
        found = self.credentials
        return Server(_LND, found.address, found.tls_cert_file, found.tls_server_name)

    @property
    def _open(self) -> Channel:
        assert self._channel is not None
        return self._channel

    @property
    def _lightning(self) -> Any:  # noqa: ANN401 - the generated stubs' methods share no type
        return lightning_pb2_grpc.LightningStub(self._open.grpc)

    async def _ask(self, call: "_Call", request: Message, action: str) -> Any:  # noqa: ANN401 - as above
        with map_grpc_errors(self.node.name, action):
            return await call(request, timeout=checkup.CALL_SECONDS, metadata=self._open.metadata)


_Call = Callable[..., Awaitable[Any]]


def _first(stream: Callable[..., Any]) -> _Call:
    """The first message of a call that answers with a stream."""

    async def call(request: Message, **options: Any) -> Any:  # noqa: ANN401 - gRPC's own options
        return await anext(aiter(stream(request, **options)), None)

    return call


def _lacking(permissions: Permissions | None) -> Iterator[str]:
    """The needed methods that a macaroon does not name, in whichever form."""
    if permissions is not None:
        yield from (method for permission, method in _NEEDED if not permissions.allow(permission, method))


async def _stream(stream: asyncio.Task[None], *, spoken_to: bool) -> Check:
    """What came of the stream; `spoken_to`: an invoice was made while it was open, which it announces."""
    name = "stream of settlements"
    remedy = "Look for a proxy between here and LND that cuts or buffers streams."
    await asyncio.wait({stream}, timeout=STREAM_SPEAKS_SECONDS)
    if not stream.done():
        if spoken_to:
            seen = "It is open and says nothing of an invoice that was just made."
            return Check(name, Verdict.WARNING, seen, checkup.LATE, remedy)
        return Check(name, Verdict.OK, "It opened and stayed open.")
    error = stream.exception()
    if error is None:
        return Check(name, Verdict.OK, "It is open and told of the invoice at once.")
    if not isinstance(error, NodeUnavailable):
        raise error
    return Check(name, Verdict.FAILURE, checkup.sentence(error), checkup.LATE, remedy)


def _use_another() -> str:
    return f"Bake one, and name it in macaroon_file: {BAKE}"


def _unasked(name: str, refusal: NodeUnavailable, permission: str) -> Check:
    """A line that needs a permission, and why it was not checked."""
    said, _ = checkup.said(refusal)
    if isinstance(refusal, PermissionDenied):
        return checkup.not_checked(name, f"The macaroon does not allow {permission}.", _use_another())
    return checkup.not_checked(name, f"LND says: {said}.")
