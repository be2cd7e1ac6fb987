"""OpenAI's responses API: its requests, answers, typed events and errors."""

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

_FIXED: Json = {
    "background": False,
    "error": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@dataclass(frozen=True, slots=True)
class Responses:
    """`POST /v1/responses`."""

    dialect: Dialect

    def read(self, body: Json) -> Wish:
        """Needs `model` and `input`: a string, or a list of messages and of tools' results."""
        model, asked = body.get("model"), body.get("input")
        if not isinstance(model, str) or not model:
            raise BadWish("you must provide a model parameter")
        items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        if not isinstance(items, list) or not items:
            raise BadWish("you must provide an input")
        instructions = body.get("instructions")
        first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
        said = conversation_of([*first, *items])
        return Wish(
            model=model,
            prompt=said.prompt,
            prompt_tokens=said.tokens,
            images=said.images,
            tokens_max=positive(body.get("max_output_tokens")),
            is_streamed=bool(body.get("stream")),
            tool=chosen_tool(_tools(body.get("tools")), body.get("tool_choice"), asked=said.asks_for_tool),
            schema=_schema(body.get("text")),
        )

    def whole(self, answer: Answer) -> Json:
        """A response: completed, or incomplete when it was cut."""
        status = "incomplete" if answer.is_cut else "completed"
        details = {"reason": "max_output_tokens"} if answer.is_cut else None
        output = [_item(answer, status)]
        return {
            **_opened(answer),
            "status": status,
            "incomplete_details": details,
            "output": output,
            "usage": _usage(answer),
        }

    def events(self, answer: Answer) -> Iterator[bytes]:
        """Numbered events; the last one carries the whole response with its usage. No `[DONE]` follows."""
        whole = self.whole(answer)
        opened = {**_opened(answer), "status": "in_progress", "incomplete_details": None, "output": []}
        middle = _message_events(answer) if answer.call is None else _call_events(answer)
        sequence: list[Json] = [
            {"type": "response.created", "response": {**opened, "usage": None}},
            {"type": "response.in_progress", "response": {**opened, "usage": None}},
            *middle,
            {"type": f"response.{whole['status']}", "response": whole},
        ]
        for number, event in enumerate(sequence):
            yield sse({**event, "sequence_number": number}, name=str(event["type"]))

    def refusal(self, status: int, sentence: str) -> Json:
        """As the dialect writes it."""
        return self.dialect.refusal(status, sentence)

    def error_event(self, sentence: str) -> bytes:
        """The API's `error` event."""
        event = {"type": "error", "code": "server_error", "message": sentence, "param": None}
        return sse({**event, "sequence_number": 4}, name="error")


def _opened(answer: Answer) -> Json:
    return {
        **_FIXED,
        "id": f"resp_{answer.key}",
        "object": "response",
        "created_at": answer.created_at,
        "model": answer.wish.model,
    }


def _usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.total_tokens,
    }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(answer: Answer, status: str, *, is_empty: bool = False) -> Json:
    """The one item of the output; empty when it has just been added to a stream."""
    if answer.call is None:
        content = [] if is_empty else [_text_part(answer.text)]
        head = {"id": f"msg_{answer.key}", "type": "message", "status": status}
        return {**head, "role": "assistant", "content": content}
    return {
        "id": f"fc_{answer.key}",
        "type": "function_call",
        "status": status,
        "call_id": f"call_{answer.key}",
        "name": answer.call.tool,
        "arguments": "" if is_empty else answer.call.arguments,
    }


def _message_events(answer: Answer) -> list[Json]:
    status = "incomplete" if answer.is_cut else "completed"
    place = {"item_id": f"msg_{answer.key}", "output_index": 0, "content_index": 0}
    added = _item(answer, "in_progress", is_empty=True)
    deltas = [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        for piece in answer.pieces
    ]
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": added},
        {"type": "response.content_part.added", **place, "part": _text_part("")},
        *deltas,
        {"type": "response.output_text.done", **place, "text": answer.text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _text_part(answer.text)},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(answer, status)},
    ]


def _call_events(answer: Answer) -> list[Json]:
    place = {"item_id": f"fc_{answer.key}", "output_index": 0}
    added = _item(answer, "in_progress", is_empty=True)
    item = _item(answer, "completed")
    deltas = [
        {"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in answer.pieces
    ]
    done = {"type": "response.function_call_arguments.done", **place, "name": item["name"]}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": added},
        *deltas,
        {**done, "arguments": item["arguments"]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


def _tools(tools: object) -> list[Tool]:
    """The functions among the tools; this API has others that nobody simulates."""
    listed = tools if isinstance(tools, list) else []
    return [
        Tool(str(one.get("name", "")), one.get("parameters"))
        for one in listed
        if isinstance(one, dict) and one.get("type") == "function"
    ]


def _schema(text: object) -> Json | None:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    schema = wanted.get("schema")
    if isinstance(schema, dict):
        return schema
    return {"type": "object", "properties": {"answer": {"type": "string"}}}
