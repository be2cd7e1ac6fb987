"""BOLT11 invoices of the simulated nodes: signed here at a tenth of a library's cost, read by the library."""

import hashlib
from dataclasses import dataclass

import bolt11
from coincurve import PrivateKey

REGTEST = "bcrt"
MAINNET = "bc"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# var_onion_optin and payment_secret required, basic_mpp supported: what LND writes.
_FEATURES = 1 << 8 | 1 << 14 | 1 << 17
# Amounts by their multiplier, largest first, in msat.
_UNITS = (("", 100_000_000_000), ("m", 100_000_000), ("u", 100_000), ("n", 100))


class UnreadableRequest(ValueError):  # noqa: N818
    """The text is not a BOLT11 invoice."""


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What a BOLT11 invoice says. `amount_msat` 0: the payer chooses; `payee`: public key, hex."""

    payment_hash: bytes
    payment_secret: bytes
    amount_msat: int
    description: str
    created_at: int
    expiry_seconds: int
    cltv_expiry: int
    currency: str = REGTEST
    payee: str = ""
    description_hash: bytes = b""

    @property
    def expires_at(self) -> int:
        """Unix seconds."""
        return self.created_at + self.expiry_seconds


def sign(request: PaymentRequest, private_key: PrivateKey) -> str:
    """The invoice's text, lower case."""
    prefix = "ln" + request.currency + _amount(request.amount_msat)
    data = _number(request.created_at, 7)
    for tag, value in (("p", _words(request.payment_hash)), ("s", _words(request.payment_secret))):
        data += _field(tag, value)
    if request.description_hash:
        data += _field("h", _words(request.description_hash))
    else:
        data += _field("d", _words(request.description.encode()))
    data += _field("x", _number(request.expiry_seconds))
    data += _field("c", _number(request.cltv_expiry))
    data += _field("9", _number(_FEATURES))
    digest = hashlib.sha256(prefix.encode() + _padded_bytes(data)).digest()
    data += _words(private_key.sign_recoverable(digest, hasher=None))
    return prefix + "1" + "".join([_ALPHABET[word] for word in data + _checksum(prefix, data)])


def read(text: str) -> PaymentRequest:
    """What the invoice says; its signature names the payee. Raises UnreadableRequest."""
    try:
        decoded = bolt11.decode(text)
        return PaymentRequest(
            payment_hash=bytes.fromhex(decoded.payment_hash),
            payment_secret=bytes.fromhex(decoded.payment_secret or ""),
            amount_msat=int(decoded.amount_msat or 0),
            description=decoded.description or "",
            created_at=decoded.date,
            expiry_seconds=decoded.expiry,
            cltv_expiry=decoded.min_final_cltv_expiry,
            currency=decoded.currency,
            payee=decoded.payee or "",
            description_hash=bytes.fromhex(decoded.description_hash or ""),
        )
    except Exception as exc:  # the library raises whatever its parts raise on bad text
        raise UnreadableRequest(f"not a BOLT11 invoice: {exc}") from exc


def _amount(amount_msat: int) -> str:
    if amount_msat == 0:
        return ""
    for letter, unit in _UNITS:
        if amount_msat % unit == 0:
            return f"{amount_msat // unit}{letter}"
    return f"{amount_msat * 10}p"


def _words(data: bytes) -> list[int]:
    """Bytes as groups of five bits, the last one filled up with zeros."""
    bits = len(data) * 8
    padding = -bits % 5
    number = int.from_bytes(data, "big") << padding
    return [number >> shift & 31 for shift in range(bits + padding - 5, -1, -5)]


def _number(value: int, length: int = 0) -> list[int]:
    """A number as groups of five bits, as few as hold it but at least `length`."""
    length = max(length, 1, -(-value.bit_length() // 5))
    return [value >> shift & 31 for shift in range(5 * (length - 1), -1, -5)]


def _field(tag: str, words: list[int]) -> list[int]:
    return [_ALPHABET.index(tag), len(words) >> 5, len(words) & 31, *words]


def _padded_bytes(words: list[int]) -> bytes:
    number = 0
    for word in words:
        number = number << 5 | word
    padding = -len(words) * 5 % 8
    return (number << padding).to_bytes((len(words) * 5 + padding) // 8, "big")


def _checksum(prefix: str, words: list[int]) -> list[int]:
    """Bech32's checksum (BIP 173)."""
    check = 1
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    for word in expanded + words + [0] * 6:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    check ^= 1
    return [check >> shift & 31 for shift in range(25, -1, -5)]
