"""A node's address and TLS as seen from here, in plain words: gRPC calls all trouble UNAVAILABLE."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cryptography import x509

from arkgate.nodes.channel import NodeCredentials
from arkgate.ports import Check, Verdict

CONNECT_SECONDS = 5.0
WARN_DAYS = 30
NO_INVOICES = (
    "This node makes no invoices: without another one, whoever must pay first gets 503. "
    "Its payments count only later."
)
_NAMES_NOT_OURS = ("unix", "unixpacket", "bufconn")
"""What LND writes into its certificates beside the names of its host."""
_NAME_MISMATCH = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is wrong with an address or a certificate, and what to do."""

    seen: str
    remedy: str


async def connection_checks(credentials: NodeCredentials, *, now_ms: int) -> AsyncIterator[Check]:
    """The lines `address` and `TLS certificate`; a FAILURE is the last line, for the rest needs it."""
    host, port = _host_and_port(credentials.address)
    wrong = await _not_reached(host, port)
    yield _line("address", wrong, f"{credentials.address} takes connections.")
    if wrong is None:
        yield await _tls(credentials, host, port, now_ms)


def _line(name: str, wrong: _Wrong | None, ok: str) -> Check:
    if wrong is None:
        return Check(name, Verdict.OK, ok)
    return Check(name, Verdict.FAILURE, wrong.seen, NO_INVOICES, wrong.remedy)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


async def _not_reached(host: str, port: int) -> _Wrong | None:
    check_address = "Check address in [[nodes]]"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except socket.gaierror:
        return _Wrong(f"The name {host} has no address (DNS).", f"{check_address}, and this host's resolver.")
    except ConnectionRefusedError:
        return _Wrong(
            f"Nothing listens at {host} port {port}.", f"Start the node. {check_address} and its rpclisten."
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


async def _tls(credentials: NodeCredentials, host: str, port: int, now_ms: int) -> Check:
    name = credentials.tls_server_name or host
    try:
        trusted = credentials.tls_cert_file.read_bytes()
        encoded, speaks_http2 = await _presented(host, port, name)
        shown = x509.load_der_x509_certificate(encoded)
        now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
        wrong = _expired(shown, now) or await _refused(host, port, name, trusted, shown)
        if wrong is None and not speaks_http2:
            wrong = _Wrong(
                f"{host} port {port} speaks TLS, but not gRPC.",
                "Name the node's gRPC port in address; its REST port is another one.",
            )
    except (OSError, ValueError) as error:  # ssl.SSLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or "no answer"
        wrong = _Wrong(
            f"{host} port {port} takes connections and does not speak TLS with us: {reason}.",
            "Name the node's gRPC port in address, and its own certificate in tls_cert_file.",
        )
    if wrong is not None:
        return _line("TLS certificate", wrong, "")
    until = f"{shown.not_valid_after_utc:%Y-%m-%d}"
    days = (shown.not_valid_after_utc - now).days
    if days < WARN_DAYS:
        seen = f"It is trusted and expires in {days} days, on {until}."
        return Check("TLS certificate", Verdict.WARNING, seen, f"From then on: {NO_INVOICES}", _RENEW)
    return Check("TLS certificate", Verdict.OK, f"It is trusted, for {name}, until {until}.")


_RENEW = (
    "Start LND with tlsautorefresh=true, or delete its tls.cert and tls.key and restart it; "
    "where tls_cert_file is a copy, copy the new one."
)


async def _presented(host: str, port: int, name: str) -> tuple[bytes, bool]:
    """The certificate that the server shows, and whether it speaks HTTP/2. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is looked at and nothing is told to it
    return await _handshake(host, port, name, context)


async def _handshake(host: str, port: int, name: str, context: ssl.SSLContext) -> tuple[bytes, bool]:
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        shown, protocol = connection.getpeercert(binary_form=True), connection.selected_alpn_protocol()
    finally:
        writer.transport.abort()
    if shown is None:
        raise ssl.SSLError("it shows no certificate")
    return shown, protocol == "h2"


def _expired(shown: x509.Certificate, now: datetime.datetime) -> _Wrong | None:
    if shown.not_valid_after_utc > now:
        return None
    return _Wrong(f"The node's certificate has expired on {shown.not_valid_after_utc:%Y-%m-%d}.", _RENEW)


async def _refused(host: str, port: int, name: str, trusted: bytes, shown: x509.Certificate) -> _Wrong | None:
    """What a client that trusts only our file has against the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: what is in the file is trusted as it is
    try:
        context.load_verify_locations(cadata=trusted.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return _Wrong("tls_cert_file holds no certificate in PEM.", "Name the node's tls.cert there.")
    try:
        await _handshake(host, port, name, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NAME_MISMATCH:
            return _wrong_name(name, shown)
        if shown not in x509.load_pem_x509_certificates(trusted):
            return _Wrong(
                "The node shows another certificate than the one in tls_cert_file.",
                "Copy the node's tls.cert there; it is made anew when LND renews it. If it did not change, "
                "something else answers at this address.",
            )
        return _Wrong(f"The node's certificate is refused: {error.verify_message}.", _RENEW)
    return None


def _wrong_name(name: str, shown: x509.Certificate) -> _Wrong:
    names = _names(shown)
    use = f' Or set tls_server_name = "{names[0]}" in [[nodes]].' if names else ""
    return _Wrong(
        f"The node's certificate is not for {name}, but for {', '.join(names) or 'nobody'}.",
        f"Add {name} to LND's tlsextradomain or tlsextraip and let it make a new certificate.{use}",
    )


def _names(shown: x509.Certificate) -> list[str]:
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = [name for name in names.get_values_for_type(x509.DNSName) if name not in _NAMES_NOT_OURS]
    return found + [str(address) for address in names.get_values_for_type(x509.IPAddress)]
