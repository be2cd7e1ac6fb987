"""Faults of a backend that means harm, or is broken far below HTTP, by the name that a prompt gives.

Like the others they may take a number; what it counts stands with each fault.
"""

import asyncio
import itertools
import re
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from arkgate.simulator.chat_answers import dumped
from arkgate.simulator.chat_delivery import EVENTS, JSON, Reply, refused
from arkgate.simulator.chat_lies import LYING
from arkgate.simulator.chat_wire import Wire, until_gone

ENDLESS_BYTES = 10_000_000_000
BOMB_BYTES = 1024 * 1024 * 1024
MINUTE_SECONDS = 60.0
_PIECE_BYTES = 65536
_BLOCK_BYTES = 1024 * 1024
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_BAD_UTF8 = b" \xff\xfe\xc3\x28 "
_STATUS_LINE = b"HTTP/1.1 200 OK\r\n"
_TOKEN = re.compile(rb'"(?:content|text|delta|partial_json)":"[^"]')


class _Raw(Response):
    """Writes bytes to the connection that no HTTP server would write, then closes it."""

    def __init__(self, parts: Iterable[bytes], *, wait_seconds: float = 0) -> None:
        super().__init__()
        self._parts = parts
        self._wait_seconds = wait_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire: Wire = scope["wire"]
        for part in self._parts:
            if wire.is_closed:
                break
            await wire.write(part)
            await asyncio.sleep(self._wait_seconds)
        wire.close()
        await until_gone(receive)


class _CutAt(Response):
    """A good answer whose connection is reset after so many bytes, head included; a shorter one is whole."""

    def __init__(self, inner: Response, size: int) -> None:
        super().__init__()
        self._inner = inner
        self._size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire: Wire = scope["wire"]
        cut = wire.cut_after(self._size)

        async def watched(message: Message) -> None:
            if not cut.is_full:
                await send(message)
            if cut.is_full and not wire.is_closed:
                await wire.reset()

        if self._size == 0:
            await wire.reset()
        else:
            await self._inner(scope, receive, watched)
        if cut.is_full:
            await until_gone(receive)


def _head(reply: Reply, *lines: bytes) -> bytes:
    return b"\r\n".join([_STATUS_LINE + b"Content-Type: " + reply.media_type.encode(), *lines, b"", b""])


def _around_text(content: bytes) -> tuple[bytes, bytes]:
    """A body before and after a place inside the text of the answer."""
    for word in (b" simulated", b" word2"):
        before, found, after = content.partition(word)
        if found:
            return before + found, after
    return b'{"choices":[{"message":{"content":"', b'"}}]}'


def _token_at(reply: Reply) -> int:
    """The number of the event with the first token."""
    return next((number for number, event in enumerate(reply.events) if _TOKEN.search(event)), 0)


async def _half_status(reply: Reply, number: float | None) -> Response:
    return _Raw([b"HTTP/1.1 20"])


async def _bad_chunk(reply: Reply, number: float | None) -> Response:
    """A good chunk, then one whose length is no number."""
    head = _head(reply, b"Transfer-Encoding: chunked")
    good = reply.content[:20]
    return _Raw([head, b"%x\r\n%b\r\n" % (len(good), good), b"zz\r\nno chunk\r\n0\r\n\r\n"])


async def _two_lengths(reply: Reply, number: float | None) -> Response:
    """Two lengths that contradict each other."""
    body = reply.content
    lengths = [b"Content-Length: 5", b"Content-Length: %d" % len(body)]
    return _Raw([_head(reply, *lengths) + body])


async def _endless_headers(reply: Reply, number: float | None) -> Response:
    """A head that goes on until the reader leaves."""
    lines = (b"X-Header-%d: %b\r\n" % (count, b"x" * 1000) for count in itertools.count())
    return _Raw(itertools.chain([_STATUS_LINE], lines))


async def _endless_hints(reply: Reply, number: float | None) -> Response:
    """Interim answers without a last one."""
    return _Raw(itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 10))


async def _byte_a_minute(reply: Reply, seconds: float | None) -> Response:
    """A head at once, then a byte every so many seconds."""

    async def slowly() -> AsyncIterator[bytes]:
        for byte in reply.content:
            yield bytes([byte])
            await asyncio.sleep(seconds or MINUTE_SECONDS)

    return StreamingResponse(slowly(), media_type=reply.media_type)


async def _head_byte_a_minute(reply: Reply, seconds: float | None) -> Response:
    """A byte every so many seconds, beginning with the head."""
    content = _head(reply, b"Content-Length: %d" % len(reply.content)) + reply.content
    return _Raw((bytes([byte]) for byte in content), wait_seconds=seconds or MINUTE_SECONDS)


async def _gzip_bomb(reply: Reply, size: float | None) -> Response:
    """A good answer behind so many bytes of nothing, compressed a thousandfold though nobody asked for it."""

    async def bomb() -> AsyncIterator[bytes]:
        for piece in _compressed(reply, int(size or BOMB_BYTES)):
            yield piece
            await asyncio.sleep(0)

    return StreamingResponse(bomb(), media_type=reply.media_type, headers={"Content-Encoding": "gzip"})


def _compressed(reply: Reply, size: int) -> Iterator[bytes]:
    """One gzip member. A block ends in a full flush, so that its compressed form can be repeated."""
    nothing = b":\n\n\n" if reply.is_streamed else b"    "
    block = nothing * (_BLOCK_BYTES // len(nothing))
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    count, check = size // _BLOCK_BYTES + 1, 0
    yield _GZIP_HEAD
    for _ in range(count):
        check = zlib.crc32(block, check)
        yield packed
    check = zlib.crc32(reply.content, check)
    length = (count * _BLOCK_BYTES + len(reply.content)) & 0xFFFFFFFF
    yield packer.compress(reply.content) + packer.flush() + struct.pack("<II", check, length)


async def _endless(reply: Reply, size: float | None) -> Response:
    """An answer of so many bytes in well-formed JSON or events."""
    return _spun(reply, size_max=int(size or ENDLESS_BYTES))


async def _never_done(reply: Reply, number: float | None) -> Response:
    """Tokens as fast as they are read, until the reader leaves."""
    return _spun(reply, size_max=None)


def _spun(reply: Reply, *, size_max: int | None) -> Response:
    if reply.is_streamed:
        first = _token_at(reply) + 1
        before, again, after = reply.events[:first], reply.events[first - 1], reply.events[first:]
        parts = b"".join(before), again * max(1, _PIECE_BYTES // 8 // len(again)), b"".join(after)
    else:
        opening, closing = _around_text(reply.content)
        parts = opening, b" word" * (_PIECE_BYTES // 5), closing

    async def spinning() -> AsyncIterator[bytes]:
        start, piece, end = parts
        yield start
        rounds = itertools.count() if size_max is None else range(size_max // len(piece) + 1)
        for _ in rounds:
            yield piece
            await asyncio.sleep(0)
        yield end

    return StreamingResponse(spinning(), media_type=reply.media_type)


async def _error_after_token(reply: Reply, number: float | None) -> Response:
    """A stream that turns into an error after one token; whole, an error with status 200."""
    if not reply.is_streamed:
        return Response(dumped(reply.api.refusal(500, "a simulated failure")), media_type=JSON)
    said = reply.events[: _token_at(reply) + 1]
    return Response(b"".join([*said, reply.api.error_event("a simulated failure")]), media_type=EVENTS)


async def _double_done(reply: Reply, number: float | None) -> Response:
    """The last event twice; whole, the answer twice."""
    again = reply.events[-1] if reply.is_streamed else reply.content
    return Response(reply.content + again, media_type=reply.media_type)


async def _bad_utf8(reply: Reply, number: float | None) -> Response:
    """Bytes that are no UTF-8 inside the text."""
    return Response(_BAD_UTF8.join(_around_text(reply.content)), media_type=reply.media_type)


async def _cut_at(reply: Reply, size: float | None) -> Response:
    """A TCP reset after so many bytes, head and framing included."""
    return _CutAt(await reply.response(), int(size or 0))


async def _early_answer(reply: Reply, status: float | None) -> Response:
    """An answer before the request is read: good, or this status and the end of the connection."""
    if status is None:
        return await reply.response()
    response = refused(reply.api, int(status))
    response.headers["Connection"] = "close"
    return response


HOSTILE: dict[str, Callable[[Reply, float | None], Awaitable[Response]]] = {
    "bad-chunk": _bad_chunk,
    "bad-utf8": _bad_utf8,
    "byte-a-minute": _byte_a_minute,
    "cut-at": _cut_at,
    "double-done": _double_done,
    "early-answer": _early_answer,
    "endless": _endless,
    "endless-headers": _endless_headers,
    "endless-hints": _endless_hints,
    "error-after-token": _error_after_token,
    "gzip-bomb": _gzip_bomb,
    "half-status": _half_status,
    "head-byte-a-minute": _head_byte_a_minute,
    "never-done": _never_done,
    "two-lengths": _two_lengths,
    **LYING,
}
