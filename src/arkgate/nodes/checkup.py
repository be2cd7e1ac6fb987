"""Lines that every node's check-up has, whatever the daemon."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import grpc
import grpc.aio

from arkgate.core.errors import NodeUnavailable
from arkgate.core.invoice import read_bolt11
from arkgate.core.money import Msat, format_sats
from arkgate.nodes.certificate import NO_INVOICES
from arkgate.ports import Check, Clock, Demands, Invoice, PaymentNode, Verdict

CALL_SECONDS = 5.0
INVOICE_SECONDS = 60
MEMO = "arkgate doctor: nobody is to pay this"
CLOCK_WARNING_SECONDS = 30
CLOCK_FAILURE_SECONDS = 600
LATE = "Payments are found by look-ups, seconds or minutes late."


async def until_needed(lines: AsyncIterator[Check], needed: Collection[str]) -> AsyncIterator[Check]:
    """The lines, up to a failure of one without which the rest cannot be asked."""
    async for check in lines:
        yield check
        if check.verdict is Verdict.FAILURE and check.name in needed:
            yield not_checked("everything else", "It needs the line above.")
            return


def version(daemon: str, text: str, *, minimum: tuple[int, int], older: str) -> Check:
    """Whether a daemon is new enough; `older` says what payers notice of one that is not."""
    found = re.match(r"v?([0-9]+)\.([0-9]+)", text)
    shown = text.partition(" ")[0] or "unknown"
    if found is None:
        return not_checked("version", f"It says {shown!r}.")
    if (int(found[1]), int(found[2])) >= minimum:
        return Check("version", Verdict.OK, f"{daemon} {shown}.")
    remedy = f"Upgrade {daemon} to {minimum[0]}.{minimum[1]:02} or later."
    return Check("version", Verdict.WARNING, f"{daemon} {shown}.", older, remedy)


def network(is_on: str, wanted: str | None) -> Check:
    """Whether a node is on the network of the settings, where they name one."""
    if wanted in (None, is_on):
        return Check("network", Verdict.OK, f"It is on {is_on}.")
    seen = f"It is on {is_on}; the settings say {wanted}."
    remedy = "Name the right node, or correct network in [[nodes]]."
    return Check("network", Verdict.FAILURE, seen, NO_INVOICES, remedy)


def capacity(receivable: Msat, channels: int, demands: Demands) -> Check:
    """Whether what is on offer can be received over that many channels that are up."""
    name = "receiving capacity"
    over = "1 channel that is up" if channels == 1 else f"{channels} channels that are up"
    seen = f"It can receive {format_sats(receivable)} over {over}."
    get_more = "Buy or lease inbound capacity, spend from a channel, or see why peers are offline"
    if receivable < demands.challenge:
        meaning = f"Nobody can pay even the smallest challenge, {format_sats(demands.challenge)}."
        return Check(name, Verdict.FAILURE, seen, meaning, f"{get_more}.")
    if receivable < demands.largest:
        meaning = f"Invoices above that cannot be paid; up to {format_sats(demands.largest)} are on offer."
        remedy = f"{get_more}. Or lower maximum_sats in [sessions]."
        return Check(name, Verdict.WARNING, seen, meaning, remedy)
    return Check(name, Verdict.OK, seen)


async def invoice(
    node: PaymentNode,
    ours: Clock,
    demands: Demands,
    *,
    preimage: bytes | None,
    removed: Callable[[Invoice], Awaitable[Check]],
    remedy: str,
) -> AsyncIterator[Check]:
    """An invoice that is made and `removed` at once, and what its time says of the node's clock."""
    after_ms = ours.now_ms()
    try:
        made = await node.create_invoice(
            demands.challenge, preimage=preimage, memo=MEMO, expiry_seconds=INVOICE_SECONDS
        )
    except NodeUnavailable as refusal:
        yield Check("an invoice", Verdict.FAILURE, sentence(refusal), NO_INVOICES, remedy)
        yield not_checked("clock", "No invoice was made.")
        return
    before_ms = ours.now_ms()
    yield await removed(made)
    yield clock(read_bolt11(made.payment_request).created_at, after_ms, before_ms)


def clock(created_at: int, after_ms: int, before_ms: int) -> Check:
    """An invoice's time, in whole seconds, against ours before and after it was made."""
    ahead = created_at - before_ms // 1000
    behind = after_ms // 1000 - created_at
    seconds = max(ahead, behind, 0)
    seen = f"The node's clock is {seconds} s {'ahead of' if ahead > 0 else 'behind'} this host's."
    remedy = "Let both hosts set their clocks by NTP."
    if seconds > CLOCK_FAILURE_SECONDS:
        meaning = "Wallets take new invoices for expired."
        if ahead > 0:
            meaning = "Wallets pay invoices long after payers were told that they expire, or refuse them."
        return Check("clock", Verdict.FAILURE, seen, meaning, remedy)
    if seconds > CLOCK_WARNING_SECONDS:
        meaning = "Invoices expire at another time than payers are told."
        return Check("clock", Verdict.WARNING, seen, meaning, remedy)
    return Check("clock", Verdict.OK, "The node's clock and this host's agree.")


def not_checked(name: str, why: str, remedy: str = "") -> Check:
    """A line that could not be tried, and why."""
    return Check(name, Verdict.NOT_CHECKED, why, remedy=remedy)


def said(refusal: NodeUnavailable) -> tuple[str, grpc.StatusCode | None]:
    """The node's own words, and their code; None when there was no answer."""
    cause = refusal.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        return (cause.details() or cause.code().name).strip().rstrip(".")[:200], cause.code()
    return refusal.message.rstrip("."), None


def sentence(refusal: NodeUnavailable) -> str:
    """A refusal as a line says it."""
    return capital(refusal.message)


def capital(text: str) -> str:
    """A text as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
