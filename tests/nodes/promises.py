"""The promises of `ports.PaymentNode` that need a node and somebody who pays it, and nothing else.

They are kept by every kind of node, against its simulated daemon and against a real one.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.stage import eventually

from arkgate.core.errors import NodeUnavailable
from arkgate.core.invoice import read_bolt11
from arkgate.core.ledger import Cursor, InvoiceState, Settlement
from arkgate.core.money import Msat, sats
from arkgate.nodes.invoices import MEMO_BYTES_MAX
from arkgate.ports import Demands, Invoice, InvoiceStatus, NodeEvent, PaymentNode, Verdict

EXPIRY_SECONDS = 600
MEMO = "a call"
HOUR_MS = 3600 * 1000
TOLD_SECONDS = 30.0
LEFT_TO_THE_NODE = frozenset(
    {
        "keeps the expiry that was asked for",
        "tells what is paid to the msat",
        "tells what is paid above the invoice",
        "remembers what was cancelled",
        "knows what ended and when",
        "has a cursor",
        "has TLS",
        "has a chain of its own",
        "names the hash beside the invoice",
        "carries our memo",
    }
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a kind of node does of what the port leaves to it."""

    waives: frozenset[str] = frozenset()
    expiry_seconds: int = EXPIRY_SECONDS
    """How long invoices live for which `EXPIRY_SECONDS` were asked for."""

    def does(self, what: str) -> bool:
        """Whether this kind does it."""
        assert what in LEFT_TO_THE_NODE
        return what not in self.waives


LND = CLN = Traits()
BARKD = Traits(
    LEFT_TO_THE_NODE
    - {"tells what is paid above the invoice", "carries our memo", "knows what ended and when"},
    expiry_seconds=48 * 3600,
)
WAVED = Traits(
    frozenset(
        {
            "keeps the expiry that was asked for",
            "tells what is paid to the msat",
            "tells what is paid above the invoice",
            "has a chain of its own",
        }
    ),
    expiry_seconds=3600,
)

FULMINE = Traits(LEFT_TO_THE_NODE, expiry_seconds=3600)


@dataclass(frozen=True, slots=True)
class Scene:
    """A node, and who pays it."""

    node: PaymentNode
    traits: Traits
    pay: Callable[[str], Awaitable[bytes]]
    """Pays an invoice; gives the preimage."""
    opened_by: Callable[[Path], PaymentNode]
    """A node of the same daemon whose secret is in that file."""
    secret: Path
    """What opens it."""
    amount_sats: int = 50
    """What it can be asked for."""
    settling_seconds: float = 0.0
    """How long a new stream needs until it tells what happens from then on."""

    async def invoice(self, *, preimage: bytes | None = None, memo: str = MEMO) -> Invoice:
        """A new invoice."""
        if not self.node.draws_preimages:
            preimage = preimage or secrets.token_bytes(32)
        return await self.node.create_invoice(
            sats(self.amount_sats), preimage=preimage, memo=memo, expiry_seconds=EXPIRY_SECONDS
        )

    async def settled(self, payment_hash: bytes) -> Settlement:
        """The settlement of a paid invoice: a payer may know of it before its node."""
        found: list[Settlement] = []

        async def so() -> bool:
            status = await self.node.look_up(payment_hash)
            if status is not None and status.settlement is not None:
                found.append(status.settlement)
            return bool(found)

        await eventually(so, TOLD_SECONDS)
        return found[0]


async def listed(node: PaymentNode, created_after_ms: int = 0) -> list[Settlement]:
    """What a listing tells of invoices."""
    told = [payment async for payment in node.settled_since(created_after_ms)]
    return [payment for payment in told if isinstance(payment, Settlement)]


@contextlib.asynccontextmanager
async def following(node: PaymentNode, since: Cursor = Cursor()) -> AsyncIterator[list[NodeEvent]]:  # noqa: B008 - frozen
    """Collects events until the block ends."""
    events: list[NodeEvent] = []

    async def follow() -> None:
        async for event in node.events(since):
            events.append(event)

    task = asyncio.create_task(follow())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled(events: list[NodeEvent], count: int, seconds: float = 5.0) -> list[Settlement]:
    """The settlements among the events, once there are so many."""

    def found() -> list[Settlement]:
        return [event.settlement for event in events if event.settlement is not None]

    async def enough() -> bool:
        return len(found()) >= count

    await eventually(enough, seconds)
    return found()


async def told(events: list[NodeEvent], invoices: Sequence[Invoice]) -> None:
    """Waits until all these payments were told, among others that may be."""
    wanted = {invoice.payment_hash for invoice in invoices}

    async def so() -> bool:
        return wanted <= {event.settlement.payment_hash for event in events if event.settlement is not None}

    await eventually(so, TOLD_SECONDS)


# The promises. Each takes a scene; its name is the fact.


async def an_invoice_is_for_what_was_asked(scene: Scene) -> None:
    invoice = await scene.invoice()
    text = read_bolt11(invoice.payment_request)

    assert invoice.node == scene.node.name
    assert invoice.amount == text.amount == sats(scene.amount_sats)
    assert text.network == "regtest"
    assert (text.description == MEMO) == scene.traits.does("carries our memo")
    assert text.payment_hash == invoice.payment_hash
    lives_ms = 1000 * scene.traits.expiry_seconds
    assert invoice.expires_at_ms - invoice.created_at_ms in range(lives_ms, lives_ms + 1001)


async def a_node_that_is_given_no_preimage_draws_one(scene: Scene) -> None:
    invoice = await scene.node.create_invoice(
        sats(scene.amount_sats), preimage=None, memo=MEMO, expiry_seconds=EXPIRY_SECONDS
    )
    preimage = await scene.pay(invoice.payment_request)

    assert hashlib.sha256(preimage).digest() == invoice.payment_hash
    assert (await scene.settled(invoice.payment_hash)).payment_hash == invoice.payment_hash


async def a_node_takes_the_preimage_that_it_is_given_or_refuses_it(scene: Scene) -> None:
    preimage = secrets.token_bytes(32)
    making = scene.node.create_invoice(
        sats(scene.amount_sats), preimage=preimage, memo=MEMO, expiry_seconds=EXPIRY_SECONDS
    )
    if scene.node.draws_preimages:
        with pytest.raises(ValueError, match="draws"):
            await making
    else:
        assert (await making).payment_hash == hashlib.sha256(preimage).digest()


async def the_tag_at_the_end_of_a_long_memo_survives(scene: Scene) -> None:
    invoice = await scene.invoice(memo="ä" * 700 + "[the tag]")

    description = read_bolt11(invoice.payment_request).description
    if not scene.traits.does("carries our memo"):
        assert "tag" not in description
        return
    assert description.endswith("ää[the tag]")
    assert len(description.encode()) <= MEMO_BYTES_MAX


async def a_look_up_tells_open_and_settled_apart(scene: Scene) -> None:
    paid, unpaid = await scene.invoice(), await scene.invoice()
    await scene.pay(paid.payment_request)

    settlement = await scene.settled(paid.payment_hash)
    assert settlement.amount_paid == sats(scene.amount_sats)
    assert settlement.memo == (MEMO if scene.traits.does("carries our memo") else "")
    assert settlement.node == scene.node.name
    assert abs(settlement.settled_at_ms / 1000 - time.time()) < 60
    assert await scene.node.look_up(unpaid.payment_hash) == InvoiceStatus(InvoiceState.OPEN)


async def an_unknown_hash_is_none_and_no_failure(scene: Scene) -> None:
    for _ in range(4):
        assert await scene.node.look_up(secrets.token_bytes(32)) is None
    assert (await scene.invoice()).amount == sats(scene.amount_sats)


async def events_after_a_cursor_are_told_again_and_new_ones_as_they_happen(scene: Scene) -> None:
    first, missed, last = [await scene.invoice() for _ in range(3)]
    async with following(scene.node) as events:
        await asyncio.sleep(scene.settling_seconds)
        await scene.pay(first.payment_request)
        await told(events, [first])
        reached = max((event.cursor for event in events), key=lambda cursor: cursor.settle_index)
    await scene.pay(missed.payment_request)

    async with following(scene.node, reached) as events:
        await told(events, [missed])
        await asyncio.sleep(scene.settling_seconds)
        await scene.pay(last.payment_request)
        await told(events, [last])
        again = [event.settlement.payment_hash for event in events if event.settlement is not None]
        assert (first.payment_hash in again) != scene.traits.does("has a cursor")
        newest = max(event.cursor.settle_index for event in events)
        assert (newest > reached.settle_index) == scene.traits.does("has a cursor")


async def what_is_told_looked_up_and_listed_is_the_same(scene: Scene) -> None:
    invoice = await scene.invoice()
    async with following(scene.node) as events:
        await asyncio.sleep(scene.settling_seconds)
        await scene.pay(invoice.payment_request)
        await told(events, [invoice])
        by_event = next(
            event.settlement
            for event in events
            if event.settlement is not None and event.settlement.payment_hash == invoice.payment_hash
        )

    by_look_up = await scene.settled(invoice.payment_hash)
    (by_list,) = [
        one
        for one in await listed(scene.node, invoice.created_at_ms - 60_000)
        if one.payment_hash == invoice.payment_hash
    ]
    assert by_event == by_look_up == by_list


async def every_settled_invoice_is_listed_and_no_other(scene: Scene) -> None:
    invoices = [await scene.invoice() for _ in range(6)]
    for invoice in reversed(invoices[::2]):
        await scene.pay(invoice.payment_request)
        await scene.settled(invoice.payment_hash)

    found = [one.payment_hash for one in await listed(scene.node, invoices[0].created_at_ms - 60_000)]
    assert {one.payment_hash for one in invoices} & set(found) == {one.payment_hash for one in invoices[::2]}
    assert len(found) == len(set(found))
    assert await listed(scene.node, invoices[-1].created_at_ms + HOUR_MS) == []


async def a_stream_that_is_cancelled_stays_cancelled(scene: Scene) -> None:
    async def follow() -> None:
        async for _ in scene.node.events(Cursor()):
            pass

    stream = asyncio.create_task(follow())
    await asyncio.sleep(0.1 + scene.settling_seconds)
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream

    assert (await scene.invoice()).amount == sats(scene.amount_sats)


async def a_node_that_says_what_it_holds_has_more_after_a_payment(scene: Scene) -> None:
    before = await scene.node.holdings()
    invoice = await scene.invoice()
    await scene.pay(invoice.payment_request)
    settlement = await scene.settled(invoice.payment_hash)

    if before is None:
        assert await scene.node.holdings() is None
        return

    async def more() -> bool:
        after = await scene.node.holdings()
        assert after is not None
        return after.channels - before.channels == settlement.amount_paid - settlement.fee

    await eventually(more, TOLD_SECONDS)


async def a_node_that_is_well_says_so(scene: Scene) -> None:
    await scene.invoice()  # from which the network is known to whoever may not ask
    health = await scene.node.health()

    assert (health.ready, health.state, health.network) == (True, "ready", "regtest")


async def no_line_of_the_check_up_fails(scene: Scene) -> None:
    amount = sats(scene.amount_sats)
    demands = Demands(challenge=amount, largest=sats(10_000), smallest=amount)
    lines = [line async for line in scene.node.checkup(demands)]

    assert [line for line in lines if line.verdict is Verdict.FAILURE] == []
    assert {"an invoice", "clock"} <= {line.name for line in lines if line.verdict is Verdict.OK}


async def a_wrong_secret_is_told_apart_from_a_node_that_is_down(scene: Scene, directory: Path) -> None:
    wrong = directory / "wrong.secret"
    wrong.write_bytes(b"nonsense")
    node = scene.opened_by(wrong)
    health = await node.health()
    with pytest.raises(NodeUnavailable):
        await node.look_up(secrets.token_bytes(32))
    await node.close()

    assert (health.ready, health.state) == (False, "refused")


async def a_missing_secret_is_a_refusal_until_it_is_there(scene: Scene, directory: Path) -> None:
    later = directory / "later.secret"
    node = scene.opened_by(later)
    for content in (None, b""):
        if content is not None:
            later.write_bytes(content)
        assert (await node.health()).state == "refused"
        with pytest.raises(NodeUnavailable, match=r"later\.secret"):
            await node.look_up(secrets.token_bytes(32))
        with pytest.raises(NodeUnavailable, match=r"later\.secret"):
            await anext(aiter(node.events(Cursor())))
    later.write_bytes(scene.secret.read_bytes())

    assert await node.look_up(secrets.token_bytes(32)) is None
    await node.close()


Promise = Callable[..., Awaitable[None]]
PROMISES: Sequence[Promise] = (
    an_invoice_is_for_what_was_asked,
    a_node_that_is_given_no_preimage_draws_one,
    a_node_takes_the_preimage_that_it_is_given_or_refuses_it,
    the_tag_at_the_end_of_a_long_memo_survives,
    a_look_up_tells_open_and_settled_apart,
    an_unknown_hash_is_none_and_no_failure,
    events_after_a_cursor_are_told_again_and_new_ones_as_they_happen,
    what_is_told_looked_up_and_listed_is_the_same,
    every_settled_invoice_is_listed_and_no_other,
    a_stream_that_is_cancelled_stays_cancelled,
    a_node_that_says_what_it_holds_has_more_after_a_payment,
    a_node_that_is_well_says_so,
    no_line_of_the_check_up_fails,
    a_wrong_secret_is_told_apart_from_a_node_that_is_down,
    a_missing_secret_is_a_refusal_until_it_is_there,
)
NEED_A_FOLDER = (
    a_wrong_secret_is_told_apart_from_a_node_that_is_down,
    a_missing_secret_is_a_refusal_until_it_is_there,
)


async def keep(promise: Promise, scene: Scene, directory: Path) -> None:
    """Lets a node keep a promise."""
    await (promise(scene, directory) if promise in NEED_A_FOLDER else promise(scene))


def told_amount(traits: Traits, *, invoiced: Msat, paid: Msat) -> Msat:
    """What a node of that kind tells of a payment above its invoice."""
    if not traits.does("tells what is paid above the invoice"):
        return invoiced
    return paid if traits.does("tells what is paid to the msat") else Msat(paid - paid % 1000)
