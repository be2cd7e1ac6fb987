"""uvicorn's httptools protocol with what it lacks: limits, deadlines, and no ambiguous request.

A request that arrives whole in one small read takes the short way: its head is checked and nothing is
counted or timed. Every other read is looked at afterwards: what stage the newest request is in, how much
of it came, and which deadline runs. What is refused is answered once, in its turn after the answers to
earlier requests on the connection, and then the connection is closed: after a request that cannot be
framed nothing that follows can be trusted.
"""

import asyncio
import secrets
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    Scope,
)
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

FRAMING_HEADERS = (b"host", b"content-length", b"transfer-encoding")
"""Headers of which a second one would let two readers see two different requests."""


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """What one connection may cost us before any application sees a request."""

    head_bytes_max: int = 16 * 1024
    headers_max: int = 64
    target_bytes_max: int = 4 * 1024
    body_bytes_max: int = 1024 * 1024 + 64 * 1024
    """For every route; routes have smaller limits of their own, with better sentences."""
    head_timeout_seconds: float = 10.0
    """From the first byte of a request to the end of its head; for the first also from the connection."""
    body_timeout_seconds: float = 30.0
    write_timeout_seconds: float = 30.0
    """How long a client may take to read what waits for it once that is more than sockets buffer."""
    connections_max: int = 8192
    """Open at once on one listener; more are closed before they cost anything."""
    pipelined_max: int = 16
    """Requests that wait on a connection behind one that is not answered yet."""
    linger_seconds: float = 1.0
    """How long a refused client may go on sending, so that it gets to read the refusal."""


class _Stage(Enum):
    """Where the newest request of a connection is."""

    WAITING = "nothing of it has come"
    HEAD = "its head is coming"
    BODY = "its body is coming"
    WHOLE = "it is here and not answered"


class _RefusedRequest(Exception):  # noqa: N818 - an answer, not a fault
    """Stops the parser where it is."""

    def __init__(self, status: int, sentence: str, code: str = "invalid_request") -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"x-request-id", secrets.token_hex(16).encode()),
            (b"connection", b"close"),
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", b"X-Request-Id, Retry-After"),
        ]
        self.body = orjson.dumps({"success": False, "error": sentence, "code": code, "cost_sats": 0})

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Is an application too, for a request that waits in the pipeline."""
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def as_bytes(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The whole answer."""
        headers = [*default_headers, *self.headers, (b"content-length", str(len(self.body)).encode())]
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[self.status], *lines, b"\r\n", self.body])


class ArkgateHttpProtocol(HttpToolsProtocol):
    """One connection. `limits` belongs to the class, see `protocol_with`."""

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()
    small_read_bytes_max: ClassVar[int] = min(limits.head_bytes_max, limits.body_bytes_max)
    """What comes whole in a read of this size breaks no limit on sizes."""

    # Slots, because with more than thirty names the attributes of uvicorn's class would become slower too.
    __slots__ = (
        "_barren_bytes",
        "_body_bytes",
        "_counted_of",
        "_deadline",
        "_deadline_of",
        "_is_refusal_sent",
        "_is_small_read",
        "_refusal",
        "_running",
        "_write_deadline",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn calls it."""
        super().__init__(config, server_state, app_state, _loop)
        self._refusal: _RefusedRequest | None = None
        self._is_refusal_sent = False
        self._is_small_read = False
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: tuple[_Stage, HTTPScope | None] = (_Stage.WAITING, None)
        self._counted_of: tuple[_Stage, HTTPScope | None] = (_Stage.WAITING, None)
        self._body_bytes = 0
        self._barren_bytes = 0
        self._write_deadline: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects and says nothing has as long as one head."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections_max:
            transport.abort()  # what is left of the files belongs to the node, the ledger and the backend
            return
        self._arm(_Stage.WAITING)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing of ours may fire afterwards."""
        self._disarm()
        self._end_write_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.pipeline.clear()
        running = self._running
        if running is not None and running is not self.cycle:  # uvicorn tells the newest only
            running.disconnected = True
            running.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser and looks at what that led to, unless it led to exactly one whole request."""
        if self._refusal is not None:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._is_small_read = is_small = self._deadline is None and len(data) <= self.small_read_bytes_max
        cycle_before = self.cycle
        buffered_bytes = 0 if is_small or cycle_before is None else len(cycle_before.body)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stop_after_upgrade()
            return
        except httptools.HttpParserError as error:
            self._refuse(_refusal_of(error))
            return
        cycle = self.cycle
        if is_small and cycle is not cycle_before and cycle.scope is self.scope and not cycle.more_body:
            return
        self._after_read(len(data), cycle_before, buffered_bytes)

    def pause_writing(self) -> None:
        """The client reads slower than the application writes."""
        super().pause_writing()
        self._end_write_deadline()
        self._write_deadline = self.loop.call_later(self.limits.write_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._end_write_deadline()
        super().resume_writing()

    # What the parser calls.

    def on_headers_complete(self) -> None:
        """Lets a request through to the application only if it can be read in one way."""
        self._check_head()
        if len(self.pipeline) >= self.limits.pipelined_max:
            raise _RefusedRequest(429, "Too many requests wait on this connection.", "rate_limited")
        super().on_headers_complete()
        # Trailers go to this list and are dropped with it: the application decided on what was there before.
        self.headers = []

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Knows which of several requests is being answered."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # What uvicorn asks for.

    def send_400_response(self, msg: str) -> None:
        """uvicorn's way to refuse, in our form."""
        self._refuse(_RefusedRequest(400, msg))

    def _should_upgrade(self) -> bool:
        """Never: whatever the configuration says, there is nothing here to upgrade to."""
        return False

    # Rules about heads.

    def _check_head(self) -> None:
        """Raises _RefusedRequest. What the parser itself refuses does not come here."""
        headers, limits = self.headers, self.limits
        if len(self.url) > limits.target_bytes_max:
            raise _RefusedRequest(414, f"A request's target has at most {limits.target_bytes_max} bytes.")
        if len(headers) > limits.headers_max:
            raise _RefusedRequest(431, f"A request has at most {limits.headers_max} headers.")
        if not self._is_small_read and _head_bytes(self.url, headers) > limits.head_bytes_max:
            raise _head_too_large(limits)
        fields = dict(headers)
        if len(fields) != len(headers):
            names = [name for name, _ in headers]
            if any(names.count(name) > 1 for name in FRAMING_HEADERS):
                raise _RefusedRequest(400, "Host, Content-Length and Transfer-Encoding come once.")
        version = self.parser.get_http_version()
        if version != "1.1" and version != "1.0":  # noqa: PLR1714 - a tuple of two costs more than it says
            raise _RefusedRequest(400, "This server speaks HTTP/1.1.")
        if b"host" not in fields and version == "1.1":
            raise _RefusedRequest(400, "A request names its Host.")
        if b"transfer-encoding" in fields:
            self._check_coding(fields, version)
        elif b"content-length" in fields and int(fields[b"content-length"]) > limits.body_bytes_max:
            raise _too_large(limits)
        if self.parser.should_upgrade():
            self._check_upgrade(fields)

    def _check_coding(self, fields: dict[bytes, bytes], version: str) -> None:
        if b"content-length" in fields or version == "1.0":
            raise _RefusedRequest(400, "A body is framed by Content-Length or, in HTTP/1.1, by chunks.")
        if fields[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
            raise _RefusedRequest(400, "The only Transfer-Encoding is chunked.")

    def _check_upgrade(self, fields: dict[bytes, bytes]) -> None:
        """An offer to upgrade is ignored, as RFC 9110 §7.8 allows, unless a body would go astray with it."""
        if self.parser.get_method() == b"CONNECT":
            raise _RefusedRequest(400, "This server is not a proxy.")
        if b"transfer-encoding" in fields or int(fields.get(b"content-length", b"0")) > 0:
            raise _RefusedRequest(400, "A request with a body cannot ask for an upgrade.")

    # Where a read has left us.

    def _stage(self) -> _Stage:
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            return _Stage.WAITING if self.scope is None else _Stage.HEAD
        if cycle.more_body:  # also when it was answered before its end: uvicorn then stops looking for one
            return _Stage.BODY
        return _Stage.WAITING if cycle.response_complete else _Stage.WHOLE

    def _after_read(
        self, read_bytes: int, cycle_before: RequestResponseCycle | None, buffered_bytes: int
    ) -> None:
        stage = self._stage()
        if stage is _Stage.HEAD:
            self._count(stage, read_bytes, body_bytes=0)
        elif stage in (_Stage.BODY, _Stage.WHOLE):
            if self.cycle.response_complete:  # uvicorn throws the rest of its body away
                body_bytes = read_bytes
            else:
                body_bytes = len(self.cycle.body) - (buffered_bytes if self.cycle is cycle_before else 0)
            self._count(_Stage.BODY, read_bytes, body_bytes=body_bytes)
        if self._refusal is not None:
            return
        if stage is _Stage.WHOLE:
            self._disarm()
        else:
            self._arm(stage)

    def _count(self, stage: _Stage, read_bytes: int, *, body_bytes: int) -> None:
        """Adds one read to what came of this head or body, and to what came since the body last grew.

        The latter bounds heads, chunk extensions and trailers, which the parser keeps to itself until
        they end. The read in which a head or body begins is left out, because other requests may be in
        it too; one read is bounded by itself, and a head is measured exactly when it is complete.
        """
        counted_of = (stage, self.scope)
        if not _is_same(self._counted_of, counted_of):
            self._counted_of = counted_of
            self._body_bytes = self._barren_bytes = read_bytes = 0
        self._body_bytes += body_bytes
        self._barren_bytes = 0 if body_bytes else self._barren_bytes + read_bytes
        if self._body_bytes > self.limits.body_bytes_max:
            self._refuse(_too_large(self.limits))
        elif self._barren_bytes > self.limits.head_bytes_max:
            self._refuse(_head_too_large(self.limits))

    def _stop_after_upgrade(self) -> None:
        """The parser gives a connection up that offers an upgrade: its answer is the last one."""
        self._disarm()
        self.cycle.keep_alive = False
        self._refusal = _RefusedRequest(400, "")
        self._is_refusal_sent = True

    # Deadlines.

    def _arm(self, stage: _Stage) -> None:
        """Starts the deadline of this stage, unless it runs already: more bytes do not extend it."""
        wanted = (stage, self.scope)
        if self._deadline is not None:
            if _is_same(self._deadline_of, wanted):
                return
            self._deadline.cancel()
        in_body = stage is _Stage.BODY
        seconds = self.limits.body_timeout_seconds if in_body else self.limits.head_timeout_seconds
        self._deadline_of = wanted
        self._deadline = self.loop.call_later(seconds, self._on_deadline, stage)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _on_deadline(self, stage: _Stage) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # the client would send, it is we who do not read
            self._arm(stage)
        elif stage is _Stage.WAITING:
            self.transport.close()  # it has asked for nothing, so there is nothing to answer
        else:
            self._refuse(_RefusedRequest(408, "The request did not arrive in time."))

    # Refusals.

    def _refuse(self, refusal: _RefusedRequest) -> None:
        """Answers this request in its turn; from here on the connection is deaf."""
        self._disarm()
        self._refusal = refusal
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if cycle is not None and cycle.scope is self.scope and cycle.more_body:
                self.transport.close()  # this very request has had its answer before its end
            else:
                self._send_refusal()
        elif cycle.scope is not self.scope:  # a head is refused while an earlier request is at work
            cycle.on_response = self._on_last_response
            self.flow.pause_reading()
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline[0] = (cycle, refusal)
            self.flow.pause_reading()
        else:
            self._take_back(cycle)

    def _take_back(self, cycle: RequestResponseCycle) -> None:
        """The application is at work on the refused request: it sees its client leave.

        If its answer has begun, the refusal cannot be told any more and the connection is cut.
        """
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.close()
        else:
            self._send_refusal()

    def _on_last_response(self) -> None:
        self.on_response_complete()
        self._send_refusal()

    def _send_refusal(self) -> None:
        """Writes the refusal, says that this was all, and reads on for a moment.

        Closing at once while the client still sends would reset the connection, and the client would
        lose the answer together with it.
        """
        refusal, transport = self._refusal, self.transport
        if refusal is None or self._is_refusal_sent or transport.is_closing():
            return
        self._is_refusal_sent = True
        self._unset_keepalive_if_required()
        transport.write(refusal.as_bytes(self.server_state.default_headers))
        if not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(self.limits.linger_seconds, transport.close)


def protocol_with(limits: ProtocolLimits) -> type[ArkgateHttpProtocol]:
    """A protocol class with these limits; uvicorn makes the instances, so they cannot be arguments."""
    small_read_bytes_max = min(limits.head_bytes_max, limits.body_bytes_max)
    members = {"__slots__": (), "limits": limits, "small_read_bytes_max": small_read_bytes_max}
    return type("ArkgateHttpProtocol", (ArkgateHttpProtocol,), members)


def _head_bytes(target: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """The size of a head: each line has ": " and CRLF, and the first one its method and version."""
    return len(target) + 16 + 4 * len(headers) + sum(map(len, chain.from_iterable(headers)))


def _is_same(left: tuple[_Stage, HTTPScope | None], right: tuple[_Stage, HTTPScope | None]) -> bool:
    return left[0] is right[0] and left[1] is right[1]


def _head_too_large(limits: ProtocolLimits) -> _RefusedRequest:
    return _RefusedRequest(431, f"A request's head has at most {limits.head_bytes_max} bytes.")


def _too_large(limits: ProtocolLimits) -> _RefusedRequest:
    sentence = f"A request's body has at most {limits.body_bytes_max} bytes."
    return _RefusedRequest(413, sentence, "payload_too_large")


def _refusal_of(error: Exception) -> _RefusedRequest:
    """What a callback of ours raised, or the parser's own complaint."""
    if isinstance(error.__context__, _RefusedRequest):
        return error.__context__
    return _RefusedRequest(400, "The request is not valid HTTP/1.1.")
