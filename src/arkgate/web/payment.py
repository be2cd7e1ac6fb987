"""What a pay page shows of a funding session: where to pay, and what has come."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from arkgate.core.ledger import AccountRecord, SessionRecord, StatementLine
from arkgate.core.money import Msat, whole_sats
from arkgate.ports import Statements
from arkgate.web.funding import bip321
from arkgate.web.qr import lightning_code, qr_svg
from arkgate.web.watch import SessionWatch

LINES_READ: Final = 50
"""How far into an account's statement the payments of its session are looked for."""


@dataclass(frozen=True, slots=True)
class Code:
    """A QR to scan."""

    name: str
    text: str
    """What is copied."""
    link: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Payment:
    """What a pay page shows of a session."""

    session_id: str
    status: str
    amount_sats: int
    paid_sats: int
    waiting_sats: int
    was_late: bool
    expires_at_ms: int
    codes: tuple[Code, ...]
    has_ark: bool
    """Whether an Ark address is among them."""
    events_url: str
    status_url: str
    pay_url: str


class Payments:
    """Makes what is shown of sessions."""

    def __init__(self, watch: SessionWatch, statements: Statements, say: Callable[..., str]) -> None:
        """`say` is the catalogue of sentences."""
        self._watch = watch
        self._statements = statements
        self._say = say

    async def find(self, session_id: str) -> Payment:
        """That of a session by its id. Raises NotFound."""
        return await self.of(*await self._watch.find(session_id))

    async def of(self, session: SessionRecord, account: AccountRecord | None) -> Payment:
        """What is shown now; `account` is None for a session that was just opened."""
        body = self._watch.body(session, account)
        one = session.invoice or session.address
        assert one is not None
        lines: Sequence[StatementLine] = ()
        if account is not None and account.funded:
            lines = await self._statements.statement(session.account_id, offset=0, limit=LINES_READ)
        entered = [line for line in lines if line.kind == "credit" and line.detail != "topup"]
        codes: tuple[Code, ...] = ()
        if body["status"] == "awaiting_payment":
            codes = await asyncio.to_thread(self._codes, session)
        return Payment(
            session_id=session.session_id,
            status=str(body["status"]),
            amount_sats=whole_sats(one.amount),
            paid_sats=whole_sats(Msat(sum(line.amount for line in entered))),
            waiting_sats=whole_sats(session.address.waiting) if session.address else 0,
            was_late=any(line.at_ms > one.expires_at_ms for line in entered[:1]),
            expires_at_ms=one.expires_at_ms,
            codes=codes,
            has_ark=session.address is not None,
            events_url=f"/v1/sessions/{session.session_id}/events",
            status_url=f"/v1/sessions/{session.session_id}",
            pay_url=str(body["pay_url"]),
        )

    def code(self, payment_request: str) -> Code:
        """That of an invoice. Takes some milliseconds: not for the event loop."""
        shown, link = lightning_code(payment_request), f"lightning:{payment_request}"
        return _code(self._say("pay.lightning"), payment_request, link, shown, self._say("pay.qr_lightning"))

    def _codes(self, session: SessionRecord) -> tuple[Code, ...]:
        """The first is what most wallets understand."""
        invoice, address, say = session.invoice, session.address, self._say
        codes = []
        if invoice is not None and address is not None:
            uri = bip321(invoice, address, invoice.amount)
            shown = uri.replace(invoice.payment_request, invoice.payment_request.upper())
            codes.append(_code(say("pay.any_wallet"), uri, uri, shown, say("pay.qr_any")))
        if invoice is not None:
            codes.append(self.code(invoice.payment_request))
        if address is not None:
            uri = bip321(None, address, address.amount)
            codes.append(_code(say("pay.ark"), address.address, uri, uri, say("pay.qr_ark")))
        return tuple(codes)


def _code(name: str, text: str, link: str, shown: str, label: str) -> Code:
    return Code(name, text, link, Markup(qr_svg(shown, label)))  # noqa: S704 - made here, its text encoded
