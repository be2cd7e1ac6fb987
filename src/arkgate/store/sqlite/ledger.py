"""The ledger on SQLite: each verb of the port as one job of the writer."""

from collections.abc import Sequence

from arkgate.core.keys import Purpose
from arkgate.core.ledger import (
    AddressRecord,
    Answer,
    ArkPayment,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceRecord,
    InvoiceState,
    Reservation,
    Reserved,
    Resolved,
    SessionRecord,
    Settlement,
    Swept,
)
from arkgate.core.money import Msat
from arkgate.store.clock import BooksClock
from arkgate.store.credits import Credits
from arkgate.store.sqlite import ark, calls, funding, queries
from arkgate.store.sqlite.connections import Executing
from arkgate.store.sqlite.writer import Writer


class SqliteLedger:
    """Keeps the promises of `ports.Ledger`."""

    def __init__(self, writer: Writer, clock: BooksClock, credits_: Credits) -> None:
        self._clock = clock
        self._credits = credits_
        self._run = writer.run
        self._check = writer.check

    async def open_session(self, session: SessionRecord, *, token_digest: bytes, key_version: int) -> None:
        """Opens a customer account with its token, a session and the session's open invoice."""
        await self._run(lambda db, now: funding.open_session(db, now, session, token_digest, key_version))

    async def add_invoice(self, invoice: InvoiceRecord) -> None:
        """Records an open top-up invoice of an existing account."""
        await self._run(lambda db, now: funding.add_invoice(db, now, invoice))

    async def add_address(self, address: AddressRecord) -> None:
        """Records an Ark address of an existing account."""
        await self._run(lambda db, now: ark.add_address(db, now, address))

    async def set_token(self, account_id: str, *, token_digest: bytes, key_version: int) -> int:
        """Gives an account its token, unless it has one."""
        return await self._run(
            lambda db, now: funding.set_token(db, now, account_id, token_digest, key_version)
        )

    async def fund(
        self, settlement: Settlement, purpose: Purpose | None, *, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a settled payment once, whoever reports it."""
        funded = await self._run(lambda db, now: funding.fund(db, now, settlement, purpose, cursor))
        if funded.outcome is FundOutcome.APPLIED:
            self._credits.heard(settlement.payment_hash)
        return funded

    async def fund_ark(
        self, payment: ArkPayment, *, instant_max: Msat, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a coin at an Ark address of ours once, or notes that it waits to be final."""
        return await self._run(lambda db, now: ark.fund_ark(db, now, payment, instant_max, cursor))

    async def advance(self, node: str, cursor: Cursor) -> None:
        """Saves how far a node's stream was read."""
        await self._run(lambda db, now: funding.advance(db, now, node, cursor))

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Takes the hold and one unit of the day's allowance, or neither."""
        return await self._run(lambda db, now: calls.reserve(db, now, reservation))

    async def settle(self, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
        """Charges an open hold and stores the answer."""
        return await self._run(lambda db, now: calls.settle(db, now, call_id, cost, answer))

    async def release(self, call_id: str, reason: str) -> Resolved:
        """Gives an open hold's balance and allowance back."""
        return await self._run(lambda db, now: calls.release(db, now, call_id, reason))

    async def sweep(self, limit: int) -> Sequence[Swept]:
        """Releases open holds whose deadline has passed."""
        overdue_ms = self._clock.certain_ms()
        return await self._run(lambda db, now: calls.sweep(db, now, overdue_ms, limit))

    async def prune_answers(self, limit: int) -> int:
        """Forgets stored answers that are past their time."""
        past_ms = self._clock.certain_ms()
        return await self._run(lambda db, now: calls.prune_answers(db, past_ms, limit))

    async def prune_invoices(self, limit: int, *, grace_ms: int) -> int:
        """Forgets invoices that ended unpaid, with the sessions that waited for them."""
        past_ms = self._clock.certain_ms()
        return await self._run(lambda db, now: funding.prune_invoices(db, past_ms, limit, grace_ms))

    async def mark_invoice(self, payment_hash: bytes, state: InvoiceState) -> None:
        """Notes that the node reports an invoice EXPIRED or CANCELLED."""
        await self._run(lambda db, now: funding.mark_invoice(db, now, payment_hash, state))

    async def mark_looked_up(self, payment_hash: bytes, next_lookup_ms: int | None) -> None:
        """Notes when an open invoice is to be looked up next."""
        await self._run(lambda db, now: funding.mark_looked_up(db, now, payment_hash, next_lookup_ms))

    async def mark_address_looked_up(self, address: str, next_lookup_ms: int | None) -> None:
        """Notes when an Ark address is to be looked up next."""
        await self._run(lambda db, now: ark.mark_address_looked_up(db, now, address, next_lookup_ms))

    async def note(self, fact: str, value: int) -> None:
        """Notes a fact about these books."""
        await self._run(lambda db, now: _note(db, fact, value))

    async def note_once(self, fact: str, value: int) -> int:
        """Notes a fact unless it is noted already."""
        return await self._run(lambda db, now: _note_once(db, fact, value))

    def check(self) -> None:
        """Raises StoreUnavailable while the last change could not be made durable."""
        self._check()

    async def probe(self) -> None:
        """Finds out whether the books can be written."""
        await self._run(lambda db, now: _note(db, "probed_at_ms", now))


def _note_once(database: Executing, name: str, value: int) -> int:
    row = database.execute(queries.FACT, (name,)).fetchone()
    if row is None:
        _note(database, name, value)
        return value
    return int(row[0])


def _note(database: Executing, name: str, value: int) -> None:
    database.execute(queries.NOTE_FACT, (name, value))
