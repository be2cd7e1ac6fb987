"""An httpx transport for one origin: a bounded pool of kept connections whose cost does not grow with it."""

import asyncio
import ssl
from collections.abc import Iterable

import httpx

from arkgate.backend.connection import (
    AnswerTooLarge,
    Connection,
    Exchange,
    StaleConnection,
    TransportLimits,
)

__all__ = ["AnswerTooLarge", "Exchange", "PooledTransport", "TransportLimits", "complete", "encode_head"]


class PooledTransport(httpx.AsyncBaseTransport):
    """Sends requests to one origin and to no other; raises httpx's exceptions.

    Free connections are a stack: the one that worked last is taken first, and taking, giving back and
    losing one cost the same whether two are pooled or two hundred. A request that finds every connection
    busy is refused at once (PoolTimeout), because whoever sells the calls has counted them already.
    A kept connection that has been closed is replaced by a new one. Where it closes after a request went out
    on it, that may have been carried out: only a GET goes out again then (RFC 9110 §9.2.2), once.
    Redirects are answers like any other. Nothing is read from the environment.
    """

    def __init__(
        self,
        origin: httpx.URL | str,
        *,
        limits: TransportLimits | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`ssl_context` replaces the default one, which verifies against the public authorities."""
        url = httpx.URL(origin)
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol("a backend's URL begins with http:// or https:// and has a host")
        self._origin = (url.scheme, url.host, url.port)
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._limits = limits or TransportLimits()
        self._ssl_context = ssl_context
        if url.scheme == "http":
            self._ssl_context = None
        elif ssl_context is None:
            self._ssl_context = httpx.create_ssl_context(trust_env=False)
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def open_count(self) -> int:
        """Connections that hold a slot, those being opened included."""
        return len(self._connections)

    @property
    def busy_count(self) -> int:
        """Connections that work for somebody."""
        return len(self._connections) - len(self._idle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answers as soon as the head is here; the stream must be read to its end or closed."""
        url = request.url
        if (url.scheme, url.host, url.port) != self._origin:
            raise httpx.UnsupportedProtocol("this transport goes to its own origin only")
        if isinstance(request.stream, Iterable):
            body = request.read()
        else:
            body = await request.aread()
        head = encode_head(request.method, url.raw_path, request.headers.raw)
        exchange = await self.exchange(complete(head, body))
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange, request=request)

    async def exchange(self, request_bytes: bytes) -> Exchange:
        """The same without httpx's objects around it, for requests whose head is always the same.

        Raises as `handle_async_request` does. The exchange must be read to its end or closed.
        """
        total_deadline = asyncio.get_running_loop().time() + self._limits.total_timeout_seconds
        return await self._answered(request_bytes, total_deadline)

    async def aclose(self) -> None:
        """Closes every connection; what was under way fails."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for connection in list(self._connections):
            connection.abort()

    # What connections call.

    def release(self, connection: Connection) -> None:
        """Puts a clean connection on the stack."""
        if self._is_closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._expiry is None:
            self._expiry = loop.call_later(self._limits.keepalive_seconds, self._expire)

    def discard(self, connection: Connection) -> None:
        """Frees the slot of a closed connection."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    # The way of one request.

    async def _answered(self, request_bytes: bytes, total_deadline: float) -> Exchange:
        if self._is_closed:
            raise httpx.PoolTimeout("the transport is closed")
        kept = self._take_kept()
        if kept is not None:
            try:
                return await self._ask(kept, request_bytes, total_deadline)
            except StaleConnection as stale:
                if stale.was_sent and not request_bytes.startswith(b"GET "):
                    raise
        connection = await self._open(total_deadline)
        return await self._ask(connection, request_bytes, total_deadline)

    def _take_kept(self) -> Connection | None:
        """A free connection that is still open, as far as this host knows."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.is_stale():
                return connection
            connection.abort()
        return None

    async def _ask(self, connection: Connection, request_bytes: bytes, total_deadline: float) -> Exchange:
        exchange = Exchange(self._limits, total_deadline=total_deadline)
        exchange.start(connection, request_bytes)
        try:
            await exchange.head()
        except BaseException:  # whoever cancels us must not leave a connection behind
            exchange.abandon()
            raise
        return exchange

    async def _open(self, total_deadline: float) -> Connection:
        self._make_room()
        connection = Connection(self, self._limits)
        self._connections.add(connection)
        try:
            await self._connect(connection, total_deadline)
        except BaseException:  # cancelled or failed: the slot is free again either way
            connection.abort()
            raise
        return connection

    def _make_room(self) -> None:
        if len(self._connections) < self._limits.connections_max:
            return
        if not self._idle:
            raise httpx.PoolTimeout("all connections to the backend are busy")
        next(iter(self._idle)).abort()

    async def _connect(self, connection: Connection, total_deadline: float) -> None:
        loop = asyncio.get_running_loop()
        _, host, _ = self._origin
        deadline = min(loop.time() + self._limits.connect_timeout_seconds, total_deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await loop.create_connection(
                    lambda: connection,
                    host,
                    self._port,
                    ssl=self._ssl_context,
                    server_hostname=host if self._ssl_context is not None else None,
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("the backend did not accept a connection in time") from exc
        except OSError as exc:  # refused, unreachable, no such name, a certificate that does not verify
            raise httpx.ConnectError("no connection to the backend can be made") from exc

    def _expire(self) -> None:
        """Closes what was free for too long, oldest first, and comes back for the next."""
        self._expiry = None
        loop = asyncio.get_running_loop()
        while self._idle:
            oldest = next(iter(self._idle))
            expires_at = self._idle[oldest] + self._limits.keepalive_seconds
            if expires_at > loop.time():
                self._expiry = loop.call_at(expires_at, self._expire)
                return
            oldest.abort()


def encode_head(method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The request line and headers, for `complete`. Raises httpx.LocalProtocolError.

    HEAD and CONNECT are refused: their answers are framed differently and nobody here asks for them.
    """
    if method in ("HEAD", "CONNECT"):
        raise httpx.LocalProtocolError(f"{method} is not sent by this transport")
    pieces = [method.encode("ascii"), b" ", target, b" HTTP/1.1\r\n"]
    lines_count = 1
    for name, value in headers:
        if name.lower() not in (b"content-length", b"transfer-encoding"):  # the framing is ours
            pieces += (name, b": ", value, b"\r\n")
            lines_count += 1
    head = b"".join(pieces)
    # A line break inside a value would make more of them than were put in.
    if head.count(b"\r") != lines_count or head.count(b"\n") != lines_count or b"\0" in head:
        raise httpx.LocalProtocolError("a header of the request contains a control character")
    return head


def complete(head: bytes, body: bytes) -> bytes:
    """A request as one buffer, with a length of our own."""
    if not body and not head.startswith((b"POST", b"PUT", b"PATCH")):
        return head + b"\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
