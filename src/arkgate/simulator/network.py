"""The network that the simulated nodes share: a payment from one settles an invoice of the other."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
from coincurve import PrivateKey

from arkgate.simulator import payment_request
from arkgate.simulator.habits import Habits, Lie
from arkgate.simulator.payment_request import MAINNET, REGTEST, PaymentRequest
from arkgate.simulator.records import InvoiceRow, PaymentRow, PaymentStatus, Records

EXPIRY_SECONDS_DEFAULT = 86_400
EXPIRY_SECONDS_MAX = 365 * 86_400
MEMO_BYTES_MAX = 639
CLTV_EXPIRY_DEFAULT = 80

Listener = Callable[[InvoiceRow], None]
Taker = Callable[[PaymentRow], Awaitable[bool]]
"""Takes a payment that has arrived, in its own time, or not: then it fails."""


class Refused(Exception):  # noqa: N818
    """A node refuses a call, with the code and the text that LND gives."""

    def __init__(self, text: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Peer:
    """One node as the network knows it: its key, its habits, its invoices and its payments."""

    def __init__(self, name: str, records: Records) -> None:
        self.name = name
        self.habits = Habits()
        self.key = PrivateKey(records.private_key(name, secrets.token_bytes(32)))
        self.public_key = self.key.public_key.format().hex()
        self.invoices: dict[bytes, InvoiceRow] = {}
        self.hashes: dict[str, bytes] = {}
        self.add_index = self.settle_index = 0
        self._added: dict[int, bytes] = {}
        for row in records.invoices(name):
            self.keep(row)
        self.parts: dict[bytes, list[int]] = {}
        """The HTLCs that a payment in several parts has brought so far, in msat, by payment hash."""
        self.payments = {row.payment_hash: row for row in records.payments(name)}
        self.payments_begun = max((row.number for row in self.payments.values()), default=0)
        self.listeners: list[Listener] = []
        self.taker: Taker | None = None
        """Whoever takes its payments, where it is not the node at once."""

    def invoice(self, payment_hash: bytes) -> InvoiceRow | None:
        """The invoice, unless the node does not know it or has collected it as garbage."""
        row = self.invoices.get(payment_hash)
        return None if row is None or row.collected else row

    def keep(self, row: InvoiceRow) -> None:
        """Files an invoice, or what became of one."""
        self.invoices[row.payment_hash] = row
        self.hashes[row.payment_request] = row.payment_hash
        self._added[row.add_index] = row.payment_hash
        self.add_index = max(self.add_index, row.add_index)
        self.settle_index = max(self.settle_index, row.settle_index)

    def walk(self, offset: int, *, backwards: bool) -> Iterator[InvoiceRow]:
        """Invoices by add_index after `offset`; backwards, those before it, where 0 means from the newest."""
        newest = min(offset or self.add_index + 1, self.add_index + 1) - 1
        numbers = range(newest, 0, -1) if backwards else range(offset + 1, self.add_index + 1)
        return (self.invoices[self._added[number]] for number in numbers if number in self._added)

    def announce(self, row: InvoiceRow) -> None:
        """Tells the node's streams of an invoice that was added or settled."""
        for listener in self.listeners:
            listener(row)


class Network:
    """All nodes of one simulation. What a call was told is on disk, so a kill forgets nothing."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._records = Records(path, durable=durable)
        self._peers: dict[str, Peer] = {}
        self._by_key: dict[str, Peer] = {}
        self._under_way: dict[tuple[str, bytes], asyncio.Task[PaymentRow]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self.skipped_seconds = 0.0
        """How far the simulation's clock is ahead of the host's."""

    def now(self) -> float:
        """Unix seconds on the simulation's clock."""
        return time.time() + self.skipped_seconds

    def now_at(self, peer: Peer) -> float:
        """Unix seconds on the clock of one node."""
        return self.now() + peer.habits.clock_off_seconds

    def join(self, name: str) -> Peer:
        """Adds a node, with everything that the file knows of it."""
        peer = Peer(name, self._records)
        self._peers[name] = self._by_key[peer.public_key] = peer
        return peer

    def resume(self) -> None:
        """Takes up the payments that a stop or a kill interrupted, as LND does. All nodes have joined."""
        for peer in self._peers.values():
            for payment in peer.payments.values():
                if payment.status == PaymentStatus.IN_FLIGHT.value:
                    self._send(peer, payment)
                elif payment.status == PaymentStatus.SUCCEEDED.value:
                    self._settle_later(payment)

    async def close(self) -> None:
        """Interrupts what is in flight and closes the file."""
        tasks = [*self._under_way.values(), *self._settling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._records.close()

    # Invoices

    def add_invoice(
        self,
        peer: Peer,
        *,
        amount_msat: int,
        memo: str = "",
        expiry_seconds: int = 0,
        preimage: bytes = b"",
        description_hash: bytes = b"",
        cltv_expiry: int = 0,
        private: bool = False,
    ) -> InvoiceRow:
        """A new invoice, durable when it is returned. Raises Refused where LND does."""
        expiry_seconds = expiry_seconds or EXPIRY_SECONDS_DEFAULT
        _check_invoice(amount_msat, memo, expiry_seconds, preimage, description_hash)
        row = self._new_invoice(
            peer,
            amount_msat=amount_msat,
            memo=memo,
            expiry_seconds=expiry_seconds,
            preimage=preimage or secrets.token_bytes(32),
            description_hash=description_hash,
            cltv_expiry=cltv_expiry or CLTV_EXPIRY_DEFAULT,
        )
        if row.payment_hash in peer.invoices:
            raise Refused("invoice with payment hash already exists")
        row = replace(row, add_index=peer.add_index + 1, private=private)
        self._keep(peer, row)
        peer.announce(row)
        return row

    def fill(self, peer: Peer, count: int, *, created_at: int) -> None:
        """Adds that many settled invoices of somebody else, all made at that time; quick, and told to nobody.

        Their BOLT11 texts are left out: signing them would take minutes.
        """
        first = peer.add_index + 1
        rows = [self._old_invoice(peer, number, created_at) for number in range(first, first + count)]
        self._records.save_many(rows)
        for row in rows:
            peer.keep(row)

    def _old_invoice(self, peer: Peer, number: int, created_at: int) -> InvoiceRow:
        preimage = hashlib.sha256(f"{peer.name} {number}".encode()).digest()
        return InvoiceRow(
            node=peer.name,
            payment_hash=hashlib.sha256(preimage).digest(),
            preimage=preimage,
            payment_secret=b"",
            payment_request="",
            memo=f"another shop's order {number}",
            description_hash=b"",
            amount_msat=1000,
            created_at=created_at,
            expiry_seconds=EXPIRY_SECONDS_DEFAULT,
            cltv_expiry=CLTV_EXPIRY_DEFAULT,
            add_index=number,
            settle_index=number - peer.add_index + peer.settle_index,
            settled_at=created_at,
            paid_msat=1000,
        )

    def _new_invoice(
        self,
        peer: Peer,
        *,
        amount_msat: int,
        memo: str,
        expiry_seconds: int,
        preimage: bytes,
        description_hash: bytes,
        cltv_expiry: int,
    ) -> InvoiceRow:
        row = InvoiceRow(
            node=peer.name,
            payment_hash=hashlib.sha256(preimage).digest(),
            preimage=preimage,
            payment_secret=secrets.token_bytes(32),
            payment_request="",
            memo=memo,
            description_hash=description_hash,
            amount_msat=amount_msat,
            created_at=int(self.now_at(peer)),
            expiry_seconds=expiry_seconds,
            cltv_expiry=cltv_expiry,
        )
        return replace(row, payment_request=_text(row, peer))

    def cancel(self, peer: Peer, payment_hash: bytes) -> None:
        """Cancels an open invoice. Streams say nothing of it, as with LND."""
        row = peer.invoices[payment_hash]
        if not row.settled:
            self._keep(peer, replace(row, canceled=True))

    def forget(self, peer: Peer, payment_hash: bytes) -> None:
        """Takes an invoice out of the node's knowledge, whatever its state."""
        self._keep(peer, replace(peer.invoices[payment_hash], collected=True))

    def collect_garbage(self, peer: Peer) -> int:
        """Forgets canceled and expired invoices; answers how many."""
        canceled = [
            row for row in peer.invoices.values() if row.canceled_at(self.now_at(peer)) and not row.collected
        ]
        for row in canceled:
            self._keep(peer, replace(row, collected=True))
        return len(canceled)

    def receive_keysend(self, peer: Peer, *, amount_msat: int, memo: str = "") -> InvoiceRow:
        """A payment that nobody asked for: settled at once, without a BOLT11 text."""
        preimage = secrets.token_bytes(32)
        row = InvoiceRow(
            node=peer.name,
            payment_hash=hashlib.sha256(preimage).digest(),
            preimage=preimage,
            payment_secret=b"",
            payment_request="",
            memo=memo,
            description_hash=b"",
            amount_msat=amount_msat,
            created_at=int(self.now_at(peer)),
            expiry_seconds=EXPIRY_SECONDS_DEFAULT,
            cltv_expiry=CLTV_EXPIRY_DEFAULT,
            is_keysend=True,
            add_index=peer.add_index + 1,
        )
        return self._settle(peer, row, amount_msat)

    def _keep(self, peer: Peer, row: InvoiceRow) -> None:
        self._records.save(invoices=[row])
        peer.keep(row)

    def _settle(
        self, peer: Peer, row: InvoiceRow, paid_msat: int, payment: PaymentRow | None = None
    ) -> InvoiceRow:
        """Settles the invoice and, in the same transaction, lets the payment succeed."""
        settled = replace(
            row, settle_index=peer.settle_index + 1, settled_at=int(self.now_at(peer)), paid_msat=paid_msat
        )
        self._records.save(invoices=[settled], payments=[payment] if payment else [])
        peer.keep(settled)
        peer.announce(settled)
        return settled

    # Payments

    def read(self, text: str) -> PaymentRequest:
        """What an invoice says. Raises Refused when it is not one, or for another network."""
        text = text.strip().lower().removeprefix("lightning:")
        for peer in self._peers.values():
            if text in peer.hashes:
                return peer.invoices[peer.hashes[text]].request(peer.public_key)
        try:
            request = payment_request.read(text)
        except payment_request.UnreadableRequest as exc:
            raise Refused(str(exc)) from exc
        if request.currency != REGTEST:
            raise Refused("invoice not for current active network 'regtest'")
        return request

    def pay(
        self, payer: Peer, text: str, *, amount_msat: int = 0, allow_self_payment: bool = False
    ) -> PaymentRow:
        """Begins a payment and returns it in flight; it goes on whether or not anybody waits for it.

        Raises Refused where LND does: already paid, in flight, expired, or an amount that does not fit.
        """
        request = self.read(text)
        if self.now_at(payer) >= request.expires_at:
            until = time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(request.expires_at))
            raise Refused(f"invoice expired. Valid until {until}")
        if bool(amount_msat) == bool(request.amount_msat):
            fits = (
                "not be specified when paying a non-zero"
                if amount_msat
                else "be specified when paying a zero"
            )
            raise Refused(f"amount must {fits} amount invoice")
        if request.payee == payer.public_key and not allow_self_payment:
            raise Refused("self-payments not allowed")
        _check_first(payer.payments.get(request.payment_hash))
        payment = PaymentRow(
            node=payer.name,
            payment_hash=request.payment_hash,
            payment_request=text,
            payee=request.payee,
            amount_msat=(amount_msat or request.amount_msat) + payer.habits.overpay_msat,
            created_at_ns=int(self.now() * 1e9),
            number=payer.payments_begun + 1,
        )
        self._records.save(payments=[payment])
        payer.payments[payment.payment_hash] = payment
        payer.payments_begun = payment.number
        self._send(payer, payment)
        return payment

    async def finished(self, payer: Peer, payment_hash: bytes) -> PaymentRow:
        """The payment when it is final. Raises Refused when there is none."""
        task = self._under_way.get((payer.name, payment_hash))
        if task is not None:
            # A payer that stops listening does not stop its payment.
            return await asyncio.shield(task)
        if payment_hash not in payer.payments:
            raise Refused("payment isn't initiated", grpc.StatusCode.NOT_FOUND)
        return payer.payments[payment_hash]

    def _send(self, payer: Peer, payment: PaymentRow) -> None:
        key = (payer.name, payment.payment_hash)
        task = asyncio.create_task(self._carry(payer, payment), name=f"payment {payment.payment_hash.hex()}")
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _carry(self, payer: Peer, payment: PaymentRow) -> PaymentRow:
        await asyncio.sleep(payer.habits.settle_delay_seconds)
        payee = self._by_key.get(payment.payee)
        if payee is None:
            return self._fail(payer, payment, "FAILURE_REASON_NO_ROUTE")
        await self._hold_parts(payer, payee, payment)
        if payee.taker is not None and not await payee.taker(payment):
            return self._fail(payer, payment, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")
        invoice = payee.invoice(payment.payment_hash)
        if invoice is None or invoice.settled or invoice.canceled_at(self.now_at(payee)):
            return self._fail(payer, payment, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")
        most = invoice.amount_msat * payee.habits.overpaid_times_max
        if payment.amount_msat < invoice.amount_msat or (most and payment.amount_msat > most):
            return self._fail(payer, payment, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")
        paid = replace(payment, status=PaymentStatus.SUCCEEDED.value, preimage=invoice.preimage)
        if payee.habits.settlement_lag_seconds > 0:
            self._records.save(payments=[paid])
            self._settle_later(paid)
        else:
            self._settle(payee, invoice, paid.amount_msat, paid)
        payer.payments[paid.payment_hash] = paid
        return paid

    async def _hold_parts(self, payer: Peer, payee: Peer, payment: PaymentRow) -> None:
        """A payment in several HTLCs: the payee holds each until all have arrived."""
        each, rest = divmod(payment.amount_msat, payer.habits.parts)
        if each == payment.amount_msat:
            return
        arrived = payee.parts.setdefault(payment.payment_hash, [])
        for number in range(payer.habits.parts):
            arrived.append(each + (rest if number == 0 else 0))
            await asyncio.sleep(payer.habits.settle_delay_seconds)

    def _fail(self, payer: Peer, payment: PaymentRow, failure: str) -> PaymentRow:
        failed = replace(payment, status=PaymentStatus.FAILED.value, failure=failure)
        self._records.save(payments=[failed])
        payer.payments[failed.payment_hash] = failed
        return failed

    def _settle_later(self, payment: PaymentRow) -> None:
        """Settles, after the payee's lag, what a payment that has succeeded has not settled yet."""
        payee = self._by_key.get(payment.payee)
        if payee is None or payee.invoices[payment.payment_hash].settled:
            return
        task = asyncio.create_task(self._settle_after_lag(payee, payment))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_after_lag(self, payee: Peer, payment: PaymentRow) -> None:
        await asyncio.sleep(payee.habits.settlement_lag_seconds)
        self._settle(payee, payee.invoices[payment.payment_hash], payment.amount_msat)


def lying_answer(peer: Peer, row: InvoiceRow) -> tuple[bytes, str]:
    """The payment hash and the text of AddInvoice's answer, untrue as the node's habits say."""
    lie = peer.habits.lie
    if lie is Lie.PAYMENT_HASH:
        return secrets.token_bytes(32), row.payment_request
    if lie is Lie.AMOUNT:
        return row.payment_hash, _text(replace(row, amount_msat=row.amount_msat + 1000), peer)
    if lie is Lie.NETWORK:
        return row.payment_hash, _text(row, peer, currency=MAINNET)
    return row.payment_hash, row.payment_request


def _text(row: InvoiceRow, peer: Peer, *, currency: str = REGTEST) -> str:
    return payment_request.sign(replace(row.request(peer.public_key), currency=currency), peer.key)


def _check_invoice(
    amount_msat: int, memo: str, expiry_seconds: int, preimage: bytes, description_hash: bytes
) -> None:
    memo_bytes = len(memo.encode())
    if amount_msat < 0:
        raise Refused("amount cannot be negative")
    # LND's database takes 1024 bytes, but a BOLT11 description holds 639.
    if memo_bytes > MEMO_BYTES_MAX:
        raise Refused(f"memo too large: {memo_bytes} bytes (maxsize={MEMO_BYTES_MAX})")
    if not 0 < expiry_seconds <= EXPIRY_SECONDS_MAX:
        raise Refused(
            f"expiry of {expiry_seconds} seconds greater than max expiry of {EXPIRY_SECONDS_MAX} seconds"
        )
    if preimage and len(preimage) != 32:
        raise Refused(f"payment preimage must be exactly 32 bytes, is instead {len(preimage)}")
    if description_hash and len(description_hash) != 32:
        raise Refused(f"description hash is {len(description_hash)} bytes, must be 32")


def _check_first(before: PaymentRow | None) -> None:
    """Refuses a second payment of one hash, unless the first has failed."""
    if before is None or before.status == PaymentStatus.FAILED.value:
        return
    paid = before.status == PaymentStatus.SUCCEEDED.value
    text = "invoice is already paid" if paid else "payment is in transition"
    raise Refused(text, grpc.StatusCode.ALREADY_EXISTS)
