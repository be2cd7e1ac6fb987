"""The ledger on PostgreSQL: each verb of the port as one statement of a function in the database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from zlib import crc32

from arkgate.core.errors import StoreUnavailable
from arkgate.core.keys import Purpose
from arkgate.core.ledger import (
    AddressRecord,
    AllowanceState,
    Answer,
    ArkPayment,
    Balance,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceRecord,
    InvoiceState,
    ReleaseOutcome,
    Reservation,
    Reserved,
    ReserveOutcome,
    Resolved,
    SessionRecord,
    Settlement,
    SettleOutcome,
    Swept,
)
from arkgate.core.money import Msat
from arkgate.store import rules
from arkgate.store.clock import BooksClock, next_midnight_ms
from arkgate.store.postgres import queries
from arkgate.store.postgres.connections import (
    ACQUIRE_SECONDS,
    CROSSED,
    Connection,
    Pool,
    Row,
    open_pool,
    refusing,
    unavailable,
)
from arkgate.store.postgres.lanes import BATCH_MAX, CROSSED_PAUSE_SECONDS, LANES, Lane
from arkgate.store.told import DISPUTE_MS, Step, steady_ms

UNWRITTEN = "The ledger cannot be written now"
WRITERS_MAX = 4
LANES_REMEMBERED_MAX = 100_000
FAR_MAX = 2_000
"""How many holds with a deadline too far away are watched at a time: after a step all new ones are."""
CROSSED_SECONDS = 5.0
"""How long a change is tried again that another one is in the way of."""
_NOTHING: tuple[None, ...] = (None,) * 4
T = TypeVar("T")
Change = Callable[[Connection], Awaitable[T]]


class PostgresLedger:
    """Keeps the promises of `ports.Ledger`."""

    def __init__(self, lanes: Sequence[Lane], pool: Pool, clock: BooksClock) -> None:
        self._lanes = lanes
        self._pool = pool
        self._clock = clock
        self._failure: BaseException | None = None
        self._lane_of_call: dict[str, Lane] = {}
        self._far_since: dict[str, float] = {}
        """Open holds whose deadline is too far away, and when the sweep saw them first by `steady_ms`."""

    async def open_session(self, session: SessionRecord, *, token_digest: bytes, key_version: int) -> None:
        """Opens a customer account with its token, a session, and where it may be paid first."""
        rules.customer(session.account_id)
        values = (self._clock.now_ms(), session.session_id, session.account_id, token_digest, key_version)
        await self._write(queries.OPEN_SESSION, *values, *_payable(session))

    async def add_invoice(self, invoice: InvoiceRecord) -> None:
        """Records an open top-up invoice of an existing account."""
        added = await self._write(
            queries.ADD_INVOICE,
            self._clock.now_ms(),
            invoice.payment_hash,
            invoice.account_id,
            invoice.node,
            invoice.purpose,
            invoice.payment_request,
            invoice.amount,
            invoice.created_at_ms,
            invoice.expires_at_ms,
        )
        if added == "no_account":
            raise LookupError(f"no account {invoice.account_id}")
        if added != "added":
            raise ValueError(f"payment hash {invoice.payment_hash.hex()} was given out for something else")

    async def add_address(self, address: AddressRecord) -> None:
        """Records an Ark address of an existing account."""
        added = await self._write(
            queries.ADD_ADDRESS,
            self._clock.now_ms(),
            address.address,
            address.account_id,
            address.node,
            address.purpose,
            address.amount,
            address.created_at_ms,
            address.expires_at_ms,
        )
        if added == "no_account":
            raise LookupError(f"no account {address.account_id}")
        if added != "added":
            raise ValueError(f"address {address.address} was given out for something else")

    async def set_token(self, account_id: str, *, token_digest: bytes, key_version: int) -> int:
        """Gives an account its token, unless it has one."""
        version = await self._write(queries.GIVE_TOKEN, account_id, token_digest, key_version)
        if version is None:
            raise LookupError(f"no account {account_id}")
        return int(version)

    async def fund(
        self, settlement: Settlement, purpose: Purpose | None, *, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a settled payment once, whoever reports it."""
        if purpose is not None:
            rules.customer(purpose.account_id)
        row = await self._write_row(
            queries.FUND,
            self._clock.now_ms(),
            settlement.node,
            settlement.payment_hash,
            settlement.amount_paid,
            settlement.settled_at_ms,
            None if purpose is None else purpose.account_id,
            None if purpose is None else purpose.kind.name.lower(),
            None if cursor is None else cursor.add_index,
            None if cursor is None else cursor.settle_index,
            settlement.fee,
        )
        return _funded(row)

    async def fund_ark(
        self, payment: ArkPayment, *, instant_max: Msat, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a coin at an Ark address of ours once, or notes that it waits to be final."""
        row = await self._write_row(
            queries.FUND_ARK,
            self._clock.now_ms(),
            payment.node,
            payment.outpoint,
            payment.address,
            payment.amount_paid,
            payment.received_at_ms,
            payment.final,
            instant_max,
            None if cursor is None else cursor.add_index,
            None if cursor is None else cursor.settle_index,
        )
        return _funded(row)

    async def advance(self, node: str, cursor: Cursor) -> None:
        """Saves how far a node's stream was read."""
        await self._write(queries.ADVANCE, node, cursor.add_index, cursor.settle_index)

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Takes the hold and one unit of the day's allowance, or neither."""
        asked = reservation
        rules.reservation(asked)
        lane = self._lanes[crc32(asked.account_id.encode()) % len(self._lanes)]
        named = ("reserve", asked.call_id, asked.account_id, asked.service, asked.price)
        terms = (asked.calls_per_day, asked.deadline_ms, asked.request_id, asked.request_hash)
        if len(self._lane_of_call) > LANES_REMEMBERED_MAX:  # calls that another replica's sweep released
            self._lane_of_call.clear()
        self._lane_of_call[asked.call_id] = lane
        outcome = None
        try:
            row = await lane.call((*named, *terms, asked.idempotency_key, None, *_NOTHING))
            if row["outcome"] == "foreign_call":
                raise ValueError(f"call {asked.call_id} is another account's")
            outcome = ReserveOutcome(row["outcome"])
        finally:
            if outcome is not ReserveOutcome.RESERVED:
                self._lane_of_call.pop(asked.call_id, None)
        return Reserved(outcome, _balance(row), self._allowance(row), queries.answer_of(row), row["funded"])

    async def settle(self, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
        """Charges an open hold and stores the answer."""
        rules.charge(call_id, cost, answer)
        stored: tuple[Any, ...] = _NOTHING
        if answer is not None:
            stored = (answer.status, answer.content_type, answer.expires_at_ms, answer.body)
        row = await self._resolve("settle", call_id, cost, None, stored, len(answer.body) if answer else 0)
        if row["outcome"] == "cost_over_hold":
            raise ValueError(f"the cost {cost} msat of call {call_id} is over its hold")
        return Resolved(SettleOutcome(row["outcome"]), _balance(row), self._allowance(row))

    async def release(self, call_id: str, reason: str) -> Resolved:
        """Gives an open hold's balance and allowance back."""
        row = await self._resolve("release", call_id, None, reason, _NOTHING, 0)
        return Resolved(ReleaseOutcome(row["outcome"]), _balance(row), self._allowance(row))

    async def sweep(self, limit: int) -> Sequence[Swept]:
        """Releases open holds whose deadline has passed; what another replica swept meanwhile is its own.

        And those that a clock's short error gave a deadline further away than any call lives, as soon as
        this process has seen them open for longer than any call lives.
        """
        certain_ms = self._clock.certain_ms()
        with refusing(UNWRITTEN):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as reader:
                overdue = await reader.fetch(queries.OVERDUE_HOLDS, certain_ms, limit)
                far = await reader.fetch(queries.FAR_HOLDS, certain_ms + int(DISPUTE_MS), FAR_MAX)
        overdue = [*overdue, *self._outlived(far)][:limit]
        released = await asyncio.gather(
            *(self.release(row["call_id"], rules.SWEPT_REASON) for row in overdue)
        )
        return [
            Swept(row["call_id"], row["account_id"], Msat(row["amount_msat"]))
            for row, resolved in zip(overdue, released, strict=True)
            if resolved.outcome is ReleaseOutcome.RELEASED
        ]

    async def prune_answers(self, limit: int) -> int:
        """Forgets stored answers that are past their time."""
        return int(await self._write(queries.PRUNE_ANSWERS, self._clock.certain_ms(), limit))

    async def prune_invoices(self, limit: int, *, grace_ms: int) -> int:
        """Forgets invoices that ended unpaid, with the sessions that waited for them."""
        rules.grace(grace_ms)
        return int(await self._write(queries.PRUNE_INVOICES, self._clock.certain_ms() - grace_ms, limit))

    async def mark_invoice(self, payment_hash: bytes, state: InvoiceState) -> None:
        """Notes that the node reports an invoice EXPIRED or CANCELLED."""
        rules.unpaid_end(state)
        await self._write(queries.MARK_INVOICE, payment_hash, state.value)

    async def mark_looked_up(self, payment_hash: bytes, next_lookup_ms: int | None) -> None:
        """Notes when an open invoice is to be looked up next."""
        await self._write(queries.MARK_LOOKED_UP, payment_hash, next_lookup_ms)

    async def mark_address_looked_up(self, address: str, next_lookup_ms: int | None) -> None:
        """Notes when an Ark address is to be looked up next."""
        await self._write(queries.MARK_ADDRESS_LOOKED_UP, address, next_lookup_ms)

    async def note(self, fact: str, value: int) -> None:
        """Notes a fact about these books."""
        await self._write(queries.NOTE_FACT, fact, value)

    async def note_once(self, fact: str, value: int) -> int:
        """Notes a fact unless it is noted already."""
        return int(await self._write(queries.NOTE_ONCE, fact, value))

    async def note_step(self, step: Step) -> None:
        """Notes a step of the database's clock for replicas that start after it."""
        await self._write(queries.NOTE_STEP, step.milliseconds, step.at_ms)

    def check(self) -> None:
        """Raises StoreUnavailable while the last change could not be made durable."""
        failure = self._failure or next((lane.failure for lane in self._lanes if lane.failure), None)
        if failure is not None:
            raise unavailable(UNWRITTEN, failure)

    async def probe(self) -> None:
        """Finds out whether the books can be written, and by which lanes."""
        await self.note("probed_at_ms", self._clock.now_ms())

    def _outlived(self, far: Sequence[Row]) -> list[Row]:
        """Those that were seen open for longer than any call lives; what is gone is forgotten."""
        at = steady_ms()
        self._far_since = {row["call_id"]: self._far_since.get(row["call_id"], at) for row in far}
        return [row for row in far if at - self._far_since[row["call_id"]] > DISPUTE_MS]

    async def _resolve(
        self,
        verb: str,
        call_id: str,
        cost: Msat | None,
        reason: str | None,
        stored: tuple[Any, ...],
        size: int,
    ) -> Mapping[str, Any]:
        lane = self._lane_of_call.get(call_id) or self._lanes[crc32(call_id.encode()) % len(self._lanes)]
        values = (verb, call_id, None, None, cost, None, None, None, None, None, reason, *stored)
        row = await lane.call(values, size=size)
        self._lane_of_call.pop(call_id, None)
        if row["outcome"] == "no_hold":
            raise LookupError(f"no hold of call {call_id}")
        return row

    def _allowance(self, row: Mapping[str, Any]) -> AllowanceState:
        return AllowanceState(row["used"], row["calls_limit"], next_midnight_ms(self._clock.now_ms()))

    async def _write(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - what the function returns
        return await self._tried(lambda connection: connection.fetchval(statement, *values))

    async def _write_row(self, statement: str, *values: object) -> Row:
        row = await self._tried(lambda connection: connection.fetchrow(statement, *values))
        assert row is not None, "a verb answers a row"
        return row

    async def _tried(self, change: Change[T]) -> T:
        """Runs a change that is one statement, again where another replica's was in the way.

        In a task of its own: a cancelled statement would end its connection, and may have happened.
        """
        return await asyncio.shield(asyncio.ensure_future(self._try(change)))

    async def _try(self, change: Change[T]) -> T:
        try:
            with refusing(UNWRITTEN):
                result = await self._again_if_crossed(change)
        except StoreUnavailable as refusal:
            if not isinstance(refusal.__cause__, CROSSED):
                self._failure = refusal.__cause__
            raise
        self._failure = None
        return result

    async def _again_if_crossed(self, change: Change[T]) -> T:
        loop = asyncio.get_running_loop()
        until = loop.time() + CROSSED_SECONDS
        while True:
            try:
                async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                    return await change(connection)
            except CROSSED:
                if loop.time() > until:
                    raise
                await asyncio.sleep(CROSSED_PAUSE_SECONDS)


def _payable(session: SessionRecord) -> tuple[object, ...]:
    """The invoice and the address of a session as `open_session_v2` takes them: null where it has none."""
    invoice, address = session.invoice, session.address
    values: list[object] = [None] * 12
    if address is not None:
        values[2] = address.purpose
        values[7:] = (
            address.address,
            address.node,
            address.amount,
            address.created_at_ms,
            address.expires_at_ms,
        )
    if invoice is not None:
        values[:7] = (
            invoice.payment_hash,
            invoice.node,
            invoice.purpose,
            invoice.payment_request,
            invoice.amount,
            invoice.created_at_ms,
            invoice.expires_at_ms,
        )
    return tuple(values)


def _funded(row: Mapping[str, Any]) -> Funded:
    outcome = FundOutcome(row["outcome"])
    if outcome is FundOutcome.FOREIGN:
        return Funded(outcome, None, None)
    return Funded(outcome, row["account"], _balance(row))


def _balance(row: Mapping[str, Any]) -> Balance:
    return Balance(Msat(row["posted"]), Msat(row["held"]))


@asynccontextmanager
async def open_ledger(
    url: str, clock: BooksClock, *, lanes: int = LANES, batch_max: int = BATCH_MAX
) -> AsyncIterator[PostgresLedger]:
    """The lanes and the connections for everything else that writes; what waits is done before the end."""
    async with open_pool(url, size=WRITERS_MAX) as pool:
        opened = [Lane(url, clock, batch_max=batch_max) for _ in range(lanes)]
        try:
            yield PostgresLedger(opened, pool, clock)
        finally:
            await asyncio.gather(*(lane.close() for lane in opened))
