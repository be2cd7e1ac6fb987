"""Versioned secret keys and what is derived from them: root keys, tokens, invoice tags, digests."""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

KEY_BYTES = 32
TAG_MAC_BYTES = 12
ACCOUNT_ID_BYTES = 16
_TAG = re.compile(r"\[([A-Za-z0-9_-]{42})\]$")


class PurposeKind(IntEnum):
    """What a payment is for. The numbers are on the wire, inside invoice tags: never reuse one."""

    CHALLENGE = 1
    SESSION = 2
    TOPUP = 3


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a payment is for and whose account it enters."""

    kind: PurposeKind
    account_id: str


@dataclass(frozen=True, slots=True)
class Tag:
    """What an invoice's memo states: its purpose, and the key version it was made under."""

    purpose: Purpose
    key_version: int


@dataclass(frozen=True, repr=False)
class Keyring:
    """Secret keys by version (1 to 65535); new secrets are made under the newest.

    An old version stays as long as anything made under it may hold funds. The keys are never part
    of the database, so a stolen backup spends nothing.
    """

    versions: Mapping[int, bytes]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("the keyring holds no key")
        for version, key in self.versions.items():
            if not 1 <= version <= 0xFFFF:
                raise ValueError(f"key version {version} is not between 1 and 65535")
            if len(key) != KEY_BYTES or len(set(key)) < 8:
                raise ValueError(f"key version {version} is not {KEY_BYTES} random bytes")
        object.__setattr__(self, "versions", MappingProxyType(dict(self.versions)))

    @property
    def current(self) -> int:
        """The version that new secrets are made under."""
        return max(self.versions)

    def _derive(self, label: bytes, message: bytes, version: int) -> bytes:
        return hmac.digest(self.versions[version], label + b"\0" + message, "sha256")

    def root_key(self, identifier: bytes, *, version: int) -> bytes | None:
        """The root key of one macaroon, or None when that version is not ours."""
        if version not in self.versions:
            return None
        return self._derive(b"macaroon root key", identifier, version)

    def token(self, account_id: str, *, version: int) -> str:
        """The account's `ak_` token: always the same, so that a lost answer can be fetched again."""
        return "ak_" + self._derive(b"token", bytes.fromhex(account_id), version)[:16].hex()

    def fingerprint(self, version: int) -> int:
        """A number that tells two keys of the same version apart and says nothing else of them."""
        return int.from_bytes(self._derive(b"fingerprint", b"", version)[:7], "big")

    def digest(self, label: bytes, message: bytes) -> bytes:
        """A keyed digest, for comparing what must not be guessed from a stolen database.

        Made under the oldest version, so that what is stored keeps its meaning after a rotation.
        BLAKE2b, keyed by itself: on the paid path it costs a tenth of OpenSSL's HMAC.
        """
        key = self.versions[min(self.versions)]
        return hashlib.blake2b(message, key=key, person=label[:16], digest_size=32).digest()

    def tag(self, purpose: Purpose, payment_hash: bytes) -> str:
        """The end of an invoice's memo that tells, without a row, that it is ours and whose it is.

        Bound to the payment hash: whoever copies a memo to another invoice of the same node copies
        nothing.
        """
        body = bytes((purpose.kind,)) + self.current.to_bytes(2, "big") + bytes.fromhex(purpose.account_id)
        mac = self._tag_mac(body, payment_hash, self.current)
        return f"[{base64.urlsafe_b64encode(body + mac).decode().rstrip('=')}]"

    def read_tag(self, memo: str, payment_hash: bytes) -> Tag | None:
        """What a memo's tag states, or None when the tag is missing or not ours for that payment."""
        found = _TAG.search(memo)
        if found is None:
            return None
        raw = base64.urlsafe_b64decode(found.group(1) + "==")
        body, mac = raw[:-TAG_MAC_BYTES], raw[-TAG_MAC_BYTES:]
        version = int.from_bytes(body[1:3], "big")
        if version not in self.versions or body[0] not in PurposeKind.__members__.values():
            return None
        if not hmac.compare_digest(mac, self._tag_mac(body, payment_hash, version)):
            return None
        return Tag(Purpose(kind=PurposeKind(body[0]), account_id=body[3:].hex()), version)

    def _tag_mac(self, body: bytes, payment_hash: bytes, version: int) -> bytes:
        return self._derive(b"invoice tag", body + payment_hash, version)[:TAG_MAC_BYTES]


def token_digest(token: str) -> bytes:
    """What is stored of a token: enough to find its account, not enough to spend it."""
    return hashlib.sha256(token.encode()).digest()
