"""The ways in which the simulated chat backend fails on demand, by the name that a prompt or a test gives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from arkgate.simulator.chat_answers import dumped
from arkgate.simulator.chat_delivery import EVENTS, JSON, Reply, refused
from arkgate.simulator.chat_hostile import HOSTILE
from arkgate.simulator.chat_tools import Json

Fault = Callable[[Reply, float | None], Awaitable[Response]]

HANG_SECONDS = 3600.0
HUGE_BYTES = 64 * 1024 * 1024
_PIECE = b" " * 65536


async def failing(fault: str, reply: Reply) -> Response:
    """The response that fails in that way: a status from 300 to 599, or a name of FAULTS and a number."""
    name, _, number = fault.partition(" ")
    if name.isdigit() and 300 <= int(name) <= 599:
        return refused(reply.api, int(name))
    if name not in FAULTS:
        return refused(reply.api, 400)
    return await FAULTS[name](reply, float(number) if number else None)


class _Broken(Response):
    """Sends a head and a part of a body, then closes the connection."""

    def __init__(self, parts: list[bytes], *, media_type: str, declared_bytes: int | None = None) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        if declared_bytes is not None:
            self.headers["content-length"] = str(declared_bytes)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        # The server closes the connection of an application that ends before its response does.


class _Silent(Response):
    """Closes the connection without a word."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["wire"].abort()


async def _hang(reply: Reply, seconds: float | None) -> Response:
    await asyncio.sleep(seconds or HANG_SECONDS)
    return refused(reply.api, 500)


async def _slow(reply: Reply, seconds: float | None) -> Response:
    await asyncio.sleep(seconds or 1.0)
    return await reply.response()


async def _empty(reply: Reply, number: float | None) -> Response:
    return Response(b"", media_type=JSON)


async def _garbage(reply: Reply, number: float | None) -> Response:
    if reply.is_streamed:
        return Response(b"data: {not json\n\n" * 3, media_type=EVENTS)
    return Response(b"\x00\xff{not json", media_type=JSON)


async def _html(reply: Reply, number: float | None) -> Response:
    return Response("<html><body>It works!</body></html>", media_type="text/html")


async def _no_choices(reply: Reply, number: float | None) -> Response:
    if reply.is_streamed:
        return Response(b"".join(reply.events[-1:]), media_type=EVENTS)
    return _whole({**reply.body, "choices": []})


async def _no_usage(reply: Reply, number: float | None) -> Response:
    if reply.is_streamed:
        kept = [event for event in reply.events if b'"usage":{' not in event]
        return Response(b"".join(kept), media_type=EVENTS)
    return _whole({name: value for name, value in reply.body.items() if name != "usage"})


async def _redirect(reply: Reply, number: float | None) -> Response:
    return RedirectResponse("/v1/models", status_code=302)


async def _cut(reply: Reply, number: float | None) -> Response:
    if reply.is_streamed:
        return _Broken(list(reply.events[:4]), media_type=EVENTS)
    return _Broken([reply.content[: len(reply.content) // 2]], media_type=JSON)


async def _wrong_length(reply: Reply, number: float | None) -> Response:
    body = dumped(reply.body)
    return _Broken([body], media_type=JSON, declared_bytes=len(body) + 10)


async def _reset(reply: Reply, number: float | None) -> Response:
    return _Silent()


async def _huge(reply: Reply, size: float | None) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        for _ in range(int(size or HUGE_BYTES) // len(_PIECE) + 1):
            yield _PIECE
        yield b"}"

    return StreamingResponse(body(), media_type=reply.media_type)


async def _trickle(reply: Reply, seconds: float | None) -> Response:
    """A good answer, one piece every so many seconds."""
    body = reply.content
    pieces = reply.events or [body[at : at + 16] for at in range(0, len(body), 16)]

    async def slowly() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(seconds or 0.1)

    return StreamingResponse(slowly(), media_type=reply.media_type)


async def _stall(reply: Reply, seconds: float | None) -> Response:
    """The beginning of a good answer, then nothing for a long time."""
    pieces: Iterable[bytes] = reply.events[:4] or [reply.content[:20]]

    async def beginning() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        await asyncio.sleep(seconds or HANG_SECONDS)

    return StreamingResponse(beginning(), media_type=reply.media_type)


async def _no_done(reply: Reply, number: float | None) -> Response:
    """A stream that ends well, but without its last event."""
    return Response(b"".join(reply.events[:-1]), media_type=EVENTS)


async def _error_event(reply: Reply, number: float | None) -> Response:
    """A stream that turns into an error."""
    event = reply.api.error_event("a simulated failure")
    return Response(b"".join([*reply.events[:3], event]), media_type=EVENTS)


def _whole(body: Json) -> Response:
    return Response(dumped(body), media_type=JSON)


FAULTS: dict[str, Fault] = {
    "cut": _cut,
    "empty": _empty,
    "error-event": _error_event,
    "garbage": _garbage,
    "hang": _hang,
    "html": _html,
    "huge": _huge,
    "no-choices": _no_choices,
    "no-done": _no_done,
    "no-usage": _no_usage,
    "redirect": _redirect,
    "reset": _reset,
    "slow": _slow,
    "stall": _stall,
    "trickle": _trickle,
    "wrong-length": _wrong_length,
    **HOSTILE,
}
