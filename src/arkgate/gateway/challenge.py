"""Challenges: an invoice of the node, and a macaroon that its preimage turns into a credential."""

import base64
import secrets
from dataclasses import dataclass

import structlog

from arkgate.core.catalog import Endpoint, Service
from arkgate.core.errors import FundedTokenRequired, NodeUnavailable, PaymentRequired
from arkgate.core.keys import ACCOUNT_ID_BYTES, Keyring, Purpose, PurposeKind
from arkgate.core.money import Msat, format_sats, whole_sats
from arkgate.core.pricing import BalanceExpiry, Bundle, Challenge, Quote, bundle_for
from arkgate.gateway.desk import InvoiceDesk, Issued, Wanted
from arkgate.gateway.limits import RateLimit
from arkgate.l402.caveats import issued
from arkgate.l402.identifier import Identifier
from arkgate.l402.macaroon import mint
from arkgate.ports import Clock, Observer, PaymentNode

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ChallengeTerms:
    """What the operator sells in one challenge."""

    calls: int = 1
    expiry_seconds: int = 600
    credential_days: int = 365
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER


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

    def count(self, client: str, *, account_id: str | None = None) -> None:
        """Counts an unpaid request, of a stranger or of an account that paid before. Raises RateLimited."""
        self._limit.take(f"account {account_id}" if account_id else client, alone=account_id is not None)

    async def challenge(
        self,
        service: Service,
        endpoint: Endpoint,
        *,
        quote: Quote,
        client: str,
        method: str | None = None,
        has: Msat = Msat(0),
        is_counted: bool = False,
        account_id: str | None = None,
        code: str | None = None,
        because: str = "",
    ) -> PaymentRequired:
        """The refusal that carries a fresh challenge; `is_counted` once `count` was called for it.

        With `account_id` the payment enters that account, so what is left there is not stranded; what it
        `has` need not be paid again, where a call's price is what it uses.
        Raises RateLimited, NodeUnavailable or Overloaded, and then no invoice was made; FundedTokenRequired
        where no node makes invoices at all.
        """
        if not self._desk.has_nodes:
            raise _for_tokens_only(endpoint, quote, code)
        if not is_counted:
            self.count(client, account_id=account_id)

        def bundle_at(node: PaymentNode) -> Bundle:
            return bundle_for(quote, calls=self._terms.calls, minimum=node.invoice_minimum, has=has)

        def wanted(node: PaymentNode) -> Wanted:
            bundle = bundle_at(node)
            return Wanted(bundle.amount, f"{bundle.calls} x {endpoint.path}")

        account = account_id or secrets.token_hex(ACCOUNT_ID_BYTES)
        purpose = Purpose(PurposeKind.CHALLENGE, account)
        made = await self._desk.invoice(wanted, purpose, expiry_seconds=self._terms.expiry_seconds)
        bundle, invoice = bundle_at(made.node), made.invoice
        offer = Challenge(
            quote=quote,
            bundle=bundle,
            macaroon=self._macaroon(service.name, made, account, bound=account_id is not None),
            payment_request=invoice.payment_request,
            payment_hash=invoice.payment_hash,
            expires_at_ms=invoice.expires_at_ms,
            balance_expiry=self._terms.balance_expiry,
        )
        self._observer.challenge_issued(service.name)
        log.info("challenge issued", service=service.name, amount_msat=bundle.amount, reason=code or "unpaid")
        return PaymentRequired(because or _sentence(endpoint, method, offer), offer, code=code)

    def _macaroon(self, service: str, made: Issued, account_id: str, *, bound: bool) -> str:
        version = self._keyring.current
        identifier = Identifier.new(
            made.invoice.payment_hash,
            key_version=version,
            node=made.node.number,
            account_id=account_id,
        ).encode()
        root_key = self._keyring.root_key(identifier, version=version)
        if root_key is None:
            raise NodeUnavailable("the keyring lost its newest key")
        valid_until = self._clock.now_ms() // 1000 + self._terms.credential_days * 86_400
        caveats = issued(service, valid_until=valid_until, account_id=account_id if bound else None)
        return base64.b64encode(mint(root_key, identifier, caveats)).decode()


def _for_tokens_only(endpoint: Endpoint, quote: Quote, code: str | None) -> FundedTokenRequired:
    call = f"{endpoint.methods[0]} {endpoint.path}"
    return FundedTokenRequired(
        f"Payment required: {format_sats(quote.price)} for one call of {call}, "
        "from a funded token: this server makes no Lightning invoices. Open a session with "
        "POST /v1/sessions, pay its Ark address, then repeat the request with Authorization: Bearer <token>.",
        code=code,
        fields={"price_sats": whole_sats(quote.price, asked_for=True)},
    )


def _sentence(endpoint: Endpoint, method: str | None, offer: Challenge) -> str:
    asked = method or endpoint.methods[0]
    again = f"{asked} {endpoint.path}" + ("…" if endpoint.is_prefix else "")
    calls = "one call" if offer.bundle.calls == 1 else f"{offer.bundle.calls} calls"
    return (
        f"Payment required: {format_sats(offer.bundle.amount)} for {calls}. Pay the invoice, then repeat the "
        f"request as {again} with Authorization: L402 <macaroon>:<preimage>."
    )
