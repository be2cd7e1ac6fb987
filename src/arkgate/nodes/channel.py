"""gRPC channels to payment nodes: TLS, macaroons or client certificates, keepalive, error mapping."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio

from arkgate.core.errors import NodeUnavailable

RETRY_AFTER_SECONDS = 5
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
PINGS_SECONDS = 25
"""How long a channel is silent before it is asked whether it still stands."""
# LND's server closes channels that ping more often than every 5 s, and drops pings without a stream.
# Without `ping_timeout_ms` a stopped node is noticed only after a minute.
_OPTIONS = (
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)

# What LND's macaroon service and its bakery say: another or a deleted root key, a caveat such as an expiry
# that is not met, bytes that are no macaroon.
_REFUSED_WORDS = ("macaroon", "verification failed", "caveat", "invalid ID", "encoding/hex", "unmarshal v")


class CredentialsUnreadable(NodeUnavailable):
    """A certificate, key, macaroon or token file of the node cannot be read."""


class CredentialsRefused(NodeUnavailable):
    """The node does not accept what we show it: wrong, expired or revoked. Nothing was done."""


class PermissionDenied(CredentialsRefused):
    """The macaroon is good and does not allow that call. Nothing was done."""


@dataclass(frozen=True, slots=True)
class NodeCredentials:
    """Where a node is and what opens it. Files are read anew whenever a channel is built."""

    address: str
    """host:port"""
    tls_cert_file: Path
    macaroon_file: Path
    tls_server_name: str | None = None
    """A name in the certificate, where the address is not."""


class HasMacaroon(Protocol):
    """What is opened by a macaroon."""

    @property
    def macaroon_file(self) -> Path:
        """Where the macaroon is, binary."""


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Where a node is that knows its clients by a certificate. Files are read as in NodeCredentials."""

    address: str
    """host:port"""
    ca_cert_file: Path
    client_cert_file: Path
    client_key_file: Path
    tls_server_name: str | None = None
    """A name in the node's certificate, where the address is not."""

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return (self.ca_cert_file, self.client_cert_file, self.client_key_file)


@dataclass(frozen=True, slots=True)
class Channel:
    """An open channel, and what it was built with."""

    grpc: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]
    """Of each call. A call-credentials plugin would cost a thread hop of 60 to 120 µs on each."""
    certificate: bytes
    """Its TLS files, one after the other."""
    macaroon: bytes = b""


def open_channel(credentials: NodeCredentials, *, pings_seconds: int = PINGS_SECONDS) -> Channel:
    """A new channel; connects at its first call. Raises CredentialsUnreadable."""
    certificate = read_file(credentials.tls_cert_file, "TLS certificate")
    macaroon = read_file(credentials.macaroon_file, "macaroon")
    channel = _secure(credentials, grpc.ssl_channel_credentials(certificate), pings_seconds)
    return Channel(channel, _metadata(macaroon), certificate, macaroon)


def open_plain_channel(address: str, macaroon_file: Path) -> Channel:
    """As `open_channel`, without TLS: what is between here and there reads and changes everything."""
    macaroon = read_file(macaroon_file, "macaroon")
    options = [*_OPTIONS, ("grpc.keepalive_time_ms", PINGS_SECONDS * 1000)]
    return Channel(grpc.aio.insecure_channel(address, options=options), _metadata(macaroon), b"", macaroon)


def open_mutual_channel(credentials: MutualTls) -> Channel:
    """As `open_channel`."""
    ca = read_file(credentials.ca_cert_file, "CA certificate")
    certificate = read_file(credentials.client_cert_file, "client certificate")
    key = read_file(credentials.client_key_file, "client key")
    channel = _secure(credentials, grpc.ssl_channel_credentials(ca, key, certificate), PINGS_SECONDS)
    return Channel(channel, (), ca + certificate + key)


def _secure(
    credentials: NodeCredentials | MutualTls, tls: grpc.ChannelCredentials, pings_seconds: int
) -> grpc.aio.Channel:
    options: list[tuple[str, int | str]] = [*_OPTIONS, ("grpc.keepalive_time_ms", pings_seconds * 1000)]
    if credentials.tls_server_name:
        options.append(("grpc.ssl_target_name_override", credentials.tls_server_name))
    return grpc.aio.secure_channel(credentials.address, tls, options=options)


def with_macaroon_of_now(channel: Channel, credentials: HasMacaroon) -> Channel:
    """The same channel with the macaroon that the file holds now, or as it is where none can be read."""
    try:
        macaroon = read_file(credentials.macaroon_file, "macaroon")
    except CredentialsUnreadable:
        return channel
    return replace(channel, metadata=_metadata(macaroon), macaroon=macaroon)


def _metadata(macaroon: bytes) -> tuple[tuple[str, str], ...]:
    return (("macaroon", macaroon.hex()),)


def read_file(path: Path, what: str) -> bytes:
    """A file of a node's credentials. Raises CredentialsUnreadable, also when it is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise CredentialsUnreadable(f"the node's {what} {path} cannot be read: {reason}") from error
    if not data:
        raise CredentialsUnreadable(f"the node's {what} {path} is empty")
    return data


@contextmanager
def map_grpc_errors(node: str, action: str) -> Iterator[None]:
    """Translates every gRPC failure of a call into NodeUnavailable, with the node's own words.

    A channel that is closed under a call, to be rebuilt, cancels that call: grpc then raises
    CancelledError in a task that nobody has cancelled, which would end the task without a word.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise unavailable(node, action, error) from error
    except (grpc.aio.UsageError, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise
        raise NodeUnavailable(
            f"node {node}: the connection was closed while {action}", retry_after_seconds=RETRY_AFTER_SECONDS
        ) from error


def unavailable(node: str, action: str, error: grpc.aio.AioRpcError) -> NodeUnavailable:
    """The refusal that a failed call becomes."""
    details = " ".join((error.details() or error.code().name).split())[:200]
    sentence = f"node {node} failed {action}: {details}"
    return _kind(details)(sentence, retry_after_seconds=RETRY_AFTER_SECONDS)


def _kind(details: str) -> type[NodeUnavailable]:
    """LND-like daemons refuse a macaroon with code UNKNOWN, so only the words tell."""
    if "permission denied" in details:
        return PermissionDenied
    return CredentialsRefused if any(word in details for word in _REFUSED_WORDS) else NodeUnavailable
