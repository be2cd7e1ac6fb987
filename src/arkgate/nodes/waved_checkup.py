"""What the doctor asks a waved: each line tries one thing that a paid call needs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from arkgate._proto.waved import daemon_pb2, daemon_pb2_grpc, wallet_pb2, wallet_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import Msat, format_sats, sats
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
from arkgate.nodes.lnd_macaroon import MacaroonError, read_permissions
from arkgate.nodes.macaroon_calls import Stub
from arkgate.ports import Check, Clock, Demands, Invoice, PaymentNode, Verdict

STREAM_OPENS_SECONDS = 0.5
_SEE_LOG = "Look at waved's log, and at the operator's status."
_ADMIN = "Name waved's admin.macaroon in macaroon_file: readonly.macaroon only watches."
_NETWORKS = {"bitcoin": "mainnet", "testnet3": "testnet", "testnet4": "testnet"}
"""The networks whose names differ from BOLT11's."""
_SPENDING = frozenset({"onchain:write", "oor:write", "vtxo:write", "swap:write"})
_WAVED = Daemon(
    listen="rpc.listenaddr",
    setting="tls_cert_file",
    its_file="tls.cert",
    another="waved shows another certificate than the one in tls_cert_file.",
    copy=(
        "Copy waved's tls.cert there; it is made anew when it has expired. If it did not change, "
        "something else answers at this address."
    ),
    renew="Delete waved's tls.cert and tls.key, restart it, and copy the new tls.cert.",
    add_name="Reach waved by a name or an address of its host: {name} is not in its certificate.",
)


def network_of(info: daemon_pb2.GetInfoResponse) -> str:
    """The network as our settings call it."""
    return _NETWORKS.get(info.network, info.network)


@dataclass(slots=True)
class WavedCheckup:
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
            async for check in checkup.until_needed(self._lines(), _NEEDED):
                yield check
        finally:
            await self._channel.grpc.close(grace=0)

    async def _lines(self) -> AsyncIterator[Check]:
        found = self.credentials
        server = Server(_WAVED, found.address, found.tls_cert_file, found.tls_server_name)
        async for check in connection_checks(server, now_ms=self.clock.now_ms()):
            yield check
        stub = daemon_pb2_grpc.DaemonServiceStub
        try:
            info = await self._ask(stub, "GetInfo", daemon_pb2.GetInfoRequest(), "to answer")
        except CredentialsRefused as refusal:
            yield Check("macaroon", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, _ADMIN)
            return
        except NodeUnavailable as refusal:
            yield Check("answers", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, _SEE_LOG)
            return
        yield Check("version", Verdict.OK, f"waved {info.version} ({info.commit or 'unknown commit'}).")
        yield _wallet(info)
        yield checkup.network(network_of(info), self.network)
        yield await self._macaroon()
        yield _operator(info)
        yield self._amounts(info.server_info)
        async for check in checkup.invoice(
            self.node, self.clock, self.demands, preimage=None, removed=_made, remedy=_SEE_LOG
        ):
            yield check
        yield await self._news()

    async def _macaroon(self) -> Check:
        """Whether ours may make invoices: one over nothing is refused only afterwards."""
        name = "macaroon"
        stub, request = wallet_pb2_grpc.WalletServiceStub, wallet_pb2.RecvRequest()
        with contextlib.suppress(NodeUnavailable):
            try:
                await self._ask(stub, "Recv", request, "a permission")
            except PermissionDenied:
                seen = "The macaroon may not make invoices (address:write)."
                return Check(name, Verdict.FAILURE, seen, NO_INVOICES, _ADMIN)
        spending = _spending(self.credentials.macaroon_file)
        if spending:
            seen = f"The macaroon may spend ({', '.join(spending)}): waved has none that only receives."
            meaning = "Payers notice nothing; who gets into this host can empty the wallet."
            remedy = (
                "Bind it to this host with an ipaddr caveat (docs/nodes/waved.md); sweep the wallet often."
            )
            return Check(name, Verdict.WARNING, seen, meaning, remedy)
        return Check(name, Verdict.OK, "The macaroon may make invoices.")

    def _amounts(self, terms: daemon_pb2.ServerInfo) -> Check:
        """What its operator takes, against what payers are asked for."""
        name = "amounts"
        floor = sats(max(terms.dust_limit, terms.min_vtxo_amount_sat))
        most = sats(terms.max_vtxo_amount)
        small = {"a challenge": self.demands.challenge, "the smallest session": self.demands.smallest}
        below = [f"{what} ({format_sats(amount)})" for what, amount in small.items() if amount < floor]
        if most and self.demands.largest > most:
            seen = (
                f"The operator's largest coin is {format_sats(most)}; "
                f"sessions go up to {format_sats(self.demands.largest)}."
            )
            meaning = "Larger sessions are refused with 503."
            remedy = f"Set maximum_sats of this node to {most // 1000}, or lower it in [sessions]."
            return Check(name, Verdict.WARNING, seen, meaning, remedy)
        if below:
            seen = f"The operator's floor is {format_sats(floor)}; {' and '.join(below)} is below it."
            meaning = (
                "Payers notice nothing; such payments are credits that the operator holds for the wallet."
            )
            remedy = f"Trust it with them, or set minimum_sats of this node to {_whole_sats(floor)}."
            return Check(name, Verdict.WARNING, seen, meaning, remedy)
        limit = f"up to {format_sats(most)}" if most else "without a limit"
        return Check(name, Verdict.OK, f"The operator takes {format_sats(floor)} and more, {limit}.")

    async def _news(self) -> Check:
        name = "stream of payments"
        stub = wallet_pb2_grpc.WalletServiceStub(self._open.grpc)
        request = wallet_pb2.SubscribeWalletRequest(kinds=[wallet_pb2.ENTRY_KIND_RECV])
        call = stub.SubscribeWallet(request, metadata=self._open.metadata)
        try:
            with map_grpc_errors(self.node.name, "the stream of payments"):
                async with asyncio.timeout(STREAM_OPENS_SECONDS):
                    await call.read()
        except NodeUnavailable as refusal:
            return Check(name, Verdict.FAILURE, checkup.sentence(refusal), checkup.LATE, _SEE_LOG)
        except TimeoutError:
            return Check(name, Verdict.OK, "It opened and stayed open.")
        finally:
            call.cancel()
        return Check(name, Verdict.OK, "It opened and told of a payment.")

    @property
    def _open(self) -> Channel:
        assert self._channel is not None
        return self._channel

    async def _ask(self, stub: Stub, method: str, request: Message, action: str) -> Any:  # noqa: ANN401 - as `Stub`
        call = getattr(stub(self._open.grpc), method)
        with map_grpc_errors(self.node.name, action):
            return await call(request, timeout=checkup.CALL_SECONDS, metadata=self._open.metadata)


def _wallet(info: daemon_pb2.GetInfoResponse) -> Check:
    name = "wallet"
    if info.wallet_state == daemon_pb2.WALLET_STATE_READY:
        return Check(name, Verdict.OK, f"It is open, at block {info.block_height}.")
    seen, remedy = {
        daemon_pb2.WALLET_STATE_NONE: ("waved has no wallet yet.", "Make one with `wavecli create`."),
        daemon_pb2.WALLET_STATE_LOCKED: ("The wallet is locked.", "Open it with `wavecli unlock`."),
    }.get(info.wallet_state, ("The wallet is catching up with the chain.", "Wait; see waved's log."))
    return Check(name, Verdict.FAILURE, seen, NO_INVOICES, remedy)


def _operator(info: daemon_pb2.GetInfoResponse) -> Check:
    """waved believes for a while that it is connected: only an invoice proves it."""
    name = "Ark operator"
    if info.server_connected and info.HasField("server_info"):
        return Check(name, Verdict.OK, "waved says that it is connected.")
    return Check(name, Verdict.FAILURE, "waved does not reach it.", NO_INVOICES, _SEE_LOG)


async def _made(invoice: Invoice) -> Check:
    seen = (
        f"One over {format_sats(invoice.amount)} was made; waved cannot cancel it, and it expires in an hour."
    )
    return Check("an invoice", Verdict.OK, seen)


def _spending(macaroon_file: Path) -> list[str]:
    """What the macaroon's own bytes say that it may spend with."""
    with contextlib.suppress(MacaroonError, OSError):
        return sorted(read_permissions(macaroon_file.read_bytes()).operations & _SPENDING)
    return []


def _whole_sats(amount: Msat) -> int:
    return -(-amount // 1000)


_NEEDED = ("address", "TLS certificate", "macaroon", "answers", "wallet", "Ark operator")
"""The lines without which the rest cannot be asked."""
