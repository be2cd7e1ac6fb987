"""What the simulated chat backend answers: whole or streamed, with token counts, in OpenAI's format."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

BODY_BYTES_MAX = 64 * 1024 * 1024
ECHO_CHARACTERS_MAX = 400

Json = dict[str, Any]


async def read_request(request: Request) -> Json:
    """The request's JSON object; empty when it is none, or too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            return {}
    try:
        wish = json.loads(body)
    except ValueError:
        return {}
    return wish if isinstance(wish, dict) else {}


def prompt_of(wish: Json) -> str:
    """The text of the last message."""
    messages = wish.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return ""
    return _text(messages[-1].get("content"))


def answer_to(wish: Json, prompt: str) -> Json:
    """A whole chat completion. A token is a word here; `max_tokens` cuts the answer as a model would."""
    words = f"This is a simulated answer. You asked: {prompt[:ECHO_CHARACTERS_MAX]}".split(" ")
    limit = wish.get("max_completion_tokens") or wish.get("max_tokens")
    is_cut = isinstance(limit, int) and 0 < limit < len(words)
    if is_cut:
        words = words[:limit]
    prompt_tokens = sum(_tokens(message) for message in wish["messages"])
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(words),
        "total_tokens": prompt_tokens + len(words),
    }
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "length" if is_cut else "stop"}
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": wish["model"],
        "choices": [choice],
        "usage": usage,
    }


def streamed(answer: Json) -> StreamingResponse:
    """The same answer as server-sent events, with a last chunk that carries the usage."""

    async def events() -> AsyncIterator[bytes]:
        for event in events_of(answer):
            yield event

    return StreamingResponse(events(), media_type="text/event-stream")


def events_of(answer: Json) -> Iterator[bytes]:
    """The events of a streamed answer, one word each."""
    choice = answer["choices"][0]
    yield _event(answer, [_delta({"role": "assistant", "content": ""})])
    for number, word in enumerate(choice["message"]["content"].split(" ")):
        yield _event(answer, [_delta({"content": f" {word}" if number else word})])
    yield _event(answer, [_delta({}, choice["finish_reason"])])
    yield _event(answer, [], answer["usage"])
    yield b"data: [DONE]\n\n"


def _delta(delta: Json, finish_reason: str | None = None) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _event(answer: Json, choices: list[Json], usage: Json | None = None) -> bytes:
    chunk = {
        "id": answer["id"],
        "object": "chat.completion.chunk",
        "created": answer["created"],
        "model": answer["model"],
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _tokens(message: object) -> int:
    """Words, and four for the message itself."""
    return 4 + len(_text(message.get("content")).split()) if isinstance(message, dict) else 0


def _text(content: object) -> str:
    """A message's text: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return " ".join(str(part.get("text", "")) for part in parts)
    return ""
