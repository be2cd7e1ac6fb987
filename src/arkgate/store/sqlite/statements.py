"""Reads for admission, pages and APIs on connections that cannot write."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, TypeVar

from arkgate.core.ledger import (
    AccountRecord,
    AddressRecord,
    AllowanceState,
    Answer,
    Balance,
    CallRecord,
    Cursor,
    Finding,
    HoldState,
    InvoiceRecord,
    Reserved,
    SessionRecord,
    Standing,
    StatementLine,
    Totals,
    credit_id,
)
from arkgate.core.money import Msat
from arkgate.core.pricing import Quote
from arkgate.store.clock import BooksClock, day_of, next_midnight_ms
from arkgate.store.credits import Credits
from arkgate.store.rows import address_of, invoice_of
from arkgate.store.snapshot import BooksSnapshot
from arkgate.store.sqlite import audit, earlier, queries
from arkgate.store.sqlite.calls import allowance_of
from arkgate.store.sqlite.connections import connect_reader, refusing, unavailable
from arkgate.store.sqlite.snapshot import sqlite_snapshot

T = TypeVar("T")
_UNREADABLE = "The ledger cannot be read now"


class SqliteStatements:
    """Keeps the promises of `ports.Statements`.

    Point reads use one connection on the event loop's thread. What may read many rows runs in a
    thread, on a connection of its own, from one snapshot.
    """

    def __init__(
        self,
        path: Path,
        clock: BooksClock,
        credits_: Credits | None = None,
        *,
        rules_at_once: int = 1,
    ) -> None:
        """`rules_at_once` is how many of the host's cores `verify` may take."""
        self._rules_at_once = rules_at_once
        self._credits = credits_
        self._path = path
        self._clock = clock
        with refusing(_UNREADABLE):
            self._database = connect_reader(path)

    def close(self) -> None:
        """Gives up the connection; nothing is read afterwards."""
        self._database.close()

    async def account_by_token(self, token_digest: bytes) -> str | None:
        """The account id of a token."""
        row = self._one(queries.ACCOUNT_BY_TOKEN, (token_digest,))
        return None if row is None else str(row[0])

    async def account_by_payment(self, payment_hash: bytes) -> str | None:
        """The account that a payment hash was credited to."""
        row = self._one(queries.CREDITED_TO, (credit_id(payment_hash),))
        return None if row is None else str(row[0])

    async def credited(self, payment_hash: bytes, *, within_seconds: float) -> str | None:
        """The account that a payment hash is credited to within that time."""
        account_id = await self.account_by_payment(payment_hash)
        if account_id is None and self._credits is not None:
            await self._credits.wait(payment_hash, within_seconds)
            account_id = await self.account_by_payment(payment_hash)
        return account_id

    async def account(self, account_id: str) -> AccountRecord | None:
        """An account with its balance."""
        row = self._one(queries.ACCOUNT, (account_id,))
        if row is None:
            return None
        owner, posted, held, funded, key_version, created_at_ms = row
        return AccountRecord(owner, Balance(posted, held), bool(funded), key_version, created_at_ms)

    async def allowance(self, account_id: str, service: str, calls_per_day: int | None) -> AllowanceState:
        """What an account has used of today's allowance."""
        try:
            return allowance_of(self._database, self._clock.now_ms(), account_id, service, calls_per_day)
        except sqlite3.Error as exc:
            raise unavailable(_UNREADABLE, exc) from exc

    async def replay(
        self, account_id: str, quote: Quote, request_hash: bytes, idempotency_key: bytes | None
    ) -> Reserved | None:
        """What `reserve` would say of a request that was made before."""
        try:
            if idempotency_key is None:
                return self._replay_by_body(account_id, quote, request_hash)
            return self._replay_by_key(account_id, quote, request_hash, idempotency_key)
        except sqlite3.Error as exc:
            raise unavailable(_UNREADABLE, exc) from exc

    def _replay_by_key(
        self, account_id: str, quote: Quote, request_hash: bytes, key: bytes
    ) -> Reserved | None:
        call = earlier.call_by_key(self._database, account_id, key)
        if call is None:
            return None
        repeated = earlier.by_key(
            self._database, self._clock.now_ms(), call, service=quote.service, request_hash=request_hash
        )
        return self._reserved(self._standing(account_id, quote), repeated)

    def _replay_by_body(self, account_id: str, quote: Quote, request_hash: bytes) -> Reserved | None:
        standing = self._standing(account_id, quote)
        used, limit = standing.allowance.used, quote.calls_per_day
        if not earlier.used_up(standing.balance.available, quote.price, used=used, calls_per_day=limit):
            return None
        repeated = earlier.by_body(
            self._database, self._clock.now_ms(), account_id, service=quote.service, request_hash=request_hash
        )
        return None if repeated is None else self._reserved(standing, repeated)

    def _standing(self, account_id: str, quote: Quote) -> Standing:
        now_ms = self._clock.now_ms()
        row = self._database.execute(
            queries.BALANCE_AND_USED, (quote.service, day_of(now_ms), account_id)
        ).fetchone()
        posted, held, used = row or (Msat(0), Msat(0), 0)
        return Standing(
            Balance(posted, held), AllowanceState(used, quote.calls_per_day, next_midnight_ms(now_ms))
        )

    def _reserved(self, standing: Standing, repeated: earlier.Repeated) -> Reserved:
        # Whoever made a call before has paid before: nothing but a payment opens a balance.
        return Reserved(repeated.outcome, standing.balance, standing.allowance, repeated.answer, funded=True)

    async def session(self, session_id: str) -> SessionRecord | None:
        """A session with its first invoice and its Ark address as we know them."""
        row = self._one(queries.SESSION_OF, (session_id,))
        if row is None:
            return None
        account_id, payment_hash, address = row
        invoice = self._one(queries.INVOICE, (payment_hash,))
        if invoice is None and payment_hash is not None:  # both were pruned between the two reads
            return None
        ark = None if address is None else await self.address(address)
        return SessionRecord(
            session_id,
            account_id,
            None if invoice is None else invoice_of(invoice),
            ark,
        )

    async def call(self, account_id: str, request_id: str) -> CallRecord | None:
        """The newest call of that account under that request id."""
        return await self._apart(lambda db: _call(db, self._clock.now_ms(), account_id, request_id))

    async def statement(
        self, account_id: str, *, offset: int, limit: int, newest_first: bool = False
    ) -> Sequence[StatementLine]:
        """Lines of the account's statement."""
        query = queries.STATEMENT_NEWEST_FIRST if newest_first else queries.STATEMENT
        page = {"account": account_id, "offset": offset, "limit": limit}
        rows = await self._apart(lambda db: db.execute(query, page).fetchall())
        return [StatementLine(*row) for row in rows]

    async def cursor(self, node: str) -> Cursor:
        """How far the node's stream was read."""
        row = self._one(queries.CURSOR, (node,))
        return Cursor() if row is None else Cursor(*row)

    async def invoices_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[InvoiceRecord]:
        """Unpaid invoices of that node that are due for a look-up."""
        due = (node, self._clock.now_ms(), limit)
        query = queries.INVOICES_DUE_LAST if newest else queries.INVOICES_DUE
        rows = await self._apart(lambda db: db.execute(query, due).fetchall())
        return [invoice_of(row) for row in rows]

    async def invoices_awaited(self, node: str, *, after: bytes, limit: int) -> Sequence[InvoiceRecord]:
        """A page of the unpaid invoices of that node, due or not, in the order of their hashes."""
        page = (node, after, limit)
        rows = await self._apart(lambda db: db.execute(queries.INVOICES_AWAITED, page).fetchall())
        return [invoice_of(row) for row in rows]

    async def address(self, address: str) -> AddressRecord | None:
        """An Ark address that was given out."""
        row = self._one(queries.ADDRESS, (address,))
        return None if row is None else address_of(row)

    async def addresses_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[AddressRecord]:
        """Ark addresses of that node that are due for a look-up."""
        due = (node, self._clock.now_ms(), limit)
        query = queries.ADDRESSES_DUE_LAST if newest else queries.ADDRESSES_DUE
        rows = await self._apart(lambda db: db.execute(query, due).fetchall())
        return [address_of(row) for row in rows]

    async def facts(self) -> Mapping[str, int]:
        """What is noted about these books."""
        try:
            return dict(self._database.execute(queries.FACTS).fetchall())
        except sqlite3.Error as exc:
            raise unavailable(_UNREADABLE, exc) from exc

    async def totals(self) -> Totals:
        """Sums over the whole ledger."""
        posted, held, credited, open_holds = await self._apart(
            lambda db: db.execute(queries.TOTALS).fetchone()
        )
        return Totals(
            customers=posted, held=held, credited=credited, charged=credited - posted, open_holds=open_holds
        )

    async def verify(self) -> Sequence[Finding]:
        """Checks the invariants on the live database, each from one snapshot; repairs nothing."""
        now_ms = self._clock.certain_ms()
        verification = audit.Verification(self._path, now_ms, at_once=self._rules_at_once)
        try:
            with refusing(_UNREADABLE):
                return await asyncio.to_thread(verification.findings)
        finally:
            verification.give_up()

    async def verify_requests(self, call_ids: Sequence[str]) -> Finding:
        """Checks that every request a backend saw belongs to a committed hold (invariant 9)."""
        return await self._apart(lambda db: audit.verify_requests(db, call_ids))

    async def missing_calls(self, call_ids: Sequence[str], *, charged: bool) -> Sequence[str]:
        """Those of the calls that have no hold here, or no settled one."""
        return await self._apart(lambda db: audit.missing_calls(db, call_ids, charged=charged))

    def snapshot(self) -> AbstractAsyncContextManager[BooksSnapshot]:
        """One moment of the books."""
        return sqlite_snapshot(self._path, self._clock)

    def _one(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._database.execute(statement, values).fetchone()
        except sqlite3.Error as exc:
            raise unavailable(_UNREADABLE, exc) from exc
        return row

    async def _apart(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._read_apart, read)

    def _read_apart(self, read: Callable[[sqlite3.Connection], T]) -> T:
        with refusing(_UNREADABLE), closing(connect_reader(self._path)) as database:
            database.execute("BEGIN")
            result = read(database)
            database.execute("COMMIT")
            return result


def _call(database: sqlite3.Connection, now_ms: int, account_id: str, request_id: str) -> CallRecord | None:
    # A request id is taken anew only after a release, so a call that claims it is the newest.
    row = database.execute(queries.CALL_THAT_CLAIMS, (account_id, request_id)).fetchone()
    if row is None:
        row = database.execute(queries.RELEASED_CALL, (account_id, request_id)).fetchone()
    if row is None:
        return None
    call_id, request_id, service, state, cost, reason = row
    answer: Answer | None = earlier.stored_answer(database, call_id, now_ms)
    return CallRecord(call_id, request_id, service, HoldState(state), cost, reason, answer)
