"""TLS certificates and macaroons of the simulated nodes, in LND's shape and file names."""

import datetime
import functools
import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.exceptions import MacaroonException
from pymacaroons.serializers.binary_serializer import BinarySerializer

LIFETIME = datetime.timedelta(days=14 * 30)
ADDRESSES = ("127.0.0.1", "::1")
"""What a certificate is for unless a test says otherwise: this host's loopback addresses."""
ROOT_KEY_ID = "0"
"""The id of LND's default root key, which its stock macaroons are made with and which cannot be deleted."""
_IDENTIFIER_VERSION = 3
_LENGTH_DELIMITED = 2

_READ = ("onchain", "offchain", "address", "message", "peers", "info", "invoices", "signer", "macaroon")
_WRITE = ("onchain", "offchain", "address", "message", "peers", "info", "invoices", "macaroon")
READONLY = frozenset(f"{entity}:read" for entity in _READ)
ADMIN = READONLY | {f"{entity}:write" for entity in _WRITE} | {"signer:generate", "macaroon:generate"}
# LND's stock invoice.macaroon: without info:read.
INVOICE = frozenset(("invoices:read", "invoices:write", "address:read", "address:write", "onchain:read"))


class BadMacaroon(Exception):  # noqa: N818
    """The macaroon is not one of this node's; the text is LND's."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a node's credentials are."""

    tls_cert: Path
    tls_key: Path
    admin_macaroon: Path
    invoice_macaroon: Path
    readonly_macaroon: Path


def issue(directory: Path, macaroon_key: bytes) -> Credentials:
    """Makes the files that are missing; a certificate that has expired is made anew."""
    directory.mkdir(parents=True, exist_ok=True)
    found = Credentials(
        tls_cert=directory / "tls.cert",
        tls_key=directory / "tls.key",
        admin_macaroon=directory / "admin.macaroon",
        invoice_macaroon=directory / "invoice.macaroon",
        readonly_macaroon=directory / "readonly.macaroon",
    )
    if not _certificate_is_good(found):
        make_certificate(found)
    for path, permissions in (
        (found.admin_macaroon, ADMIN),
        (found.invoice_macaroon, INVOICE),
        (found.readonly_macaroon, READONLY),
    ):
        if not path.exists():
            write_secret(path, bake(macaroon_key, permissions))
    return found


def macaroon_key(private_key: bytes) -> bytes:
    """The root key of a node's macaroons."""
    return hmac.digest(private_key, b"macaroon root key", "sha256")


def bake(
    key: bytes, permissions: frozenset[str], root_key_id: str = ROOT_KEY_ID, *, location: str = "lnd"
) -> bytes:
    """A macaroon with these permissions (`invoices:read`, `uri:/lnrpc.Lightning/GetInfo`), as LND has it."""
    identifier = _identifier(permissions, root_key_id)
    macaroon = Macaroon(location=location, identifier=identifier, key=key, version=MACAROON_V2)
    return bytes(BinarySerializer().serialize_raw(macaroon))


def allowed(root_keys: Mapping[str, bytes], macaroons: Sequence[str]) -> frozenset[str]:
    """What the macaroons of a call allow; it must be one, baked with one of the keys. Raises BadMacaroon."""
    if len(macaroons) != 1:
        raise BadMacaroon(f"expected 1 macaroon, got {len(macaroons)}")
    root_key_id = root_key_id_of(macaroons[0])
    if root_key_id not in root_keys:
        text = f"cannot retrieve macaroon: cannot get macaroon: root key with id {root_key_id} doesn't exist"
        raise BadMacaroon(text)
    return permissions_of(root_keys[root_key_id], macaroons[0])


@functools.lru_cache(maxsize=1024)
def root_key_id_of(macaroon_hex: str) -> str:
    """The id of the root key that the macaroon says it was made with. Raises BadMacaroon."""
    try:
        identifier = BinarySerializer().deserialize_raw(bytes.fromhex(macaroon_hex)).identifier_bytes
        if identifier[0] == _IDENTIFIER_VERSION:
            return next(data for number, data in _fields(identifier[1:]) if number == 2).decode()
    except Exception as exc:  # the deserializer raises whatever bad bytes lead to
        raise BadMacaroon(f"cannot decode macaroon: {exc}") from exc
    raise BadMacaroon("invalid ID")


@functools.lru_cache(maxsize=1024)
def permissions_of(key: bytes, macaroon_hex: str) -> frozenset[str]:
    """What the macaroon allows. Raises BadMacaroon; caveats are refused, because none is understood."""
    try:
        macaroon = BinarySerializer().deserialize_raw(bytes.fromhex(macaroon_hex))
        Verifier().verify(macaroon, key)
        return _permissions_in(macaroon.identifier_bytes)
    except MacaroonException as exc:
        raise BadMacaroon("verification failed: signature mismatch after caveat verification") from exc
    except Exception as exc:  # the deserializer raises whatever bad bytes lead to
        raise BadMacaroon(f"cannot decode macaroon: {exc}") from exc


def _identifier(permissions: frozenset[str], root_key_id: str) -> bytes:
    """What LND's macaroon library puts there: a nonce, the root key's id, and the permissions."""
    fields = [_field(1, secrets.token_bytes(16)), _field(2, root_key_id.encode())]
    for entity in sorted({permission.partition(":")[0] for permission in permissions}):
        actions = sorted(p.partition(":")[2] for p in permissions if p.startswith(f"{entity}:"))
        fields.append(
            _field(3, _field(1, entity.encode()) + b"".join(_field(2, a.encode()) for a in actions))
        )
    return bytes((_IDENTIFIER_VERSION,)) + b"".join(fields)


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | _LENGTH_DELIMITED,)) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A number below 16384, as protobuf writes it."""
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))


def _permissions_in(identifier: bytes) -> frozenset[str]:
    if identifier[0] != _IDENTIFIER_VERSION:
        raise ValueError("unknown macaroon version")
    found = set()
    for number, data in _fields(identifier[1:]):
        if number == 3:
            (_, entity), *actions = _fields(data)
            found |= {f"{entity.decode()}:{action.decode()}" for _, action in actions}
    return frozenset(found)


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    fields, at = [], 0
    while at < len(data):
        number, length, begin = data[at] >> 3, data[at + 1], at + 2
        if length >= 0x80:
            length, begin = length & 0x7F | data[at + 2] << 7, at + 3
        at = begin + length
        fields.append((number, data[begin:at]))
    return fields


def _certificate_is_good(found: Credentials) -> bool:
    if not (found.tls_cert.exists() and found.tls_key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(found.tls_cert.read_bytes())
    return certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC)


class TlsFiles(Protocol):
    """Where a certificate and its key are."""

    @property
    def tls_cert(self) -> Path:
        """PEM."""

    @property
    def tls_key(self) -> Path:
        """PEM."""


def make_certificate(
    found: TlsFiles, *, lifetime: datetime.timedelta = LIFETIME, addresses: Sequence[str] = ADDRESSES
) -> None:
    """Self-signed ECDSA P-256 for `localhost` and those addresses, in place of the one that was there.

    A lifetime in the past makes one that has expired; the node shows it after its next start.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "lnd autogenerated cert"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost"),
        ]
    )
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(lifetime, datetime.timedelta()) - datetime.timedelta(days=1))
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    write_secret(found.tls_key, encoded)
    write_secret(found.tls_cert, certificate.public_bytes(serialization.Encoding.PEM))


def write_secret(path: Path, data: bytes) -> None:
    """Writes the whole file or nothing, readable for its owner only."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
