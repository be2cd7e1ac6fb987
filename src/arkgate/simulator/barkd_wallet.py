"""The wallet of a simulated barkd and its Ark server's part in payments, on the shared network.

Sources: bark-rest and bark-json of bark 0.6.0 for forms and texts, and what the real daemon did.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from arkgate.simulator.barkd_coins import Coin, Package, Purse
from arkgate.simulator.network import Network, Peer
from arkgate.simulator.records import InvoiceRow, PaymentRow

EXPIRY_SECONDS = 172_800
BUFFER_SECONDS = 600
HELD_SECONDS_MAX = 180.0
_POLL_SECONDS = 0.01


class BarkdError(Exception):
    """barkd answers with an error."""

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


@dataclass(slots=True)
class ArkHabits:
    """What can be wrong with a barkd and its Ark server; a healthy one by default."""

    server_up: bool = True
    blind: bool = False
    """Its server was restarted: barkd learns nothing of it before it is told to look into its mailbox."""
    never_connected: bool = False
    """The server was down when barkd started."""
    pool_empty: bool = False
    """The server accepts payments and holds them, because it has nothing to pay them out with."""
    held_seconds_max: float = HELD_SECONDS_MAX
    """How long it holds them before it fails them."""
    delivery_seconds: float = 0.0
    """How long a payment is pending before it is successful."""
    movements_late: bool = False
    """A settled invoice's movement stays pending."""
    notifications_lost: bool = False
    """What happens is told to nobody, as when the buffer was lost."""
    error_bodies: str = "json"
    """`json`, `text` or `empty`."""
    round_seconds: float | None = None
    """How long after a coin was registered its round is held and confirmed; None: when a test says so."""
    has_wallet: bool = True
    has_lightning: bool = True
    network: str = "regtest"
    base_fee_sats: int = 100
    fee_ppm: int = 2_000


@dataclass(slots=True)
class Movement:
    """An entry of the history."""

    number: int
    row: InvoiceRow | None
    """The invoice that was paid; None where coins came in over Ark."""
    paid_sats: int
    fee_sats: int
    created_at: str
    status: str = "pending"
    completed_at: str | None = None
    package: Package | None = None
    """The coins that came in over Ark."""

    def is_to(self, kind: str | None, value: str | None) -> bool:
        """Whether it is one of those that a filter of the history asks for."""
        if kind is None:
            return True
        destinations = [one["destination"] for one in self._received_on()]
        return {"type": kind, "value": value} in destinations

    def _received_on(self) -> list[dict[str, Any]]:
        if self.package is not None:
            return [
                {"destination": {"type": "ark", "value": address}, "amount_sat": amount}
                for address, amount in self.package.addresses
            ]
        assert self.row is not None
        destination = {"type": "invoice", "value": self.row.payment_request}
        return [{"destination": destination, "amount_sat": self.paid_sats}]

    def as_json(self) -> dict[str, Any]:
        """As barkd tells it; the amounts are filled in from the first moment."""
        outpoints = [] if self.package is None else list(self.package.outpoints)
        name = "bark.arkoor" if self.row is None else "bark.lightning_receive"
        return {
            "id": self.number,
            "status": self.status,
            "subsystem": {"name": name, "kind": "receive"},
            "metadata": {} if self.row is None else {"payment_hash": self.row.payment_hash.hex()},
            "intended_balance_sat": self.paid_sats if self.row is None else self.row.amount_msat // 1000,
            "effective_balance_sat": self.paid_sats - self.fee_sats,
            "offchain_fee_sat": self.fee_sats,
            "sent_to": [],
            "received_on": self._received_on(),
            "input_vtxos": [],
            "output_vtxos": outpoints if self.row is None else [f"{self.row.payment_hash.hex()}:0"],
            "exited_vtxos": [],
            "time": {
                "created_at": self.created_at,
                "updated_at": self.completed_at or self.created_at,
                "completed_at": self.completed_at,
            },
        }


@dataclass(slots=True)
class Notification:
    """An entry of the buffer that a restart forgets."""

    at: str
    message: dict[str, Any]


@dataclass(eq=False, slots=True)
class Wait:
    """A call that waits for notifications."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    cut: bool = False


class ArkWallet:
    """What a barkd and its Ark server know, whether or not barkd runs."""

    def __init__(self, network: Network, peer: Peer, *, token: str) -> None:
        self.network = network
        self.peer = peer
        self.token = token
        self.ark = ArkHabits()
        self.running = False
        """Whether barkd runs; payments wait for it."""
        self.calls: list[str] = []
        """Every call so far, as `GET /history`."""
        self.taken_sats = 0
        """What its owner has spent."""
        self.waits: set[Wait] = set()
        self.purse = Purse(self.ark.network)
        self.participations: list[list[str]] = []
        """The coins of each request for the next round."""
        self._movements: dict[bytes, Movement] = {}
        self._unseen: list[Package] = []
        """Coins that wait in the server's mailbox."""
        self._notifications: list[Notification] = []
        for row in sorted(peer.invoices.values(), key=lambda row: row.settle_index):
            self._note(row)
        peer.listeners.append(self._note)
        peer.taker = self._take

    def cut_waits(self) -> int:
        """Breaks every call that waits for notifications; answers how many."""
        for wait in self.waits:
            wait.cut = True
            wait.changed.set()
        return len(self.waits)

    def start(self) -> None:
        """What a start does: barkd looks into its mailbox, and has none of its old notifications."""
        self.running = True
        self._notifications.clear()
        if self.ark.server_up and not self.ark.blind:
            self._take_mail()

    # What barkd knows.

    @property
    def spendable_sats(self) -> int:
        """What the wallet has: what came in, less fees and what was spent."""
        successful = [one for one in self._movements.values() if one.row and one.status == "successful"]
        by_lightning = sum(one.paid_sats - one.fee_sats for one in successful)
        return by_lightning + self.purse.spendable_sats - self.taken_sats

    def fee_sats(self, amount_sats: int) -> int:
        """What the server keeps of a payment."""
        return self.ark.base_fee_sats + amount_sats * self.ark.fee_ppm // 1_000_000

    def add(self, amount_sats: int, description: str) -> InvoiceRow:
        """A new invoice; the server and barkd decide all but amount and description. Raises BarkdError."""
        failed = "Failed to create invoice: "
        if self.ark.never_connected:
            raise BarkdError(f"{failed}You should be connected to Ark server to perform this action")
        if not self.ark.server_up:
            text = "code: 'The service is currently unavailable', message: \"tcp connect error\""
            raise BarkdError(failed + text)
        if not amount_sats:
            raise BarkdError(f"{failed}Cannot create invoice for 0 sats")
        if self.fee_sats(amount_sats) >= amount_sats:
            raise BarkdError(f"{failed}Amount after fees would be zero or negative")
        if not self.ark.has_lightning:
            text = "code: 'Internal error', message: \"no active hold-compatible cln node\""
            raise BarkdError(failed + text)
        return self.network.add_invoice(
            self.peer,
            amount_msat=amount_sats * 1000,
            memo=description,
            expiry_seconds=EXPIRY_SECONDS,
            cltv_expiry=256,
        )

    def receive(self, payment_hash: bytes) -> dict[str, Any]:
        """What barkd says of an invoice. Raises BarkdError for unknown, cancelled and expired ones alike."""
        row = self._known(payment_hash)
        movement = self._movements.get(payment_hash)
        state = "awaiting-payment" if movement is None else "htlcs-ready"
        settled_at = None
        if row.settled:
            state, settled_at = "settled", rfc3339(row.settled_at)
        return {
            "payment_hash": row.payment_hash.hex(),
            "state": state,
            "invoice": row.payment_request,
            "payment_preimage": row.preimage.hex(),
            "amount_sat": row.amount_msat // 1000,
            "htlc_vtxo_ids": [],
            "settled_at": settled_at,
            "preimage_revealed_at": None,
            "finished_at": settled_at,
            "htlc_vtxos": [],
        }

    def delete(self, payment_hash: bytes) -> None:
        """Cancels an unpaid invoice. Raises BarkdError."""
        if self._known(payment_hash).settled:
            raise BarkdError("no pending lightning receive found for this payment hash")
        self.network.cancel(self.peer, payment_hash)

    def _known(self, payment_hash: bytes) -> InvoiceRow:
        row = self.peer.invoice(payment_hash)
        if row is None or row.is_keysend or row.canceled_at(self.network.now_at(self.peer)):
            raise BarkdError(
                "Failed to get lightning receive status: "
                "no pending lightning receive found for this payment hash"
            )
        return row

    def history(self, kind: str | None = None, value: str | None = None) -> list[dict[str, Any]]:
        """Movements, newest first; with a destination, those that came in there."""
        newest_first = sorted(self._movements.values(), key=lambda one: -one.number)
        return [movement.as_json() for movement in newest_first if movement.is_to(kind, value)]

    def pay_ark(self, address: str, *amounts_sats: int, resent: Sequence[str] = ()) -> Sequence[str]:
        """Somebody sends coins to an address; answers their outpoints.

        They are there at once, or wait in the server's mailbox until barkd looks. `resent` are coins
        that it has already, see `Purse.receive`.
        """
        package = self.purse.receive(address, amounts_sats, resent=resent)
        self._unseen.append(package)
        if self.running and self.ark.server_up and not self.ark.blind:
            self._take_mail()
        return package.outpoints[len(resent) :]

    def _take_mail(self) -> None:
        """What waits in the mailbox becomes movements."""
        while self._unseen:
            package = self._unseen.pop(0)
            now = rfc3339(self.network.now_at(self.peer))
            number = len(self._movements) + 1
            movement = Movement(number, None, package.amount_sats, 0, now, "successful", now, package)
            self._movements[secrets.token_bytes(32)] = movement
            self._notify("movement-created", movement)

    def coin(self, outpoint: str) -> Coin:
        """A coin of the wallet. Raises BarkdError."""
        coin = self.purse.coins.get(outpoint)
        if coin is None:
            raise BarkdError("VTXO not found", 404)
        return coin

    def refresh(self, outpoints: Sequence[str]) -> None:
        """Registers coins for the next round, which `hold_round` holds. Raises BarkdError."""
        coins = [self.coin(outpoint) for outpoint in outpoints]
        if not self.ark.server_up:
            raise BarkdError("Failed to store round participation: the server is unavailable")
        if any(coin.state != "spendable" for coin in coins):
            raise BarkdError("Failed to store round participation: a vtxo is not spendable")
        # The real one takes a coin that takes part already once more, and calls it spendable all the time.
        self.participations.append([coin.outpoint for coin in coins])
        if self.ark.round_seconds is not None:
            asyncio.get_running_loop().call_later(self.ark.round_seconds, self.hold_round)

    def hold_round(self) -> None:
        """Registered coins are exchanged and their round is confirmed."""
        for outpoint in itertools.chain.from_iterable(self.participations):
            self.purse.coins[outpoint].state = "spent"
        self.participations.clear()

    def notifications(self, since: str | None) -> list[Notification]:
        """Those in the buffer after a time."""
        oldest = rfc3339(self.network.now_at(self.peer) - BUFFER_SECONDS)
        return [one for one in self._notifications if one.at > max(since or "", oldest)]

    def look_into_mailbox(self) -> int:
        """What `POST /wallet/sync/mailbox` does; answers its checkpoint. Raises BarkdError."""
        if not self.ark.server_up:
            raise BarkdError("Failed to sync mailbox: code: 'The service is currently unavailable'")
        self.ark.blind = self.ark.never_connected = False
        self._take_mail()
        return len(self._movements)

    # How payments come in.

    async def _take(self, payment: PaymentRow) -> bool:
        """The server holds a payment until barkd has taken it, or fails it."""
        ark = self.ark
        row = self.peer.invoice(payment.payment_hash)
        if row is None or row.canceled_at(self.network.now_at(self.peer)):
            return False
        if not await self._until(lambda: not ark.pool_empty, seconds=ark.held_seconds_max):
            return False
        ready = await self._until(
            lambda: self.running and ark.server_up and not ark.blind,
            seconds=ark.held_seconds_max,
        )
        if ready and not row.settled:
            self._book(row, payment.amount_msat // 1000)
            await asyncio.sleep(ark.delivery_seconds)
        return ready

    async def _until(self, fact: Callable[[], bool], *, seconds: float) -> bool:
        """Waits for something that a test decides; whether it came in time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not fact():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def _book(self, row: InvoiceRow, paid_sats: int) -> Movement:
        """A pending movement, unless there is one."""
        movement = self._movements.get(row.payment_hash)
        if movement is None:
            fee = self.fee_sats(paid_sats)
            now = rfc3339(self.network.now_at(self.peer))
            movement = Movement(len(self._movements) + 1, row, paid_sats, fee, now)
            self._movements[row.payment_hash] = movement
            self._notify("movement-created", movement)
        return movement

    def _note(self, row: InvoiceRow) -> None:
        """What the network settled is a successful movement."""
        if not row.settled:
            return
        if row.is_keysend:
            self.pay_ark(self.purse.new_address(), row.paid_msat // 1000)
            return
        movement = self._book(row, row.paid_msat // 1000)
        if not self.ark.movements_late:
            movement.status, movement.completed_at = "successful", rfc3339(row.settled_at)
            self._notify("movement-updated", movement)

    def _notify(self, kind: str, movement: Movement) -> None:
        if not self.running or self.ark.notifications_lost:
            return
        at = rfc3339(self.network.now_at(self.peer))
        if self._notifications and at <= self._notifications[-1].at:
            at = f"{self._notifications[-1].at[:-1]}0Z"
        self._notifications.append(Notification(at, {"type": kind, "movement": movement.as_json()}))
        for wait in self.waits:
            wait.changed.set()


def rfc3339(seconds: float) -> str:
    """A time as chrono writes it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"
