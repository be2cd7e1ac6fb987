"""The mutual TLS of simulated Core Lightnings, in the shape and with the file names of its plugin cln-grpc.

Source: plugins/grpc-plugin/src/tls.rs. A certificate authority of the node's own signs one certificate for
the server and one for its clients; whoever shows one that it signed may call everything.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_FROM = datetime.datetime(1975, 1, 1, tzinfo=datetime.UTC)
FOREVER = datetime.datetime(4096, 1, 1, tzinfo=datetime.UTC)
"""Until when the plugin's certificates are good."""
NAMES = ("cln", "localhost")


@dataclass(frozen=True, slots=True)
class ClnCredentials:
    """Where the files of a node's mutual TLS are."""

    directory: Path

    @property
    def ca(self) -> Path:
        """What a client trusts."""
        return self.directory / "ca.pem"

    @property
    def client(self) -> Path:
        """What a client shows."""
        return self.directory / "client.pem"

    @property
    def client_key(self) -> Path:
        """What a client must keep secret."""
        return self.directory / "client-key.pem"

    @property
    def server(self) -> Path:
        """What the node shows."""
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        """The key of what the node shows."""
        return self.directory / "server-key.pem"


def issue(directory: Path) -> ClnCredentials:
    """The files, made where there are none."""
    found = ClnCredentials(directory)
    if not found.ca.exists():
        make(found)
    return found


def make(
    found: ClnCredentials,
    *,
    server_until: datetime.datetime = FOREVER,
    client_until: datetime.datetime = FOREVER,
) -> None:
    """All files anew: a client with the old ones is a stranger from the node's next start on."""
    found.directory.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("cln Root CA")
    _write_key(found.directory / "ca-key.pem", authority)
    _write(found.ca, _signed(issuer, authority, issuer, authority, FOREVER, is_ca=True))
    for common_name, certificate, key_file, until in (
        ("cln grpc Server", found.server, found.server_key, server_until),
        ("cln grpc Client", found.client, found.client_key, client_until),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key_file, key)
        _write(certificate, _signed(_name(common_name), key, issuer, authority, until, is_ca=False))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _signed(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    authority: ec.EllipticCurvePrivateKey,
    until: datetime.datetime,
    *,
    is_ca: bool,
) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(until)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(encoded)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
