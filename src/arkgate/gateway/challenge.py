"""Challenges: an invoice of the node, and a macaroon that its preimage turns into a credential."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from arkgate.core.catalog import Service
from arkgate.core.errors import NodeUnavailable, Overloaded, PaymentRequired
from arkgate.core.keys import ACCOUNT_ID_BYTES, Keyring, Purpose, PurposeKind
from arkgate.core.money import Msat, format_sats
from arkgate.core.pricing import BalanceExpiry, Challenge, bundle_for
from arkgate.gateway.limits import RateLimit
from arkgate.l402.caveats import issued
from arkgate.l402.identifier import Identifier
from arkgate.l402.macaroon import mint
from arkgate.ports import Clock, Invoice, Observer, PaymentNode

log = structlog.get_logger()
INVOICES_AT_ONCE_MAX = 8
PREIMAGE_BYTES = 32
INVOICES_WAITING_MAX = 256
INVOICE_WAIT_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class ChallengeTerms:
    """What the operator sells in one challenge."""

    calls: int = 1
    expiry_seconds: int = 600
    credential_days: int = 365
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER


class InvoiceDesk:
    """Makes invoices: at the first node, a few at once, with a bound on those that wait."""

    def __init__(self, nodes: Sequence[PaymentNode], keyring: Keyring) -> None:
        self.nodes = nodes
        self._keyring = keyring
        self._slots = asyncio.Semaphore(INVOICES_AT_ONCE_MAX)
        self._waiting = 0

    @property
    def node(self) -> PaymentNode:
        """The node that new invoices come from."""
        return self.nodes[0]

    async def invoice(self, amount: Msat, purpose: Purpose, *, title: str, expiry_seconds: int) -> Invoice:
        """An invoice whose memo ends in the keyed tag of its purpose and payment hash.

        The preimage is drawn here, because the tag must name the hash (or a copied memo would make a
        foreign payment ours); only the node keeps it. Raises NodeUnavailable, and Overloaded when too
        many wait already.
        """
        if self._waiting >= INVOICES_WAITING_MAX:
            raise _busy()
        preimage = secrets.token_bytes(PREIMAGE_BYTES)
        memo = f"{title} {self._keyring.tag(purpose, hashlib.sha256(preimage).digest())}"
        self._waiting += 1
        try:
            async with asyncio.timeout(INVOICE_WAIT_SECONDS_MAX):
                await self._slots.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1
        try:
            return await self.node.create_invoice(
                amount, preimage=preimage, memo=memo, expiry_seconds=expiry_seconds
            )
        finally:
            self._slots.release()


class Challenger:
    """Makes 402 challenges. An unpaid one costs an invoice on the node and no row here."""

    def __init__(
        self,
        desk: InvoiceDesk,
        keyring: Keyring,
        clock: Clock,
        terms: ChallengeTerms,
        limit: RateLimit,
        observer: Observer,
    ) -> None:
        self._desk = desk
        self._keyring = keyring
        self._clock = clock
        self._terms = terms
        self._limit = limit
        self._observer = observer

    async def challenge(
        self,
        service: Service,
        *,
        client: str,
        account_id: str | None = None,
        code: str | None = None,
        because: str = "",
    ) -> PaymentRequired:
        """The refusal that carries a fresh challenge.

        With `account_id` the payment enters that account, so what is left there is not stranded.
        Raises RateLimited, NodeUnavailable or Overloaded, and then no invoice was made.
        """
        self._limit.take(f"account {account_id}" if account_id else client, alone=account_id is not None)
        quote = service.quote()
        bundle = bundle_for(quote, calls=self._terms.calls, minimum=self._desk.node.invoice_minimum)
        account = account_id or secrets.token_hex(ACCOUNT_ID_BYTES)
        title = f"{bundle.calls} x {service.path}"
        invoice = await self._desk.invoice(
            bundle.amount,
            Purpose(PurposeKind.CHALLENGE, account),
            title=title,
            expiry_seconds=self._terms.expiry_seconds,
        )
        offer = Challenge(
            quote=quote,
            bundle=bundle,
            macaroon=self._macaroon(service.name, invoice, account, bound=account_id is not None),
            payment_request=invoice.payment_request,
            payment_hash=invoice.payment_hash,
            expires_at_ms=invoice.expires_at_ms,
            balance_expiry=self._terms.balance_expiry,
        )
        self._observer.challenge_issued(service.name)
        log.info("challenge issued", service=service.name, amount_msat=bundle.amount, reason=code or "unpaid")
        return PaymentRequired(because or _sentence(service, offer), offer, code=code)

    def _macaroon(self, service: str, invoice: Invoice, account_id: str, *, bound: bool) -> str:
        version = self._keyring.current
        identifier = Identifier.new(
            invoice.payment_hash, key_version=version, node=self._desk.node.number, account_id=account_id
        ).encode()
        root_key = self._keyring.root_key(identifier, version=version)
        if root_key is None:
            raise NodeUnavailable("the keyring lost its newest key")
        valid_until = self._clock.now_ms() // 1000 + self._terms.credential_days * 86_400
        caveats = issued(service, valid_until=valid_until, account_id=account_id if bound else None)
        return base64.b64encode(mint(root_key, identifier, caveats)).decode()


def _busy() -> Overloaded:
    return Overloaded("Too many invoices are being made. Try again in a few seconds.", retry_after_seconds=3)


def _sentence(service: Service, offer: Challenge) -> str:
    calls = "one call" if offer.bundle.calls == 1 else f"{offer.bundle.calls} calls"
    return (
        f"Payment required: {format_sats(offer.bundle.amount)} for {calls}. Pay the invoice, then repeat the "
        f"request as {service.method} {service.path} with Authorization: L402 <macaroon>:<preimage>."
    )
