"""A node's address and TLS as seen from here, in plain words: gRPC calls all trouble UNAVAILABLE."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from arkgate.ports import Check, Verdict

CONNECT_SECONDS = 5.0
WARN_DAYS = 30
NO_INVOICES = (
    "This node makes no invoices: without another one, whoever must pay first gets 503. "
    "Its payments count only later."
)
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""HTTP/2's connection preface with empty settings: whoever accepts us answers with its own."""
_NAMES_NOT_OURS = ("unix", "unixpacket", "bufconn")
"""What LND writes into its certificates beside the names of its host."""
_NAME_MISMATCH = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The words of one kind of daemon, for its operator."""

    listen: str
    """Its own options for where it listens."""
    setting: str
    """Our setting that names what we trust."""
    its_file: str
    """What to put there."""
    another: str
    """That the node shows something which what we trust does not cover."""
    copy: str
    """What to do then."""
    renew: str
    """How its certificate is renewed."""
    add_name: str
    """How a name gets into its certificate; `{name}` stands for it."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a node's TLS is, and what we trust."""

    daemon: Daemon
    address: str
    """host:port"""
    trusted: Path
    tls_server_name: str | None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of the address."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def name(self) -> str:
        """The name that its certificate must have."""
        return self.tls_server_name or self.host_and_port[0]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is wrong with an address or a certificate, and what to do."""

    seen: str
    remedy: str


async def connection_checks(server: Server, *, now_ms: int) -> AsyncIterator[Check]:
    """The lines `address` and `TLS certificate`; a FAILURE is the last line, for the rest needs it."""
    wrong = await _not_reached(server)
    yield _line("address", wrong, f"{server.address} takes connections.")
    if wrong is None:
        yield await _tls(server, now_ms)


async def client_check(server: Server, certificate: Path, key: Path, *, now_ms: int) -> Check:
    """The line `client certificate`: whether the node takes it, with the key that belongs to it."""
    name = "client certificate"
    try:
        context = _trusting(server.trusted.read_bytes())
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        wrong = _bad_pair(context, certificate, key) or _client_expired(shown, now_ms)
        wrong = wrong or await _client_refused(server, context)
    except OSError as error:
        wrong = _Wrong(f"It cannot be read or shown: {error.strerror or error}.", server.daemon.copy)
    except ValueError:
        wrong = _Wrong(f"{certificate} holds no certificate in PEM.", server.daemon.copy)
    if wrong is not None:
        return _line(name, wrong, "")
    if key.stat().st_mode & 0o077:
        return Check(
            name,
            Verdict.WARNING,
            f"The node takes it, and others on this host may read {key}.",
            "Payers notice nothing; who has the key can do whatever we can.",
            f"`chmod 600 {key}`",
        )
    return Check(name, Verdict.OK, "The node takes it.")


def _bad_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> _Wrong | None:
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        seen = f"{key} is not the key of {certificate}, or not one in PEM without a password."
        return _Wrong(seen, "Copy both from the node at the same time.")
    return None


def _client_expired(shown: x509.Certificate, now_ms: int) -> _Wrong | None:
    if shown.not_valid_after_utc.timestamp() * 1000 > now_ms:
        return None
    return _Wrong(f"It has expired on {shown.not_valid_after_utc:%Y-%m-%d}.", "Have the node make another.")


async def _client_refused(server: Server, context: ssl.SSLContext) -> _Wrong | None:
    """In TLS 1.3 a server refuses a client only after the handshake: so its first word is waited for."""
    host, port = server.host_and_port
    context.set_alpn_protocols(["h2"])
    said = b""
    reason = "it ends the connection"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=server.name
            )
            try:
                writer.write(_HTTP2_HELLO)
                said = await reader.read(1)
            finally:
                writer.transport.abort()
    except OSError as error:  # ssl.SSLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", None) or error.strerror or "no answer"
    if said:
        return None
    return _Wrong(f"The node does not take it ({reason}): another authority made it.", server.daemon.copy)


def _line(name: str, wrong: _Wrong | None, ok: str) -> Check:
    if wrong is None:
        return Check(name, Verdict.OK, ok)
    return Check(name, Verdict.FAILURE, wrong.seen, NO_INVOICES, wrong.remedy)


async def _not_reached(server: Server) -> _Wrong | None:
    host, port = server.host_and_port
    check_address = "Check address in [[nodes]]"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except socket.gaierror:
        return _Wrong(f"The name {host} has no address (DNS).", f"{check_address}, and this host's resolver.")
    except ConnectionRefusedError:
        return _Wrong(
            f"Nothing listens at {host} port {port}.",
            f"Start the node. {check_address} and its {server.daemon.listen}.",
        )
    except TimeoutError:
        return _Wrong(
            f"{host} port {port} does not answer within {CONNECT_SECONDS:.0f} s.",
            f"Look for a firewall or a host that is down. {check_address}.",
        )
    except OSError as error:
        return _Wrong(
            f"{host} port {port} cannot be reached: {error.strerror or error}.", f"{check_address}."
        )
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None


async def _tls(server: Server, now_ms: int) -> Check:
    host, port = server.host_and_port
    try:
        trusted = server.trusted.read_bytes()
        encoded, speaks_http2 = await _presented(server)
        shown = x509.load_der_x509_certificate(encoded)
        now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
        wrong = _expired(server, shown, now) or await _refused(server, trusted, shown)
        if wrong is None and not speaks_http2:
            wrong = _Wrong(
                f"{host} port {port} speaks TLS, but not gRPC.",
                "Name the node's gRPC port in address; its REST port is another one.",
            )
    except (OSError, ValueError) as error:  # ssl.SSLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or "no answer"
        wrong = _Wrong(
            f"{host} port {port} takes connections and does not speak TLS with us: {reason}.",
            f"Name the node's gRPC port in address, and its own {server.daemon.its_file} "
            f"in {server.daemon.setting}.",
        )
    if wrong is not None:
        return _line("TLS certificate", wrong, "")
    until = f"{shown.not_valid_after_utc:%Y-%m-%d}"
    days = (shown.not_valid_after_utc - now).days
    if days < WARN_DAYS:
        seen = f"It is trusted and expires in {days} days, on {until}."
        meaning = f"From then on: {NO_INVOICES}"
        return Check("TLS certificate", Verdict.WARNING, seen, meaning, server.daemon.renew)
    return Check("TLS certificate", Verdict.OK, f"It is trusted, for {server.name}, until {until}.")


async def _presented(server: Server) -> tuple[bytes, bool]:
    """The certificate that the server shows, and whether it speaks HTTP/2. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is looked at and nothing is told to it
    return await _handshake(server, context)


async def _handshake(server: Server, context: ssl.SSLContext) -> tuple[bytes, bool]:
    host, port = server.host_and_port
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server.name)
    try:
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        shown, protocol = connection.getpeercert(binary_form=True), connection.selected_alpn_protocol()
    finally:
        writer.transport.abort()
    if shown is None:
        raise ssl.SSLError("it shows no certificate")
    return shown, protocol == "h2"


def _expired(server: Server, shown: x509.Certificate, now: datetime.datetime) -> _Wrong | None:
    if shown.not_valid_after_utc > now:
        return None
    seen = f"The node's certificate has expired on {shown.not_valid_after_utc:%Y-%m-%d}."
    return _Wrong(seen, server.daemon.renew)


def _trusting(trusted: bytes) -> ssl.SSLContext:
    """A client that trusts only this. Raises ValueError where it is no certificate in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: what is in the file is trusted as it is
    try:
        context.load_verify_locations(cadata=trusted.decode("ascii"))
    except ssl.SSLError as error:
        raise ValueError("no certificate in PEM") from error
    return context


async def _refused(server: Server, trusted: bytes, shown: x509.Certificate) -> _Wrong | None:
    """What a client that trusts only our file has against the server."""
    daemon = server.daemon
    try:
        context = _trusting(trusted)
    except ValueError:
        return _Wrong(
            f"{daemon.setting} holds no certificate in PEM.", f"Name the node's {daemon.its_file} there."
        )
    try:
        await _handshake(server, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NAME_MISMATCH:
            return _wrong_name(server, shown)
        if shown not in x509.load_pem_x509_certificates(trusted):
            return _Wrong(daemon.another, daemon.copy)
        return _Wrong(f"The node's certificate is refused: {error.verify_message}.", daemon.renew)
    return None


def _wrong_name(server: Server, shown: x509.Certificate) -> _Wrong:
    names = _names(shown)
    use = f' Or set tls_server_name = "{names[0]}" in [[nodes]].' if names else ""
    return _Wrong(
        f"The node's certificate is not for {server.name}, but for {', '.join(names) or 'nobody'}.",
        f"{server.daemon.add_name.format(name=server.name)}{use}",
    )


def _names(shown: x509.Certificate) -> list[str]:
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = [name for name in names.get_values_for_type(x509.DNSName) if name not in _NAMES_NOT_OURS]
    return found + [str(address) for address in names.get_values_for_type(x509.IPAddress)]
