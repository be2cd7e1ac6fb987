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
    TokenIds,
    at_most,
    document_source,
    file_in,
    file_text,
    parts_of,
    picture_in,
    sound_in,
    turns_in,
    unsealed,
)
from arkgate.core.sound import sound_seconds
from arkgate.ports import Dialect, Outgoing

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and separators, as OpenAI's cookbook counts them."""
INPUT_TOKENS = 2
"""What an input of embeddings costs beside its text."""
FILE_TOKENS = 1000
"""What a file that is no text is taken for at least."""
FILE_CHARACTERS_A_TOKEN = 4
"""How many characters of an encoded file, that is no text, are taken for a token."""
SOUND_TOKENS_A_SECOND = 10
"""OpenAI's rate."""
SOUND_TOKENS_A_SECOND_MOST = 32
"""Gemini's, the highest that we know."""
SOUND_CHARACTERS_A_SECOND = 20_000
"""What a sound is taken for that can be anything: a second of MP3 at 128 kbit/s."""
SEALED_CHARACTERS_A_TOKEN = 4
"""How many characters of what a server sealed are taken for a token: base64 of a text of its own."""
KEPT_THOUGHT_TOKENS = 4096
"""What a thought may have that OpenAI keeps, and that is named by its id alone."""
LINE_TOKENS = 2
"""What each line may cost that a model's template breaks JSON into, as Llama's does with tools."""
LEVELS_A_TOKEN = 16
"""How many levels of four spaces a token of a line's indentation has at least."""
ESCAPED_TOKENS = 3
"""What `<`, `>` and `&` may cost beside themselves in JSON: Go writes them as six characters (Ollama)."""
TOOLS_TOKENS = 700
"""What Anthropic adds to a question with tools, and for each tool of its own."""
_NO_QUESTION = frozenset(
    {
        *("model", "user", "metadata", "client_metadata", "safety_identifier", "prompt_cache_key", "include"),
        *("stop", "logit_bias", "allowed_token_ids", "stop_token_ids", "bad_words", "grammar"),
        *("stream_options", "modalities", "audio", "reasoning_effort", "verbosity"),
        *("service_tier", "truncation"),
    }
)
"""Fields of a request that the model does not read."""
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
    document = outgoing.document or {}
    is_embedding = outgoing.dialect is Dialect.EMBEDDINGS
    tally = _Tally(INPUT_TOKENS if is_embedding else MESSAGE_TOKENS)
    for name, value in document.items():
        if name in HOLDERS:
            tally.add_turns(value)
        elif name not in _NO_QUESTION and isinstance(value, (str, list, dict)):
            tally.add_value(value)
    if outgoing.dialect is Dialect.MESSAGES:
        tally.add_hidden(document.get("tools"))
    return tally.total()


class _Tally:
    """What a question's parts come to."""

    def __init__(self, turn_tokens: int) -> None:
        self._turn_tokens = turn_tokens
        self._texts: list[str] = []
        """Still to be counted, all at once."""
        self._tokens = 0
        """Of what is no text."""
        self._pictures = 0
        self._more = 0
        """How many more it may be at most."""

    def total(self) -> QuestionTokens:
        """All of it. Another tokenizer than ours may find a quarter more."""
        text = "\n".join(self._texts)
        tokens = self._tokens + count_tokens(text)
        # A template that writes a tool's result as JSON has its line ends and quotes escaped.
        escapes = len(orjson.dumps(text)) - len(text.encode()) - 2 - len(self._texts)
        most = at_most(tokens) + self._more + max(0, escapes)
        return QuestionTokens(tokens + self._pictures * PICTURE_TOKENS, most, self._pictures)

    def add_turns(self, value: object) -> None:
        """A field of HOLDERS."""
        self._tokens += self._turn_tokens * max(1, turns_in(value))
        for part in parts_of(value):
            if isinstance(part, str):
                self._texts.append(part)
            elif isinstance(part, TokenIds):
                self._tokens += part.number
            else:
                self._add_part(part)

    def add_value(self, value: object) -> None:
        """A text, or what the model reads as JSON."""
        if isinstance(value, str):
            self._texts.append(value)
            return
        written = orjson.dumps(value)
        self._texts.append(written.decode())
        self._more += _indentation_tokens(value) + _escaped_tokens(written)

    def add_hidden(self, tools: object) -> None:
        """What Anthropic adds to a question with tools."""
        if isinstance(tools, list) and tools:
            own = sum(isinstance(tool, dict) and tool.get("type") not in (None, "custom") for tool in tools)
            self._more += TOOLS_TOKENS * (1 + own)

    def _add_part(self, part: Part) -> None:
        """A turn or part, without those in it."""
        self._more += 1
        part, sealed_characters = unsealed(part)
        self._tokens += sealed_characters // SEALED_CHARACTERS_A_TOKEN
        if (
            not sealed_characters
            and part.get("type") == "reasoning"
            and "id" in part
            and not part.get("content")
        ):
            self._more += KEPT_THOUGHT_TOKENS
        counted = {*INNER, *self._add_media(part), *self._add_file(part)}
        for name, value in part.items():
            if name in counted or (name in ("role", "type") and isinstance(value, str) and value in _WORDS):
                continue
            self.add_value(value)
            if name == "arguments" and isinstance(value, str):
                self._more += _escaped_tokens(value.encode())
            if name not in _STRUCTURE:
                self._texts.append(name)

    def _add_media(self, part: Part) -> tuple[str, ...]:
        """A picture's or sound's tokens. Returns the fields that are no text."""
        picture, sound = picture_in(part), sound_in(part)
        if picture is not None:
            self._pictures += 1
        if not isinstance(sound, str):
            return picture or ()
        seconds = sound_seconds(sound)
        if seconds is None:
            seconds = len(sound) / SOUND_CHARACTERS_A_SECOND
        self._tokens += int(seconds * SOUND_TOKENS_A_SECOND) + 1
        self._more += int(seconds * (SOUND_TOKENS_A_SECOND_MOST - SOUND_TOKENS_A_SECOND))
        return (*(picture or ()), "input_audio")

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
            self._texts.append(text)
        else:
            size = len(data) if isinstance(data, str) else 0
            self._tokens += max(FILE_TOKENS, size // FILE_CHARACTERS_A_TOKEN)


def _indentation_tokens(value: object) -> int:
    """What a value may cost beside its compact JSON: a line for each entry and for each closing bracket."""
    tokens, depth = 0, 0
    level = [value]
    while level:
        held = [one for one in level if isinstance(one, (list, dict))]
        depth += 1
        lines = len(held) + sum(map(len, held))
        tokens += lines * (LINE_TOKENS + depth // LEVELS_A_TOKEN)
        level = [
            inner
            for outer in held
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
    return tokens


def _escaped_tokens(written: bytes) -> int:
    return ESCAPED_TOKENS * sum(written.count(sign) for sign in (b"<", b">", b"&"))


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
                yield asked if isinstance(asked, str) else _written(asked)
            thought = next((top[name] for name in _THOUGHTS if top.get(name)), None)
            stack += [thought, *(top[name] for name in _SPOKEN if name in top)]


def _written(value: object) -> str:
    """JSON, or what is like it where that is nested too deeply; nothing where it is deeper yet."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        with contextlib.suppress(RecursionError):
            return str(value)
        return ""


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
