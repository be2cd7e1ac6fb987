"""How the simulated chat backend sends what it says: whole or event by event, at a model's pace."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response, StreamingResponse

from arkgate.simulator.chat_answers import dumped
from arkgate.simulator.chat_tools import Json

JSON = "application/json"
EVENTS = "text/event-stream"
_SENTENCES = {
    400: "the request is not a chat completion",
    401: "the API key is missing or wrong",
    404: "no such model",
    413: "the request is too large",
    429: "too many requests",
}


class Refusing(Protocol):
    """Whoever writes errors in an API's format."""

    def refusal(self, status: int, sentence: str) -> Json:
        """The body of an error."""

    def error_event(self, sentence: str) -> bytes:
        """The event with which a stream turns into an error."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a model is: the wait for its first token, and the wait between two events."""

    first_token_seconds: float = 0
    token_seconds: float = 0

    async def wait_for_whole(self, tokens: int) -> None:
        """As long as a stream of so many tokens takes."""
        seconds = self.first_token_seconds + self.token_seconds * tokens
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def spread(self, events: Iterable[bytes]) -> AsyncIterator[bytes]:
        """The events, each when its time has come."""
        wait = self.first_token_seconds
        for event in events:
            if wait > 0:
                await asyncio.sleep(wait)
            wait = self.token_seconds
            yield event


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer in an API's format, ready to be sent, or to be spoiled by a fault."""

    api: Refusing
    body: Json
    events: tuple[bytes, ...] = ()
    """Empty unless a stream was asked for."""
    tokens: int = 0
    pace: Pace = Pace()

    @property
    def is_streamed(self) -> bool:
        """Whether the answer goes out as events."""
        return bool(self.events)

    @property
    def media_type(self) -> str:
        """Of a good answer."""
        return EVENTS if self.is_streamed else JSON

    @property
    def content(self) -> bytes:
        """All bytes of a good answer's body."""
        return b"".join(self.events) if self.is_streamed else dumped(self.body)

    async def response(self) -> Response:
        """The good answer, at its pace. A stream's head goes out at once."""
        if self.is_streamed:
            return StreamingResponse(self.pace.spread(self.events), media_type=EVENTS)
        await self.pace.wait_for_whole(self.tokens)
        return Response(self.content, media_type=JSON)


def refused(api: Refusing, status: int, sentence: str | None = None) -> Response:
    """An error as the API's services write it."""
    said = sentence or _SENTENCES.get(status, "a simulated failure")
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    body = dumped(api.refusal(status, said))
    return Response(body, status_code=status, headers=headers, media_type=JSON)
