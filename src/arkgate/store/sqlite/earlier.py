"""Whether a request was made before: what `reserve` decides and `Statements.replay` foretells."""

from dataclasses import dataclass

from arkgate.core.ledger import Answer, ReserveOutcome
from arkgate.core.money import Msat
from arkgate.store.sqlite import queries
from arkgate.store.sqlite.connections import Executing


@dataclass(frozen=True, slots=True)
class EarlierCall:
    """A call of the account that the same idempotency key or the same body may ask for again."""

    call_id: str
    service: str
    request_hash: bytes
    state: str
    calls_per_day: int | None

    def is_for(self, service: str, request_hash: bytes) -> bool:
        """Whether it was the same request."""
        return self.service == service and self.request_hash == request_hash


@dataclass(frozen=True, slots=True)
class Repeated:
    """A request that was made before: which answer that is, and the stored answer when ANSWERED."""

    outcome: ReserveOutcome
    answer: Answer | None = None


def call_by_key(database: Executing, account_id: str, key: bytes) -> EarlierCall | None:
    """The call that holds the idempotency key."""
    row = database.execute(queries.CALL_BY_KEY, (account_id, key)).fetchone()
    return None if row is None else EarlierCall(*row)


def last_settled(database: Executing, account_id: str, service: str) -> EarlierCall | None:
    """The call of that service that the account paid last."""
    row = database.execute(queries.LAST_SETTLED, (account_id, service)).fetchone()
    return None if row is None else EarlierCall(*row)


def stored_answer(database: Executing, call_id: str, now_ms: int) -> Answer | None:
    """The call's answer, unless there is none or it is past its time."""
    row = database.execute(queries.STORED_ANSWER, (call_id, now_ms)).fetchone()
    return None if row is None else Answer(*row)


def by_key(
    database: Executing, now_ms: int, call: EarlierCall, *, service: str, request_hash: bytes
) -> Repeated:
    """What a request under a key that was used before is answered."""
    if call.state == "open":
        return Repeated(ReserveOutcome.IN_FLIGHT)
    if not call.is_for(service, request_hash):
        return Repeated(ReserveOutcome.KEY_REUSED)
    answer = stored_answer(database, call.call_id, now_ms)
    if answer is None:
        return Repeated(ReserveOutcome.ANSWER_GONE)
    return Repeated(ReserveOutcome.ANSWERED, answer)


def by_body(
    database: Executing, now_ms: int, account_id: str, *, service: str, request_hash: bytes
) -> Repeated | None:
    """What a used-up account is answered that repeats the body of its last call; None: no such call.

    Also while that call is still under way: a client that lost patience must not be asked to pay again, nor
    be given the answer of an older call while this one is charged.
    """
    if database.execute(queries.UNDER_WAY, (account_id, service, request_hash)).fetchone() is not None:
        return Repeated(ReserveOutcome.IN_FLIGHT)
    call = last_settled(database, account_id, service)
    if call is not None and call.is_for(service, request_hash):
        answer = stored_answer(database, call.call_id, now_ms)
        if answer is not None:
            return Repeated(ReserveOutcome.ANSWERED, answer)
    return None


def used_up(available: Msat, price: Msat, *, used: int, calls_per_day: int | None) -> bool:
    """Whether the account cannot buy another call now."""
    return available < price or (calls_per_day is not None and used >= calls_per_day)
