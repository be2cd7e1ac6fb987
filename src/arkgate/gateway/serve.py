"""The paid call from request to reply: replay, quote, challenge, admit, reserve, forward, settle."""

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog

from arkgate.core.catalog import Service
from arkgate.core.errors import (
    AnswerGone,
    AwaitingPayment,
    DailyLimitReached,
    IdempotencyKeyReused,
    InsufficientBalance,
    InternalError,
    InvalidToken,
    Refusal,
    RequestIdReused,
    RequestInFlight,
    StoreUnavailable,
)
from arkgate.core.keys import Keyring
from arkgate.core.ledger import (
    AllowanceState,
    Answer,
    Balance,
    Reservation,
    Reserved,
    ReserveOutcome,
    Standing,
)
from arkgate.core.money import Msat, format_sats, whole_sats
from arkgate.gateway.admit import Admission, Admitted
from arkgate.gateway.challenge import Challenger
from arkgate.gateway.meter import Calls, Meter
from arkgate.l402.header import Presented
from arkgate.ports import Backend, ChatMessage, Clock, Completion, Ledger, Observer, Statements

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """One request to a priced service, with everything HTTP taken off."""

    service: Service
    request_id: str
    presented: tuple[Presented, ...]
    body: bytes
    messages: Sequence[ChatMessage] | Refusal
    """What the body asks for, or why it can never be served."""
    probe: bool
    """Whether the request only asks for the price: another method, no body, or `{}`."""
    client: str
    """Whom to count unpaid challenges against."""
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A charged answer, new or stored."""

    data: bytes
    """The answer's `data` object as JSON."""
    request_id: str
    """The id of the call that was charged."""
    call_cost: Msat
    """What the call cost, once."""
    cost: Msat
    """What this request cost: nothing when the answer was stored."""
    standing: Standing
    replayed: bool


@dataclass(frozen=True, slots=True)
class CallTerms:
    """The operator's figures for a call."""

    model_label: str
    """The model's name in answers."""
    deadline_seconds: float
    """How long the hold outlives the start of the call: more than the backend's total timeout."""
    answers_kept_seconds: int


class Gateway:
    """The job. Built once by the composition root; every part may be called concurrently."""

    def __init__(
        self,
        *,
        admission: Admission,
        challenger: Challenger,
        ledger: Ledger,
        statements: Statements,
        backend: Backend,
        keyring: Keyring,
        clock: Clock,
        observer: Observer,
        calls: Calls,
        terms: CallTerms,
    ) -> None:
        self._admission = admission
        self._challenger = challenger
        self._ledger = ledger
        self._statements = statements
        self._backend = backend
        self._keyring = keyring
        self._clock = clock
        self._observer = observer
        self._calls = calls
        self._terms = terms

    @asynccontextmanager
    async def serve(self, request: PaidRequest) -> AsyncIterator[Reply]:
        """The reply to a paid request. Raises a Refusal, with the reason and the account's standing."""
        buyer = await self._admission.admit(request.presented)
        if buyer is None:
            raise await self._unpaid(request)
        try:
            reply = await self._reply(request, buyer)
        except Refusal as refusal:
            await self._tell_standing(refusal, request.service, buyer)
            raise
        yield reply

    async def _reply(self, request: PaidRequest, buyer: Admitted) -> Reply:
        """Replay, or ready, reserve, forward and settle."""
        reservation = self._reservation(request, buyer)
        replay = await self._statements.replay(
            buyer.account_id,
            request.service.quote(),
            reservation.request_hash,
            reservation.idempotency_key,
        )
        if replay is None:
            messages = await self._ready(request, buyer)
            bought = await self._calls.own(self._buy(reservation, messages))
            if isinstance(bought, Reply):
                return bought
            replay = bought
        return await self._without_call(request, buyer, replay)

    async def _tell_standing(self, refusal: Refusal, service: Service, buyer: Admitted) -> None:
        """Adds balance and allowance to a refusal that does not carry them yet."""
        if refusal.standing is not None:
            return
        with contextlib.suppress(StoreUnavailable):
            account = await self._statements.account(buyer.account_id)
            if account is not None:
                refusal.with_standing(Standing(account.balance, await self._allowance(service, buyer)))

    async def _allowance(self, service: Service, buyer: Admitted) -> AllowanceState:
        return await self._statements.allowance(buyer.account_id, service.name, service.calls_per_day)

    async def _unpaid(self, request: PaidRequest) -> Refusal:
        """The answer to a request without credential: nobody is asked to pay for what cannot be had."""
        if isinstance(request.messages, Refusal) and not request.probe:
            return request.messages
        return await self._challenge(request)

    async def _challenge(
        self,
        request: PaidRequest,
        *,
        buyer: Admitted | None = None,
        code: str | None = None,
        because: str = "",
    ) -> Refusal:
        self._calls.check_open()
        self._ledger.check()
        self._backend.check()
        account_id = buyer.account_id if buyer and buyer.is_whole else None
        if because:
            where = "the same account" if account_id else "an account of its own"
            because += f" Pay the invoice of this answer to go on; it enters {where}."
        return await self._challenger.challenge(
            request.service,
            client=request.client,
            account_id=account_id,
            code=code,
            because=because,
        )

    async def _ready(self, request: PaidRequest, buyer: Admitted) -> Sequence[ChatMessage]:
        """What is asked for, once everything but the money allows the call."""
        objection = buyer.objection(request.service.name, self._clock.now_ms() / 1000)
        is_hopeless = isinstance(request.messages, Refusal) and not request.probe
        if objection is not None and not is_hopeless:
            code, because = objection
            allowance = await self._allowance(request.service, buyer)
            if allowance.left == 0:  # or the payer would pay and then be told to wait
                raise _limit_reached(allowance, request.service, self._clock.now_ms())
            raise await self._challenge(request, buyer=buyer, code=code, because=because)
        if isinstance(request.messages, Refusal):
            raise request.messages
        self._calls.check_open()
        self._backend.admit()
        return request.messages

    def _reservation(self, request: PaidRequest, buyer: Admitted) -> Reservation:
        quote = request.service.quote()
        now_ms = self._clock.now_ms()
        key = request.idempotency_key
        return Reservation(
            call_id=new_call_id(now_ms),
            account_id=buyer.account_id,
            service=quote.service,
            price=quote.price,
            calls_per_day=quote.calls_per_day,
            deadline_ms=now_ms + int(self._terms.deadline_seconds * 1000),
            request_id=request.request_id,
            request_hash=self._keyring.digest(b"request", quote.service.encode() + b"\0" + request.body),
            idempotency_key=None if key is None else self._keyring.digest(b"idempotency key", key.encode()),
        )

    async def _buy(self, reservation: Reservation, messages: Sequence[ChatMessage]) -> Reply | Reserved:
        """Reserves, forwards, and resolves the hold whatever happens; without a hold, says why."""
        meter = Meter(reservation, self._ledger, self._clock, self._observer)
        reserved = await meter.reserve(self._calls)
        if reserved.outcome is not ReserveOutcome.RESERVED:
            return reserved
        try:
            completion = await self._backend.chat(messages, call_id=reservation.call_id)
            data = render_data(completion, self._terms.model_label)
        except Refusal as refusal:
            raise await self._refunded(meter, refusal) from refusal
        except BaseException as error:  # the hold must be given back, whatever the fault is
            if isinstance(error, Exception):
                log.exception("the backend adapter failed", call=reservation.call_id)
            raise await self._refunded(meter, InternalError("The gateway failed.")) from error
        resolved = await meter.settle(self._answer(reservation, data))
        cost = reservation.price
        return Reply(data, reservation.request_id, cost, cost, resolved.standing, replayed=False)

    async def _refunded(self, meter: Meter, refusal: Refusal) -> Refusal:
        """The refusal, after the hold is given back."""
        resolved = await meter.release(refusal.reason)
        refusal.fields["refunded"] = resolved is not None
        if resolved is None:
            refusal.fields["refund_at_ms"] = meter.reservation.deadline_ms
        return refusal if resolved is None else refusal.with_standing(resolved.standing)

    def _answer(self, reservation: Reservation, data: bytes) -> Answer:
        return Answer(
            call_id=reservation.call_id,
            request_id=reservation.request_id,
            status=200,
            content_type="application/json",
            body=data,
            cost=reservation.price,
            expires_at_ms=self._clock.now_ms() + self._terms.answers_kept_seconds * 1000,
        )

    async def _without_call(self, request: PaidRequest, buyer: Admitted, reserved: Reserved) -> Reply:
        """The stored answer, or the refusal that the ledger's outcome means."""
        if reserved.outcome is ReserveOutcome.ANSWERED and reserved.answer is not None:
            self._observer.call_finished(
                request.service.name, "replayed", held=Msat(0), charged=Msat(0), seconds=0.0
            )
            return replied(reserved.answer, reserved.standing)
        if reserved.outcome is ReserveOutcome.INSUFFICIENT and buyer.proof is not None:
            quote = request.service.quote()
            because = (
                f"This credential has {whole_sats(reserved.balance.available)} sats left and the call costs "
                f"{format_sats(quote.price)}."
            )
            refusal = await self._challenge(
                request, buyer=buyer, code=InsufficientBalance.code, because=because
            )
        else:
            refusal = refusal_for(reserved, request.service, self._clock.now_ms())
        raise refusal.with_standing(reserved.standing)


def new_call_id(now_ms: int) -> str:
    """A unique id that sorts by time, so that the ledger's newest rows stay together."""
    return f"{now_ms:012x}{os.urandom(10).hex()}"


def replied(answer: Answer, standing: Standing) -> Reply:
    """A stored answer as a reply that costs nothing."""
    return Reply(answer.body, answer.request_id, answer.cost, Msat(0), standing, replayed=True)


def render_data(completion: Completion, model_label: str) -> bytes:
    """The `data` object of a chat answer, as ArkAPI shapes it."""
    usage = {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.total_tokens,
    }
    return orjson.dumps({"answer": completion.text, "model": model_label, "usage": usage})


def refusal_for(reserved: Reserved, service: Service, now_ms: int) -> Refusal:  # noqa: PLR0911 - one line an outcome
    """What a payer is told when the ledger took no hold."""
    outcome = reserved.outcome
    if outcome is ReserveOutcome.INSUFFICIENT:
        return _insufficient(reserved.balance, service, funded=reserved.funded)
    if outcome is ReserveOutcome.LIMIT_REACHED:
        return _limit_reached(reserved.allowance, service, now_ms)
    if outcome is ReserveOutcome.IN_FLIGHT:
        return RequestInFlight(
            "This call is still under way. Repeat the same request in a second, with the same "
            "Idempotency-Key if you sent one; do not pay again and do not choose a new key.",
            retry_after_seconds=1,
        )
    if outcome is ReserveOutcome.KEY_REUSED:
        return IdempotencyKeyReused(
            "This Idempotency-Key was used for a different request. Choose a new key for a new request."
        )
    if outcome is ReserveOutcome.ANSWER_GONE:
        return AnswerGone(
            "The call with this Idempotency-Key was made and charged, and its answer is not stored any more. "
            "To buy a new answer, choose a new key."
        )
    if outcome is ReserveOutcome.REQUEST_ID_REUSED:
        return RequestIdReused(
            "Your X-Request-Id names an earlier call of this account. Fetch its answer with "
            "GET /v1/calls/{request_id}, or send a new id."
        )
    if outcome is ReserveOutcome.UNKNOWN_ACCOUNT:
        return InvalidToken("This credential's account does not exist here.")
    return InternalError(f"The ledger answered {outcome.value} to a new call.")


def _insufficient(balance: Balance, service: Service, *, funded: bool) -> Refusal:
    needed, available = whole_sats(service.price, asked_for=True), whole_sats(balance.available)
    fields = {"needed_sats": needed, "available_sats": available}
    if not funded:
        return AwaitingPayment(
            "This token's invoice is not paid yet. Pay it, or ask for another with POST /v1/topups.",
            fields=fields,
        )
    held = f" ({whole_sats(balance.held)} more are held by calls under way)" if balance.held else ""
    return InsufficientBalance(
        f"The call costs {needed} sats and the token has {available}{held}. Top it up with POST /v1/topups.",
        fields=fields,
    )


def _limit_reached(allowance: AllowanceState, service: Service, now_ms: int) -> Refusal:
    resets_at = datetime.fromtimestamp(allowance.resets_at_ms / 1000, UTC)
    return DailyLimitReached(
        f"This account has had its {service.calls_per_day} calls of the day. The next one is possible at "
        f"{resets_at:%Y-%m-%dT%H:%M:%SZ}; its balance is kept.",
        retry_after_seconds=max(1, -(-(allowance.resets_at_ms - now_ms) // 1000)),
    )
