"""Reads from a BOLT11 invoice what a wrong one would cost money with: network, amount, payment hash.

Source: BOLT 11. The checksum and the signature are not checked: the text comes from our own node
over an authenticated channel, and the payer's wallet checks both.
"""

import re
from dataclasses import dataclass
from typing import Final

from arkgate.core.money import Msat

_CHARSET = {character: value for value, character in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_HEAD = re.compile(r"ln(bcrt|bc|tbs|tb|sb)(?:([1-9][0-9]{0,17})([munp]?))?\Z")
NETWORKS: Final = {"bc": "mainnet", "tb": "testnet", "tbs": "signet", "bcrt": "regtest", "sb": "simnet"}
_MSAT_PER_BITCOIN = 100_000_000_000
_DIVISORS = {"": 1, "m": 1_000, "u": 1_000_000, "n": 1_000_000_000, "p": 1_000_000_000_000}
_TIMESTAMP_WORDS = 7
_SIGNATURE_AND_CHECKSUM_WORDS = 104 + 6
_PAYMENT_HASH, _EXPIRY, _DESCRIPTION = _CHARSET["p"], _CHARSET["x"], _CHARSET["d"]
_PAYMENT_HASH_WORDS = 52
DEFAULT_EXPIRY_SECONDS = 3600


class InvoiceError(ValueError):
    """This text is not a BOLT11 invoice that can be read here."""


@dataclass(frozen=True, slots=True)
class Bolt11:
    """What was read from an invoice."""

    network: str
    amount: Msat | None
    """None where the payer chooses."""
    payment_hash: bytes
    created_at: int
    """Unix seconds."""
    expiry_seconds: int
    description: str = ""


def read_bolt11(text: str) -> Bolt11:
    """Reads an invoice in lower or upper case. Raises InvoiceError."""
    text = text.lower() if text.isupper() else text
    head, separator, data = text.rpartition("1")
    found = _HEAD.match(head)
    if not separator or found is None or not text.isascii():
        raise InvoiceError("this is not a BOLT11 invoice")
    try:
        words = [_CHARSET[character] for character in data]
    except KeyError:
        raise InvoiceError("the invoice holds a character that bech32 does not have") from None
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_AND_CHECKSUM_WORDS:
        raise InvoiceError("the invoice is cut short")
    fields = _tagged(words[_TIMESTAMP_WORDS:-_SIGNATURE_AND_CHECKSUM_WORDS])
    if _PAYMENT_HASH not in fields:
        raise InvoiceError("the invoice has no payment hash")
    network, amount, unit = found.groups()
    return Bolt11(
        network=NETWORKS[network],
        amount=None if amount is None else _amount(int(amount), unit),
        payment_hash=(_number(fields[_PAYMENT_HASH]) >> 4).to_bytes(32, "big"),
        created_at=_number(words[:_TIMESTAMP_WORDS]),
        expiry_seconds=_number(fields[_EXPIRY]) if _EXPIRY in fields else DEFAULT_EXPIRY_SECONDS,
        description=_text(fields.get(_DESCRIPTION, [])),
    )


def read_created_at(text: str) -> int:
    """When an invoice was made (Unix seconds), without reading the rest. Raises InvoiceError."""
    head, separator, data = text.lower().rpartition("1")
    if not separator or _HEAD.match(head) is None or len(data) < _TIMESTAMP_WORDS:
        raise InvoiceError("this is not a BOLT11 invoice")
    try:
        return _number([_CHARSET[character] for character in data[:_TIMESTAMP_WORDS]])
    except KeyError:
        raise InvoiceError("the invoice holds a character that bech32 does not have") from None


def _tagged(words: list[int]) -> dict[int, list[int]]:
    """The first field of each tag, as BOLT 11 asks of a reader."""
    fields: dict[int, list[int]] = {}
    position = 0
    while position + 3 <= len(words):
        tag, length = words[position], words[position + 1] * 32 + words[position + 2]
        value = words[position + 3 : position + 3 + length]
        position += 3 + length
        if position > len(words):
            raise InvoiceError("the invoice is cut short")
        if tag != _PAYMENT_HASH or length == _PAYMENT_HASH_WORDS:
            fields.setdefault(tag, value)
    return fields


def _number(words: list[int]) -> int:
    value = 0
    for word in words:
        value = value << 5 | word
    return value


def _text(words: list[int]) -> str:
    """UTF-8 in words of five bits; the bits after its last whole byte are padding."""
    bits = 5 * len(words)
    return (_number(words) >> bits % 8).to_bytes(bits // 8, "big").decode(errors="replace")


def _amount(number: int, unit: str) -> Msat:
    msat, rest = divmod(number * _MSAT_PER_BITCOIN, _DIVISORS[unit])
    if rest:
        raise InvoiceError("the invoice's amount is not a whole number of millisatoshis")
    return Msat(msat)
