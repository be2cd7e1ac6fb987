"""What barkd's history says: which payments came in, over Lightning what was paid and what was kept of it.

Source: bark-json's movements.rs of bark 0.6.0. A movement is `pending`, with all its amounts filled in,
before it is `successful`; only that counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from arkgate.core.invoice import InvoiceError, read_bolt11
from arkgate.core.ledger import Settlement
from arkgate.core.money import Msat, sats

_LIGHTNING, _ARK = "bark.lightning_receive", "bark.arkoor"
_PENDING, _SUCCESSFUL = "pending", "successful"
PENDING_MS_MAX = 7 * 24 * 3600 * 1000
"""A payment that is under way for longer is not waited for: its invoice lived two days."""


@dataclass(frozen=True, slots=True)
class Receive:
    """A movement by which a Lightning payment comes in."""

    movement_id: int
    """Ascending, in the order in which payments began to arrive."""
    pending: bool
    successful: bool
    payment_request: str
    paid: Msat
    received: Msat
    """What the wallet has of it."""
    began_at_ms: int
    ended_at_ms: int

    def settlement(self, node: str) -> Settlement | None:
        """The settlement of a successful one; None when its invoice cannot be read.

        The payer is credited what the payer paid, at least what the invoice says.
        """
        try:
            invoice = read_bolt11(self.payment_request)
        except InvoiceError:
            return None
        paid = Msat(max(self.paid, invoice.amount or 0))
        return Settlement(
            node=node,
            payment_hash=invoice.payment_hash,
            amount_paid=paid,
            memo=invoice.description,
            settled_at_ms=self.ended_at_ms,
            fee=Msat(min(paid, max(0, paid - self.received))),
        )


@dataclass(frozen=True, slots=True)
class ArkReceive:
    """A movement by which coins come in over Ark. Its amounts are not to be believed, so they are not here.

    Source: `process_received_arkoor_package` in bark's mailbox.rs: who sends coins that are in the wallet
    already together with a new one has all of them counted again.
    """

    movement_id: int
    pending: bool
    successful: bool
    addresses: tuple[str, ...]
    """Those that any of its coins may belong to."""
    outpoints: tuple[str, ...]
    began_at_ms: int


Received = Receive | ArkReceive


def read_receives(content: bytes) -> Sequence[Received]:
    """The payments in a history, newest first. Raises ValueError."""
    try:
        found = (_received(movement) for movement in orjson.loads(content))
        return [one for one in found if one is not None]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it has no {error}") from error


def _received(movement: Mapping[str, Any]) -> Received | None:
    """The payment of a movement; None where it is something else."""
    subsystem = movement["subsystem"]
    if subsystem["name"] == _LIGHTNING and _invoice(movement) is not None:
        return _receive(movement)
    if subsystem["name"] == _ARK and subsystem["kind"] == "receive":
        return _ark_receive(movement)
    return None


def _ark_receive(movement: Mapping[str, Any]) -> ArkReceive:
    destinations = [one["destination"] for one in movement["received_on"]]
    return ArkReceive(
        movement_id=int(movement["id"]),
        pending=movement["status"] == _PENDING,
        successful=movement["status"] == _SUCCESSFUL,
        addresses=tuple(str(one["value"]) for one in destinations if one["type"] == "ark"),
        outpoints=tuple(str(one) for one in movement["output_vtxos"]),
        began_at_ms=milliseconds(movement["time"]["created_at"]),
    )


def _receive(movement: Mapping[str, Any]) -> Receive:
    destination = _invoice(movement)
    assert destination is not None
    times = movement["time"]
    return Receive(
        movement_id=int(movement["id"]),
        pending=movement["status"] == _PENDING,
        successful=movement["status"] == _SUCCESSFUL,
        payment_request=str(destination["destination"]["value"]),
        paid=sats(int(destination["amount_sat"])),
        received=sats(max(0, int(movement["effective_balance_sat"]))),
        began_at_ms=milliseconds(times["created_at"]),
        ended_at_ms=milliseconds(times.get("completed_at") or times["updated_at"]),
    )


def _invoice(movement: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Where the payment came in: the first that is an invoice."""
    found = (one for one in movement["received_on"] if one["destination"]["type"] == "invoice")
    return next(found, None)


def milliseconds(moment: str) -> int:
    """Unix milliseconds of an RFC 3339 time. Raises ValueError."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


class Told:
    """Which movements of a history have been told, so that each is told once and soon."""

    def __init__(self, *, backlog: int) -> None:
        self._backlog = backlog
        self._ended_up_to: int | None = None
        """All movements up to this id have ended and were told, if they were to be."""
        self._told: set[int] = set()
        """Those above it that have been told."""

    def news(self, receives: Sequence[Received], *, now_ms: int) -> Sequence[Received]:
        """The successful ones that were not told yet, oldest first; the first time the newest `backlog`."""
        begun = self._ended_up_to is not None
        known = self._ended_up_to or 0
        above = [one for one in receives if one.movement_id > known]
        fresh = [one for one in above if one.successful and one.movement_id not in self._told]
        self._told.update(one.movement_id for one in fresh)
        awaited = [one.movement_id for one in above if _is_awaited(one, now_ms)]
        newest = max((one.movement_id for one in above), default=known)
        self._ended_up_to = min(awaited) - 1 if awaited else newest
        self._told = {told for told in self._told if told > self._ended_up_to}
        return list(reversed(fresh if begun else fresh[: self._backlog]))


def _is_awaited(receive: Received, now_ms: int) -> bool:
    return receive.pending and now_ms - receive.began_at_ms < PENDING_MS_MAX
