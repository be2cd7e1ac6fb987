"""The Ark side of a simulated barkd: its addresses, and the coins (VTXOs) that somebody sends to them.

Sources: bark 0.6.0, `lib/src/address.rs` for the form of an address, `bark/src/mailbox.rs` for what a
received package becomes, `bark-json/src/primitives.rs` for a coin.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arkgate.core.bark_address import CHARSET, MAINNET_PREFIX, TEST_PREFIX, checksum, read_bark_address

_SERVER_ID = hashlib.sha256(b"simulated Ark server").digest()[:4]
_VERSION = CHARSET.index("p")


@dataclass(slots=True)
class Coin:
    """A VTXO of the wallet."""

    outpoint: str
    amount_sats: int
    user_pubkey: bytes
    state: str = "spendable"

    def as_json(self) -> dict[str, Any]:
        """As barkd tells it."""
        return {
            "id": self.outpoint,
            "amount_sat": self.amount_sats,
            "policy_type": "pubkey",
            "user_pubkey": self.user_pubkey.hex(),
            "expiry_height": 1_000,
            "state": {"type": self.state},
        }


@dataclass(frozen=True, slots=True)
class Package:
    """What one sender delivered at once; a movement of the history."""

    addresses: Sequence[tuple[str, int]]
    """Each with the sats that barkd says came in there."""
    outpoints: Sequence[str]

    @property
    def amount_sats(self) -> int:
        """All that barkd says came in."""
        return sum(amount for _, amount in self.addresses)


class Purse:
    """Addresses and coins of one wallet."""

    def __init__(self, network: str) -> None:
        self._prefix = MAINNET_PREFIX if network == "mainnet" else TEST_PREFIX
        self.addresses: dict[bytes, str] = {}
        """Every address that was given out, by its key."""
        self.begins_again = False
        """It was made anew from its words, and gives out its addresses from the first one on."""
        self.coins: dict[str, Coin] = {}

    def new_address(self) -> str:
        """A fresh one, unless it begins again."""
        if self.begins_again:
            return next(iter(self.addresses.values()))
        key = b"\x02" + secrets.token_bytes(32)
        delivery = secrets.token_bytes(33)
        policy = bytes((34, 0)) + key
        words = [_VERSION, *_words(_SERVER_ID + policy + bytes((34, 1)) + delivery)]
        words += checksum(self._prefix, words)
        address = f"{self._prefix}1{''.join(CHARSET[word] for word in words)}"
        self.addresses[key] = address
        return address

    def receive(self, address: str, amounts_sats: Sequence[int], *, resent: Sequence[str] = ()) -> Package:
        """New coins at an address. `resent` are coins of earlier packages that the sender adds once more.

        barkd counts those again in what it says of the package: an error of its own that senders may use.
        """
        key = read_bark_address(address).user_pubkey
        fresh = [
            Coin(f"{secrets.token_hex(32)}:{place}", amount, key) for place, amount in enumerate(amounts_sats)
        ]
        self.coins |= {coin.outpoint: coin for coin in fresh}
        package = [*(self.coins[outpoint] for outpoint in resent), *fresh]
        counted: dict[str, int] = {}
        for coin in package:
            at = self.addresses[coin.user_pubkey]
            counted[at] = counted.get(at, 0) + coin.amount_sats
        return Package(list(counted.items()), [coin.outpoint for coin in package])

    @property
    def spendable_sats(self) -> int:
        """What the coins are worth that were not exchanged in a round, and those that they became."""
        return sum(coin.amount_sats for coin in self.coins.values())


def _words(data: bytes) -> list[int]:
    """Bytes in words of five bits, the last one filled up with zeros."""
    spare = -len(data) * 8 % 5
    number, count = int.from_bytes(data, "big") << spare, (len(data) * 8 + spare) // 5
    return [number >> 5 * (count - 1 - place) & 31 for place in range(count)]
