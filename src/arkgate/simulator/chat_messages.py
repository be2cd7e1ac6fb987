"""Anthropic's messages API: its requests, answers, named events and errors."""

from collections.abc import Iterator
from dataclasses import dataclass

from arkgate.simulator.chat_answers import (
    Answer,
    BadWish,
    Wish,
    conversation_of,
    positive,
    sse,
)
from arkgate.simulator.chat_dialects import Dialect
from arkgate.simulator.chat_tools import Json, Tool, chosen_tool

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Messages:
    """`POST /v1/messages`. Its `input_tokens` leave out what was read from the cache."""

    dialect: Dialect
    """Has nothing to say here: the servers with dialects write this API as Anthropic does."""

    def read(self, body: Json) -> Wish:
        """Needs `model`, `max_tokens` and `messages`."""
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise BadWish("model: Field required")
        tokens_max = positive(body.get("max_tokens"))
        if tokens_max is None:
            raise BadWish("max_tokens: Field required")
        if not isinstance(messages, list) or not messages:
            raise BadWish("messages: at least one message is required")
        system = body.get("system")
        first = [{"role": "system", "content": system}] if system else []
        said = conversation_of([*first, *messages])
        return Wish(
            model=model,
            prompt=said.prompt,
            prompt_tokens=said.tokens,
            images=said.images,
            tokens_max=tokens_max,
            is_streamed=bool(body.get("stream")),
            tool=chosen_tool(_tools(body.get("tools")), body.get("tool_choice"), asked=said.asks_for_tool),
        )

    def whole(self, answer: Answer) -> Json:
        """A message."""
        return {**_opened(answer), "content": [_block(answer)], "stop_reason": _stop(answer)}

    def events(self, answer: Answer) -> Iterator[bytes]:
        """One block, a token each; the first event counts input tokens, the last but one output tokens."""
        opened = _opened(answer)
        start = {**opened, "usage": {**opened["usage"], "output_tokens": 1}}
        yield _event({"type": "message_start", "message": start})
        block = _block(answer, is_empty=True)
        yield _event({"type": "content_block_start", "index": 0, "content_block": block})
        yield _event({"type": "ping"})
        for piece in answer.pieces:
            if answer.call is None:
                delta = {"type": "text_delta", "text": piece}
            else:
                delta = {"type": "input_json_delta", "partial_json": piece}
            yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield _event({"type": "content_block_stop", "index": 0})
        end = {"stop_reason": _stop(answer), "stop_sequence": None}
        usage = {"output_tokens": answer.completion_tokens}
        yield _event({"type": "message_delta", "delta": end, "usage": usage})
        yield _event({"type": "message_stop"})

    def refusal(self, status: int, sentence: str) -> Json:
        """Anthropic's error, which has a type of its own."""
        error = {"type": _KINDS.get(status, "api_error"), "message": sentence}
        return {"type": "error", "error": error, "request_id": "req_simulated"}

    def error_event(self, sentence: str) -> bytes:
        """The API's `error` event."""
        return _event({"type": "error", "error": {"type": "overloaded_error", "message": sentence}})


def _event(data: Json) -> bytes:
    return sse(data, name=str(data["type"]))


def _opened(answer: Answer) -> Json:
    return {
        "id": f"msg_{answer.key}",
        "type": "message",
        "role": "assistant",
        "model": answer.wish.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": answer.prompt_tokens - answer.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": answer.cached_tokens,
            "output_tokens": answer.completion_tokens,
            "service_tier": "standard",
        },
    }


def _block(answer: Answer, *, is_empty: bool = False) -> Json:
    if answer.call is None:
        return {"type": "text", "text": "" if is_empty else answer.text}
    arguments = {} if is_empty else answer.call.values
    return {"type": "tool_use", "id": f"toolu_{answer.key}", "name": answer.call.tool, "input": arguments}


def _stop(answer: Answer) -> str:
    if answer.call is not None:
        return "tool_use"
    return "max_tokens" if answer.is_cut else "end_turn"


def _tools(tools: object) -> list[Tool]:
    listed = tools if isinstance(tools, list) else []
    return [
        Tool(str(one.get("name", "")), one.get("input_schema")) for one in listed if isinstance(one, dict)
    ]
