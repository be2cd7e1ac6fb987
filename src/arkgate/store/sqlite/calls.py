"""The verbs of a paid call: reserve, settle, release, sweep, and the answers that are kept."""

from collections.abc import Sequence
from sqlite3 import Cursor
from typing import NamedTuple

from arkgate.core.ledger import (
    INCOME_ACCOUNT,
    AllowanceState,
    Answer,
    Balance,
    ReleaseOutcome,
    Reservation,
    Reserved,
    ReserveOutcome,
    Resolved,
    SettleOutcome,
    Swept,
    charge_id,
)
from arkgate.core.money import Msat
from arkgate.store import rules
from arkgate.store.clock import day_of, next_midnight_ms
from arkgate.store.sqlite import earlier, queries
from arkgate.store.sqlite.connections import Executing

UNLIMITED = 2**63 - 1


class _Standing(NamedTuple):
    """What `reserve` decides on, as it was before the verb."""

    posted: Msat
    held: Msat
    used: int
    holder: str | None
    """The account of the hold that has this call id already."""
    claimant: str | None
    """The call of this account that has this request id already."""


_NOTHING = _Standing(Msat(0), Msat(0), 0, None, None)


class _Hold(NamedTuple):
    """A hold as it was before the verb, with its account's balance and calls of today."""

    account_id: str
    service: str
    state: str
    day: int
    calls_per_day: int | None
    amount: Msat
    posted: Msat
    held: Msat
    used_today: int


def reserve(database: Executing, now_ms: int, asked: Reservation) -> Reserved:
    """Takes the hold and a unit of the day, or says why not, in the order of `ReserveOutcome`."""
    rules.reservation(asked)
    day = day_of(now_ms)
    keys = (asked.call_id, asked.request_id, asked.service, day, asked.account_id)
    row = database.execute(queries.STANDING, keys).fetchone()
    if row is None:
        return _reserved(now_ms, asked, _NOTHING, ReserveOutcome.UNKNOWN_ACCOUNT, funded=False)
    standing = _Standing._make(row)
    refusal = _refusal(database, now_ms, asked, standing)
    if refusal is None:
        return _take(database, now_ms, day, asked, standing)
    funded = standing.posted > 0 or _ever_funded(database, asked.account_id)
    return _reserved(now_ms, asked, standing, refusal.outcome, answer=refusal.answer, funded=funded)


def _refusal(
    database: Executing, now_ms: int, asked: Reservation, standing: _Standing
) -> earlier.Repeated | None:
    """The first of the outcomes that keeps the hold from being taken."""
    if standing.holder is not None:
        if standing.holder != asked.account_id:
            raise ValueError(f"call {asked.call_id} is another account's")
        return earlier.Repeated(ReserveOutcome.REPLAYED)
    available = Msat(standing.posted - standing.held)
    repeated = _repeated(database, now_ms, asked, available, standing.used)
    if repeated is not None:
        return repeated
    if standing.claimant is not None:
        return earlier.Repeated(ReserveOutcome.REQUEST_ID_REUSED)
    if asked.calls_per_day is not None and standing.used >= asked.calls_per_day:
        return earlier.Repeated(ReserveOutcome.LIMIT_REACHED)
    if available < asked.price:
        return earlier.Repeated(ReserveOutcome.INSUFFICIENT)
    return None


def _repeated(
    database: Executing, now_ms: int, asked: Reservation, available: Msat, used: int
) -> earlier.Repeated | None:
    service, request_hash = asked.service, asked.request_hash
    if asked.idempotency_key is not None:
        call = earlier.call_by_key(database, asked.account_id, asked.idempotency_key)
        if call is None:
            return None
        return earlier.by_key(database, now_ms, call, service=service, request_hash=request_hash)
    if not earlier.used_up(available, asked.price, used=used, calls_per_day=asked.calls_per_day):
        return None
    return earlier.by_body(database, now_ms, asked.account_id, service=service, request_hash=request_hash)


def _take(database: Executing, now_ms: int, day: int, asked: Reservation, standing: _Standing) -> Reserved:
    price, account_id, service = asked.price, asked.account_id, asked.service
    _one(database.execute(queries.HOLD_FROM_ACCOUNT, (price, account_id, price)))
    limit = UNLIMITED if asked.calls_per_day is None else asked.calls_per_day
    _one(database.execute(queries.TAKE_ALLOWANCE, (account_id, service, day, limit, limit)))
    hold = (asked.call_id, account_id, service, price, day, asked.calls_per_day, now_ms, asked.deadline_ms)
    names = (asked.request_id, asked.request_id, asked.request_hash, asked.idempotency_key)
    database.execute(queries.ADD_HOLD, hold + names)
    taken = _Standing(standing.posted, Msat(standing.held + price), standing.used + 1, None, None)
    return _reserved(now_ms, asked, taken, ReserveOutcome.RESERVED)


def _one(change: Cursor) -> None:
    """States that a guarded change met its one row: what the verb read before was still so."""
    if change.rowcount != 1:
        raise AssertionError("a guarded change of the ledger did not meet its row")


def _reserved(
    now_ms: int,
    asked: Reservation,
    standing: _Standing,
    outcome: ReserveOutcome,
    *,
    answer: Answer | None = None,
    funded: bool = True,
) -> Reserved:
    allowance = AllowanceState(standing.used, asked.calls_per_day, next_midnight_ms(now_ms))
    return Reserved(outcome, Balance(standing.posted, standing.held), allowance, answer, funded)


def _ever_funded(database: Executing, account_id: str) -> bool:
    return database.execute(queries.EVER_FUNDED, (account_id,)).fetchone() is not None


def settle(database: Executing, now_ms: int, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
    """Charges an open hold and stores the answer; a cost of zero settles without a transfer."""
    rules.charge(call_id, cost, answer)
    hold = _hold(database, now_ms, call_id)
    if hold.state != "open":
        settled = hold.state == "settled"
        return _unchanged(now_ms, hold, SettleOutcome.REPLAYED if settled else SettleOutcome.RELEASED)
    if cost > hold.amount:
        raise ValueError(f"the cost {cost} msat of call {call_id} is over its hold of {hold.amount} msat")
    _one(database.execute(queries.SETTLE_HOLD, (cost, now_ms, call_id, cost)))
    _one(database.execute(queries.RESOLVE_IN_ACCOUNT, (cost, hold.amount, hold.account_id, hold.amount)))
    if cost:
        transfer = (charge_id(call_id), "charge", hold.account_id, INCOME_ACCOUNT, cost, now_ms, hold.service)
        database.execute(queries.ADD_TRANSFER, transfer)
    if answer is not None:
        stored = (call_id, answer.status, answer.content_type, answer.expires_at_ms, answer.body)
        database.execute(queries.ADD_ANSWER, stored)
    today = (hold.account_id, hold.service, day_of(now_ms), call_id)
    database.execute(queries.NOTE_LAST_SETTLED, today)
    balance = Balance(Msat(hold.posted - cost), Msat(hold.held - hold.amount))
    return Resolved(SettleOutcome.SETTLED, balance, _today(now_ms, hold, hold.used_today))


def release(database: Executing, now_ms: int, call_id: str, reason: str) -> Resolved:
    """Gives an open hold's money and unit of allowance back, the unit to the day it was taken from."""
    hold = _hold(database, now_ms, call_id)
    if hold.state != "open":
        released = hold.state == "released"
        return _unchanged(now_ms, hold, ReleaseOutcome.REPLAYED if released else ReleaseOutcome.SETTLED)
    _one(database.execute(queries.RELEASE_HOLD, (now_ms, reason, call_id)))
    _one(database.execute(queries.RESOLVE_IN_ACCOUNT, (0, hold.amount, hold.account_id, hold.amount)))
    _one(database.execute(queries.GIVE_BACK_ALLOWANCE, (hold.account_id, hold.service, hold.day)))
    balance = Balance(hold.posted, Msat(hold.held - hold.amount))
    used = hold.used_today - (hold.day == day_of(now_ms))
    return Resolved(ReleaseOutcome.RELEASED, balance, _today(now_ms, hold, used))


def _hold(database: Executing, now_ms: int, call_id: str) -> _Hold:
    row = database.execute(queries.HOLD, (day_of(now_ms), call_id)).fetchone()
    if row is None:
        raise LookupError(f"no hold of call {call_id}")
    return _Hold._make(row)


def _unchanged(now_ms: int, hold: _Hold, outcome: SettleOutcome | ReleaseOutcome) -> Resolved:
    return Resolved(outcome, Balance(hold.posted, hold.held), _today(now_ms, hold, hold.used_today))


def _today(now_ms: int, hold: _Hold, used: int) -> AllowanceState:
    return AllowanceState(used, hold.calls_per_day, next_midnight_ms(now_ms))


def allowance_of(
    database: Executing, now_ms: int, account_id: str, service: str, calls_per_day: int | None
) -> AllowanceState:
    """What the account has used of the day that it is now."""
    row = database.execute(queries.USED, (account_id, service, day_of(now_ms))).fetchone()
    return AllowanceState(0 if row is None else row[0], calls_per_day, next_midnight_ms(now_ms))


def sweep(database: Executing, now_ms: int, overdue_ms: int, limit: int) -> Sequence[Swept]:
    """Releases what is past its deadline, oldest first."""
    overdue = database.execute(queries.OVERDUE_HOLDS, (overdue_ms, limit)).fetchall()
    for call_id, _, _ in overdue:
        release(database, now_ms, call_id, rules.SWEPT_REASON)
    return [Swept(*row) for row in overdue]


def prune_answers(database: Executing, now_ms: int, limit: int) -> int:
    """Forgets answers that are past their time, the oldest first."""
    return database.execute(queries.PRUNE_ANSWERS, (now_ms, limit)).rowcount
