"""What the doctor asks a Fulmine: each line tries one thing that a paid call needs."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from arkgate._proto.fulmine import service_pb2 as fulmine
from arkgate._proto.fulmine import service_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import format_sats
from arkgate.nodes import checkup
from arkgate.nodes.barkd_fees import is_dear
from arkgate.nodes.certificate import NO_INVOICES
from arkgate.nodes.channel import Channel, CredentialsRefused, map_grpc_errors, open_plain_channel
from arkgate.nodes.fulmine_boltz import Boltz, Terms
from arkgate.nodes.fulmine_claims import Claims
from arkgate.ports import Check, Clock, Demands, Invoice, PaymentNode, Verdict

_SEE_LOG = "Look at Fulmine's log."
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_NETWORKS = {
    fulmine.GetInfoResponse.NETWORK_TESTNET: "testnet",
    fulmine.GetInfoResponse.NETWORK_REGTEST: "regtest",
}


def network_of(info: fulmine.GetInfoResponse) -> str:
    """The network as our settings call it; empty where Fulmine does not tell its own ones apart."""
    return "mainnet" if info.addr_prefix == "ark" else _NETWORKS.get(info.network, "")


@dataclass(slots=True)
class FulmineCheckup:
    """One check-up. `node` is what the gateway uses; what that cannot ask goes over a channel of its own."""

    node: PaymentNode
    address: str
    macaroon_file: Path
    boltz: Boltz
    claims: Claims
    clock: Clock
    network: str | None
    """The network of the settings, where they name one."""
    demands: Demands
    _channel: Channel | None = field(default=None, init=False)

    async def run(self) -> AsyncIterator[Check]:
        """Every line in order; see `ports.PaymentNode.checkup`."""
        try:
            self._channel = open_plain_channel(self.address, self.macaroon_file)
        except NodeUnavailable as refusal:
            remedy = "Fulmine makes admin.macaroon shortly after its wallet; name it in macaroon_file."
            yield Check("macaroon file", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
            return
        try:
            async for check in checkup.until_needed(self._lines(), _NEEDED):
                yield check
        finally:
            await self._channel.grpc.close(grace=0)

    async def _lines(self) -> AsyncIterator[Check]:
        yield self._file()
        yield await self._wallet()
        async for check in self._information():
            yield check
        try:
            terms = await self.boltz.terms()
        except NodeUnavailable as refusal:
            remedy = "Set boltz_url to the Boltz that Fulmine uses (FULMINE_BOLTZ_URL), without /v2."
            yield Check("Boltz", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
            return
        yield Check("Boltz", Verdict.OK, f"It takes {format_sats(terms.least)} to {format_sats(terms.most)}.")
        yield self._amounts(terms)
        yield self._fees(terms)
        async for check in checkup.invoice(
            self.node, self.clock, self.demands, preimage=None, removed=_made, remedy=_SEE_LOG
        ):
            yield check
        yield await self._coins()

    def _file(self) -> Check:
        """Fulmine writes its macaroon, which can spend, for everybody on the host to read."""
        name = "macaroon file"
        with contextlib.suppress(OSError):
            if self.macaroon_file.stat().st_mode & _OTHERS_READ:
                seen = f"{self.macaroon_file} can be read by others on this host."
                meaning = "Payers notice nothing; whoever reads it can empty the wallet."
                remedy = f"Copy it to a file of the gateway's own user, or `chmod 600 {self.macaroon_file}`."
                return Check(name, Verdict.WARNING, seen, meaning, remedy)
        return Check(name, Verdict.OK, "Nobody else on this host reads it.")

    async def _wallet(self) -> Check:
        name = "wallet"
        stub = service_pb2_grpc.WalletServiceStub(self._open.grpc)
        try:
            status = await self._ask(stub.Status, fulmine.StatusRequest(), "to answer")
        except NodeUnavailable as refusal:
            remedy = "Start Fulmine; check address in [[nodes]] against its FULMINE_GRPC_PORT."
            return Check(name, Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
        if not status.initialized:
            return Check(name, Verdict.FAILURE, "There is none yet.", NO_INVOICES, "Create one on its page.")
        if not status.unlocked:
            remedy = (
                "Unlock it with the right password. After a wrong one restart Fulmine first: it would say "
                "that it is open, and end at the next call."
            )
            return Check(name, Verdict.FAILURE, "It is locked.", NO_INVOICES, remedy)
        if not status.synced:
            return Check(
                name, Verdict.FAILURE, "It is still syncing.", NO_INVOICES, "Wait; see Fulmine's log."
            )
        return Check(name, Verdict.OK, "It is open and synced.")

    async def _information(self) -> AsyncIterator[Check]:
        stub = service_pb2_grpc.ServiceStub(self._open.grpc)
        try:
            info = await self._ask(stub.GetInfo, fulmine.GetInfoRequest(), "to show itself")
        except CredentialsRefused as refusal:
            remedy = "Copy its admin.macaroon again, to the file that macaroon_file names."
            yield Check("macaroon", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
            return
        except NodeUnavailable as refusal:
            yield Check("answers", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, _SEE_LOG)
            return
        yield Check(
            "macaroon",
            Verdict.WARNING,
            "It opens the wallet, and may spend: Fulmine has no other.",
            "Payers notice nothing; whoever reads it, also on the way, can empty the wallet.",
            "Keep Fulmine on loopback or behind a fence (docs/nodes/fulmine.md); sweep the wallet often.",
        )
        yield Check("version", Verdict.OK, f"Fulmine {info.build_info.version or 'of its own making'}.")
        network = network_of(info)
        if network:
            yield checkup.network(network, self.network)
        else:
            yield checkup.not_checked("network", "Fulmine does not tell which test network it is on.")

    def _amounts(self, terms: Terms) -> Check:
        name = "amounts"
        if not terms.takes(self.demands.challenge):
            seen = f"A challenge is {format_sats(self.demands.challenge)}: Boltz does not take that."
            remedy = f"Set minimum_sats of this node to {terms.least // 1000} or more."
            return Check(name, Verdict.FAILURE, seen, "Whoever must pay first gets 503.", remedy)
        if self.demands.largest > terms.most or self.demands.smallest < terms.least:
            seen = (
                f"Sessions are {format_sats(self.demands.smallest)} to {format_sats(self.demands.largest)}; "
                f"Boltz takes {format_sats(terms.least)} to {format_sats(terms.most)}."
            )
            remedy = "Set minimum_sats and maximum_sats of this node to what Boltz takes."
            return Check(name, Verdict.WARNING, seen, "The others are refused with 503.", remedy)
        return Check(name, Verdict.OK, "Boltz takes every amount on offer.")

    def _fees(self, terms: Terms) -> Check:
        name = "fees"
        kept = terms.kept(self.demands.challenge)
        seen = f"Boltz keeps {format_sats(kept)} of a challenge ({format_sats(self.demands.challenge)})."
        if is_dear(kept, of=self.demands.challenge):
            meaning = "Payers notice nothing; the operator pays more than an eighth of what they pay."
            remedy = "Raise minimum_sats in [[nodes]], price_sats or challenge_calls."
            return Check(name, Verdict.WARNING, seen, meaning, remedy)
        return Check(name, Verdict.OK, seen)

    async def _coins(self) -> Check:
        """Whether the coins can be read, by which payments are found."""
        name = "payments"
        try:
            async with asyncio.timeout(checkup.CALL_SECONDS):
                await self.claims.read()
        except NodeUnavailable as refusal:
            return Check(name, Verdict.FAILURE, checkup.sentence(refusal), checkup.LATE, _SEE_LOG)
        except TimeoutError:
            return Check(name, Verdict.WARNING, "Its coins take long to read.", checkup.LATE, _SEE_LOG)
        found, hidden = len(self.claims.all()), self.claims.hidden
        if hidden:
            seen = (
                f"The Ark server does not show the transactions of {hidden} coins; {found} paid an invoice."
            )
            if found:
                return Check(name, Verdict.WARNING, seen, checkup.LATE, "See whether it catches up.")
            meaning = "Payments come in and are credited to nobody."
            remedy = "Use an operator whose indexer shows the transactions of a wallet's coins."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        return Check(name, Verdict.OK, f"Its coins can be read; {found} of them paid an invoice.")

    @property
    def _open(self) -> Channel:
        assert self._channel is not None
        return self._channel

    async def _ask(self, call: Any, request: Message, action: str) -> Any:  # noqa: ANN401 - generated stubs
        with map_grpc_errors(self.node.name, action):
            return await call(request, timeout=checkup.CALL_SECONDS, metadata=self._open.metadata)


async def _made(invoice: Invoice) -> Check:
    seen = f"One over {format_sats(invoice.amount)} was made; it cannot be cancelled and expires by itself."
    return Check("an invoice", Verdict.OK, seen)


_NEEDED = ("wallet", "macaroon", "answers")
"""The lines without which the rest cannot be asked."""
