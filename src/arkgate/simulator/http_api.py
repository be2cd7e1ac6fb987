"""Any HTTP API, simulated: it keeps what reaches it and answers in the ways in which such APIs answer."""

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from arkgate.simulator.serving import LOOPBACK, headers_of, serving, target_of

RECEIVED_MAX = 10_000
KEPT_BYTES_MAX = 64 * 1024
BYTES_MAX = 10_000_000_000
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATTERN = bytes(range(256))
"""What `/bytes/{n}` repeats."""
HOP_BY_HOP = "X-Secret"
"""A header that `/headers` sets and that its `Connection` forbids to pass on."""
_PIECE = PATTERN * 256


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request as it came."""

    method: str
    target: str
    """The path and the query, undecoded."""
    headers: tuple[tuple[str, str], ...]
    """All of them in their order, their names in lower case."""
    body: bytes
    """Its first KEPT_BYTES_MAX."""
    length: int
    sha256: str
    """Of the whole body."""
    is_whole: bool = True
    """False when the sender left before the body's end."""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next((value for known, value in self.headers if known == name.lower()), None)


class SimulatedApi:
    """The API. `received` lists what came, unknown paths included; the newest RECEIVED_MAX are kept."""

    def __init__(self) -> None:
        self.received: deque[ApiRequest] = deque(maxlen=RECEIVED_MAX)
        self.port = 0
        any_of = list(METHODS)
        self.application = Starlette(
            routes=[
                Route("/time", self._time, methods=["GET"]),
                Route("/echo{rest:path}", self._echo, methods=any_of),
                Route("/bytes/{size:int}", self._bytes, methods=["GET"]),
                Route("/stream/{count:int}", self._stream, methods=["GET"]),
                Route("/upload", self._upload, methods=["POST"]),
                Route("/status/{code:int}", self._status, methods=any_of),
                Route("/slow/{seconds:float}", self._slow, methods=["GET"]),
                Route("/headers", self._headers, methods=["GET"]),
                Route("/redirect", self._redirect, methods=["GET"]),
                Route("/{path:path}", self._unknown, methods=any_of),
            ]
        )

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self, *, port: int = 0) -> AsyncIterator["SimulatedApi"]:
        """Serves on the loopback interface until the block ends. Raises PortTaken."""
        purpose = "the simulated HTTP API"
        async with serving(self.application, port=port, purpose=purpose, names_server=False) as bound:
            self.port = bound
            yield self

    async def _note(self, request: Request) -> ApiRequest:
        """Reads the body to its end and keeps the request, also one whose sender leaves."""
        kept, length, digest, is_whole = bytearray(), 0, hashlib.sha256(), False
        try:
            async for part in request.stream():
                kept += part[: KEPT_BYTES_MAX - len(kept)]
                length += len(part)
                digest.update(part)
            is_whole = True
        finally:
            came = ApiRequest(
                method=request.method,
                target=target_of(request),
                headers=headers_of(request),
                body=bytes(kept),
                length=length,
                sha256=digest.hexdigest(),
                is_whole=is_whole,
            )
            self.received.append(came)
        return came

    async def _time(self, request: Request) -> Response:
        await self._note(request)
        return JSONResponse({"unix": int(time.time())})

    async def _echo(self, request: Request) -> Response:
        """What came: method, target, headers, and of the body the digest and the length."""
        came = await self._note(request)
        return JSONResponse(
            {
                "method": came.method,
                "target": came.target,
                "headers": [list(pair) for pair in came.headers],
                "sha256": came.sha256,
                "length": came.length,
            }
        )

    async def _bytes(self, request: Request) -> Response:
        """So many bytes, their length stated."""
        await self._note(request)
        size = min(request.path_params["size"], BYTES_MAX)

        async def body() -> AsyncIterator[bytes]:
            for start in range(0, size, len(_PIECE)):
                yield _PIECE[: size - start]

        headers = {"Content-Length": str(size)}
        return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)

    async def _stream(self, request: Request) -> Response:
        """So many events; `?pause=0.1` is the time between two, in seconds."""
        await self._note(request)
        pause = float(request.query_params.get("pause", "0"))

        async def events() -> AsyncIterator[bytes]:
            for number in range(request.path_params["count"]):
                if number:
                    await asyncio.sleep(pause)
                yield b'data: {"number":%d}\n\n' % number

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _upload(self, request: Request) -> Response:
        try:
            came = await self._note(request)
        except ClientDisconnect:
            # Nobody is there to answer; the request is kept and says that it is not whole.
            return Response(status_code=400)
        return JSONResponse({"length": came.length, "sha256": came.sha256})

    async def _status(self, request: Request) -> Response:
        """This status, from 200 to 599; 400 for any other."""
        await self._note(request)
        code = request.path_params["code"]
        if not 200 <= code <= 599:
            return JSONResponse({"error": "no such status"}, status_code=400)
        if code in (204, 304):
            return Response(status_code=code)
        headers = {"Retry-After": "1"} if code in (429, 503) else {}
        return JSONResponse({"status": code}, status_code=code, headers=headers)

    async def _slow(self, request: Request) -> Response:
        await self._note(request)
        await asyncio.sleep(request.path_params["seconds"])
        return JSONResponse({"slept": request.path_params["seconds"]})

    async def _headers(self, request: Request) -> Response:
        """Headers that a gateway passes on, and others that it must not."""
        await self._note(request)
        response = JSONResponse({"ok": True})
        for name, value in (
            ("Set-Cookie", "first=1; Path=/; HttpOnly"),
            ("Set-Cookie", "second=2; Path=/"),
            ("Connection", HOP_BY_HOP),
            (HOP_BY_HOP, "for one hop only"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Server", "simulated/1.0"),
            ("ETag", '"simulated-1"'),
            ("Content-Disposition", 'attachment; filename="answer.json"'),
            ("Cache-Control", "public, max-age=60"),
            ("X-Simulated", "yes"),
        ):
            response.headers.append(name, value)
        return response

    async def _redirect(self, request: Request) -> Response:
        """To `?to=`, or to the time, with `?code=` or 302."""
        await self._note(request)
        code = int(request.query_params.get("code", "302"))
        return RedirectResponse(request.query_params.get("to", "/time"), status_code=code)

    async def _unknown(self, request: Request) -> Response:
        await self._note(request)
        return JSONResponse({"error": "no such path"}, status_code=404)
