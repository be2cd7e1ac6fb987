"""The 66-byte macaroon identifier: what a credential was bought with and whose account it opens.

Source of the outer layout: the L402 macaroon specification, `u16 version | payment hash | token id`.
The token id is ours: `u16 key version | u16 node | account id (16) | random (12)`, so that a
credential names its account also before the ledger has a row for it.
"""

import secrets
from dataclasses import dataclass

from arkgate.core.keys import ACCOUNT_ID_BYTES

IDENTIFIER_BYTES = 66
IDENTIFIER_VERSION = 0
PAYMENT_HASH_BYTES = 32
NONCE_BYTES = 12


class IdentifierError(ValueError):
    """These bytes are not an identifier of ours."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """What stands in a macaroon's identifier."""

    payment_hash: bytes
    key_version: int
    node: int
    account_id: str
    nonce: bytes

    @classmethod
    def new(cls, payment_hash: bytes, *, key_version: int, node: int, account_id: str) -> "Identifier":
        """An identifier that no other macaroon has."""
        if len(payment_hash) != PAYMENT_HASH_BYTES:
            raise IdentifierError(f"a payment hash has {PAYMENT_HASH_BYTES} bytes, not {len(payment_hash)}")
        return cls(payment_hash, key_version, node, account_id, secrets.token_bytes(NONCE_BYTES))

    def encode(self) -> bytes:
        """The identifier's 66 bytes."""
        return b"".join(
            (
                IDENTIFIER_VERSION.to_bytes(2, "big"),
                self.payment_hash,
                self.key_version.to_bytes(2, "big"),
                self.node.to_bytes(2, "big"),
                bytes.fromhex(self.account_id),
                self.nonce,
            )
        )

    @classmethod
    def decode(cls, raw: bytes) -> "Identifier":
        """Reads an identifier. Raises IdentifierError for another length or version."""
        if len(raw) != IDENTIFIER_BYTES:
            raise IdentifierError(f"the macaroon's identifier has {len(raw)} bytes instead of 66")
        version = int.from_bytes(raw[:2], "big")
        if version != IDENTIFIER_VERSION:
            raise IdentifierError(f"the macaroon's identifier has version {version} instead of 0")
        token_id = raw[2 + PAYMENT_HASH_BYTES :]
        return cls(
            payment_hash=raw[2 : 2 + PAYMENT_HASH_BYTES],
            key_version=int.from_bytes(token_id[:2], "big"),
            node=int.from_bytes(token_id[2:4], "big"),
            account_id=token_id[4 : 4 + ACCOUNT_ID_BYTES].hex(),
            nonce=token_id[4 + ACCOUNT_ID_BYTES :],
        )
