"""Macaroons in binary V2: minting, strict reading, and the HMAC chain.

The only module that imports pymacaroons, which mints. Reading is our own, because its reader
accepts trailing bytes and second macaroons, raises six kinds of exception and takes time in the
square of the size; the tests hold both to the same bytes. Source of the format: go-macaroon's
`packet-v2`: fields are `tag, varint length, data`; tags 1 location, 2 identifier, 4 verification
id, 6 signature, 0 end of section; the caveat list ends with an empty section.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import pymacaroons
from pymacaroons.serializers import BinarySerializer

LOCATION = "lsat"
CAVEATS_MAX = 16
MACAROON_BYTES_MAX = 3072
_VERSION_BYTE = 2
_END, _LOCATION, _IDENTIFIER, _VERIFICATION_ID, _SIGNATURE = 0, 1, 2, 4, 6
_KEY_GENERATOR = b"macaroons-key-generator"


class MacaroonError(ValueError):
    """These bytes are not a macaroon that this gateway reads."""


@dataclass(frozen=True, slots=True)
class Macaroon:
    """A macaroon with first-party caveats only."""

    identifier: bytes
    caveats: tuple[bytes, ...]
    signature: bytes

    def signed_with(self, root_key: bytes) -> bool:
        """Whether the signature is the HMAC chain over identifier and caveats under that key."""
        signature = hmac.digest(hmac.digest(_KEY_GENERATOR, root_key, "sha256"), self.identifier, "sha256")
        for caveat in self.caveats:
            signature = hmac.digest(signature, caveat, "sha256")
        return hmac.compare_digest(signature, self.signature)


def mint(root_key: bytes, identifier: bytes, caveats: Sequence[str]) -> bytes:
    """A new macaroon as binary V2."""
    macaroon = pymacaroons.Macaroon(
        location=LOCATION, identifier=identifier, key=root_key, version=pymacaroons.MACAROON_V2
    )
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    raw: bytes = BinarySerializer().serialize_raw(macaroon)
    return raw


def read(raw: bytes) -> Macaroon:
    """Reads binary V2. Raises MacaroonError with a sentence that says what is wrong."""
    if len(raw) > MACAROON_BYTES_MAX:
        raise MacaroonError(f"the macaroon is longer than {MACAROON_BYTES_MAX} bytes")
    if not raw or raw[0] != _VERSION_BYTE:
        raise MacaroonError("the macaroon is not in the binary V2 format")
    fields = _Fields(raw, 1)
    _, identifier = fields.section(optional_location=True)
    caveats = []
    while not fields.at_end_of_section():
        has_location, caveat = fields.section(optional_location=True)
        if has_location:
            raise MacaroonError("the macaroon has a third-party caveat, which L402 does not use")
        caveats.append(caveat)
        if len(caveats) > CAVEATS_MAX:
            raise MacaroonError(f"the macaroon has more than {CAVEATS_MAX} caveats")
    signature = fields.last(_SIGNATURE)
    if len(signature) != 32:
        raise MacaroonError("the macaroon's signature is not 32 bytes")
    return Macaroon(identifier, tuple(caveats), signature)


class _Fields:
    """Reads tagged fields one after the other."""

    def __init__(self, raw: bytes, position: int) -> None:
        self.raw = raw
        self.position = position

    def _varint(self) -> int:
        value = shift = 0
        while shift < 28 and self.position < len(self.raw):
            byte = self.raw[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
        raise MacaroonError("the macaroon is cut short or not well formed")

    def _field(self) -> tuple[int, bytes]:
        tag = self._varint()
        if tag == _END:
            return tag, b""
        length = self._varint()
        start, self.position = self.position, self.position + length
        if self.position > len(self.raw):
            raise MacaroonError("the macaroon is cut short or not well formed")
        return tag, self.raw[start : self.position]

    def section(self, *, optional_location: bool) -> tuple[bool, bytes]:
        """A section of location (optional) and identifier: whether it had the first, and the second."""
        tag, data = self._field()
        has_location = optional_location and tag == _LOCATION
        if has_location:
            tag, data = self._field()
        if tag != _IDENTIFIER:
            raise MacaroonError("the macaroon is not well formed")
        tag, _ = self._field()
        if tag == _VERIFICATION_ID:
            raise MacaroonError("the macaroon has a third-party caveat, which L402 does not use")
        if tag != _END:
            raise MacaroonError("the macaroon is not well formed")
        return has_location, data

    def at_end_of_section(self) -> bool:
        """Whether the list of caveats ends here; steps over its end."""
        if self.position < len(self.raw) and self.raw[self.position] == _END:
            self.position += 1
            return True
        return False

    def last(self, expected: int) -> bytes:
        """The last field; nothing may follow it."""
        tag, data = self._field()
        if tag != expected or self.position != len(self.raw):
            raise MacaroonError("the macaroon is not well formed")
        return data
