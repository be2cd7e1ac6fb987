"""Reads from a bark address what a wrong one would cost money with: its network, and whose coins are its.

Source: bark 0.6.0, `lib/src/address.rs`: bech32m of any length under `ark` or `tark`, a version character,
then the server's id, the policy with its length before it (a type and a key), and how a sender delivers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(CHARSET)}
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32M = 0x2BC830A3
_CHECKSUM_WORDS = 6
MAINNET_PREFIX, TEST_PREFIX = "ark", "tark"
_VERSION = _VALUES["p"]
_SERVER_ID_BYTES = 4
_PUBKEY_POLICY, _PUBKEY_BYTES = 0, 33


class AddressError(ValueError):
    """This text is no bark address that can be read here."""


@dataclass(frozen=True, slots=True)
class BarkAddress:
    """What was read from an address."""

    is_mainnet: bool
    user_pubkey: bytes
    """The compressed key that alone can spend its coins."""


def read_bark_address(address: str) -> BarkAddress:
    """Reads an address in lower or upper case. Raises AddressError."""
    prefix, separator, data = address.lower().rpartition("1")
    if not separator or prefix not in (MAINNET_PREFIX, TEST_PREFIX) or not set(data) <= _VALUES.keys():
        raise AddressError("this is not a bark address")
    words = [_VALUES[character] for character in data]
    if words[-_CHECKSUM_WORDS:] != checksum(prefix, words[:-_CHECKSUM_WORDS]):
        raise AddressError("the checksum of the address is wrong")
    version, *payload = words[:-_CHECKSUM_WORDS]
    if version != _VERSION:
        raise AddressError("the address is of another Ark implementation")
    policy = _bytes(payload)[_SERVER_ID_BYTES:]
    if policy[:2] != bytes((1 + _PUBKEY_BYTES, _PUBKEY_POLICY)) or len(policy) < 2 + _PUBKEY_BYTES:
        raise AddressError("the address is not one of a single key")
    return BarkAddress(prefix == MAINNET_PREFIX, policy[2 : 2 + _PUBKEY_BYTES])


def checksum(prefix: str, words: Sequence[int]) -> list[int]:
    """The last six words of bech32m (BIP 350) after others."""
    spelled = [*(ord(character) >> 5 for character in prefix), 0, *(ord(one) & 31 for one in prefix)]
    value = _polymod([*spelled, *words, *[0] * _CHECKSUM_WORDS]) ^ _BECH32M
    return [value >> 5 * (_CHECKSUM_WORDS - 1 - place) & 31 for place in range(_CHECKSUM_WORDS)]


def _polymod(values: Sequence[int]) -> int:
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            state ^= generator if top >> bit & 1 else 0
    return state


def _bytes(words: Sequence[int]) -> bytes:
    number = 0
    for word in words:
        number = number << 5 | word
    spare = 5 * len(words) % 8
    return (number >> spare).to_bytes(5 * len(words) // 8, "big")
