"""What tools ask the gateway over: its own HTTP contract, inside this process or over the network.

Both ways answer the same, so that a tool has the limits, prices and refusals of every other client.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httpx
import orjson
from starlette.types import ASGIApp, Message, Scope

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""What a tool reads of an answer; a larger one is left, and is kept by the gateway where it was charged."""
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 600.0
"""The gateway bounds its calls itself; this is for one that says nothing more."""
CREDENTIALS: Final = ("authorization", "x-api-key", "macaroon", "grpc-metadata-macaroon")
"""The headers that credentials come in."""

Pairs = Sequence[tuple[str, str]]


class Unreachable(Exception):  # noqa: N818 - a sentence for whoever called the tool
    """The gateway gave no answer; says what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the gateway."""

    method: str
    target: str
    """Path and query, percent-encoded."""
    headers: Pairs = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    def json(self) -> Any:  # noqa: ANN401 - whatever it is
        """The body as JSON; None when it is none."""
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None

    def number(self, header: str) -> int | None:
        """A header that is a whole number."""
        text = self.headers.get(header, "")
        return int(text) if text.isascii() and text.isdigit() else None


class Gateway(Protocol):
    """Answers requests of the HTTP contract."""

    async def ask(self, asked: Asked) -> Answer:
        """The answer. Raises Unreachable."""
        ...


@dataclass(frozen=True, slots=True)
class Inside:
    """The gateway of this process, asked for whoever sent `scope`: limits count that client."""

    app: ASGIApp
    scope: Scope

    async def ask(self, asked: Asked) -> Answer:
        """See `Gateway`."""
        exchange = _Exchange(asked.body)
        path, _, query = asked.target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked.method,
            "scheme": "http",
            "path": httpx.URL("http://gateway" + path).path,
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [
                *((name.encode("latin-1"), value.encode("latin-1")) for name, value in asked.headers),
                *((name, value) for name, value in self.scope["headers"] if name == b"x-forwarded-for"),
            ],
            "client": self.scope.get("client"),
            "server": self.scope.get("server"),
            "state": {},
        }
        await self.app(scope, exchange.receive, exchange.send)
        return exchange.answer()


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, without a socket."""

    body: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    is_ended: bool = False
    _is_sent: bool = False
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        """The body, and then that the reader has left, if he does."""
        if not self._is_sent:
            self._is_sent = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Keeps what is answered, up to its limit."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
            return
        piece = message.get("body", b"")
        self.size += len(piece)
        if self.size > ANSWER_BYTES_MAX:
            self._left.set()
        else:
            self.pieces.append(piece)
        self.is_ended = not message.get("more_body", False)

    def answer(self) -> Answer:
        """What came. Raises Unreachable for an answer that was not ended, as over a connection that broke."""
        if self.size > ANSWER_BYTES_MAX:
            return Answer(self.status, self.headers, b"", is_whole=False)
        if not self.is_ended:
            raise Unreachable("The answer broke off; what broke off costs nothing.")
        return Answer(self.status, self.headers, b"".join(self.pieces))


@dataclass(frozen=True, slots=True)
class Remote:
    """A gateway at a public URL. Redirects are not followed: what is sent holds credentials."""

    http: httpx.AsyncClient
    url: str

    async def ask(self, asked: Asked) -> Answer:
        """See `Gateway`."""
        try:
            return await self._answered(asked)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(
                f"The gateway at {self.url} gave no answer ({type(error).__name__}). If this was a purchase, "
                "repeat it with the same idempotency_key: it is not charged twice."
            ) from error

    async def _answered(self, asked: Asked) -> Answer:
        request = self.http.build_request(
            asked.method, self.url + asked.target, headers=list(asked.headers), content=asked.body or None
        )
        response = await self.http.send(request, stream=True)
        try:
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > ANSWER_BYTES_MAX:
                    return Answer(response.status_code, response.headers, b"", is_whole=False)
                pieces.append(piece)
            return Answer(response.status_code, response.headers, b"".join(pieces))
        finally:
            await response.aclose()


def remote_client() -> httpx.AsyncClient:
    """What a `Remote` asks over."""
    timeout = httpx.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, headers={"User-Agent": "arkgate-mcp"})
