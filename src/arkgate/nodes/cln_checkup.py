"""What the doctor asks a Core Lightning: each line tries one thing that a paid call needs."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from arkgate._proto.cln import node_pb2 as cln
from arkgate._proto.cln import node_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import Msat, format_sats
from arkgate.nodes import checkup
from arkgate.nodes.certificate import NO_INVOICES, Daemon, Server, client_check, connection_checks
from arkgate.nodes.channel import Channel, MutualTls, open_mutual_channel
from arkgate.nodes.cln_rpc import TIMED_OUT, behind, error_code, label_of, map_cln_errors, network_of
from arkgate.ports import Check, Clock, Demands, Invoice, PaymentNode, Verdict

VERSION_MIN = (23, 8)
"""Invoices are listed by an index from then on."""
WAIT_SECONDS = 1
_BUSY = "Look at its log."
_NO_INVOICE = "not an invoice"
_FENCED = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""What a proxy that lets only some calls through answers to the others."""
_FENCE = "Put a proxy before it that lets through only what the gateway calls: docs/nodes/cln.md has one."
_CLN = Daemon(
    listen="grpc-host and grpc-port",
    setting="ca_cert_file",
    its_file="ca.pem",
    another="The node's certificate was not made by the authority in ca_cert_file.",
    copy="Copy the node's ca.pem, client.pem and client-key.pem again: they belong together.",
    renew=(
        "Stop Core Lightning, delete ca.pem, server.pem and client.pem and their keys, start it, "
        "and copy the new ca.pem, client.pem and client-key.pem."
    ),
    add_name="Core Lightning's certificates are for cln and localhost, whatever its host is called.",
)


@dataclass(slots=True)
class ClnCheckup:
    """One check-up. `node` is what the gateway uses; what that cannot ask goes over a channel of its own."""

    node: PaymentNode
    credentials: MutualTls
    clock: Clock
    network: str | None
    """The network of the settings, where they name one."""
    demands: Demands
    _channel: Channel | None = field(default=None, init=False)

    async def run(self) -> AsyncIterator[Check]:
        """Every line in order; see `ports.PaymentNode.checkup`."""
        try:
            self._channel = open_mutual_channel(self.credentials)
        except NodeUnavailable as refusal:
            yield Check("files", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, "Check [[nodes]].")
            return
        try:
            async for check in checkup.until_needed(self._lines(), _NEEDED):
                yield check
        finally:
            await self._channel.grpc.close(grace=0)

    async def _lines(self) -> AsyncIterator[Check]:
        found = self.credentials
        server = Server(_CLN, found.address, found.ca_cert_file, found.tls_server_name)
        now_ms = self.clock.now_ms()
        async for check in connection_checks(server, now_ms=now_ms):
            yield check
        yield await client_check(server, found.client_cert_file, found.client_key_file, now_ms=now_ms)
        yield await self._spending()
        async for check in self._information():
            yield check
        yield await self._capacity()
        async for check in checkup.invoice(
            self.node,
            self.clock,
            self.demands,
            preimage=secrets.token_bytes(32),
            removed=self._deleted,
            remedy="Look at lightningd's log; check network in [[nodes]].",
        ):
            yield check
        yield await self._payments()

    async def _spending(self) -> Check:
        """Whether our certificate may pay: tried with a text that is no invoice, which moves nothing."""
        name = "spending"
        requests: dict[str, Message] = {
            "Xpay": cln.XpayRequest(invstring=_NO_INVOICE),
            "Pay": cln.PayRequest(bolt11=_NO_INVOICE),
        }
        for method, request in requests.items():
            try:
                await self._ask(method, request, "a permission")
            except NodeUnavailable as refusal:
                said, code = checkup.said(refusal)
                if code in _FENCED:
                    continue
                if error_code(refusal) is None:
                    return checkup.not_checked(name, f"The node says: {said}.")
            seen = f"Our certificate may spend ({method}): cln-grpc has no smaller permission."
            meaning = "Payers notice nothing; who gets into this host can empty the node."
            return Check(name, Verdict.WARNING, seen, meaning, _FENCE)
        return Check(name, Verdict.OK, "Our certificate cannot pay.")

    async def _information(self) -> AsyncIterator[Check]:
        try:
            info = await self._ask("Getinfo", cln.GetinfoRequest(), "Getinfo")
        except NodeUnavailable as refusal:
            yield Check("answers", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, _BUSY)
            return
        older = "The gateway cannot list its invoices: payments that nobody reported are not found."
        yield checkup.version("Core Lightning", info.version, minimum=VERSION_MIN, older=older)
        if warning := behind(info):
            seen = f"It is at block {info.blockheight} and says: {warning}"
            yield Check(
                "chain", Verdict.FAILURE, seen, "Payments to it may fail.", "Wait; see lightningd's log."
            )
        else:
            yield Check("chain", Verdict.OK, f"It is synced, at block {info.blockheight}.")
        yield checkup.network(network_of(info), self.network)

    async def _capacity(self) -> Check:
        """Over channels that are up; their reserves and commitment fees are taken off by the node."""
        request = cln.ListpeerchannelsRequest()
        try:
            answer = await self._ask("ListPeerChannels", request, "listing channels")
        except NodeUnavailable as refusal:
            return checkup.not_checked("receiving capacity", checkup.sentence(refusal))
        up = [
            channel.receivable_msat.msat
            for channel in answer.channels
            if channel.state == cln.ChanneldNormal and channel.peer_connected
        ]
        return checkup.capacity(Msat(sum(up)), len(up), self.demands)

    async def _deleted(self, invoice: Invoice) -> Check:
        made = f"One over {format_sats(invoice.amount)} was made"
        request = cln.DelinvoiceRequest(
            label=label_of(invoice.payment_hash), status=cln.DelinvoiceRequest.UNPAID
        )
        try:
            await self._ask("DelInvoice", request, "deleting an invoice")
        except NodeUnavailable as refusal:
            said, _ = checkup.said(refusal)
            seen = f"{made}; it cannot be deleted ({said}) and expires by itself in a minute."
        else:
            seen = f"{made} and deleted."
        return Check("an invoice", Verdict.OK, seen)

    async def _payments(self) -> Check:
        """Whether the node waits for payments when it is asked to, and says in time that there was none."""
        name = "news of payments"
        request = cln.WaitanyinvoiceRequest(lastpay_index=2**62, timeout=WAIT_SECONDS)
        try:
            await self._ask("WaitAnyInvoice", request, "waiting for a payment")
        except NodeUnavailable as refusal:
            if error_code(refusal) == TIMED_OUT:
                return Check(name, Verdict.OK, "It waits for payments, and says when there were none.")
            return Check(name, Verdict.FAILURE, checkup.sentence(refusal), checkup.LATE, _BUSY)
        seen = "It told of a payment that there cannot be."
        return Check(name, Verdict.FAILURE, seen, checkup.LATE, _BUSY)

    async def _ask(self, method: str, request: Message, action: str) -> Any:  # noqa: ANN401 - generated stubs
        assert self._channel is not None
        call: Callable[..., Awaitable[Any]] = getattr(node_pb2_grpc.NodeStub(self._channel.grpc), method)
        with map_cln_errors(self.node.name, action):
            return await call(request, timeout=checkup.CALL_SECONDS)


_NEEDED = ("address", "TLS certificate", "client certificate", "answers")
"""The lines without which the rest cannot be asked."""
