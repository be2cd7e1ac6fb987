"""Fulmine, Ark Labs' wallet daemon, over gRPC in plain text: Boltz makes invoices, Fulmine claims coins.

Source: Fulmine b4461e8b (swap.go, application/service.go, permissions.go), and what the real daemon did.
`IsInvoiceSettled` is never called: it asks another node, and brings the daemon down where there is none.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from arkgate._proto.fulmine import service_pb2 as fulmine
from arkgate._proto.fulmine import service_pb2_grpc
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import Msat, format_sats, sats
from arkgate.nodes.channel import CredentialsRefused, CredentialsUnreadable, open_plain_channel
from arkgate.nodes.fulmine_boltz import MINIMUM, Boltz
from arkgate.nodes.fulmine_checkup import FulmineCheckup, network_of
from arkgate.nodes.fulmine_claims import Claim, Claims
from arkgate.nodes.invoices import InvoiceCheck
from arkgate.nodes.macaroon_calls import MacaroonCalls
from arkgate.ports import Check, Clock, Demands, Health, Holdings, Invoice, InvoiceStatus, NodeEvent

UNARY_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 3.0
READ_SECONDS = 2.0
"""How often the wallet's coins are read: Fulmine's own notifications leave some out."""
LOOKED_UP_WITHIN_SECONDS = 0.5
BACKLOG_PAYMENTS = 20
"""How many payments a new stream tells again."""
AWAITED_MAX = 100_000
_DEAD = ("Stream removed", "Socket closed")
_LOCKED = ("macaroon store is locked", "wallet is locked", "service is locked")


@dataclass(frozen=True, slots=True)
class FulmineCredentials:
    """Where a Fulmine and its Boltz are, and what opens it. The file is read anew when it is refused."""

    address: str
    """host:port of its gRPC"""
    macaroon_file: Path
    boltz_url: str
    """The same that Fulmine uses, without `/v2`."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """An invoice that was made here, and what of it should arrive."""

    amount: Msat
    arrives: Msat
    expires_at_ms: int


class FulmineNode:
    """`ports.PaymentNode` for Fulmine. It counts as paid what the wallet holds and reveals: see `Claims`."""

    def __init__(
        self,
        name: str,
        number: int,
        credentials: FulmineCredentials,
        clock: Clock,
        *,
        invoice_minimum: Msat = MINIMUM,
        invoice_maximum: Msat = sats(1_000_000),
        network: str | None = None,
        timeout_seconds: float = UNARY_TIMEOUT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.name = name
        self.number = number
        self.invoice_minimum = invoice_minimum
        self.invoice_maximum = invoice_maximum
        self.draws_preimages = True
        self._credentials = credentials
        self._clock = clock
        self._read_seconds = read_seconds
        self._calls = MacaroonCalls(
            name,
            credentials,
            lambda: open_plain_channel(credentials.address, credentials.macaroon_file),
            timeout_seconds=timeout_seconds,
        )
        self._invoices = InvoiceCheck(name, clock, network)
        self._boltz = Boltz(name, credentials.boltz_url)
        self._claims = Claims(name, self._asked_for_claims)
        self._awaited: dict[bytes, _Awaited] = {}

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """See `ports.PaymentNode`. Boltz decides the expiry and the description; the memo goes nowhere.

        An amount that Boltz does not take brings Fulmine down, so it never gets there.
        """
        if preimage is not None:
            raise ValueError("Fulmine draws preimages itself")
        if amount % 1000:
            raise self._invoices.refused("makes invoices of whole sats only")
        terms = await self._boltz.terms()
        if not terms.takes(amount):
            limits = f"{format_sats(terms.least)} to {format_sats(terms.most)}"
            raise self._invoices.refused(
                f"cannot make an invoice over {format_sats(amount)}: Boltz takes {limits}"
            )
        request = fulmine.GetInvoiceRequest(amount=amount // 1000)
        answer = await self._ask("GetInvoice", request, "making an invoice")
        invoice = self._invoices.checked(answer.invoice, amount=amount)
        arrives = Msat(amount - terms.kept(amount))
        self._awaited[invoice.payment_hash] = _Awaited(amount, arrives, invoice.expires_at_ms)
        if len(self._awaited) > AWAITED_MAX:
            del self._awaited[next(iter(self._awaited))]
        return invoice

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """See `ports.PaymentNode`. Of unpaid invoices only the young are known that were made here."""
        await self._claims.read(within_seconds=min(LOOKED_UP_WITHIN_SECONDS, self._read_seconds))
        claim = self._claims.of(payment_hash)
        if claim is not None:
            return InvoiceStatus(InvoiceState.SETTLED, await self._settlement(claim))
        awaited = self._awaited.get(payment_hash)
        if awaited is None or self._clock.now_ms() > awaited.expires_at_ms:
            return None
        return InvoiceStatus(InvoiceState.OPEN)

    async def _settlement(self, claim: Claim) -> Settlement:
        """The payer is credited the invoice; where that is not known any more, what it must have been.

        Less than should have arrived is worth what it is by Boltz' terms of now, and no more.
        """
        awaited = self._awaited.get(claim.payment_hash)
        if awaited is not None and claim.received >= awaited.arrives:
            paid = max(awaited.amount, claim.received)
        else:
            paid = (await self._boltz.terms()).paid_for(claim.received)
        return Settlement(
            node=self.name,
            payment_hash=claim.payment_hash,
            amount_paid=Msat(paid),
            memo="",
            settled_at_ms=claim.created_at * 1000,
            fee=Msat(max(0, paid - claim.received)),
        )

    async def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """See `ports.PaymentNode`. There is no cursor: a new stream tells the newest payments again."""
        await self._claims.read()
        told = {claim.payment_hash for claim in self._claims.all()[:-BACKLOG_PAYMENTS]}
        while True:
            began = time.monotonic()
            for claim in self._claims.all():
                if claim.payment_hash not in told:
                    told.add(claim.payment_hash)
                    yield NodeEvent(await self._settlement(claim), since)
            await asyncio.sleep(max(0.0, began + self._read_seconds - time.monotonic()))
            await self._claims.read(within_seconds=self._read_seconds / 2)

    async def settled_since(self, created_after_ms: int) -> AsyncIterator[Settlement]:
        """See `ports.PaymentNode`. It goes by when the coin came, which is never before its invoice."""
        await self._claims.read()
        for claim in self._claims.all():
            if claim.created_at * 1000 >= created_after_ms:
                yield await self._settlement(claim)

    async def holdings(self) -> Holdings | None:
        """See `ports.PaymentNode`."""
        balance = await self._ask("GetBalance", fulmine.GetBalanceRequest(), "a balance")
        return Holdings(sats(balance.amount))

    async def health(self) -> Health:
        """See `ports.PaymentNode`. Asks Status, which needs no macaroon, then Fulmine and Boltz."""
        try:
            status = await self._wallet_status()
            if word := _waits(status):
                state, sentence = word
                return Health(False, state, f"node {self.name} {sentence}")
            info = await self._ask("GetInfo", fulmine.GetInfoRequest(), "to answer", HEALTH_TIMEOUT_SECONDS)
            await self._boltz.terms()
        except (CredentialsRefused, CredentialsUnreadable) as refusal:
            if any(words in refusal.message for words in _LOCKED):
                return Health(
                    False, "locked", f"node {self.name} is locked: unlock it, once, with its password"
                )
            return Health(False, "refused", refusal.message)
        except NodeUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)
        network = network_of(info)
        if network and self._invoices.network not in (None, network):
            sentence = f"node {self.name} is on {network}, and the settings say {self._invoices.network}"
            return Health(False, "refused", sentence, info.build_info.version, network)
        sentence = f"node {self.name} is open, and Boltz answers{self._invoices.clock_offset.sentence}"
        return Health(True, "ready", sentence, info.build_info.version, network)

    async def _wallet_status(self) -> fulmine.StatusResponse:
        stub = service_pb2_grpc.WalletServiceStub
        answer = await self._calls.unary(
            stub, "Status", fulmine.StatusRequest(), "to answer", timeout=HEALTH_TIMEOUT_SECONDS
        )
        assert isinstance(answer, fulmine.StatusResponse)
        return answer

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """See `ports.PaymentNode`."""
        return FulmineCheckup(
            self,
            self._credentials.address,
            self._credentials.macaroon_file,
            self._boltz,
            self._claims,
            self._clock,
            self._invoices.network,
            demands,
        ).run()

    async def close(self) -> None:
        """See `ports.PaymentNode`."""
        await self._claims.close()
        await self._boltz.close()
        await self._calls.close()

    async def _asked_for_claims(self, method: str, request: object) -> object:
        assert isinstance(request, Message)
        return await self._ask(method, request, "reading its coins")

    async def _ask(self, method: str, request: Message, action: str, timeout: float | None = None) -> Any:  # noqa: ANN401 - the generated stubs' methods share no type
        stub = service_pb2_grpc.ServiceStub
        try:
            return await self._calls.unary(stub, method, request, action, timeout=timeout)
        except CredentialsRefused:
            raise
        except NodeUnavailable as refusal:
            if any(words in refusal.message for words in _DEAD):
                raise NodeUnavailable(
                    f"{refusal.message}; it ended while it was asked: look whether Fulmine still runs",
                    retry_after_seconds=refusal.retry_after_seconds,
                ) from refusal.__cause__
            raise


def _waits(status: fulmine.StatusResponse) -> tuple[str, str] | None:
    """What Fulmine waits for, in the word and the sentence of a Health; None when it is open."""
    if not status.initialized:
        return "locked", "has no wallet yet: create one on its page or with WalletService.CreateWallet"
    if not status.unlocked:
        return "locked", "is locked: unlock it, once, with its password"
    return None if status.synced else ("syncing", "is unlocked and still syncing")
