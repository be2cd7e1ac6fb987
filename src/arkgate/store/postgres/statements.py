"""Reads for admission, pages and APIs on connections that cannot write."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

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
    ReserveOutcome,
    SessionRecord,
    StatementLine,
    Totals,
    credit_id,
)
from arkgate.core.money import Msat
from arkgate.core.pricing import Quote
from arkgate.store.clock import BooksClock, day_of, next_midnight_ms
from arkgate.store.credits import Credits
from arkgate.store.postgres import audit, queries
from arkgate.store.postgres.reads import Reads
from arkgate.store.postgres.snapshot import postgres_snapshot
from arkgate.store.rows import address_of, invoice_of
from arkgate.store.snapshot import BooksSnapshot

SUMS_SECONDS = 30.0
"""How long sums may take that a scrape of the metrics waits for."""


class PostgresStatements:
    """Keeps the promises of `ports.Statements`."""

    def __init__(self, reads: Reads, clock: BooksClock, credits_: Credits) -> None:
        self._credits = credits_
        self._reads = reads
        self._clock = clock

    async def account_by_token(self, token_digest: bytes) -> str | None:
        """The account id of a token."""
        account_id: str | None = await self._reads.value(queries.ACCOUNT_BY_TOKEN, token_digest)
        return account_id

    async def account_by_payment(self, payment_hash: bytes) -> str | None:
        """The account that a payment hash was credited to."""
        account_id: str | None = await self._reads.value(queries.CREDITED_TO, credit_id(payment_hash))
        return account_id

    async def credited(self, payment_hash: bytes, *, within_seconds: float) -> str | None:
        """The account that a payment hash is credited to within that time, by any replica."""
        account_id = await self.account_by_payment(payment_hash)
        if account_id is None:
            await self._credits.wait(payment_hash, within_seconds)
            account_id = await self.account_by_payment(payment_hash)
        return account_id

    async def account(self, account_id: str) -> AccountRecord | None:
        """An account with its balance."""
        row = await self._reads.row(queries.ACCOUNT, account_id)
        if row is None:
            return None
        owner, posted, held, funded, key_version, created_at_ms = row
        return AccountRecord(owner, Balance(posted, held), funded, key_version, created_at_ms)

    async def allowance(self, account_id: str, service: str, calls_per_day: int | None) -> AllowanceState:
        """What an account has used of today's allowance."""
        now_ms = self._clock.now_ms()
        used = await self._reads.value(queries.USED, account_id, service, day_of(now_ms))
        return AllowanceState(used, calls_per_day, next_midnight_ms(now_ms))

    async def replay(
        self, account_id: str, quote: Quote, request_hash: bytes, idempotency_key: bytes | None
    ) -> Reserved | None:
        """What `reserve` would say of a request that was made before."""
        now_ms = self._clock.now_ms()
        request = (quote.service, quote.price, quote.calls_per_day, request_hash, idempotency_key)
        row = await self._reads.row(queries.REPLAY, now_ms, account_id, *request)
        if row is None:
            return None
        return Reserved(
            ReserveOutcome(row["outcome"]),
            Balance(Msat(row["posted"]), Msat(row["held"])),
            AllowanceState(row["used"], quote.calls_per_day, next_midnight_ms(now_ms)),
            queries.answer_of(row),
            funded=True,  # whoever made a call before has paid before
        )

    async def session(self, session_id: str) -> SessionRecord | None:
        """A session with its first invoice and its Ark address as we know them."""
        row = await self._reads.row(queries.SESSION_OF, session_id)
        if row is None:
            return None
        invoice = await self._reads.row(queries.INVOICE, row["payment_hash"])
        if invoice is None and row["payment_hash"] is not None:  # both were pruned between the two reads
            return None
        ark = None if row["ark_address"] is None else await self.address(row["ark_address"])
        return SessionRecord(
            session_id,
            row["account_id"],
            None if invoice is None else invoice_of(invoice),
            ark,
        )

    async def call(self, account_id: str, request_id: str) -> CallRecord | None:
        """The newest call of that account under that request id."""
        asked = (account_id, request_id, self._clock.now_ms())
        row = await self._reads.row(queries.CALL_THAT_CLAIMS, *asked)
        if row is None:
            row = await self._reads.row(queries.RELEASED_CALL, *asked)
        if row is None:
            return None
        call_id, request_id, service, state, cost, reason, *stored = row
        status, content_type, body, until_ms = stored
        answer = None
        if status is not None:
            answer = Answer(call_id, request_id, status, content_type, body, cost, until_ms)
        return CallRecord(call_id, request_id, service, HoldState(state), cost, reason, answer)

    async def statement(
        self, account_id: str, *, offset: int, limit: int, newest_first: bool = False
    ) -> Sequence[StatementLine]:
        """Lines of the account's statement."""
        query = queries.STATEMENT_NEWEST_FIRST if newest_first else queries.STATEMENT
        rows = await self._reads.rows(query, account_id, offset, limit)
        return [StatementLine(*row) for row in rows]

    async def cursor(self, node: str) -> Cursor:
        """How far the node's stream was read."""
        row = await self._reads.row(queries.CURSOR, node)
        return Cursor() if row is None else Cursor(*row)

    async def invoices_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[InvoiceRecord]:
        """Unpaid invoices of that node that are due for a look-up."""
        query = queries.INVOICES_DUE_LAST if newest else queries.INVOICES_DUE
        rows = await self._reads.rows(query, node, self._clock.now_ms(), limit)
        return [invoice_of(row) for row in rows]

    async def invoices_awaited(self, node: str, *, after: bytes, limit: int) -> Sequence[InvoiceRecord]:
        """A page of the unpaid invoices of that node, due or not, in the order of their hashes."""
        rows = await self._reads.rows(queries.INVOICES_AWAITED, node, after, limit)
        return [invoice_of(row) for row in rows]

    async def address(self, address: str) -> AddressRecord | None:
        """An Ark address that was given out."""
        row = await self._reads.row(queries.ADDRESS, address)
        return None if row is None else address_of(row)

    async def addresses_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[AddressRecord]:
        """Ark addresses of that node that are due for a look-up."""
        query = queries.ADDRESSES_DUE_LAST if newest else queries.ADDRESSES_DUE
        rows = await self._reads.rows(query, node, self._clock.now_ms(), limit)
        return [address_of(row) for row in rows]

    async def facts(self) -> Mapping[str, int]:
        """What is noted about these books."""
        return {row["name"]: row["value"] for row in await self._reads.rows(queries.FACTS)}

    async def totals(self) -> Totals:
        """Sums over the whole ledger."""
        async with self._reads.snapshot(seconds=SUMS_SECONDS) as snapshot:
            row = await snapshot.fetchrow(queries.TOTALS)
        assert row is not None, "sums are a row"
        posted, held, credited, open_holds = row
        return Totals(
            customers=posted, held=held, credited=credited, charged=credited - posted, open_holds=open_holds
        )

    async def verify(self) -> Sequence[Finding]:
        """Checks the invariants from one snapshot of the live database; repairs nothing."""
        async with self._reads.snapshot() as snapshot:
            return await audit.verify(snapshot, self._clock.certain_ms())

    async def verify_requests(self, call_ids: Sequence[str]) -> Finding:
        """Checks that every request a backend saw belongs to a committed hold (invariant 9)."""
        async with self._reads.snapshot() as snapshot:
            return await audit.verify_requests(snapshot, call_ids)

    async def missing_calls(self, call_ids: Sequence[str], *, charged: bool) -> Sequence[str]:
        """Those of the calls that have no hold here, or no settled one."""
        async with self._reads.snapshot() as snapshot:
            return await audit.missing_calls(snapshot, call_ids, charged=charged)

    def snapshot(self) -> AbstractAsyncContextManager[BooksSnapshot]:
        """One moment of the books."""
        return postgres_snapshot(self._reads, self._clock)
