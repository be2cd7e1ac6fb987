"""Funding: every settled payment enters its account once, whoever reports it first."""

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from arkgate.core.errors import (
    InvalidCredential,
    NodeUnavailable,
    Refusal,
    SettlementPending,
    StoreUnavailable,
)
from arkgate.core.keys import Keyring, Purpose, PurposeKind, token_digest
from arkgate.core.ledger import (
    ArkPayment,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceRecord,
    InvoiceState,
    Payment,
    Settlement,
)
from arkgate.core.money import Msat
from arkgate.gateway.ark import ArkFunding
from arkgate.gateway.pace import AT_ONCE, DUE_HALF, Pace, is_given_up, look_up_again_ms
from arkgate.gateway.silence import Silence
from arkgate.l402.identifier import Identifier
from arkgate.ports import ArkWallet, Clock, Ledger, Observer, PaymentNode, Statements

log = structlog.get_logger()
PROOF_PATIENCE_SECONDS = 3.0
PROOF_PAUSE_SECONDS = 0.15
CURSOR_MARGIN = 20
"""How many settlements are read again after a reconnect: LND's backlog is not in settle order."""
BACKOFF_SECONDS_MAX = 30.0
STREAM_HEALTHY_AFTER_SECONDS = 10.0
STREAM_OPENS_WITHIN_SECONDS = 3.0
SILENCE_CHECK_SECONDS = 1.0
NODE_CHECK_SECONDS = 2.0
"""How often a node that was not ready is asked whether it is, while its stream is waited for."""
LOOK_UP_BATCH = 100
LOOK_UPS_PER_SECOND = 20.0
"""How often a node is asked about open invoices, whatever their number; proofs and reconciles apart."""
STREAM = "stream"
UNAVAILABLE_IN_A_ROW_MAX = 3
"""Look-ups that may fail one after the other before the whole node counts as away."""
RECONCILE_MARGIN_MS = 3600 * 1000
RECONCILE_EVERY_MS = 24 * 3600 * 1000
RECONCILE_CHECK_SECONDS = 600.0
RECONCILED_FACT = "reconciled_at_ms:"
"""The fact up to when a node's settled invoices were all read is this and the node's name."""
INVOICE_LIFE_SECONDS = 25 * 3600


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What came of asking about invoices of ours one by one."""

    asked: int = 0
    credited: int = 0
    """Payments that nobody had reported before."""
    amount: Msat = Msat(0)
    """What those paid."""
    put_off: int = 0
    """Invoices that could not be asked about now; the look-ups that go on will."""

    def and_then(self, more: "LookedUp") -> "LookedUp":
        """Both together."""
        return LookedUp(
            self.asked + more.asked,
            self.credited + more.credited,
            Msat(self.amount + more.amount),
            self.put_off + more.put_off,
        )


class _Stream:
    """Whether a node's stream is lost, as the log last told it."""

    def __init__(self, node: PaymentNode) -> None:
        self.node = node
        self._is_lost = False

    def lost(self, refusal: Refusal) -> None:
        """An attempt to follow it failed."""
        tell = log.debug if self._is_lost else log.warning
        tell("lost the stream of settlements", node=self.node.name, reason=refusal.message)
        self._is_lost = True

    def is_open(self) -> None:
        """It has not failed for a moment."""
        if self._is_lost:
            log.info("follows the settlements again", node=self.node.name)
        self._is_lost = False


class Funding:
    """Credits payments from the nodes' events, from look-ups, and from the proof a payer brings."""

    def __init__(
        self,
        ledger: Ledger,
        statements: Statements,
        nodes: Sequence[PaymentNode],
        keyring: Keyring,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._ledger = ledger
        self._statements = statements
        self._nodes = {node.number: node for node in nodes}
        self._keyring = keyring
        self._clock = clock
        self._observer = observer
        self._paces = {node.name: Pace(LOOK_UPS_PER_SECOND) for node in nodes}
        self._proving: dict[bytes, asyncio.Task[str]] = {}
        self._silence: dict[str, Silence] = defaultdict(lambda: Silence(time.monotonic))
        wallets = {node.name: node for node in nodes if isinstance(node, ArkWallet)}
        self._ark = ArkFunding(ledger, statements, wallets, clock, observer)

    async def account_of(self, identifier: Identifier) -> str:
        """The account of a verified credential, crediting its payment when nobody has reported it yet.

        Raises SettlementPending, NodeUnavailable, or InvalidCredential when the node knows no such
        payment. Many requests with the same fresh credential share one look-up.
        """
        account_id = await self._statements.account_by_payment(identifier.payment_hash)
        if account_id is not None:
            return account_id
        task = self._proving.get(identifier.payment_hash)
        if task is None:
            task = asyncio.create_task(self._prove(identifier))
            self._proving[identifier.payment_hash] = task
            task.add_done_callback(lambda _: self._proving.pop(identifier.payment_hash, None))
        return await asyncio.shield(task)

    async def _prove(self, identifier: Identifier) -> str:
        """The account, once the node says that the payment is settled or another process credited it.

        Awaited for a moment, because the payer knows it first.
        """
        node = self._nodes.get(identifier.node)
        if node is None:
            raise NodeUnavailable("The node that issued this invoice is not configured any more.")
        payment_hash = identifier.payment_hash
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PROOF_PATIENCE_SECONDS
        while True:
            unreachable, settlement = None, None
            try:
                settlement = await self._settled(node, payment_hash)
            except NodeUnavailable as refusal:
                unreachable = refusal  # but another process may have heard of the payment
            if settlement is not None:
                return await self._credited_by_proof(settlement, identifier)
            account_id = await self._statements.credited(payment_hash, within_seconds=PROOF_PAUSE_SECONDS)
            if account_id is not None:
                return account_id
            if unreachable is not None:
                raise unreachable
            if loop.time() >= deadline:
                raise SettlementPending(
                    "The preimage is right and the node does not report the payment as settled yet. "
                    "Do not pay again; repeat this request in a few seconds.",
                    retry_after_seconds=3,
                )

    async def _credited_by_proof(self, settlement: Settlement, identifier: Identifier) -> str:
        purpose = Purpose(PurposeKind.CHALLENGE, identifier.account_id)
        funded = await self.credit(settlement, reported_by="proof", purpose=purpose)
        if funded.account_id is None:
            raise SettlementPending(
                "The payment could not be credited yet. Try again.", retry_after_seconds=2
            )
        return funded.account_id

    async def _settled(self, node: PaymentNode, payment_hash: bytes) -> Settlement | None:
        """The node's word that the invoice is settled. Raises InvalidCredential when it knows no such one."""
        status = await node.look_up(payment_hash)
        if status is None:
            support_id = secrets.token_hex(6)
            log.warning("right preimage for an unknown invoice", support_id=support_id, node=node.name)
            raise InvalidCredential(
                "The preimage is right, but the node does not know this invoice any more. "
                f"Ask the operator and give the support id {support_id}.",
                fields={"support_id": support_id},
            )
        return status.settlement

    async def credit(
        self,
        payment: Payment,
        *,
        reported_by: str,
        purpose: Purpose | None = None,
        cursor: Cursor | None = None,
    ) -> Funded:
        """The one way by which money enters, whoever reports it."""
        silence, told_as = self._silence[payment.node], payment.reference.encode()
        if reported_by == STREAM:
            silence.told(told_as)
        if isinstance(payment, ArkPayment):
            funded = await self._ark.credit(payment, reported_by=reported_by, cursor=cursor)
        else:
            funded = await self._credit(payment, reported_by, purpose, cursor)
        if funded.outcome is FundOutcome.APPLIED and reported_by != STREAM:
            silence.found(told_as)
        return funded

    async def _credit(
        self, settlement: Settlement, reported_by: str, purpose: Purpose | None, cursor: Cursor | None
    ) -> Funded:
        """`Ledger.fund` with the purpose that tag or proof state."""
        tag = self._keyring.read_tag(settlement.memo, settlement.payment_hash)
        funded = await self._ledger.fund(settlement, tag.purpose if tag else purpose, cursor=cursor)
        if funded.outcome is FundOutcome.APPLIED:
            self._observer.payment_credited(settlement.amount_paid)
            log.info(
                "payment credited",
                node=settlement.node,
                payment_hash=settlement.payment_hash.hex(),
                amount_msat=settlement.amount_paid,
                account=funded.account_id,
                reported_by=reported_by,
            )
        if tag and tag.purpose.kind is PurposeKind.SESSION and funded.account_id:
            await self._give_token(funded.account_id, tag.key_version)
        return funded

    async def _give_token(self, account_id: str, key_version: int) -> None:
        """A session's account has its token, also where the books are older than the session.

        Asked for a repeated payment, too: the process may have ended between the credit and this.
        """
        account = await self._statements.account(account_id)
        if account is not None and account.token_key_version is not None:
            return
        token = self._keyring.token(account_id, version=key_version)
        await self._ledger.set_token(account_id, token_digest=token_digest(token), key_version=key_version)

    async def watch(self, node: PaymentNode) -> None:
        """Follows a node's stream of settlements for ever; reconnects with back-off and jitter.

        A stream that leaves payments out is opened anew. That it was lost is told once, not at every attempt,
        and that it is back.
        """
        loop = asyncio.get_running_loop()
        stream = _Stream(node)
        pause = 0.5
        while True:
            started = loop.time()
            catching_up = asyncio.create_task(self._catch_up(node))
            try:
                missed = await self._follow_while_it_tells(stream)
                if missed:
                    log.warning(
                        "the stream of settlements missed payments that look-ups found; opening it anew",
                        node=node.name,
                        missed=len(missed),
                        payment=missed[0].decode(),
                    )
                    continue
                log.info("the node ended the stream of settlements", node=node.name)
            except Refusal as refusal:
                stream.lost(refusal)
            finally:
                self._silence[node.name].closed()
                catching_up.cancel()
                await asyncio.wait({catching_up})
            pause = 0.5 if loop.time() - started > STREAM_HEALTHY_AFTER_SECONDS else pause * 2
            pause = min(pause, BACKOFF_SECONDS_MAX)
            await self._pause(node, pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    async def _pause(self, node: PaymentNode, seconds: float) -> None:
        """Waits that long, or until a node that was not ready is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        waits_for_node = not (await node.health()).ready
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, NODE_CHECK_SECONDS))
            if waits_for_node and (await node.health()).ready:
                return

    async def _follow_while_it_tells(self, stream: "_Stream") -> Sequence[bytes]:
        """Follows the stream until it ends or has left payments out; answers those.

        Raises what `_follow` raises.
        """
        following = asyncio.create_task(self._follow(stream.node))
        try:
            while not (await asyncio.wait({following}, timeout=SILENCE_CHECK_SECONDS))[0]:
                stream.is_open()
                if missed := self._silence[stream.node.name].missed():
                    return missed
            following.result()
            return ()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, node: PaymentNode) -> None:
        since = await self._statements.cursor(node.name)
        since = Cursor(since.add_index, max(0, since.settle_index - CURSOR_MARGIN))
        async for event in node.events(since):
            if event.payment is not None:
                await self.credit_or_alarm(event.payment, reported_by=STREAM, cursor=event.cursor)
            elif event.cursor.settle_index:
                # What was only added moves no cursor that counts: a write for each invoice would be waste.
                await self._ledger.advance(node.name, event.cursor)

    async def credit_or_alarm(
        self, settlement: Payment, *, reported_by: str, cursor: Cursor | None = None
    ) -> Funded | None:
        """As `credit`, and None for a payment that the books will never take.

        It is for a person to look at: raising here would end the stream or the listing, which then
        begins again before this payment, and nobody's payment after it would ever be credited.
        """
        try:
            return await self.credit(settlement, reported_by=reported_by, cursor=cursor)
        except StoreUnavailable:
            raise
        except Exception:
            self._observer.alarm("payment_not_credited")
            log.exception(
                "a payment cannot be credited",
                node=settlement.node,
                payment=settlement.reference,
                amount_msat=settlement.amount_paid,
                reported_by=reported_by,
            )
            return None

    async def _catch_up(self, node: PaymentNode) -> None:
        """Finds what the new stream does not tell: our open invoices, and what has no cursor yet.

        Twice, because a node does not say when it has begun to stream: what is settled between the
        first pass and that moment is found by the second.
        """
        for pause_seconds in (0.0, STREAM_OPENS_WITHIN_SECONDS):
            await asyncio.sleep(pause_seconds)
            try:
                cursor = await self._statements.cursor(node.name)
                if cursor.settle_index <= CURSOR_MARGIN:
                    opened_at_ms = (await self._statements.facts())["opened_at_ms"]
                    await self.reconcile(node, opened_at_ms - RECONCILE_MARGIN_MS)
                await self.look_up_awaited(node, pace=self._paces[node.name])
            except (NodeUnavailable, StoreUnavailable) as refusal:
                log.warning("could not catch up with the node", node=node.name, reason=refusal.message)
            except Exception:
                # Nobody awaits this task's outcome until the stream ends, which may be in a month.
                self._observer.alarm("catch_up_failed")
                log.exception("could not catch up with the node", node=node.name)
        self._silence[node.name].caught_up()

    async def reconcile(self, node: PaymentNode, created_after_ms: int) -> int:
        """Credits every settled invoice of ours made after that time; answers how many were missing."""
        missing = 0
        async for settlement in node.settled_since(created_after_ms):
            funded = await self.credit_or_alarm(settlement, reported_by="reconcile")
            missing += funded is not None and funded.outcome is FundOutcome.APPLIED
        return missing

    async def look_up_due(self, node: PaymentNode) -> None:
        """Asks the node about a batch of our unpaid invoices that are due, and credits or marks them.

        Half of them are those that became due last: the payers who are most likely to be there do not
        wait behind a hundred thousand who are not.
        """
        due = [
            *await self._statements.invoices_to_look_up(node.name, limit=DUE_HALF, newest=True),
            *await self._statements.invoices_to_look_up(node.name, limit=DUE_HALF),
        ]
        each_once = {invoice.payment_hash: invoice for invoice in due}
        await self._look_up_each(node, list(each_once.values()), pace=self._paces[node.name])

    async def look_up_awaited(self, node: PaymentNode, *, pace: Pace = AT_ONCE) -> LookedUp:
        """Asks the node about every unpaid invoice of ours, due or not, page by page."""
        after, found = b"", LookedUp()
        while page := await self._statements.invoices_awaited(node.name, after=after, limit=LOOK_UP_BATCH):
            found = found.and_then(await self._look_up_each(node, page, pace=pace))
            after = page[-1].payment_hash
        return found

    async def _look_up_each(
        self, node: PaymentNode, invoices: Sequence[InvoiceRecord], *, pace: Pace
    ) -> LookedUp:
        """One invoice's trouble is put off and keeps no other waiting.

        Raises NodeUnavailable when several fail one after the other: the node is away, and the rest
        need not time out one by one.
        """
        in_a_row, found = 0, LookedUp()
        for invoice in invoices:
            await pace.turn()
            found = found.and_then(LookedUp(asked=1))
            try:
                found = found.and_then(await self.look_up(node, invoice))
                in_a_row = 0
            except StoreUnavailable:
                raise
            except Exception as fault:
                # Whatever it is, it is told, and the next invoice is another payer's.
                await self._put_off(invoice, fault)
                in_a_row = in_a_row + 1 if _is_away(fault) else 0
                if in_a_row >= UNAVAILABLE_IN_A_ROW_MAX:
                    raise
                found = found.and_then(LookedUp(put_off=1))
        return found

    async def _put_off(self, invoice: InvoiceRecord, fault: Exception) -> None:
        """Notes when to ask again, and tells a person unless the node just could not be reached."""
        fields = {"node": invoice.node, "payment_hash": invoice.payment_hash.hex()}
        if _is_away(fault):
            log.info("a look-up waits", reason=str(fault), **fields)
            await self._look_up_later(invoice, self._clock.now_ms())
        else:
            self._observer.alarm("look_up_failed")
            log.error("a look-up failed", exc_info=fault, **fields)
            await self._look_up_later_if_at_all(invoice, self._clock.now_ms())

    async def look_up(self, node: PaymentNode, invoice: InvoiceRecord) -> LookedUp:
        """Asks the node about one invoice; credits it, marks it, or notes when to ask again."""
        status = await node.look_up(invoice.payment_hash)
        now = self._clock.now_ms()
        if status is not None and status.settlement is not None:
            funded = await self.credit(status.settlement, reported_by="look-up")
            if funded.outcome is FundOutcome.APPLIED:
                return LookedUp(credited=1, amount=status.settlement.amount_paid)
        elif status is not None and status.state is InvoiceState.CANCELLED:
            await self._mark(invoice, _unpaid_state(invoice, now))
        elif status is None and now > invoice.expires_at_ms:
            await self._mark(invoice, InvoiceState.EXPIRED)
        else:
            await self._look_up_later_if_at_all(invoice, now)
        return LookedUp()

    async def _mark(self, invoice: InvoiceRecord, state: InvoiceState) -> None:
        await self._ledger.mark_invoice(invoice.payment_hash, state)
        log.info(
            "an invoice ended unpaid",
            node=invoice.node,
            payment_hash=invoice.payment_hash.hex(),
            state=state.value,
        )

    async def _look_up_later_if_at_all(self, invoice: InvoiceRecord, now: int) -> None:
        """Schedules the next look-up, unless the node still answered this a day after the expiry."""
        if is_given_up(now, invoice.expires_at_ms):
            await self._ledger.mark_looked_up(invoice.payment_hash, None)
        else:
            await self._look_up_later(invoice, now)

    async def _look_up_later(self, invoice: InvoiceRecord, now: int) -> None:
        """Schedules the next look-up; the older the invoice, the later."""
        again = look_up_again_ms(now, invoice.created_at_ms)
        await self._ledger.mark_looked_up(invoice.payment_hash, again)

    async def poll(self, *, pause_seconds: float = 2.0) -> None:
        """Looks up what is due, for ever, so that a silent stream costs seconds and no payment."""
        await self._with_each(lambda node: self._poll(node, pause_seconds))

    async def _with_each(self, work: Callable[[PaymentNode], Coroutine[Any, Any, None]]) -> None:
        """Does it for all nodes side by side: one that is away keeps no other waiting."""
        async with asyncio.TaskGroup() as group:
            for node in self._nodes.values():
                group.create_task(work(node))

    async def _poll(self, node: PaymentNode, pause_seconds: float) -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                await self.look_up_due(node)
                await self._ark.look_up_due(node.name, self._paces[node.name])
            except (NodeUnavailable, StoreUnavailable) as refusal:
                log.debug("look-ups wait", node=node.name, reason=refusal.message)

    async def reconcile_daily(self, *, invoice_life_seconds: int = INVOICE_LIFE_SECONDS) -> None:
        """Once a day reads what was settled since the last time; after a longer stop at once.

        `invoice_life_seconds`: how long an invoice of ours may be payable. A settlement is listed by
        when its invoice was made, so a listing goes back by that much.
        """
        await asyncio.sleep(STREAM_OPENS_WITHIN_SECONDS)
        await self._with_each(lambda node: self._reconcile_daily(node, invoice_life_seconds * 1000))

    async def _reconcile_daily(self, node: PaymentNode, invoice_life_ms: int) -> None:
        while True:
            try:
                await self._reconcile_if_due(node, invoice_life_ms)
            except (NodeUnavailable, StoreUnavailable) as refusal:
                log.warning("the daily reconcile waits", node=node.name, reason=refusal.message)
            await asyncio.sleep(RECONCILE_CHECK_SECONDS)

    async def _reconcile_if_due(self, node: PaymentNode, invoice_life_ms: int) -> None:
        now = self._clock.now_ms()
        facts = await self._statements.facts()
        last = facts.get(RECONCILED_FACT + node.name)
        # A time that is still to come was noted under a wrong clock and counts for nothing.
        if last is not None and 0 <= now - last < RECONCILE_EVERY_MS:
            return
        if last is None or last > now:
            last = facts["opened_at_ms"]
        missing = await self.reconcile(node, last - invoice_life_ms - RECONCILE_MARGIN_MS)
        await self._ledger.note(RECONCILED_FACT + node.name, now)
        log.info("reconciled with the node", node=node.name, missing=missing)


def _is_away(fault: Exception) -> bool:
    return isinstance(fault, NodeUnavailable) and fault.is_away


def _unpaid_state(invoice: InvoiceRecord, now_ms: int) -> InvoiceState:
    """LND cancels what expired: the payer is told which of the two it was."""
    return InvoiceState.EXPIRED if now_ms >= invoice.expires_at_ms else InvoiceState.CANCELLED
