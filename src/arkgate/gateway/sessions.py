"""Funded tokens: a session asks for money and has a token, a top-up asks for more."""

import secrets
from dataclasses import dataclass

import structlog

from arkgate.core.errors import NotFound, Unprocessable
from arkgate.core.keys import ACCOUNT_ID_BYTES, Keyring, Purpose, PurposeKind, token_digest
from arkgate.core.ledger import InvoiceRecord, InvoiceState, SessionRecord
from arkgate.core.money import Msat, format_sats
from arkgate.core.pricing import BalanceExpiry
from arkgate.gateway.admit import Admitted
from arkgate.gateway.desk import InvoiceDesk, Wanted
from arkgate.gateway.limits import RateLimit
from arkgate.gateway.meter import Calls
from arkgate.ports import Clock, Invoice, Ledger, Observer, Statements

log = structlog.get_logger()
SESSION_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the operator takes in one funding request."""

    minimum: Msat
    maximum: Msat
    expiry_seconds: int = 86_400
    """How long an invoice can be paid."""
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session with its token, which is shown once."""

    session: SessionRecord
    token: str


class Sessions:
    """Opens sessions, top-ups and tokens."""

    def __init__(
        self,
        *,
        desk: InvoiceDesk,
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
        """The smallest amount that settings and nodes allow."""
        return Msat(max(self._terms.minimum, self._desk.minimum))

    @property
    def maximum(self) -> Msat:
        """The largest amount that settings and nodes allow."""
        return Msat(min(self._terms.maximum, self._desk.maximum))

    async def open(self, amount: Msat, *, client: str) -> OpenedSession:
        """A new account with a token, waiting for its first invoice to be paid.

        Raises Unprocessable, RateLimited, NodeUnavailable, Overloaded or StoreUnavailable; an invoice
        that was made before a failure was shown to nobody.
        """
        account_id = secrets.token_hex(ACCOUNT_ID_BYTES)
        invoice = await self._invoice(amount, PurposeKind.SESSION, account_id, client)
        version = self._keyring.current
        token = self._keyring.token(account_id, version=version)
        session = SessionRecord(secrets.token_hex(SESSION_ID_BYTES), account_id, invoice)
        await self._ledger.open_session(session, token_digest=token_digest(token), key_version=version)
        log.info("session opened", account=account_id, amount_msat=amount)
        return OpenedSession(session, token)

    async def top_up(self, admitted: Admitted, amount: Msat, *, client: str) -> InvoiceRecord:
        """Another invoice for an account; raises as `open` does."""
        invoice = await self._invoice(amount, PurposeKind.TOPUP, admitted.account_id, client)
        await self._ledger.add_invoice(invoice)
        log.info("top-up asked for", account=admitted.account_id, amount_msat=amount)
        return invoice

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

    async def _invoice(self, amount: Msat, kind: PurposeKind, account_id: str, client: str) -> InvoiceRecord:
        if not (self.minimum <= amount <= self.maximum and self._desk.takes(amount)):
            raise Unprocessable(
                f"amount_sats must be between {format_sats(self.minimum)} and {format_sats(self.maximum)}.",
                code="amount_out_of_range",
                fields={"minimum_sats": self.minimum // 1000, "maximum_sats": self.maximum // 1000},
            )
        self._calls.check_open()
        self._ledger.check()
        account = await self._statements.account(account_id)
        if account is not None and account.funded:
            self._limit.take(f"account {account_id}", alone=True)
        else:
            self._limit.take(client)
        title = "Funding of an API token" if kind is PurposeKind.SESSION else "Top-up of an API token"
        issued = await self._desk.invoice(
            lambda _: Wanted(amount, title),
            Purpose(kind, account_id),
            expiry_seconds=self._terms.expiry_seconds,
        )
        self._observer.session_opened()
        return _record(issued.invoice, account_id, kind)


def _record(invoice: Invoice, account_id: str, kind: PurposeKind) -> InvoiceRecord:
    return InvoiceRecord(
        payment_hash=invoice.payment_hash,
        account_id=account_id,
        node=invoice.node,
        purpose=kind.name.lower(),
        payment_request=invoice.payment_request,
        amount=invoice.amount,
        state=InvoiceState.OPEN,
        created_at_ms=invoice.created_at_ms,
        expires_at_ms=invoice.expires_at_ms,
    )
