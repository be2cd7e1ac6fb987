"""What one of LND's macaroons allows, read from its own bytes: no call, and no secret is needed for that.

Sources: the binary format V2 of libmacaroons (version byte 2, then fields of type, length and data), and
the identifier that go-macaroon-bakery writes (version byte 3, then a `MacaroonId`).
"""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from arkgate._proto.lnd import macaroon_pb2

_FORMAT_V2 = 2
_IDENTIFIER_V3 = 3
_END, _IDENTIFIER = 0, 2
SPENDING = frozenset(
    {"offchain:write", "onchain:write", "macaroon:generate", "macaroon:write", "signer:generate"}
)
"""What moves money, or makes a macaroon or a signature that does."""


class MacaroonError(ValueError):
    """These bytes are not a macaroon of LND."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a macaroon says that it allows; a caveat or a revoked key may leave less of it."""

    operations: frozenset[str]
    """`invoices:read`, or `uri:/lnrpc.Lightning/AddInvoice` for one method."""

    def allow(self, permission: str, method: str) -> bool:
        """Whether a method with its full name is allowed, by itself or by its permission."""
        return permission in self.operations or f"uri:{method}" in self.operations

    @property
    def spending(self) -> list[str]:
        """Those that put money in danger."""
        return sorted(self.operations & SPENDING)


def read_permissions(macaroon: bytes) -> Permissions:
    """Reads the binary form that LND's files have. Raises MacaroonError."""
    identifier = _identifier(macaroon)
    if not identifier or identifier[0] != _IDENTIFIER_V3:
        raise MacaroonError("its identifier is not one of LND's")
    message = macaroon_pb2.MacaroonId()
    try:
        message.ParseFromString(identifier[1:])
    except DecodeError:
        raise MacaroonError("its identifier is not one of LND's") from None
    return Permissions(frozenset(f"{op.entity}:{action}" for op in message.ops for action in op.actions))


def _identifier(macaroon: bytes) -> bytes:
    if not macaroon or macaroon[0] != _FORMAT_V2:
        raise MacaroonError("it is not a macaroon in the binary format V2")
    at = 1
    while at < len(macaroon) and macaroon[at] != _END:
        kind, at = _varint(macaroon, at)
        length, at = _varint(macaroon, at)
        if at + length > len(macaroon):
            break
        if kind == _IDENTIFIER:
            return macaroon[at : at + length]
        at += length
    raise MacaroonError("it is cut short")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MacaroonError("it is cut short")
