"""Our own count of the tokens of a question and of an answer, where the backend tells none."""

import contextlib
from collections.abc import Iterator, Mapping

import orjson

from arkgate.backend.events import events_in
from arkgate.backend.tokens import count_tokens
from arkgate.core.errors import UpstreamError
from arkgate.core.pricing import Used
from arkgate.core.question import (
    HOLDERS,
    INNER,
    PICTURE_TOKENS,
    Part,
    QuestionTokens,
    document_source,
    file_in,
    file_text,
    parts_of,
    picture_in,
    sealed_in,
    sound_in,
)
from arkgate.ports import Dialect, Outgoing

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and separators, as OpenAI's cookbook counts them."""
MEDIA_TOKENS = 1000
"""What a sound or file is taken for at least."""
FILE_CHARACTERS_A_TOKEN = 4
"""How many characters of an encoded file, that is no text, are taken for a token."""
SOUND_CHARACTERS_A_TOKEN = 1000
"""How many of an encoded sound: OpenAI counts ten tokens a second, an MP3 has some 10,000 characters."""
SOUND_CHARACTERS_A_TOKEN_LEAST = 32
"""At 8 kbit/s, with the 32 tokens a second that the most talkative model makes."""
SEALED_CHARACTERS_A_TOKEN = 4
"""How many characters of what a server sealed are taken for a token: base64 of a text of its own."""
LINE_TOKENS = 2
"""What each line may cost that a model's template breaks JSON into, as Llama's does with tools."""
_NO_QUESTION = frozenset({"model", "user", "metadata", "safety_identifier", "prompt_cache_key", "stop"})
"""Texts of a request that the model does not read."""
_STRUCTURE = frozenset({"role", "type", "content", "text"})
"""Names that each message and each part has."""
_WORDS = frozenset(
    {
        *("system", "developer", "user", "assistant", "tool", "message"),
        *("text", "input_text", "output_text", "image_url", "input_image", "image", "computer_screenshot"),
        *("image_generation_call", "input_audio", "file", "input_file", "document", "function"),
        *("reasoning", "thinking", "redacted_thinking"),
    }
)
"""What stands under `role` and `type` everywhere, and costs a model next to nothing."""


_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")
_SPOKEN = (
    *("content", "output", "text", "refusal", "summary", "thinking", "partial_json", "transcript", "audio"),
    *("tool_calls", "function_call", "function", "name", "arguments"),
)
"""Fields of an answer and its parts that hold what the model wrote, or parts of it."""


def count_used(outgoing: Outgoing, answer: bytes) -> Used:
    """What a call used as far as its texts tell."""
    if outgoing.dialect is Dialect.RAW:
        return Used(answer_bytes=len(answer))
    return Used(
        input_tokens=count_question(outgoing).usual,
        output_tokens=_answer_tokens(answer, stream=outgoing.stream),
        answer_bytes=len(answer),
    )


def count_question(outgoing: Outgoing) -> QuestionTokens:
    """The tokens of a request to an AI API as far as it tells them; see `core.question.elsewhere`."""
    tally = _Tally()
    for name, value in (outgoing.document or {}).items():
        if name in HOLDERS:
            tally.add_turns(value)
        elif name not in _NO_QUESTION and isinstance(value, (str, list, dict)):
            tally.add_value(value)
    usual = tally.tokens + count_tokens("\n".join(tally.texts))
    # Another tokenizer than ours may find a quarter more.
    return QuestionTokens(usual, usual + usual // 4 + 32 + tally.more, tally.pictures)


class _Tally:
    """What a question's parts come to."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        """Still to be counted, all at once."""
        self.tokens = 0
        """Of what is no text."""
        self.pictures = 0
        self.more = 0
        """How many more it may be at most."""

    def add_turns(self, value: object) -> None:
        """A field of HOLDERS."""
        entries = value if isinstance(value, list) else ()
        turns = sum(isinstance(entry, (str, list, dict)) for entry in entries)
        self.tokens += MESSAGE_TOKENS * max(1, turns)
        for part in parts_of(value):
            if isinstance(part, str):
                self.texts.append(part)
            elif isinstance(part, int):
                self.tokens += part
            else:
                self._add_part(part)

    def add_value(self, value: object) -> None:
        """A text, or what the model reads as JSON."""
        if isinstance(value, str):
            self.texts.append(value)
            return
        written = orjson.dumps(value)
        self.texts.append(written.decode())
        if isinstance(value, (list, dict)):
            indented = orjson.dumps(value, option=orjson.OPT_INDENT_2)
            self.more += LINE_TOKENS * indented.count(b"\n")

    def _add_part(self, part: Part) -> None:
        """A turn or part, without those in it."""
        counted = {*INNER, *self._add_media(part), *self._add_file(part)}
        sealed = sealed_in(part)
        if sealed is not None:
            self.tokens += len(str(part[sealed])) // SEALED_CHARACTERS_A_TOKEN
            counted.add(sealed)
        for name, value in part.items():
            if name in counted or (name in ("role", "type") and isinstance(value, str) and value in _WORDS):
                continue
            self.add_value(value)
            if name not in _STRUCTURE:
                self.texts.append(name)

    def _add_media(self, part: Part) -> tuple[str, ...]:
        """A picture's or sound's tokens. Returns the fields that are no text."""
        picture, sound = picture_in(part), sound_in(part)
        if picture is not None:
            self.tokens += PICTURE_TOKENS
            self.pictures += 1
        if sound is None:
            return picture or ()
        data = sound.get("data") if isinstance(sound, dict) else sound
        size = len(data) if isinstance(data, str) else 0
        usual = max(MEDIA_TOKENS, size // SOUND_CHARACTERS_A_TOKEN)
        self.tokens += usual
        self.more += max(0, size // SOUND_CHARACTERS_A_TOKEN_LEAST - usual)
        is_alone = part.get("type") in (None, "input_audio")
        return (*(picture or ()), "input_audio") if is_alone else picture or ()

    def _add_file(self, part: Part) -> tuple[str, ...]:
        """A file's or document's tokens. Returns the fields that are counted with that."""
        held, source = file_in(part), document_source(part)
        if held is not None:
            self._add_file_data(held.get("file_data"))
            if held is part:
                return ("file_data",)
            self.add_value({name: value for name, value in held.items() if name != "file_data"})
            return ("file",)
        if source is None:
            return ()
        is_file = source.get("type") == "base64"
        if is_file:
            self._add_file_data(source.get("data"))
        for name, value in source.items():
            if not (name == "data" and is_file) and name != "content":
                self.add_value(value)
        return ("source",)

    def _add_file_data(self, data: object) -> None:
        """A text, or a guess by its size."""
        text = file_text(data)
        if text is not None:
            self.texts.append(text)
        else:
            size = len(data) if isinstance(data, str) else 0
            self.tokens += max(MEDIA_TOKENS, size // FILE_CHARACTERS_A_TOKEN)


def _spoken(value: object) -> Iterator[str]:
    """Every text of an answer's part that the model wrote: neither names of fields, nor pictures, nor seals.

    Some servers write what the model thought two and three times, under several names: it counts once.
    """
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            stack += reversed(top)
        elif isinstance(top, dict):
            asked = top.get("input")  # of a tool
            if asked is not None:
                yield asked if isinstance(asked, str) else orjson.dumps(asked).decode()
            thought = next((top[name] for name in _THOUGHTS if top.get(name)), None)
            stack += [thought, *(top[name] for name in _SPOKEN if name in top)]


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
        return [] if str(document.get("type")).endswith("audio.delta") else [delta]
    if isinstance(delta, dict):  # messages
        found = [delta.get(name) for name in ("text", "partial_json", "thinking")]
        return [text for text in found if isinstance(text, str)]
    return [text for name in ("content", "output") for text in _spoken(document.get(name))]
