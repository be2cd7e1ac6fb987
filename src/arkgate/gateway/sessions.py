"""Funded tokens: a session asks for money and has a token, a top-up asks for more."""

import asyncio
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from arkgate.core.errors import NodeUnavailable, NotFound, Overloaded, Refusal, Unprocessable
from arkgate.core.keys import ACCOUNT_ID_BYTES, Keyring, Purpose, PurposeKind, token_digest
from arkgate.core.ledger import AddressRecord, InvoiceRecord, InvoiceState, SessionRecord
from arkgate.core.money import Msat, format_sats
from arkgate.core.pricing import BalanceExpiry
from arkgate.gateway.addresses import AddressDesk
from arkgate.gateway.admit import Admitted
from arkgate.gateway.desk import InvoiceDesk, Wanted
from arkgate.gateway.limits import RateLimit
from arkgate.gateway.meter import Calls
from arkgate.ports import Clock, Invoice, Ledger, Observer, Statements

log = structlog.get_logger()
SESSION_ID_BYTES = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the operator takes in one funding request."""

    minimum: Msat
    maximum: Msat
    expiry_seconds: int = 86_400
    """How long an invoice can be paid, and a payment to an Ark address is expected."""
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session with its token, which is shown once."""

    session: SessionRecord
    token: str


@dataclass(frozen=True, slots=True)
class Payable:
    """Where a session or a top-up may be paid; one of the two is there."""

    invoice: InvoiceRecord | None
    address: AddressRecord | None


class Sessions:
    """Opens sessions, top-ups and tokens."""

    def __init__(
        self,
        *,
        desk: InvoiceDesk,
        addresses: AddressDesk,
        keyring: Keyring,
        ledger: Ledger,
        statements: Statements,
        clock: Clock,
        terms: SessionTerms,
        limit: RateLimit,
        observer: Observer,
        calls: Calls,
    ) -> None:
        self._desk = desk
        self._addresses = addresses
        self._keyring = keyring
        self._ledger = ledger
        self._statements = statements
        self._clock = clock
        self._terms = terms
        self._limit = limit
        self._observer = observer
        self._calls = calls

    @property
    def minimum(self) -> Msat:
        """The smallest amount that settings and nodes allow; at an Ark address nodes allow any."""
        if self._addresses.has_wallets:
            return self._terms.minimum
        return Msat(max(self._terms.minimum, self._desk.minimum))

    @property
    def maximum(self) -> Msat:
        """The largest amount that settings and nodes allow; at an Ark address nodes allow any."""
        if self._addresses.has_wallets:
            return self._terms.maximum
        return Msat(min(self._terms.maximum, self._desk.maximum))

    async def open(self, amount: Msat, *, client: str) -> OpenedSession:
        """A new account with a token, waiting for its invoice or its Ark address to be paid.

        Raises Unprocessable, RateLimited, NodeUnavailable, Overloaded or StoreUnavailable; an invoice
        that was made before a failure was shown to nobody.
        """
        account_id = secrets.token_hex(ACCOUNT_ID_BYTES)
        payable = await self._payable(amount, Purpose(PurposeKind.SESSION, account_id), client)
        version = self._keyring.current
        token = self._keyring.token(account_id, version=version)
        session = SessionRecord(
            secrets.token_hex(SESSION_ID_BYTES), account_id, payable.invoice, payable.address
        )
        await self._ledger.open_session(session, token_digest=token_digest(token), key_version=version)
        log.info("session opened", account=account_id, amount_msat=amount)
        return OpenedSession(session, token)

    async def top_up(self, admitted: Admitted, amount: Msat, *, client: str) -> Payable:
        """Another invoice and Ark address for an account; raises as `open` does."""
        payable = await self._payable(amount, Purpose(PurposeKind.TOPUP, admitted.account_id), client)
        if payable.invoice is not None:
            await self._ledger.add_invoice(payable.invoice)
        if payable.address is not None:
            await self._ledger.add_address(payable.address)
        log.info("top-up asked for", account=admitted.account_id, amount_msat=amount)
        return payable

    async def token(self, admitted: Admitted) -> str:
        """The account's token: the same one for ever, made when it is first asked for."""
        token = self._keyring.token(admitted.account_id, version=self._keyring.current)
        version = await self._ledger.set_token(
            admitted.account_id, token_digest=token_digest(token), key_version=self._keyring.current
        )
        return self._keyring.token(admitted.account_id, version=version)

    async def session(self, session_id: str) -> SessionRecord:
        """A session by its unguessable id. Raises NotFound."""
        session = await self._statements.session(session_id)
        if session is None:
            raise NotFound("There is no such session.")
        return session

    async def _payable(self, amount: Msat, purpose: Purpose, client: str) -> Payable:
        """An invoice and an Ark address, or the one that can be had."""
        by_lightning = self._desk.takes(amount)
        if not (self.minimum <= amount <= self.maximum and (by_lightning or self._addresses.has_wallets)):
            raise Unprocessable(
                f"amount_sats must be between {format_sats(self.minimum)} and {format_sats(self.maximum)}.",
                code="amount_out_of_range",
                fields={"minimum_sats": self.minimum // 1000, "maximum_sats": self.maximum // 1000},
            )
        self._calls.check_open()
        self._ledger.check()
        account = await self._statements.account(purpose.account_id)
        if account is not None and account.funded:
            self._limit.take(f"account {purpose.account_id}", alone=True)
        else:
            self._limit.take(client)
        payable = await self._asked(amount, purpose, by_lightning=by_lightning)
        self._observer.session_opened()
        return payable

    async def _asked(self, amount: Msat, purpose: Purpose, *, by_lightning: bool) -> Payable:
        """Asks both desks at once, those that there are. Raises when neither can be paid at."""
        if not self._addresses.has_wallets:
            return Payable(await self._invoice(amount, purpose), None)
        expiry_seconds = self._terms.expiry_seconds
        giving = self._addresses.address(amount, purpose, expiry_seconds=expiry_seconds)
        if not by_lightning:
            return Payable(None, await giving)
        invoice, address = await asyncio.gather(
            _unless_away(self._invoice(amount, purpose)), _unless_away(giving)
        )
        if isinstance(invoice, Refusal) and isinstance(address, Refusal):
            raise invoice
        return Payable(
            None if isinstance(invoice, Refusal) else invoice,
            None if isinstance(address, Refusal) else address,
        )

    async def _invoice(self, amount: Msat, purpose: Purpose) -> InvoiceRecord:
        title = "Funding of an API token" if purpose.kind is PurposeKind.SESSION else "Top-up of an API token"
        issued = await self._desk.invoice(
            lambda _: Wanted(amount, title), purpose, expiry_seconds=self._terms.expiry_seconds
        )
        return _record(issued.invoice, purpose)


async def _unless_away(made: Awaitable[T]) -> T | Refusal:
    """What is made, or why it cannot be made now."""
    try:
        return await made
    except (NodeUnavailable, Overloaded) as refusal:
        return refusal


def _record(invoice: Invoice, purpose: Purpose) -> InvoiceRecord:
    return InvoiceRecord(
        payment_hash=invoice.payment_hash,
        account_id=purpose.account_id,
        node=invoice.node,
        purpose=purpose.kind.name.lower(),
        payment_request=invoice.payment_request,
        amount=invoice.amount,
        state=InvoiceState.OPEN,
        created_at_ms=invoice.created_at_ms,
        expires_at_ms=invoice.expires_at_ms,
    )
