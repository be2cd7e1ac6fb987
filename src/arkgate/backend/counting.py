"""Our own count of the tokens of a question and of an answer, where the backend tells none."""

import base64
import contextlib
from collections.abc import Iterator, Mapping

import orjson

from arkgate.backend.events import events_in
from arkgate.backend.tokens import count_tokens
from arkgate.core.errors import UpstreamError
from arkgate.core.pricing import Used
from arkgate.core.question import HOLDERS, INNER, Part, document_source, file_in, parts_of, payload_of
from arkgate.ports import Dialect, Outgoing

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and separators, as OpenAI's cookbook counts them."""
IMAGE_TOKENS = 1000
"""What a picture or sound is taken for: a picture of 1024 pixels square is 765 for OpenAI and some 1,400 for
Anthropic."""
FILE_CHARACTERS_A_TOKEN = 4
"""How many characters of an encoded file, that is no text, are taken for a token."""
_NO_QUESTION = frozenset({"model", "user", "metadata", "safety_identifier", "prompt_cache_key", "stop"})
"""Texts of a request that the model does not read."""
_STRUCTURE = frozenset({"role", "type", "content", "text"})
"""Names that each message and each part has."""
_WORD_CHARACTERS = 64
"""A longer text under `role` or `type` is none of the words that an API has for them."""


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
    tokens = MESSAGE_TOKENS * len(messages) if isinstance(messages, list) else MESSAGE_TOKENS
    texts: list[str] = []
    for name, value in document.items():
        if name in HOLDERS:
            for part in parts_of(value):
                tokens += _part_tokens(part, texts)
        elif name not in _NO_QUESTION and isinstance(value, (str, list, dict)):
            texts += _plain(value)
    return tokens + count_tokens("\n".join(texts))


def _part_tokens(part: Part | str | list[int], texts: list[str]) -> int:
    """The tokens of a turn or part that are no text; its own texts are added to the others."""
    if isinstance(part, str):
        texts.append(part)
        return 0
    if isinstance(part, list):
        return len(part)
    payload = payload_of(part)
    counted = {*payload, *INNER}
    tokens = IMAGE_TOKENS if payload else 0
    held, source = file_in(part), document_source(part)
    if held is not None:
        tokens += _file_tokens(held.get("file_data"), texts)
        texts += _plain([value for name, value in held.items() if name not in ("type", "file_data")])
        counted |= {"file"} if held is not part else set(part)
    elif source is not None:
        if source.get("type") == "base64":
            tokens += _file_tokens(source.get("data"), texts)
        elif source.get("type") != "content":
            texts += _plain(source)
        counted.add("source")
    for name, value in part.items():
        if name not in counted and not (name in ("role", "type") and _is_word(value)):
            texts += _plain(value)
            if name not in _STRUCTURE:
                texts.append(name)
    return tokens


def _is_word(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _WORD_CHARACTERS


def _file_tokens(data: object, texts: list[str]) -> int:
    """A file's tokens: a guess by its size, or nothing where it is a text, which is added to the others."""
    if not isinstance(data, str):
        return IMAGE_TOKENS
    is_url = data.startswith("data:")
    try:
        texts.append(base64.b64decode(data.partition(",")[2] if is_url else data, validate=True).decode())
    except ValueError:  # no base64, or no text
        return max(IMAGE_TOKENS, len(data) // FILE_CHARACTERS_A_TOKEN)
    return 0


def _plain(value: object) -> Iterator[str]:
    """Every text in a value that the model reads as JSON: names, texts, numbers, and what is empty."""
    stack = [value]
    while stack:
        top = stack.pop()
        if top and isinstance(top, str):
            yield top
        elif top and isinstance(top, list):
            stack += reversed(top)
        elif top and isinstance(top, dict):
            yield from top
            stack += reversed(top.values())
        else:
            yield orjson.dumps(top).decode()


def _spoken(value: object) -> Iterator[str]:
    """Every text of an answer's part: the model wrote it, but not the names of its fields, nor a picture."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            stack += reversed(top)
        elif isinstance(top, dict):
            skipped = ("role", "type", *payload_of(top))
            stack += [entry for name, entry in reversed(top.items()) if name not in skipped]


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
        return [text for part in parts for text in _spoken(part)]
    delta = document.get("delta")
    if isinstance(delta, str):  # responses
        return [delta]
    if isinstance(delta, dict):  # messages
        found = [delta.get(name) for name in ("text", "partial_json", "thinking")]
        return [text for text in found if isinstance(text, str)]
    return [text for name in ("content", "output") for text in _spoken(document.get(name))]
