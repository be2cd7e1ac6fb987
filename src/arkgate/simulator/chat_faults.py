"""The ways in which the simulated chat backend fails on demand, by the name that a prompt or a test gives."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from arkgate.simulator.chat_answers import Json, events_of, streamed

HANG_SECONDS = 3600.0
HUGE_BYTES = 64 * 1024 * 1024
_PIECE = b" " * 65536
_SENTENCES = {
    400: ("invalid_request_error", "the request is not a chat completion"),
    401: ("authentication_error", "the API key is missing or wrong"),
    404: ("not_found_error", "no such model"),
    413: ("invalid_request_error", "the request is too large"),
    429: ("rate_limit_error", "too many requests"),
}


def error(status: int) -> Response:
    """An error as OpenAI's services write it."""
    kind, sentence = _SENTENCES.get(status, ("server_error", "a simulated failure"))
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    body = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)


async def failing(fault: str, answer: Json, *, stream: bool) -> Response:
    """The response that fails in that way: a status from 300 to 599, or a name of FAULTS and a number."""
    name, _, number = fault.partition(" ")
    if name.isdigit() and 300 <= int(name) <= 599:
        return error(int(name))
    if name not in FAULTS:
        return error(400)
    return await FAULTS[name](answer, stream, float(number) if number else None)


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
        transport: asyncio.Transport = scope["transport"]
        transport.abort()


def with_transport(application: ASGIApp) -> ASGIApp:
    """Shows the application its connection, so that it can break it.

    uvicorn's `send` is a method of what knows the connection; Starlette's layers would hide that.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        cycle: Any = getattr(send, "__self__", None)
        await application({**scope, "transport": cycle.transport}, receive, send)

    return wrapped


async def _hang(answer: Json, stream: bool, seconds: float | None) -> Response:
    await asyncio.sleep(seconds or HANG_SECONDS)
    return error(500)


async def _slow(answer: Json, stream: bool, seconds: float | None) -> Response:
    await asyncio.sleep(seconds or 1.0)
    return streamed(answer) if stream else JSONResponse(answer)


async def _empty(answer: Json, stream: bool, number: float | None) -> Response:
    return Response(b"", media_type="application/json")


async def _garbage(answer: Json, stream: bool, number: float | None) -> Response:
    if stream:
        return Response(b"data: {not json\n\n" * 3, media_type="text/event-stream")
    return Response(b"\x00\xff{not json", media_type="application/json")


async def _html(answer: Json, stream: bool, number: float | None) -> Response:
    return Response("<html><body>It works!</body></html>", media_type="text/html")


async def _no_choices(answer: Json, stream: bool, number: float | None) -> Response:
    return JSONResponse({**answer, "choices": []})


async def _no_usage(answer: Json, stream: bool, number: float | None) -> Response:
    return JSONResponse({name: value for name, value in answer.items() if name != "usage"})


async def _redirect(answer: Json, stream: bool, number: float | None) -> Response:
    return RedirectResponse("/v1/models", status_code=302)


async def _cut(answer: Json, stream: bool, number: float | None) -> Response:
    if stream:
        return _Broken(list(events_of(answer))[:4], media_type="text/event-stream")
    body = json.dumps(answer).encode()
    return _Broken([body[: len(body) // 2]], media_type="application/json")


async def _wrong_length(answer: Json, stream: bool, number: float | None) -> Response:
    body = json.dumps(answer).encode()
    return _Broken([body], media_type="application/json", declared_bytes=len(body) + 10)


async def _reset(answer: Json, stream: bool, number: float | None) -> Response:
    return _Silent()


async def _huge(answer: Json, stream: bool, size: float | None) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        for _ in range(int(size or HUGE_BYTES) // len(_PIECE) + 1):
            yield _PIECE
        yield b"}"

    return StreamingResponse(body(), media_type="text/event-stream" if stream else "application/json")


async def _trickle(answer: Json, stream: bool, seconds: float | None) -> Response:
    """A good answer, one piece every so many seconds."""
    body = json.dumps(answer).encode()
    pieces = list(events_of(answer)) if stream else [body[at : at + 16] for at in range(0, len(body), 16)]

    async def slowly() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(seconds or 0.1)

    return StreamingResponse(slowly(), media_type="text/event-stream" if stream else "application/json")


async def _stall(answer: Json, stream: bool, seconds: float | None) -> Response:
    """The beginning of a good answer, then nothing for a long time."""
    pieces = list(events_of(answer))[:4] if stream else [json.dumps(answer).encode()[:20]]

    async def beginning() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        await asyncio.sleep(seconds or HANG_SECONDS)

    return StreamingResponse(beginning(), media_type="text/event-stream" if stream else "application/json")


async def _no_done(answer: Json, stream: bool, number: float | None) -> Response:
    """A stream that ends well, but without its last event."""
    return Response(b"".join(list(events_of(answer))[:-1]), media_type="text/event-stream")


async def _error_event(answer: Json, stream: bool, number: float | None) -> Response:
    """A stream that turns into an error."""
    event = b'data: {"error": {"message": "a simulated failure", "type": "server_error"}}\n\n'
    return Response(b"".join([*list(events_of(answer))[:3], event]), media_type="text/event-stream")


FAULTS: dict[str, Callable[[Json, bool, float | None], Awaitable[Response]]] = {
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
}
