"""Our own count of the tokens of a question and of an answer, where the backend tells none."""

import contextlib
from collections.abc import Iterator, Mapping

import orjson

from arkgate.backend.events import events_in
from arkgate.backend.tokens import count_tokens
from arkgate.core.errors import UpstreamError
from arkgate.core.pricing import Used
from arkgate.ports import Dialect, Outgoing

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and separators, as OpenAI's cookbook counts them."""
IMAGE_TOKENS = 1000
"""What an image is taken for: one of 1024 pixels square is 765 for OpenAI and some 1,400 for Anthropic."""
_QUESTION = ("messages", "prompt", "input", "system", "instructions", "tools", "functions", "response_format")
_IMAGES = ("image_url", "input_image", "image", "input_audio", "file")


def count_used(outgoing: Outgoing, answer: bytes) -> Used:
    """What a call used as far as its texts tell."""
    if outgoing.dialect is Dialect.RAW:
        return Used(answer_bytes=len(answer))
    return Used(
        input_tokens=_question_tokens(outgoing.document or {}),
        output_tokens=_answer_tokens(answer, stream=outgoing.stream),
        answer_bytes=len(answer),
    )


def _question_tokens(document: Mapping[str, object]) -> int:
    messages = document.get("messages") or document.get("input")
    overhead = MESSAGE_TOKENS * len(messages) if isinstance(messages, list) else MESSAGE_TOKENS
    texts, images = [], 0
    for name in _QUESTION:
        for found in _leaves(document.get(name)):
            if found is None:
                images += 1
            else:
                texts.append(found)
    return overhead + images * IMAGE_TOKENS + count_tokens("\n".join(texts))


def _leaves(value: object) -> Iterator[str | None]:
    """Every text in a value; None for each part that is a picture or a sound."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            if top and all(isinstance(entry, int) for entry in top):
                yield " a" * len(top)  # token ids instead of a text
            else:
                stack += reversed(top)
        elif isinstance(top, dict):
            if top.get("type") in _IMAGES:
                yield None
            else:
                stack += [entry for name, entry in reversed(top.items()) if name not in ("role", "type")]


def _answer_tokens(answer: bytes, *, stream: bool) -> int:
    if not answer:
        return 0
    texts: list[str] = []
    if stream:
        with contextlib.suppress(UpstreamError):  # what comes after it is not counted
            for event in events_in(answer):
                texts += _said(event.document)
        return count_tokens("".join(texts))
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return 0
    return count_tokens("".join(_said(document))) if isinstance(document, dict) else 0


def _said(document: Mapping[str, object]) -> list[str]:
    """The texts of an answer, or of one event of it."""
    choices = document.get("choices")
    if isinstance(choices, list):
        parts = [
            choice.get("delta") or choice.get("message") or choice.get("text")
            for choice in choices
            if isinstance(choice, dict)
        ]
        return [text for part in parts for text in _leaves(part) if text is not None]
    delta = document.get("delta")
    if isinstance(delta, str):  # responses
        return [delta]
    if isinstance(delta, dict):  # messages
        found = [delta.get(name) for name in ("text", "partial_json", "thinking")]
        return [text for text in found if isinstance(text, str)]
    return [
        text for name in ("content", "output") for text in _leaves(document.get(name)) if text is not None
    ]
