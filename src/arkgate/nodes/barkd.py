"""barkd, the daemon of Second's Ark wallet, over its REST: invoices that its Ark server makes and pays out.

Source: bark 0.6.0 (bark-rest, bark-json), and what the real daemon did. `POST /wallet/send` is never used.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import structlog

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import ArkPayment, Cursor, InvoiceState, Payment, Settlement
from arkgate.core.money import Msat, sats
from arkgate.nodes.barkd_checkup import BarkdCheckup
from arkgate.nodes.barkd_coins import Coins
from arkgate.nodes.barkd_fees import MINIMUM
from arkgate.nodes.barkd_history import ArkReceive, Receive, Received, Told, milliseconds, read_receives
from arkgate.nodes.barkd_rest import BearerToken, Rest, answered, network_of, was_silent
from arkgate.nodes.channel import CredentialsRefused, CredentialsUnreadable
from arkgate.nodes.invoices import InvoiceCheck, cut
from arkgate.ports import Check, Clock, Demands, Health, Holdings, Invoice, InvoiceStatus, NodeEvent

log = structlog.get_logger()
UNARY_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 3.0
SYNC_TIMEOUT_SECONDS = 2.0
LIST_TIMEOUT_SECONDS = 60.0
READ_PAUSE_SECONDS = 0.1
"""How much time there is at least between two readings of the history: it comes whole."""
BACKLOG_PAYMENTS = 20
"""How many payments a new stream tells again."""
MOVEMENT_PATIENCE_MS = 60_000
"""How long a settled invoice may have no successful movement, which says what was kept of it."""
_SETTLED = "settled"
_UNKNOWN = "no pending lightning receive found"
"""Unknown, cancelled and long expired are the same to barkd, and an error of its own (status 500)."""


@dataclass(frozen=True, slots=True)
class Paces:
    """How often barkd is asked what nobody wants to know just now, in seconds."""

    sync: float = 2.0
    """The server for what came in, at most, whoever wants to know."""
    hint: float = 10.0
    """And at least, while notifications are waited for."""
    reread: float = 60.0
    """The history, when no notification said that it is time."""


class Mailbox:
    """Lets barkd ask its server for what came in. After its server restarts it would not for two minutes.

    Shared by all who want it at the same time, and just after.
    """

    def __init__(self, rest: Rest, pause_seconds: float) -> None:
        self._rest = rest
        self._pause_seconds = pause_seconds
        self._asking: asyncio.Task[NodeUnavailable | None] | None = None
        self._asked_at = -float("inf")

    async def sync(self) -> NodeUnavailable | None:
        """Asks, unless somebody just did; why it could not be asked, which the caller may not mind."""
        asking, due_at = self._asking, self._asked_at + self._pause_seconds
        if asking is None or (asking.done() and time.monotonic() > due_at):
            asking = self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(asking)

    async def _ask(self) -> NodeUnavailable | None:
        try:
            await self._rest.ask(
                "POST", "/wallet/sync/mailbox", "asking its server", seconds=SYNC_TIMEOUT_SECONDS
            )
        except NodeUnavailable as refusal:
            return refusal
        finally:
            self._asked_at = time.monotonic()
        return None

    async def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


class BarkdNode:
    """`ports.ArkWallet` for barkd. Its server keeps a fee of each Lightning payment: `Settlement.fee`."""

    def __init__(
        self,
        name: str,
        number: int,
        credentials: BearerToken,
        clock: Clock,
        *,
        invoice_minimum: Msat = MINIMUM,
        invoice_maximum: Msat = sats(1_000_000),
        network: str | None = None,
        ark_instant_max: Msat = sats(100_000),
        timeout_seconds: float = UNARY_TIMEOUT_SECONDS,
        paces: Paces = Paces(),
    ) -> None:
        self.name = name
        self.number = number
        self.invoice_minimum = invoice_minimum
        self.invoice_maximum = invoice_maximum
        self.draws_preimages = True
        self.ark_instant_max = ark_instant_max
        self._credentials = credentials
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._paces = paces
        self._rest = Rest(name, credentials)
        self._mailbox = Mailbox(self._rest, paces.sync)
        self._invoices = InvoiceCheck(name, clock, network)
        self._coins = Coins(self._rest, self._invoices, timeout_seconds=timeout_seconds)

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """See `ports.PaymentNode`. The server decides the expiry; by default it is two days."""
        if preimage is not None:
            raise ValueError("barkd draws preimages itself")
        if amount % 1000:
            raise self._invoices.refused("makes invoices of whole sats only")
        wish = {"amount_sat": amount // 1000, "description": cut(memo)}
        answer = await self._asked("POST", "/lightning/receives/invoice", "making an invoice", body=wish)
        return self._invoices.checked(str(self._field(answer, "invoice")), amount=amount)

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """See `ports.PaymentNode`. A preimage that is there proves nothing: barkd drew it."""
        await self._mailbox.sync()
        try:
            receive = await self._asked("GET", f"/lightning/receives/{payment_hash.hex()}", "a look-up")
        except NodeUnavailable as refusal:
            said = answered(refusal)
            if said is not None and _UNKNOWN in said.words:
                return None
            raise
        if self._field(receive, "payment_hash") != payment_hash.hex():
            raise self._invoices.refused("answered a look-up with another invoice")
        if self._field(receive, "state") != _SETTLED:
            return InvoiceStatus(InvoiceState.OPEN)
        settlement = await self._settlement(receive)
        if settlement is None:
            return InvoiceStatus(InvoiceState.OPEN)
        if settlement.payment_hash != payment_hash:
            raise self._invoices.refused("answered a look-up with another invoice")
        return InvoiceStatus(InvoiceState.SETTLED, settlement)

    async def _settlement(self, receive: Any) -> Settlement | None:  # noqa: ANN401 - as `_asked`
        """The settlement of a settled invoice; None while its movement is not successful yet.

        It says what was kept. A payment whose movement never comes is credited all the same.
        """
        invoice = str(self._field(receive, "invoice"))
        for found in await self._history({"type": "invoice", "value": invoice}):
            if isinstance(found, Receive) and found.successful:
                return found.settlement(self.name)
        try:
            settled_at_ms = milliseconds(str(self._field(receive, "settled_at")))
            paid = sats(int(self._field(receive, "amount_sat")))
        except (ValueError, TypeError) as error:
            raise self._invoices.refused(
                f"answered a look-up with a receive that is none: {error}"
            ) from error
        if self._clock.now_ms() - settled_at_ms < MOVEMENT_PATIENCE_MS:
            return None
        log.warning("a settled invoice has no movement: what was kept of it is unknown", node=self.name)
        return Receive(
            movement_id=0,
            pending=False,
            successful=True,
            payment_request=invoice,
            paid=paid,
            received=paid,
            began_at_ms=settled_at_ms,
            ended_at_ms=settled_at_ms,
        ).settlement(self.name)

    async def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """See `ports.PaymentNode`. barkd knows no cursor: a new stream tells the newest payments again.

        A notification only says that it is time to read the history. barkd forgets them when it restarts,
        and has none of what its server has not told it, so the history is read without them, too.
        """
        told = Told(backlog=BACKLOG_PAYMENTS)
        last: str | None = None
        await self._mailbox.sync()
        while True:
            began = time.monotonic()
            for receive in told.news(await self._history(), now_ms=self._clock.now_ms()):
                for payment in await self._payments(receive):
                    if isinstance(payment, ArkPayment):
                        yield NodeEvent(None, since, coin=payment)
                    else:
                        yield NodeEvent(payment, since)
            took = time.monotonic() - began
            last = await self._notified(last)
            await asyncio.sleep(began + took + max(took, READ_PAUSE_SECONDS) - time.monotonic())

    async def _notified(self, last: str | None) -> str | None:
        """Returns when there was a notification after the time `last`, or for long none; the time of it.

        Meanwhile the server is asked for what came in.
        """
        until = time.monotonic() + self._paces.reread
        while (left := until - time.monotonic()) > 0:
            found = await self._notification(last, seconds=min(left, self._paces.hint))
            if found != last:
                return found
            await self._mailbox.sync()
            await asyncio.sleep(READ_PAUSE_SECONDS)
        return last

    async def _notification(self, last: str | None, *, seconds: float) -> str | None:
        action = "the stream of notifications"
        query = {} if last is None else {"since": last}
        try:
            content = await self._rest.ask("GET", "/notifications/wait", action, seconds=seconds, query=query)
        except NodeUnavailable as refusal:
            if was_silent(refusal):
                return last
            raise
        found = self._field(self._read(content), "last_pushed_at")
        return last if found is None else str(found)

    async def settled_since(self, created_after_ms: int) -> AsyncIterator[Payment]:
        """See `ports.PaymentNode`. It goes by when the payment came, which is never before its invoice."""
        await self._mailbox.sync()
        for receive in await self._history():
            if receive.successful and receive.began_at_ms >= created_after_ms:
                for payment in await self._payments(receive):
                    yield payment

    async def _payments(self, receive: Received) -> Sequence[Payment]:
        """What a successful movement brought in: a payment, or a coin for each of its outpoints."""
        if isinstance(receive, ArkReceive):
            return await self._coins.payments(self.name, [receive], afresh=False)
        settlement = receive.settlement(self.name)
        return () if settlement is None else (settlement,)

    async def new_ark_address(self) -> str:
        """See `ports.ArkWallet`."""
        return await self._coins.new_address()

    async def ark_payments(self, address: str) -> Sequence[ArkPayment]:
        """See `ports.ArkWallet`."""
        await self._mailbox.sync()
        found = await self._history({"type": "ark", "value": address})
        receives = [one for one in found if isinstance(one, ArkReceive)]
        coins = await self._coins.payments(self.name, receives, afresh=True)
        return [coin for coin in coins if coin.address == address]

    async def make_final(self, outpoint: str) -> None:
        """See `ports.ArkWallet`. The coin becomes one of the next round; the server may take a fee for it."""
        await self._coins.make_final(outpoint)

    async def _history(self, query: dict[str, str] | None = None) -> Sequence[Received]:
        """Payments, newest first. In a thread, because all of them may be many."""
        seconds = LIST_TIMEOUT_SECONDS if query is None else self._timeout_seconds
        content = await self._rest.ask("GET", "/history", "listing payments", seconds=seconds, query=query)
        try:
            return await asyncio.to_thread(read_receives, content)
        except ValueError as error:
            raise self._invoices.refused(f"answered with a history that cannot be read: {error}") from error

    async def holdings(self) -> Holdings | None:
        """See `ports.PaymentNode`. With what is in a round or can be claimed."""
        balance = await self._asked("GET", "/wallet/balance", "a balance")
        parts = ("spendable_sat", "claimable_lightning_receive_sat", "pending_in_round_sat")
        return Holdings(sats(sum(int(self._field(balance, part)) for part in parts)))

    async def health(self) -> Health:
        """See `ports.PaymentNode`. `connected: true` proves nothing: the server is asked for mail."""
        try:
            return await self._health()
        except (CredentialsRefused, CredentialsUnreadable) as refusal:
            return Health(False, "refused", refusal.message)
        except NodeUnavailable as refusal:
            return Health(False, "unreachable", refusal.message)

    async def _health(self) -> Health:
        await self._rest.ping(seconds=HEALTH_TIMEOUT_SECONDS)
        wallet = await self._asked("GET", "/wallet", "to show its wallet", seconds=HEALTH_TIMEOUT_SECONDS)
        if not self._field(wallet, "fingerprint"):
            return self._not_ready("locked", "has no wallet yet: make one with POST /wallet/create")
        unreachable = await self._mailbox.sync()
        network = await self._network()
        if network is None:
            return self._not_ready("starting", "has not reached its Ark server since it started")
        if self._invoices.network not in (None, network):
            sentence = f"is on {network}, and the settings say {self._invoices.network}"
            return self._not_ready("refused", sentence, network)
        if unreachable is not None:
            sentence = f"does not reach its Ark server: {unreachable.message}"
            return self._not_ready("unreachable", sentence, network)
        sentence = f"node {self.name} reaches its Ark server{self._invoices.clock_offset.sentence}"
        return Health(True, "ready", sentence, network=network)

    def _not_ready(self, state: str, sentence: str, network: str = "") -> Health:
        return Health(False, state, f"node {self.name} {sentence}", network=network)

    async def _network(self) -> str | None:
        """The Ark server's network; None while barkd has never reached that."""
        path, action = "/wallet/ark-info", "to show its Ark server"
        try:
            info = await self._asked("GET", path, action, seconds=HEALTH_TIMEOUT_SECONDS)
        except NodeUnavailable as refusal:
            said = answered(refusal)
            if said is not None and said.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return network_of(str(self._field(info, "network")))

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """See `ports.PaymentNode`."""
        return BarkdCheckup(self, self._credentials, self._clock, self._invoices.network, demands).run()

    async def close(self) -> None:
        """See `ports.PaymentNode`."""
        await self._mailbox.close()
        await self._rest.close()

    async def _asked(
        self,
        method: str,
        path: str,
        action: str,
        *,
        body: dict[str, object] | None = None,
        seconds: float | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        content = await self._rest.ask(
            method, path, action, seconds=seconds or self._timeout_seconds, body=body
        )
        return self._read(content)

    def _read(self, content: bytes) -> Any:  # noqa: ANN401 - JSON
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise self._invoices.refused("answered with something else than JSON") from error

    def _field(self, answer: Any, name: str) -> Any:  # noqa: ANN401 - JSON
        if not isinstance(answer, dict) or name not in answer:
            raise self._invoices.refused(f"answered without {name}")
        return answer[name]
