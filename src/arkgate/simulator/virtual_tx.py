"""The Ark transactions of simulated claims: PSBTs whose inputs reveal a preimage, or do not."""

import base64
import hashlib
import secrets

_CONDITION = bytes((222,)) + b"condition"
_ANCHOR = bytes.fromhex("51024e73")


def claim(amount_sats: int, script: bytes, preimages: list[bytes]) -> tuple[str, str]:
    """A transaction with one input for each preimage, at least one: its id, and its PSBT in Base64."""
    inputs = max(1, len(preimages))
    unsigned = (
        (3).to_bytes(4, "little")
        + bytes((inputs,))
        + b"".join(secrets.token_bytes(32) + bytes(4) + b"\0" + b"\xff" * 4 for _ in range(inputs))
        + b"\2"
        + amount_sats.to_bytes(8, "little")
        + _sized(script)
        + bytes(8)
        + _sized(_ANCHOR)
        + bytes(4)
    )
    maps = [_pair(b"\0", unsigned) + b"\0"]
    maps += [_pair(_CONDITION, b"\1" + _sized(preimage)) + b"\0" for preimage in preimages]
    maps += [b"\0"] * (inputs - len(preimages) + 2)
    txid = hashlib.sha256(hashlib.sha256(unsigned).digest()).digest()[::-1].hex()
    return txid, base64.b64encode(b"psbt\xff" + b"".join(maps)).decode()


def _pair(key: bytes, value: bytes) -> bytes:
    return _sized(key) + _sized(value)


def _sized(data: bytes) -> bytes:
    if len(data) < 0xFD:
        return bytes((len(data),)) + data
    return b"\xfd" + len(data).to_bytes(2, "little") + data
