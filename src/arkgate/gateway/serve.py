"""The paid call from request to reply: replay, quote, challenge, admit, reserve, forward, settle."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from arkgate.core.catalog import Endpoint, Service
from arkgate.core.errors import InsufficientBalance, InternalError, Refusal, StoreUnavailable
from arkgate.core.ids import random_bits
from arkgate.core.keys import Keyring
from arkgate.core.ledger import (
    AccountRecord,
    AllowanceState,
    Answer,
    CallLimits,
    Reservation,
    Reserved,
    ReserveOutcome,
    Standing,
)
from arkgate.core.money import Msat, format_sats, whole_sats
from arkgate.core.pricing import Quote, Tariff, Used
from arkgate.gateway.admit import Admission, Admitted
from arkgate.gateway.bodies import Bodies, Share
from arkgate.gateway.challenge import Challenger
from arkgate.gateway.fetch import Entry
from arkgate.gateway.order import DATA_TYPE, Bill, Head, Order, read_head, usage_document
from arkgate.gateway.refusals import insufficient, limit_reached, refusal_for
from arkgate.gateway.sale import CallTerms, Reply, Sale, Till
from arkgate.gateway.shelf import Shelf
from arkgate.gateway.traffic import Call, Traffic
from arkgate.l402.header import Presented
from arkgate.ports import Backend, Statements

__all__ = ["CallTerms", "Gateway", "PaidRequest", "Reply", "replied"]

log = structlog.get_logger()
BEYOND_ANY_BALANCE = Msat(2**62)
REPEATED_GET_SECONDS = 120
"""For how long a GET without a key, that cannot be paid, is a repetition: later its caller wants news."""


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """One request to a priced service, with everything HTTP taken off."""

    service: Service
    endpoint: Endpoint
    request_id: str
    presented: tuple[Presented, ...]
    fingerprint: bytes
    """What makes it the same request when it comes again: its body, and whatever else decides the answer."""
    order: Order | Refusal
    """What it asks for, or why it can never be served."""
    hold: Msat
    """What it costs at most; a request that can never be served, what a usual one does."""
    tariff: Tariff
    """By what it is priced, in the same way."""
    probe: bool
    """Whether the request only asks for the price: another method, no body, or `{}`."""
    client: str
    """Whom to count unpaid challenges against."""
    method: str | None = None
    """With which of the endpoint's methods it came; None for one that is not sold."""
    idempotency_key: str | None = None
    is_retry: bool = False
    """Whether its client says that it sent the same request before."""
    is_counted: bool = False
    """Whether `Gateway.reading` has counted it against the limit on challenges."""

    @property
    def quote(self) -> Quote:
        """What it costs at most."""
        return self.service.quote(self.hold)


class Gateway:
    """The job. Built once by the composition root; every part may be called concurrently."""

    def __init__(
        self,
        *,
        admission: Admission,
        challenger: Challenger,
        statements: Statements,
        backends: Mapping[str, Backend],
        keyring: Keyring,
        shelf: Shelf,
        till: Till,
        traffic: Traffic,
        bodies: Bodies,
    ) -> None:
        """`backends` by the names of the services whose work they do."""
        self._admission = admission
        self._challenger = challenger
        self._statements = statements
        self._backends = backends
        self._keyring = keyring
        self._shelf = shelf
        self._till = till
        self._traffic = traffic
        self.bodies = bodies
        self._clock = till.clock

    @asynccontextmanager
    async def serve(self, request: PaidRequest) -> AsyncIterator[Reply]:
        """The reply to a paid request. Raises a Refusal, with the reason and the account's standing.

        A reply that is a stream has been left when the block ends.
        """
        buyer = await self._admission.admit(request.presented)
        if buyer is None:
            raise await self._unpaid(request)
        limits: CallLimits | None = None
        try:
            with self._traffic.call(buyer.account_id, request.client) as call:
                limits = call.limits
                reply = await self._reply(request, buyer, call)
                reply.standing = Standing(reply.standing.balance, reply.standing.allowance, limits)
                try:
                    yield reply
                finally:
                    if reply.stream is not None:
                        reply.stream.leave()
        except Refusal as refusal:
            await self._tell_standing(refusal, request.service, buyer, limits)
            raise

    @asynccontextmanager
    async def reading(self, presented: tuple[Presented, ...], client: str) -> AsyncIterator[bool]:
        """Around the reading of a request that takes long. Raises where it is not worth it.

        That is without a right credential, with too many unpaid, or with too many at once. Yields whether it
        was counted as one that is unpaid: of a stranger, or of an account with nothing left.
        """
        account = await self._account(presented)
        is_unpaid = account is None or account.balance.available <= 0
        if account is not None and account.funded and is_unpaid:
            self._challenger.count(client, account_id=account.account_id)
        elif is_unpaid:
            self._challenger.count(client)
        async with self._traffic.reading(client):
            yield is_unpaid

    async def make_room(self, share: Share, size: int, presented: tuple[Presented, ...]) -> None:
        """Before so much of a body is kept. Raises Overloaded, RateLimited, or what `admit` raises."""
        if share.is_stranger is None:
            account = await self._account(presented)
            share.is_stranger = account is None or not account.funded
        share.grow(size)

    async def _account(self, presented: tuple[Presented, ...]) -> AccountRecord | None:
        """The account of a credential; None without one."""
        buyer = await self._admission.admit(presented)
        return None if buyer is None else await self._statements.account(buyer.account_id)

    async def _reply(self, request: PaidRequest, buyer: Admitted, call: Call) -> Reply:
        """Replay; or ready, and from the cache or the backend: reserve, forward and settle."""
        reservation = self._reservation(request, buyer)
        replay = await self._replay(request, reservation)
        if replay is None:
            order = await self._ready(request, buyer)
            bought = await self._bought(request, buyer, reservation, order, call)
            if isinstance(bought, Reply):
                return bought
            replay = bought
        return await self._without_call(request, buyer, replay)

    async def _replay(self, request: PaidRequest, reservation: Reservation) -> Reserved | None:
        """The stored answer, or that the call is under way.

        A client that says that it sent this before is taken at its word: its last body is looked for as
        if it could not buy another call.
        """
        quote = request.quote
        if request.is_retry:
            quote = replace(quote, price=BEYOND_ANY_BALANCE)
        return await self._statements.replay(
            reservation.account_id, quote, reservation.request_hash, reservation.idempotency_key
        )

    async def _tell_standing(
        self, refusal: Refusal, service: Service, buyer: Admitted, limits: CallLimits | None
    ) -> None:
        """Adds balance, allowance and limits to a refusal that does not carry them yet."""
        if refusal.standing is None:
            with contextlib.suppress(StoreUnavailable):
                refusal.standing = await self._standing(service, buyer)
        if refusal.standing is not None:
            refusal.standing = replace(refusal.standing, limits=limits)

    async def _standing(self, service: Service, buyer: Admitted) -> Standing | None:
        account = await self._statements.account(buyer.account_id)
        return None if account is None else Standing(account.balance, await self._allowance(service, buyer))

    async def _allowance(self, service: Service, buyer: Admitted) -> AllowanceState:
        return await self._statements.allowance(buyer.account_id, service.name, service.calls_per_day)

    async def _unpaid(self, request: PaidRequest) -> Refusal:
        """The answer to a request without credential: nobody is asked to pay for what cannot be had."""
        if isinstance(request.order, Refusal) and not request.probe:
            return request.order
        return await self._challenge(request)

    async def _challenge(
        self,
        request: PaidRequest,
        *,
        buyer: Admitted | None = None,
        code: str | None = None,
        because: str = "",
        has: Msat = Msat(0),
    ) -> Refusal:
        self._till.calls.check_open()
        self._till.ledger.check()
        self._backend(request).check(_model(request))
        account_id = buyer.account_id if buyer and buyer.is_whole else None
        if because:
            where = "the same account" if account_id else "an account of its own"
            because += f" Pay the invoice of this answer to go on; it enters {where}."
        return await self._challenger.challenge(
            request.service,
            request.endpoint,
            quote=request.quote,
            has=has if account_id and not request.tariff.is_fixed else Msat(0),
            client=request.client,
            method=request.method,
            is_counted=request.is_counted,
            account_id=account_id,
            code=code,
            because=because,
        )

    async def _ready(self, request: PaidRequest, buyer: Admitted) -> Order:
        """What is asked for, once everything but the money and the backend allows the call."""
        objection = buyer.objection(request.service.name, self._clock.now_ms() / 1000)
        is_hopeless = isinstance(request.order, Refusal) and not request.probe
        if objection is not None and not is_hopeless:
            code, because = objection
            allowance = await self._allowance(request.service, buyer)
            if allowance.left == 0:  # or the payer would pay and then be told to wait
                raise limit_reached(allowance, request.service, self._clock.now_ms())
            raise await self._challenge(request, buyer=buyer, code=code, because=because)
        if isinstance(request.order, Refusal):
            raise request.order
        self._till.calls.check_open()
        return request.order

    async def _bought(
        self, request: PaidRequest, buyer: Admitted, reservation: Reservation, order: Order, call: Call
    ) -> Reply | Reserved:
        """The answer, kept or new, once it is paid for; or why it could not be."""
        backend = self._backend(request)
        key = self._shelf.key(request.service.name, buyer.account_id, order)
        entry = await self._shelf.find(key)
        if entry is None:
            backend.admit(order.outgoing.model)
            source = self._shelf.source(key, backend, order)
        else:
            order = await self._shelf.at_its_price(order, entry, backend)
            if order.hold == 0:
                return await self._given(request, buyer, order, entry)
            source = self._shelf.kept(backend, order, entry)
            reservation = replace(reservation, price=order.hold)
        sale = Sale(self._till, backend, order, reservation, source, cached=entry is not None)
        call.lasts(sale.begin())
        return await sale.reply()

    async def _given(self, request: PaidRequest, buyer: Admitted, order: Order, entry: Entry) -> Reply:
        """A kept answer at no price: no hold, no call of the day's allowance."""
        account = await self._statements.account(buyer.account_id)
        if account is None:
            raise InternalError("This credential's account does not exist here.")
        standing = Standing(account.balance, await self._allowance(request.service, buyer))
        if not account.funded:
            raise insufficient(account.balance, order.hold, funded=False).with_standing(standing)
        used = entry.usage.used if entry.usage is not None else Used()
        nothing = Msat(0)
        bill = Bill(
            nothing, used, usage_document(entry.usage), request.request_id, standing.balance, cached=True
        )
        if order.outgoing.stream:
            body = entry.body + order.shape.closing(entry.held_back, bill)
        else:
            body = order.shape.whole(entry.body, bill)
        is_data = order.is_data and not order.outgoing.stream
        return Reply(
            entry.head, body, request.request_id, nothing, nothing, standing, cached=True, is_data=is_data
        )

    def _backend(self, request: PaidRequest) -> Backend:
        return self._backends[request.service.name]

    def _reservation(self, request: PaidRequest, buyer: Admitted) -> Reservation:
        quote = request.quote
        now_ms = self._clock.now_ms()
        key = request.idempotency_key
        return Reservation(
            call_id=new_call_id(now_ms),
            account_id=buyer.account_id,
            service=quote.service,
            price=quote.price,
            calls_per_day=quote.calls_per_day,
            deadline_ms=now_ms + int(self._till.terms.deadline_seconds * 1000),
            request_id=request.request_id,
            request_hash=self._keyring.digest(
                b"request", quote.service.encode() + b"\0" + request.fingerprint
            ),
            idempotency_key=None if key is None else self._keyring.digest(b"idempotency key", key.encode()),
        )

    async def _without_call(self, request: PaidRequest, buyer: Admitted, reserved: Reserved) -> Reply:
        """The stored answer, or the refusal that the ledger's outcome means."""
        reserved = self._without_old_news(request, reserved)
        if reserved.outcome is ReserveOutcome.ANSWERED and reserved.answer is not None:
            self._till.observer.call_finished(
                request.service.name, "replayed", held=Msat(0), charged=Msat(0), seconds=0.0
            )
            return replied(reserved.answer, reserved.standing)
        price = request.quote.price
        if reserved.outcome is ReserveOutcome.INSUFFICIENT and buyer.proof is not None:
            available = reserved.balance.available
            because = (
                f"This credential has {whole_sats(available)} sats left and the call costs "
                f"{'' if request.tariff.is_fixed else 'up to '}{format_sats(price)}."
            )
            refusal = await self._challenge(
                request, buyer=buyer, code=InsufficientBalance.code, because=because, has=available
            )
        else:
            refusal = refusal_for(reserved, request.service, price, self._clock.now_ms())
        raise refusal.with_standing(reserved.standing)

    def _without_old_news(self, request: PaidRequest, reserved: Reserved) -> Reserved:
        """The outcome, unless a GET that nobody calls a repetition would get what was true a while ago.

        Then its caller is told to pay, as if it had not been asked before.
        """
        answer = reserved.answer
        is_repetition = request.method != "GET" or request.idempotency_key is not None or request.is_retry
        if answer is None or is_repetition:
            return reserved
        if self._clock.now_ms() - begun_ms(answer.call_id) <= REPEATED_GET_SECONDS * 1000:
            return reserved
        is_used_up = reserved.allowance.left == 0
        outcome = ReserveOutcome.LIMIT_REACHED if is_used_up else ReserveOutcome.INSUFFICIENT
        return replace(reserved, outcome=outcome, answer=None)


def new_call_id(now_ms: int) -> str:
    """A unique id that sorts by time, so that the ledger's newest rows stay together."""
    return f"{now_ms:012x}{random_bits(80):020x}"


def begun_ms(call_id: str) -> int:
    """When the call of that id began, Unix milliseconds."""
    return int(call_id[:12], 16)


def replied(answer: Answer, standing: Standing) -> Reply:
    """A stored answer as a reply that costs nothing."""
    is_data = answer.content_type == DATA_TYPE
    head = Head(answer.status, DATA_TYPE) if is_data else read_head(answer.status, answer.content_type)
    return Reply(
        head, answer.body, answer.request_id, answer.cost, Msat(0), standing, replayed=True, is_data=is_data
    )


def _model(request: PaidRequest) -> str | None:
    return request.order.outgoing.model if isinstance(request.order, Order) else None
