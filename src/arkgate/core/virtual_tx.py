"""An Ark transaction as a wallet's indexer has it: a PSBT whose inputs may reveal a preimage.

Sources: BIP-174, and `txutils/psbt_fields.go` of arkd's ark-lib for the field "condition", which holds the
witness elements by which a hash lock is opened.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from io import BytesIO

_MAGIC = b"psbt\xff"
_UNSIGNED_TX = b"\x00"
_CONDITION = b"condition"
PREIMAGE_BYTES = 32


class VirtualTxError(ValueError):
    """These bytes are no Ark transaction."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a transaction pays, and to which script."""

    amount_sats: int
    script: bytes


@dataclass(frozen=True, slots=True)
class VirtualTx:
    """What of an Ark transaction says whose payment it is."""

    txid: str
    outputs: tuple[Output, ...]
    preimages: tuple[bytes, ...]
    """Those that its inputs reveal, each once: the only element of a condition, 32 bytes long."""


def read_virtual_tx(text: str) -> VirtualTx:
    """Reads a PSBT in Base64. Raises VirtualTxError."""
    try:
        stream = BytesIO(base64.b64decode(text, validate=True))
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise VirtualTxError("it is no PSBT")
        unsigned = dict(_map(stream)).get(_UNSIGNED_TX)
        if unsigned is None:
            raise VirtualTxError("it has no unsigned transaction")
        inputs, outputs = _read_tx(unsigned)
        found: dict[bytes, None] = {}
        for _ in range(inputs):
            for key, value in _map(stream):
                if key[1:] == _CONDITION and [len(item) for item in _witness(value)] == [PREIMAGE_BYTES]:
                    found[_witness(value)[0]] = None
    except (binascii.Error, EOFError) as error:
        raise VirtualTxError(f"it is cut short or garbled: {error}") from error
    txid = hashlib.sha256(hashlib.sha256(unsigned).digest()).digest()[::-1].hex()
    return VirtualTx(txid, outputs, tuple(found))


def _map(stream: BytesIO) -> list[tuple[bytes, bytes]]:
    """The keys and values of one of its maps."""
    pairs = []
    while length := _number(stream):
        key = _exactly(stream, length)
        pairs.append((key, _exactly(stream, _number(stream))))
    return pairs


def _read_tx(unsigned: bytes) -> tuple[int, tuple[Output, ...]]:
    """How many inputs an unsigned transaction has, and its outputs."""
    stream = BytesIO(unsigned)
    _exactly(stream, 4)
    inputs = _number(stream)
    for _ in range(inputs):
        _exactly(stream, 36)
        _exactly(stream, _number(stream))
        _exactly(stream, 4)
    outputs = tuple(_output(stream) for _ in range(_number(stream)))
    _exactly(stream, 4)
    return inputs, outputs


def _output(stream: BytesIO) -> Output:
    amount = int.from_bytes(_exactly(stream, 8), "little")
    return Output(amount, _exactly(stream, _number(stream)))


def _witness(value: bytes) -> list[bytes]:
    stream = BytesIO(value)
    return [_exactly(stream, _number(stream)) for _ in range(_number(stream))]


def _number(stream: BytesIO) -> int:
    """A compact size."""
    first = _exactly(stream, 1)[0]
    if first < 0xFD:
        return first
    return int.from_bytes(_exactly(stream, 2 ** (first - 0xFC)), "little")


def _exactly(stream: BytesIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"{count} bytes are missing")
    return data
