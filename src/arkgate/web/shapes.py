"""How replies are written for the clients of each API: with the cost where they look for the usage."""

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from arkgate.core.errors import Refusal, UpstreamError
from arkgate.core.money import Msat, whole_sats
from arkgate.gateway.order import Bill
from arkgate.ports import Dialect
from arkgate.web.errors import anthropic_error, openai_error, public_sentence

Json = dict[str, object]
DONE: Final = b"data: [DONE]\n\n"


class AiChatShape:
    """`/api/ai-chat`: ArkAPI's `data` object; its streams are OpenAI's, and their last event has the bill."""

    def __init__(self, model: str) -> None:
        self._model = model

    def whole(self, body: bytes, bill: Bill) -> bytes:
        """The `data` object of the answer, as ArkAPI shapes it."""
        text = text_of(_object(body))
        if not text.strip():
            raise UpstreamError("The backend answered without any text; nothing was charged.")
        return orjson.dumps({"answer": text, "model": self._model, "usage": _chat_usage(bill, cost=False)})

    def closing(self, held_back: bytes, bill: Bill) -> bytes:
        """The bill, then the end."""
        last: Json = {
            "object": "chat.completion.chunk",
            "model": self._model,
            "choices": [],
            "usage": _chat_usage(bill, cost=True),
            "success": True,
            "cost_sats": whole_sats(bill.cost, asked_for=True),
            "endpoint": "/api/ai-chat",
            "request_id": bill.request_id,
            "cached": bill.cached,
        }
        if bill.balance is not None:
            last["balance_remaining"] = whole_sats(bill.balance.available)
        return b"data: " + orjson.dumps(last) + b"\n\n" + DONE

    def failure(self, refusal: Refusal, request_id: str) -> bytes:
        """OpenAI's error event, with ArkAPI's fields beside it."""
        body = {"success": False, **openai_error(refusal), "code": refusal.reason, "cost_sats": 0}
        return b"data: " + orjson.dumps({**body, **_told(refusal), "request_id": request_id}) + b"\n\n"


class OpenAiShape:
    """OpenAI's routes: what the backend wrote, with `usage.cost`."""

    def __init__(self, dialect: Dialect, *, wants_usage: bool = False, model: str = "") -> None:
        self._dialect = dialect
        self._wants_usage = wants_usage
        self._model = model

    def whole(self, body: bytes, bill: Bill) -> bytes:
        """The answer with its cost."""
        document = _object(body)
        document["usage"] = self._usage(bill)
        return _written(document)

    def closing(self, held_back: bytes, bill: Bill) -> bytes:
        """The usage for whoever asked for it, and the end."""
        if self._dialect is Dialect.RESPONSES:
            return b"".join(self._completed(held_back, bill))
        if not self._wants_usage:
            return DONE
        is_chat = self._dialect is Dialect.CHAT
        chunk: Json = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{bill.request_id}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": 0,
            "model": self._model,
            "choices": [],
        }
        for told in _documents(held_back):
            chunk.update(told)
        chunk["usage"] = self._usage(bill)
        return b"data: " + _written(chunk) + b"\n\n" + DONE

    def failure(self, refusal: Refusal, request_id: str) -> bytes:
        """The event that OpenAI's clients raise as an error."""
        body = {**openai_error(refusal), **_told(refusal), "request_id": request_id}
        if self._dialect is not Dialect.RESPONSES:
            return b"data: " + orjson.dumps(body) + b"\n\n"
        error = {"type": "error", "code": refusal.reason, "message": _sentence(refusal), "param": None}
        return b"event: error\ndata: " + orjson.dumps({**error, "request_id": request_id}) + b"\n\n"

    def _completed(self, held_back: bytes, bill: Bill) -> Iterator[bytes]:
        for told in _documents(held_back):
            response = told.get("response")
            if isinstance(response, dict):
                response["usage"] = self._usage(bill)
            yield b"event: %b\ndata: %b\n\n" % (str(told.get("type")).encode(), _written(told))

    def _usage(self, bill: Bill) -> Json:
        if self._dialect is not Dialect.RESPONSES:
            return _chat_usage(bill, cost=True)
        counted = {
            "input_tokens": bill.used.input_tokens,
            "input_tokens_details": {"cached_tokens": bill.used.cached_tokens},
            "output_tokens": bill.used.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": bill.used.input_tokens + bill.used.output_tokens,
        }
        return {**(bill.usage or counted), **_cost(bill)}


class AnthropicShape:
    """Anthropic's messages: what the backend wrote, with `usage.cost`."""

    def whole(self, body: bytes, bill: Bill) -> bytes:
        """The answer with its cost."""
        document = _object(body)
        document["usage"] = self._usage(bill)
        return _written(document)

    def closing(self, held_back: bytes, bill: Bill) -> bytes:
        """The last two events; the usage is in the first of them."""
        pieces = []
        for told in _documents(held_back):
            if told.get("type") == "message_delta":
                usage = told.get("usage")
                told["usage"] = {**(usage if isinstance(usage, dict) else self._usage(bill)), **_cost(bill)}
            pieces.append(b"event: %b\ndata: %b\n\n" % (str(told.get("type")).encode(), _written(told)))
        return b"".join(pieces)

    def failure(self, refusal: Refusal, request_id: str) -> bytes:
        """The event that Anthropic's clients raise as an error."""
        body = {**anthropic_error(refusal), **_told(refusal), "request_id": request_id}
        return b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"

    def _usage(self, bill: Bill) -> Json:
        counted = {"input_tokens": bill.used.input_tokens, "output_tokens": bill.used.output_tokens}
        return {**(bill.usage or counted), **_cost(bill)}


class RawShape:
    """Any HTTP API: nobody here looks into it."""

    def whole(self, body: bytes, bill: Bill) -> bytes:
        """The answer."""
        return body

    def closing(self, held_back: bytes, bill: Bill) -> bytes:
        """Nothing: the answer has had its end."""
        return b""

    def failure(self, refusal: Refusal, request_id: str) -> bytes:
        """Nothing that could be told: the connection is closed in the middle."""
        return b""


def text_of(answer: Mapping[str, object]) -> str:
    """`choices[0].message.content`, a string or a list of text parts; empty when it is neither."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _chat_usage(bill: Bill, *, cost: bool) -> Json:
    """Prompt, completion and total tokens, whatever else the backend told beside them, and the cost."""
    counted: Json = {
        "prompt_tokens": bill.used.input_tokens,
        "completion_tokens": bill.used.output_tokens,
        "total_tokens": bill.used.input_tokens + bill.used.output_tokens,
    }
    if not cost:
        return counted
    return {**counted, **(bill.usage or {}), **_cost(bill)}


def _cost(bill: Bill) -> Json:
    told: Json = {"cost": exact_sats(bill.cost), "cost_sats": whole_sats(bill.cost, asked_for=True)}
    if bill.balance is not None:
        told["balance_sats"] = whole_sats(bill.balance.available)
    return told


def exact_sats(amount: Msat) -> int | float:
    """An amount in sats to the msat."""
    return amount // 1000 if amount % 1000 == 0 else amount / 1000


def _told(refusal: Refusal) -> Json:
    told: Json = {name: refusal.fields[name] for name in ("refunded", "cost_sats") if name in refusal.fields}
    if refusal.standing is not None:
        told["balance_remaining"] = whole_sats(refusal.standing.balance.available)
    return told


def _sentence(refusal: Refusal) -> str:
    return public_sentence(refusal) or refusal.message


def _object(body: bytes) -> Json:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise UpstreamError("The backend's answer cannot be read; nothing was charged.") from exc
    if not isinstance(document, dict):
        raise UpstreamError("The backend's answer cannot be read; nothing was charged.")
    return document


def _written(document: Json) -> bytes:
    """The JSON of what a backend wrote. orjson reads four times as deep as it writes."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError as exc:
        raise UpstreamError("The backend's answer is nested too deeply; nothing was charged.") from exc


def _documents(events: bytes) -> Iterator[Json]:
    """The JSON objects of a few events."""
    for block in events.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if data and data != b"[DONE]":
            document = orjson.loads(data)
            if isinstance(document, dict):
                yield document
