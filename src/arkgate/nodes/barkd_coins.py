"""The coins (VTXOs) of a barkd that came in at addresses of ours, each as barkd itself has it.

Source: bark 0.6.0, bark-rest's `wallet.rs` and bark-json's `primitives.rs`. A coin counts with its own
amount, at the address whose key alone can spend it, whatever the movement says that it came in with.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import structlog

from arkgate.core.bark_address import AddressError, BarkAddress, read_bark_address
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import ArkPayment
from arkgate.core.money import Msat, sats
from arkgate.nodes.barkd_history import ArkReceive
from arkgate.nodes.barkd_rest import Rest, answered
from arkgate.nodes.invoices import InvoiceCheck

log = structlog.get_logger()
REMEMBERED_MAX = 100_000
"""Coins whose amount and owner need not be asked for when a listing is read again."""
_SPENDABLE, _SPENT = "spendable", "spent"


@dataclass(frozen=True, slots=True)
class _Coin:
    """What barkd says of a coin; the first two never change."""

    user_pubkey: bytes
    amount: Msat
    state: str


class Coins:
    """Addresses and coins of one barkd. Every method raises NodeUnavailable."""

    def __init__(self, rest: Rest, check: InvoiceCheck, *, timeout_seconds: float) -> None:
        self._rest = rest
        self._check = check
        self._timeout_seconds = timeout_seconds
        self._remembered: dict[str, _Coin] = {}
        self._refreshing = asyncio.Lock()

    async def new_address(self) -> str:
        """A fresh address of the network that the settings name."""
        answer = await self._asked("POST", "/wallet/addresses/next", "giving out an Ark address")
        try:
            address = str(answer["address"]).lower()
            is_mainnet = read_bark_address(address).is_mainnet
        except (KeyError, TypeError, AddressError) as error:
            raise self._check.refused(f"gave out an Ark address that cannot be read: {error}") from error
        if self._check.network is not None and is_mainnet != (self._check.network == "mainnet"):
            raise self._check.refused(f"gave out an Ark address that is not of {self._check.network}")
        return address

    async def payments(
        self, node: str, receives: Iterable[ArkReceive], *, afresh: bool
    ) -> Sequence[ArkPayment]:
        """Every coin of successful movements that belongs to one of their addresses.

        Without `afresh` a coin that was asked for before is not asked for again: whether it has become
        final since is then not known.
        """
        found = [
            payment
            for receive in receives
            if receive.successful
            for outpoint in receive.outpoints
            if (payment := await self._payment(node, receive, outpoint, afresh=afresh)) is not None
        ]
        return list({payment.outpoint: payment for payment in found}.values())

    async def _payment(
        self, node: str, receive: ArkReceive, outpoint: str, *, afresh: bool
    ) -> ArkPayment | None:
        coin = None if afresh else self._remembered.get(outpoint)
        coin = coin or await self._coin(outpoint)
        if coin is None:
            log.warning("barkd does not know a coin of its own history", node=node, outpoint=outpoint)
            return None
        address = next((one for one in receive.addresses if _key_of(one) == coin.user_pubkey), None)
        if address is None:
            log.warning(
                "a coin came in at none of the addresses that barkd names", node=node, outpoint=outpoint
            )
            return None
        return ArkPayment(
            node=node,
            outpoint=outpoint.lower(),
            address=address.lower(),
            amount_paid=coin.amount,
            received_at_ms=receive.began_at_ms,
            final=coin.state == _SPENT,
        )

    async def make_final(self, outpoint: str) -> None:
        """Lets a coin be exchanged for one of a round, unless that or another use is under way already."""
        async with self._refreshing:
            coin = await self._coin(outpoint)
            if coin is None or coin.state != _SPENDABLE or outpoint in await self._in_rounds():
                return
            body: dict[str, object] = {"vtxos": [outpoint]}
            await self._asked("POST", "/wallet/refresh/delegated/vtxos", "refreshing a coin", body=body)
            log.info("an Ark payment is made final in the next round", outpoint=outpoint)

    async def _in_rounds(self) -> set[str]:
        """The coins that take part in a round already: barkd calls them spendable until it is confirmed."""
        rounds = await self._asked("GET", "/wallet/rounds", "to show its rounds")
        try:
            return {str(coin) for one in rounds for coin in one["participation"]["inputs"]}
        except (KeyError, TypeError) as error:
            raise self._check.refused(f"answered with rounds that are none: {error}") from error

    async def _coin(self, outpoint: str) -> _Coin | None:
        """A coin as barkd has it now; None when it has none of that name."""
        try:
            told = await self._asked("GET", f"/wallet/vtxos/{outpoint}", "to show a coin")
        except NodeUnavailable as refusal:
            said = answered(refusal)
            if said is not None and said.status == httpx.codes.NOT_FOUND:
                return None
            raise
        try:
            named = str(told["id"])
            key, amount = bytes.fromhex(told["user_pubkey"]), sats(int(told["amount_sat"]))
            coin = _Coin(key, amount, str(told["state"]["type"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._check.refused(f"answered with a coin that is none: {error}") from error
        if named != outpoint:
            raise self._check.refused("answered with another coin than it was asked for")
        if len(self._remembered) < REMEMBERED_MAX:
            self._remembered[outpoint] = coin
        return coin

    async def _asked(
        self, method: str, path: str, action: str, *, body: dict[str, object] | None = None
    ) -> Any:  # noqa: ANN401 - JSON
        content = await self._rest.ask(method, path, action, seconds=self._timeout_seconds, body=body)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise self._check.refused("answered with something else than JSON") from error


def _key_of(address: str) -> bytes | None:
    try:
        found: BarkAddress = read_bark_address(address)
    except AddressError:
        return None
    return found.user_pubkey
