"""Credentials in request headers: one reader for all forms, used for authentication and metering alike.

Sources: the L402 protocol specification (schemes, several macaroons), Aperture's header package (the
`Macaroon` carriers). Where clients differ from both, the comment says which one.
"""

import base64
import binascii
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from arkgate.l402.caveats import preimage_in
from arkgate.l402.macaroon import Macaroon, MacaroonError, read

CREDENTIAL_BYTES_MAX = 4096
MACAROONS_MAX = 4
READ_MAX = 1024
_TOKEN = re.compile(r"ak_[0-9a-f]{32,128}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}\Z")
_PREIMAGE = re.compile(r"[0-9a-fA-F]{64}\Z")
_PREIMAGE_TWICE = re.compile(r"[0-9a-fA-F]{96}\Z")
_L402_SCHEMES = ("l402", "lsat")


@dataclass(frozen=True, slots=True)
class Token:
    """An `ak_` token as it was sent."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """An L402 credential: macaroons that must all verify, and the preimage that proves the payment."""

    macaroons: tuple[Macaroon, ...]
    preimage: bytes = field(repr=False)
    text: str = field(repr=False)
    """What was sent, for remembering a verified credential; never logged, never stored."""
    reencoded_preimage: bool = False
    """Whether the preimage came base64-decoded once too often, as `l402-requests` sends it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that was meant as a credential and cannot be one."""

    reason: str
    is_token: bool = False


Presented = Token | Credential | Unreadable


def read_credentials(authorization: Sequence[str], macaroon: Sequence[str] = ()) -> tuple[Presented, ...]:
    """All credentials of a request, in the order of its headers.

    `authorization` holds the values of every Authorization line, `macaroon` those of `Macaroon` and
    `Grpc-Metadata-Macaroon`. An unrelated scheme and an empty `L402 :` are no credential. Never raises.
    """
    presented = [_authorization(value) for value in authorization]
    presented += [_hex_macaroon(value) for value in macaroon]
    return tuple(one for one in presented if one is not None)


def _authorization(value: str) -> Presented | None:
    scheme, _, rest = value.strip().partition(" ")
    rest = rest.strip()
    scheme = scheme.lower()
    if scheme in _L402_SCHEMES:
        return None if rest.strip(": ") == "" else _credential(rest)
    if scheme != "bearer":
        return None
    if rest.startswith("ak_"):
        if _TOKEN.match(rest):
            return Token(rest)
        return Unreadable("a token is ak_ and at least 32 lower-case hex digits", is_token=True)
    return _credential(rest) if ":" in rest else None


@functools.lru_cache(maxsize=READ_MAX)  # the same credential comes with every call that it pays
def _credential(text: str) -> Presented:
    if len(text) > CREDENTIAL_BYTES_MAX:
        return Unreadable(f"the credential is longer than {CREDENTIAL_BYTES_MAX} bytes")
    encoded, colon, proof = text.rpartition(":")
    if not colon:
        return Unreadable("the credential has no preimage: send L402 <macaroon>:<preimage>")
    try:
        preimage, reencoded = _read_preimage(proof.strip())
        macaroons = tuple(read(_from_base64(part.strip())) for part in encoded.split(",", MACAROONS_MAX - 1))
    except (MacaroonError, ValueError) as error:
        return Unreadable(str(error))
    return Credential(macaroons, preimage, text, reencoded)


def _hex_macaroon(value: str) -> Presented | None:
    text = value.strip()
    if not text:
        return None
    if len(text) > 2 * CREDENTIAL_BYTES_MAX:
        return Unreadable(f"the credential is longer than {CREDENTIAL_BYTES_MAX} bytes")
    try:
        macaroon = read(bytes.fromhex(text))
    except MacaroonError as error:
        return Unreadable(str(error))
    except ValueError:
        return Unreadable("the Macaroon header is not hex")
    preimage = preimage_in(macaroon.caveats)
    if preimage is None:
        return Unreadable("the Macaroon header's macaroon has no preimage caveat")
    return Credential((macaroon,), preimage, text)


def _read_preimage(proof: str) -> tuple[bytes, bool]:
    if _PREIMAGE.match(proof):
        return bytes.fromhex(proof), False
    if _PREIMAGE_TWICE.match(proof):
        # l402-requests base64-decodes LND's hex preimage and sends that as hex: 96 digits.
        again = base64.b64encode(bytes.fromhex(proof)).decode()
        if _PREIMAGE.match(again):
            return bytes.fromhex(again), True
    raise ValueError("the preimage is not 64 hex digits")


def _from_base64(text: str) -> bytes:
    if not _BASE64.match(text):
        raise ValueError("the macaroon is not base64")
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        raise ValueError("the macaroon is not base64") from None
