"""One HTTP/1.1 connection to the backend, and the one answer that is arriving on it."""

import asyncio
import contextlib
import fcntl
import select
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, cast

import httptools
import httpx

BUFFERED_BYTES_MAX = 256 * 1024
"""What an answer may pile up before its reader takes it; reading from the socket pauses above."""

CHUNK_OVERHEAD_BYTES = 16
"""What the framing of one piece of a body may cost: `<length>CRLF … CRLF`."""

UNREAD_BYTES_MAX = 64 * 1024
"""A longer request that is refused may not have been read: the next one would wait behind the rest of it."""


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What one backend may take of us: connections, time, and memory."""

    connections_max: int = 64
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 60.0
    """From the request until the first byte of any answer."""
    idle_timeout_seconds: float = 30.0
    """Between two reads once an answer has begun."""
    total_timeout_seconds: float = 120.0
    """From the beginning, connecting included, to the last byte; a drip of bytes does not extend it."""
    keepalive_seconds: float = 4.0
    """How long a connection is kept with nothing to do: uvicorn (vLLM's) and Node close theirs after five."""
    head_bytes_max: int = 32 * 1024
    body_bytes_max: int = 1024 * 1024


class AnswerTooLarge(httpx.RemoteProtocolError):
    """The answer's body is over our limit."""


class HeadTooLarge(httpx.RemoteProtocolError):
    """The answer's head, or its framing, is over our limit."""


class StaleConnection(httpx.ReadError):
    """A kept connection was closed before one byte of an answer came."""

    def __init__(self, *, was_sent: bool) -> None:
        """`was_sent` says whether the request went out on it: then it may have been carried out."""
        super().__init__("a kept connection turned out to be closed")
        self.was_sent = was_sent


class ConnectionOwner(Protocol):
    """Where connections come from and go back to. Neither method may wait."""

    def release(self, connection: "Connection") -> None:
        """The connection is clean and free for another request."""
        ...

    def discard(self, connection: "Connection") -> None:
        """The connection is closed and its slot is free. Called at least once, maybe twice."""
        ...


class Exchange(httpx.AsyncByteStream):
    """One request's answer while it arrives; also the stream its body is read from.

    It ends once, as complete, failed or abandoned, and whichever comes first frees the connection:
    the bytes already here stay readable, so a slow reader keeps no slot.
    """

    def __init__(self, limits: TransportLimits, *, total_deadline: float) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self.failure: Exception | None = None
        self.received_bytes = 0
        self.received_at = 0.0
        self.sent_at = 0.0
        self.body_bytes = 0
        self._pieces_count = 0
        self._limits = limits
        self.ends_at = total_deadline
        self._first_byte_deadline = total_deadline
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None

    def start(self, connection: "Connection", request_bytes: bytes) -> None:
        """Sends the request; from here on exactly one deadline is always armed until the end."""
        self._connection = connection
        connection.send(request_bytes, self)
        if self.failure is None:
            now = self.sent_at = self._loop.time()
            self._first_byte_deadline = now + self._limits.first_byte_timeout_seconds
            self._arm(now, self._first_byte_deadline)

    async def head(self) -> None:
        """Returns when status and headers are here. Raises what the exchange failed with."""
        while not self.head_complete and self.failure is None:
            await self._wait()
        if self.failure is not None:
            raise self.failure

    async def read(self) -> bytes:
        """All of the body that is here and was not read, as soon as there is something; empty at the end.

        Raises what the exchange failed with, once what came before was read.
        """
        while not self._parts:
            if self.failure is not None:
                raise self.failure
            if self.complete:
                return b""
            await self._wait()
        return self._take()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while part := await self.read():
            yield part

    async def aclose(self) -> None:
        """Ends the exchange; a connection with a half-read answer on it is closed."""
        self.abandon()

    def abandon(self) -> None:
        """Nobody will read the rest."""
        if not self.complete:
            self.fail(httpx.ReadError("the answer was abandoned"))

    def fail(self, failure: Exception) -> None:
        """Ends the exchange badly, unless it has ended."""
        if self.complete or self.failure is not None:
            return
        self.failure = failure
        connection = self._detach()
        if connection is not None:
            connection.abort()

    def finish(self) -> None:
        """The whole answer is here; the connection is already somebody else's."""
        self.complete = True
        self._detach()

    def add(self, part: bytes) -> None:
        """Takes a piece of the body. Raises AnswerTooLarge."""
        self.body_bytes += len(part)
        if self.body_bytes > self._limits.body_bytes_max:
            raise AnswerTooLarge("the answer's body is over the limit")
        self._pieces_count += 1
        self._parts.append(part)
        self._buffered_bytes += len(part)
        if self._buffered_bytes > BUFFERED_BYTES_MAX and self._connection is not None:
            self._connection.pause_reading()

    def has_too_much_framing(self) -> bool:
        """Whether heads, chunk extensions and trailers together are over what the head may take."""
        framing = self.received_bytes - self.body_bytes - CHUNK_OVERHEAD_BYTES * self._pieces_count
        return framing > self._limits.head_bytes_max

    def wake(self) -> None:
        """Lets the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        parts = self._parts
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered_bytes = 0
        if self._connection is not None and self._connection.is_paused:
            self.received_at = self._loop.time()  # the pause was ours, not the backend's
            self._connection.resume_reading()
        return taken

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _detach(self) -> "Connection | None":
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection, self._connection = self._connection, None
        self.wake()
        return connection

    def _arm(self, now: float, deadline: float) -> None:
        # Never sleeps past an idle time, so that a stop right after the first byte is noticed in time too.
        wake_at = min(deadline, self.ends_at, now + self._limits.idle_timeout_seconds)
        self._timer = self._loop.call_at(wake_at, self._on_deadline)

    def _on_deadline(self) -> None:
        """One timer serves three deadlines: it looks at the clock and lies down again if it woke early.

        Moving a timer at every read would cost more than everything else that a read does.
        """
        now = self._loop.time()
        if self.received_bytes == 0:
            deadline, complaint = self._first_byte_deadline, "no answer began in time"
        elif self._connection is not None and self._connection.is_paused:
            deadline, complaint = now + self._limits.idle_timeout_seconds, ""
        else:
            deadline = self.received_at + self._limits.idle_timeout_seconds
            complaint = "the answer stopped in the middle"
        if now >= self.ends_at:
            self.fail(httpx.ReadTimeout("the answer was not complete in time"))
        elif now >= deadline:
            self.fail(httpx.ReadTimeout(complaint))
        else:
            self._arm(now, deadline)


class Connection(asyncio.Protocol):
    """A socket, a parser, and at most one exchange.

    A connection is reusable only after an answer that ended where its own framing said, with
    keep-alive and not one byte more, to a request that was read; in every other case it is closed and
    its slot freed at once, without waiting for the socket to notice. The request goes out as one buffer
    of bounded size, so `pause_writing` has nothing to hold back: the total deadline covers a peer that
    does not read.
    """

    def __init__(self, owner: ConnectionOwner, limits: TransportLimits) -> None:
        self.is_closed = False
        self.is_paused = False
        self._owner = owner
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._exchanges_count = 0
        self._request_bytes = 0
        self._look: select.poll | None = None
        self._is_interim = False
        self._is_answered = False
        self._keeps_alive = False
        self._loop = asyncio.get_running_loop()

    # What the exchange asks for.

    def send(self, request_bytes: bytes, exchange: Exchange) -> None:
        """Writes a request whose answer goes to `exchange`."""
        self._exchange = exchange
        self._is_answered = False
        self._exchanges_count += 1
        self._request_bytes = 0
        if self._transport is None or self.is_closed or self._transport.is_closing():
            self._lose(None)
            return
        self._request_bytes = len(request_bytes)
        self._transport.write(request_bytes)

    def is_stale(self) -> bool:
        """Whether its other side has closed it, or sent something unasked, since the event loop looked."""
        return self._look is not None and bool(self._look.poll(0))

    def abort(self) -> None:
        """Closes now. Whatever was under way has failed."""
        exchange, self._exchange = self._exchange, None
        if not self.is_closed:
            self.is_closed = True
            self._owner.discard(self)
            if self._transport is not None:
                self._transport.abort()
        if exchange is not None:
            exchange.fail(httpx.ReadError("the connection was closed on our side"))

    def pause_reading(self) -> None:
        """Lets the backend wait until the reader has caught up."""
        if not self.is_paused and self._transport is not None and not self._transport.is_closing():
            self.is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on reading."""
        if self.is_paused and self._transport is not None:
            self.is_paused = False
            self._transport.resume_reading()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open; if nobody wants it any more it is closed again."""
        self._transport = cast(asyncio.Transport, transport)
        if self.is_closed:
            self._transport.abort()
            return
        self._look = select.poll()
        self._look.register(transport.get_extra_info("socket"), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, then looks at what it found."""
        exchange = self._exchange
        if exchange is None or self._parser is None:
            self.abort()  # bytes that nobody asked for: what follows them could be somebody else's answer
            return
        exchange.received_bytes += len(data)
        exchange.received_at = self._loop.time()
        failure: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = _failure_of(error)
        self._after_read(exchange, failure)

    def eof_received(self) -> None:
        """An answer never ends by the end of the connection, so this one is cut off, or none was due."""
        self._lose(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lose(exc)
        self._parser = None  # it refers back to us

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Raises when this is a second message after the answer."""
        if self._is_answered:
            raise httpx.RemoteProtocolError("there are bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header; trailers are dropped, because nothing that comes after a body is trusted."""
        if self._exchange is not None and not self._exchange.head_complete:
            self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Drops interim heads, checks the framing of the final one."""
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            return
        status = parser.get_status_code()
        if status < 200:
            if status == 101:
                raise httpx.RemoteProtocolError("the backend changes to a protocol that nobody asked for")
            self._is_interim = True
            exchange.headers.clear()
            return
        check_framing(status, exchange.headers, body_bytes_max=self._limits.body_bytes_max)
        exchange.status = status
        exchange.head_complete = True
        self._keeps_alive = parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        """Hands a piece of the body over."""
        if self._exchange is not None:
            self._exchange.add(part)

    def on_message_complete(self) -> None:
        """Notes the end; the connection is given back only when the whole read has been looked at."""
        if self._is_interim:
            self._is_interim = False
        else:
            self._is_answered = True

    # What follows from it.

    def _after_read(self, exchange: Exchange, failure: Exception | None) -> None:
        if failure is None and exchange.has_too_much_framing():
            exchange.fail(HeadTooLarge("the answer's head or framing is over the limit"))
        elif self._is_answered:
            self._exchange = None
            self.resume_reading()
            if failure is None and self._keeps_alive and self._was_read(exchange.status):
                self._owner.release(self)
            else:
                self.abort()  # the answer is whole, the connection is not trusted any more
            exchange.finish()
        elif failure is not None:
            exchange.fail(failure)
        else:
            exchange.wake()

    def _was_read(self, status: int) -> bool:
        """Whether the request was taken to its end before it was answered, as far as can be seen."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > 0:
            return False
        return self._request_bytes <= UNREAD_BYTES_MAX or (status < 300 and not _has_untaken_bytes(transport))

    def _lose(self, exc: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.fail(self._loss(exchange, exc))
        self.abort()

    def _loss(self, exchange: Exchange, exc: Exception | None) -> Exception:
        failure: Exception
        if exchange.received_bytes > 0:
            failure = httpx.RemoteProtocolError("the connection ended in the middle of the answer")
        elif self._exchanges_count > 1:
            failure = StaleConnection(was_sent=self._request_bytes > 0)
        else:
            failure = httpx.ReadError("the connection ended before any answer")
        failure.__cause__ = exc
        return failure


def _has_untaken_bytes(transport: asyncio.Transport) -> bool:
    """Whether the other host has not taken all that was written: behind TLS our own buffers do not tell."""
    with contextlib.suppress(OSError):  # not on every system
        return any(fcntl.ioctl(transport.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4)))
    return False


def check_framing(status: int, headers: list[tuple[bytes, bytes]], *, body_bytes_max: int) -> None:
    """Raises unless it is certain where the body ends, that it fits, and that it needs no decoding."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            codings.append(value)
        elif lower == b"content-encoding" and value.strip().lower() != b"identity":
            raise httpx.RemoteProtocolError("the answer is compressed although nobody asked for it")
    if codings and (lengths or [coding.strip().lower() for coding in codings] != [b"chunked"]):
        raise httpx.RemoteProtocolError("the answer's framing is ambiguous")
    if len(lengths) > 1:
        raise httpx.RemoteProtocolError("the answer has two lengths")
    if lengths and int(lengths[0]) > body_bytes_max:
        raise AnswerTooLarge("the answer's body is over the limit")
    if not lengths and not codings and status not in (204, 304):
        # It would end with the connection, and so would an answer that was cut off.
        raise httpx.RemoteProtocolError("the answer does not say where it ends")


def _failure_of(error: Exception) -> Exception:
    """What a callback of ours raised, or the parser's own complaint in httpx's terms."""
    if isinstance(error.__context__, httpx.TransportError):
        return error.__context__
    failure = httpx.RemoteProtocolError("the answer is not HTTP/1.1 as it should be")
    failure.__cause__ = error
    return failure
