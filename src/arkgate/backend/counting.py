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
FILE_BYTES_A_TOKEN = 4
"""How many characters of an encoded file are taken for a token."""
_NO_QUESTION = frozenset({"model", "user", "metadata", "safety_identifier", "prompt_cache_key", "stop"})
"""Texts of a request that the model does not read."""
_IMAGES = ("image_url", "input_image", "image", "input_audio")
_FILES = ("file", "input_file", "document")
_STRUCTURE = frozenset({"role", "type", "content", "text"})
"""Names that each message and each part has."""


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
    texts, parts = [], 0
    for name, value in document.items():
        if name in _NO_QUESTION:
            continue
        for found in _leaves(value):
            if isinstance(found, int):
                parts += found
            else:
                texts.append(found)
    return overhead + parts + count_tokens("\n".join(texts))


def _texts(value: object) -> Iterator[str]:
    """Every text of an answer's part: the model wrote it, but not the names of its fields."""
    return (found for found in _leaves(value, names=False) if isinstance(found, str))


def _leaves(value: object, *, names: bool = True) -> Iterator[str | int]:
    """Every text in a value, with `names` its fields' too; for a picture, sound or file its tokens."""
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
                yield IMAGE_TOKENS
            elif top.get("type") in _FILES:
                yield max(IMAGE_TOKENS, _size(top) // FILE_BYTES_A_TOKEN)
            else:
                stack += [entry for name, entry in reversed(top.items()) if name not in ("role", "type")]
                if names:
                    yield from (name for name in top if name not in _STRUCTURE)


def _size(value: object) -> int:
    """How many characters a value has in all."""
    if isinstance(value, str):
        return len(value)
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(_size(entry) for entry in entries)


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
        return [text for part in parts for text in _texts(part)]
    delta = document.get("delta")
    if isinstance(delta, str):  # responses
        return [delta]
    if isinstance(delta, dict):  # messages
        found = [delta.get(name) for name in ("text", "partial_json", "thinking")]
        return [text for text in found if isinstance(text, str)]
    return [text for name in ("content", "output") for text in _texts(document.get(name))]
