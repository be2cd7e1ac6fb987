"""One call from its hold to its charge: reserve, fetch, settle; or reserve, fetch, release.

A sale is a task that no leaving client can cancel. A buffered answer is settled before anybody sees it; a
stream is handed over when it begins and settled at its end, while its reader gets all but the last events.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from arkgate.core.errors import (
    Draining,
    InternalError,
    Refusal,
    StoreUnavailable,
    UpstreamError,
    UpstreamTimeout,
    bare,
)
from arkgate.core.ledger import (
    Answer,
    ReleaseOutcome,
    Reservation,
    Reserved,
    ReserveOutcome,
    Standing,
)
from arkgate.core.money import Msat, whole_sats
from arkgate.core.pricing import Used
from arkgate.gateway.fetch import Fetch, Follower
from arkgate.gateway.meter import Calls, Meter
from arkgate.gateway.order import DATA_TYPE, Bill, Head, Order, stored_head, usage_document
from arkgate.ports import Backend, Clock, Dialect, Ledger, Observer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CallTerms:
    """The operator's figures for a call."""

    deadline_seconds: float
    """How long the hold outlives the start of the call: more than the backend's total timeout."""
    answers_kept_seconds: int
    answer_bytes_kept: int = 1024 * 1024
    """A larger answer is charged and not kept for whoever asks again."""


@dataclass(slots=True)
class Reply:
    """An answer for its caller: new, stored, or on its way."""

    head: Head
    body: bytes
    """All of it; or nothing where `stream` is."""
    request_id: str
    """The id of the call that was charged."""
    call_cost: Msat | None
    """What the call cost, once; None where that is not known before its end."""
    cost: Msat | None
    """What this request cost: nothing when the answer was stored."""
    standing: Standing
    replayed: bool = False
    cached: bool = False
    is_data: bool = False
    """Whether `body` is ArkAPI's `data` object alone."""
    stream: Follower | None = None


@dataclass(frozen=True, slots=True)
class Till:
    """What every sale needs."""

    ledger: Ledger
    clock: Clock
    observer: Observer
    calls: Calls
    terms: CallTerms


Source = Callable[[str], tuple[Fetch, bool]]
"""Where a call with that id gets its answer from, and whether it is the one that has to ask the backend."""


class Sale:
    """One call that is sold."""

    def __init__(
        self,
        till: Till,
        backend: Backend,
        order: Order,
        reservation: Reservation,
        source: Source,
        *,
        cached: bool = False,
    ) -> None:
        """`source` is asked once the call has its hold."""
        self._till = till
        self._backend = backend
        self._order = order
        self._reservation = reservation
        self._source = source
        self._fetch: Fetch
        self._cached = cached
        self._meter = Meter(reservation, till.ledger, till.clock, till.observer)
        self._handed: asyncio.Future[Reply | Reserved] = asyncio.get_running_loop().create_future()
        self._standing: Standing | None = None
        self._is_settling = False

    def begin(self) -> asyncio.Task[None]:
        """Starts it; it goes on without its caller."""
        return self._till.calls.begin(self._run())

    async def reply(self) -> Reply | Reserved:
        """The reply as soon as there is one, or why nothing is sold.

        Raises the refusal that the call ended with.
        """
        try:
            return await asyncio.shield(self._handed)
        except asyncio.CancelledError:
            self._handed.add_done_callback(_leave_unread)
            raise

    async def _run(self) -> None:
        try:
            outcome = await self._sold()
        except Refusal as refusal:
            self._refuse(refusal)
        except asyncio.CancelledError:
            self._refuse(self._interrupted())
            raise
        except Exception:
            log.exception("a sale failed", call=self._reservation.call_id)
            self._refuse(InternalError("The gateway failed."))
        else:
            if not self._handed.done():
                self._handed.set_result(outcome)

    def _fault(self, error: BaseException) -> Refusal:
        """What a call is told that ended by no refusal."""
        if not isinstance(error, Exception):
            return self._interrupted()
        log.exception("the backend adapter failed", call=self._reservation.call_id)
        return InternalError("The gateway failed.")

    def _interrupted(self) -> Refusal:
        if not self._is_settling:
            return Draining("The gateway is restarting; nothing was charged.", retry_after_seconds=5)
        return Draining(
            "The gateway is restarting while it charges this call. Repeat the request with the same "
            "Idempotency-Key: it brings the answer, or buys it if nothing was charged.",
            retry_after_seconds=5,
        )

    def _refuse(self, refusal: Refusal) -> None:
        if not self._handed.done():
            bare(refusal)
            self._handed.set_exception(refusal)
            self._handed.exception()  # its caller may have left: nobody has to retrieve it

    async def _sold(self) -> Reply | Reserved:
        reserved = await self._meter.reserve(self._till.calls)
        if reserved.outcome is not ReserveOutcome.RESERVED:
            return reserved
        self._standing = reserved.standing
        self._fetch, leads = self._source(self._reservation.call_id)
        with self._fetch.follow() as follower:
            try:
                await self._answered(follower, leads=leads)
                bill = await self._bill(follower)
                if self._fetch.head is not None and self._fetch.head.status >= 300:
                    return await self._passed_on(self._fetch.head.status)
                body = self._stored_body(bill)
            except Refusal as refusal:
                raise await self._failed(follower, refusal) from refusal
            except BaseException as error:  # the hold must be given back, whatever the fault is
                raise await self._failed(follower, self._fault(error)) from error
            return await self._settled(follower, bill, body)

    async def _answered(self, follower: Follower, *, leads: bool) -> None:
        """Returns when the answer is here, or what counts of it. Raises what it failed with."""
        fetch, outgoing = self._fetch, self._order.outgoing
        if leads:
            if not outgoing.stream and outgoing.dialect is not Dialect.RAW:
                await fetch.run()  # no task of its own: nobody can leave it
            else:
                fetch.start()
        if outgoing.stream or outgoing.dialect is Dialect.RAW:
            await fetch.head_or(
                fetch.terms.heartbeat_seconds if outgoing.dialect is not Dialect.RAW else None
            )
            if fetch.failure is None and (fetch.is_stream or fetch.head is None):
                self._hand_over(follower)
        await follower.resolved()
        if fetch.failure is not None and not await self._is_callers_doing(follower):
            raise fetch.failure
        if follower.has_left and not follower.was_given:
            raise Refusal("The reader left before the answer began; nothing was charged.", code="reader_left")

    async def _is_callers_doing(self, follower: Follower) -> bool:
        """Whether an answer that failed is paid for as far as it came.

        Who left, or read so slowly that the backend's time ran out, has had what it was given; so has who
        asked for an answer that may be too large to be handed on.
        """
        fetch, length = self._fetch, self._order.length
        if not follower.was_given:
            return False
        if follower.has_left or follower.has_held_up:
            return True
        if length is None or not (isinstance(fetch.failure, UpstreamError) and fetch.failure.is_too_large):
            return False
        counted = await asyncio.to_thread(self._backend.count, self._order.outgoing, fetch.body)
        events = max(fetch.body.count(end) for end in (b"\n\n", b"\r\n\r\n", b"data:"))  # and comments
        return length.explains(events, tokens=counted.output_tokens)

    def _hand_over(self, follower: Follower) -> None:
        """The reader may begin: what it gets is charged at its end."""
        assert self._standing is not None
        order = self._order
        head = self._shown_head()
        cost = order.hold if order.tariff.is_fixed else None
        reply = Reply(
            head,
            b"",
            self._reservation.request_id,
            cost,
            cost,
            self._standing,
            cached=self._cached,
            stream=follower,
        )
        self._handed.set_result(reply)

    @property
    def _is_handed_over(self) -> bool:
        return self._handed.done()

    async def _bill(self, follower: Follower) -> Bill:
        """What the call cost. Our own count where the backend tells none and tokens are priced."""
        fetch, order = self._fetch, self._order
        used = fetch.usage.used if fetch.usage is not None else Used()
        if order.tariff.by_tokens and (fetch.usage is None or not fetch.is_complete):
            counted = await asyncio.to_thread(self._backend.count, order.outgoing, fetch.body)
            # Usage that is told before the end, as messages do, does not count all that came.
            more = max(used.output_tokens, counted.output_tokens)
            used = counted if fetch.usage is None else replace(used, output_tokens=more)
        used = replace(used, microseconds=fetch.microseconds, answer_bytes=fetch.size)
        if order.tariff.cost(used) > order.hold:
            log.warning("a call used more than was held for it", call=self._reservation.call_id)
        return Bill(
            order.cost(used),
            used,
            usage_document(fetch.usage),
            self._reservation.request_id,
            cached=self._cached,
        )

    async def _settled(self, follower: Follower, bill: Bill, body: bytes | None) -> Reply:
        """Charges the call, then gives what was kept back of the answer."""
        order, fetch = self._order, self._fetch
        head = self._shown_head()
        self._is_settling = True
        try:
            resolved = await self._meter.settle(bill.cost, self._answer(head, body, bill))
        except asyncio.CancelledError:
            self._close_failed(follower, self._interrupted())
            raise
        except Exception as error:
            raise await self._unsettled(follower, error) from error
        if fetch.is_complete:
            fetch.sold()
        if fetch.is_complete and fetch.is_stream:
            follower.close(order.shape.closing(fetch.held_back, replace(bill, balance=resolved.balance)))
        elif fetch.failure is not None:
            self._close_failed(follower, _charged(fetch.failure, bill.cost).with_standing(resolved.standing))
        return Reply(
            head,
            body or b"",
            bill.request_id,
            bill.cost,
            bill.cost,
            resolved.standing,
            cached=self._cached,
            is_data=order.is_data,
        )

    async def _unsettled(self, follower: Follower, error: Exception) -> Refusal:
        """What is told when the charge failed. The payer wins: the hold is given back."""
        if isinstance(error, UpstreamTimeout):  # swept meanwhile, and given back by that
            self._close_failed(follower, error)
            return error
        if not isinstance(error, StoreUnavailable):
            log.error("a call could not be settled", call=self._reservation.call_id, exc_info=error)
            error = InternalError("The gateway failed.")
        return await self._failed(follower, error)

    def _shown_head(self) -> Head:
        """The answer's head with what of it may go on."""
        head = self._fetch.head or Head(200, "text/event-stream")
        names = self._order.response_headers
        if not names:
            return head if not head.headers else Head(head.status, head.content_type)
        passed = tuple((name, value) for name, value in head.headers if name.lower() in names)
        return Head(head.status, head.content_type, passed)

    def _stored_body(self, bill: Bill) -> bytes | None:
        """The answer as it is kept; None where not all of it came. Raises UpstreamError when it is none."""
        fetch, shape = self._fetch, self._order.shape
        if not fetch.is_stream:
            return shape.whole(fetch.body, bill)
        if not fetch.is_complete or fetch.forgotten:
            return None
        return b"".join([*fetch.parts, shape.closing(fetch.held_back, bill)])

    def _answer(self, head: Head, body: bytes | None, bill: Bill) -> Answer | None:
        terms = self._till.terms
        if body is None or len(body) > terms.answer_bytes_kept:
            return None
        is_data = self._order.is_data and not self._fetch.is_stream
        return Answer(
            call_id=self._reservation.call_id,
            request_id=self._reservation.request_id,
            status=head.status,
            content_type=DATA_TYPE if is_data else stored_head(head),
            body=body,
            cost=bill.cost,
            expires_at_ms=self._till.clock.now_ms() + terms.answers_kept_seconds * 1000,
        )

    async def _passed_on(self, status: int) -> Reply:
        """An HTTP API's own refusal: it goes on as it is and costs nothing."""
        resolved = await self._meter.release(f"backend_answered_{status}")
        head = self._shown_head()
        standing = self._standing if resolved is None else resolved.standing
        assert standing is not None
        nothing = Msat(0)
        return Reply(head, self._fetch.body, self._reservation.request_id, nothing, nothing, standing)

    async def _failed(self, follower: Follower, refusal: Refusal) -> Refusal:
        """The refusal, after the hold is given back; told inside the stream where that has begun."""
        why = _why(refusal)
        # A shared fetch's refusal is everybody's: each caller is told of his own account.
        refusal = _own(refusal)
        try:
            resolved = await self._meter.release(refusal.reason, why=why)
            is_given_back = resolved is not None and resolved.outcome is not ReleaseOutcome.SETTLED
            refusal.fields["refunded"] = is_given_back
            if resolved is None:
                refusal.fields["refund_at_ms"] = self._reservation.deadline_ms
            else:
                refusal.with_standing(resolved.standing)
        finally:
            self._close_failed(follower, refusal)
        return refusal

    def _close_failed(self, follower: Follower, refusal: Refusal) -> None:
        if self._is_handed_over:
            follower.close(self._order.shape.failure(refusal, self._reservation.request_id), broken=True)


def _leave_unread(handed: "asyncio.Future[Reply | Reserved]") -> None:
    """The caller left before the reply: a stream has no reader."""
    reply = None if handed.exception() else handed.result()
    if isinstance(reply, Reply) and reply.stream is not None:
        reply.stream.leave()


def _charged(failure: Refusal, cost: Msat) -> Refusal:
    """What ended an answer that is paid for as far as it came."""
    refusal = _own(failure)
    sentence = refusal.message.removesuffix(".").removesuffix("; nothing was charged")
    refusal.message = f"{sentence}; what came of it was charged."
    refusal.fields |= {"refunded": False, "cost_sats": whole_sats(cost, asked_for=True)}
    return refusal


def _why(refusal: Refusal) -> str | None:
    """What the operator is told of a backend's failure; these sentences quote neither question nor answer."""
    if not isinstance(refusal, (UpstreamError, UpstreamTimeout)):
        return None
    cause = refusal.__cause__
    return refusal.message if cause is None else f"{refusal.message} ({cause})"


def _own(refusal: Refusal) -> Refusal:
    own = type(refusal).__new__(type(refusal))
    Exception.__init__(own, *refusal.args)
    own.__dict__.update(refusal.__dict__)
    own.fields = dict(refusal.fields)
    own.standing = None
    return own
