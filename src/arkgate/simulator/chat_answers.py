"""What the simulated chat backend is asked and what it says, before either is in the format of an API."""

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from arkgate.simulator.chat_tools import Call, Json, Tool, example_of

ECHO_CHARACTERS_MAX = 400
WORDS_MAX = 100_000
CHOICES_MAX = 128
TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 100
TOOL_PHRASE = "use a tool"
CACHED_PHRASE = "cached"

_WORDS = re.compile(r"\s*(?:\[fail:[^\]]*\]\s*)?\[words ([0-9]{1,6})\]")
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image_url", "input_image", "image")
_ARGUMENT_CHARACTERS = 8


class BadWish(ValueError):  # noqa: N818
    """A body that is no request of its API; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for, whichever API it came over."""

    model: str
    prompt: str
    """The text of the last message; what chooses a fault stands at its beginning."""
    prompt_tokens: int
    images: int = 0
    tokens_max: int | None = None
    choices: int = 1
    is_streamed: bool = False
    includes_usage: bool = False
    """A stream of OpenAI's chat or completions that shall end with a chunk of usage."""
    counts_continuously: bool = False
    """vLLM's `continuous_usage_stats`."""
    tool: Tool | None = None
    """The tool to call instead of an answer in words."""
    schema: Json | None = None
    """The answer is a JSON object of this schema."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says. A token is a piece: a word, or a few characters of a tool's arguments."""

    wish: Wish
    key: str
    """What the answer's ids are made of."""
    created_at: int
    pieces: tuple[str, ...]
    is_cut: bool
    call: Call | None
    cached_tokens: int

    @property
    def text(self) -> str:
        """All words, or nothing when a tool is called."""
        return "" if self.call else "".join(self.pieces)

    @property
    def prompt_tokens(self) -> int:
        """What was read, the cached part included."""
        return self.wish.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """What was written, in all choices."""
        return len(self.pieces) * self.wish.choices

    @property
    def total_tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens


class Api(Protocol):
    """One API's format. `read` raises BadWish; the other methods write what it would."""

    def read(self, body: Json) -> Wish:
        """What a request's body asks for."""

    def whole(self, answer: Answer) -> Json:
        """The answer in one piece."""

    def events(self, answer: Answer) -> Iterator[bytes]:
        """The answer as server-sent events."""

    def refusal(self, status: int, sentence: str) -> Json:
        """The body of an error."""

    def error_event(self, sentence: str) -> bytes:
        """The event with which a stream turns into an error."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a list of messages says, counted."""

    prompt: str
    tokens: int
    images: int
    asks_for_tool: bool


def conversation_of(messages: Sequence[object]) -> Conversation:
    """Reads messages in any of the APIs' forms. A tool is asked for until its result is the last message."""
    known = [message for message in messages if isinstance(message, dict)]
    prompt = text_of(_content(known[-1])) if known else ""
    users = [text_of(_content(message)) for message in known if message.get("role") == "user"]
    images = sum(images_in(_content(message)) for message in known)
    words = sum(TOKENS_PER_MESSAGE + len(text_of(_content(message)).split()) for message in known)
    return Conversation(
        prompt=prompt,
        tokens=words + TOKENS_PER_IMAGE * images,
        images=images,
        asks_for_tool=bool(users) and TOOL_PHRASE in users[-1] and not _is_tool_result(known[-1]),
    )


def _content(message: Json) -> object:
    return message.get("content", message.get("output"))


def _is_tool_result(message: Json) -> bool:
    if message.get("role") == "tool" or message.get("type") == "function_call_output":
        return True
    parts = message.get("content")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in parts
    )


def text_of(content: object) -> str:
    """A message's text: a string, or the text parts of a list and of the tool results in it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            texts.append(str(part.get("text", "")))
        elif isinstance(part, dict) and part.get("type") == "tool_result":
            texts.append(text_of(part.get("content")))
    return " ".join(texts)


def images_in(content: object) -> int:
    """How many parts of a message are images."""
    if not isinstance(content, list):
        return 0
    return sum(isinstance(part, dict) and part.get("type") in _IMAGE_PARTS for part in content)


def positive(value: object) -> int | None:
    """A count that was asked for, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def answer_to(wish: Wish, *, words: int | None = None) -> Answer:
    """The answer, of so many words when that is set here or in the prompt. `tokens_max` cuts it."""
    call = None if wish.tool is None else Call(wish.tool.name, example_of(wish.tool.parameters))
    pieces = _pieces(wish, words) if call is None else _slices(call.arguments)
    is_cut = call is None and wish.tokens_max is not None and wish.tokens_max < len(pieces)
    return Answer(
        wish=wish,
        key=secrets.token_hex(12),
        created_at=int(time.time()),
        pieces=pieces[: wish.tokens_max] if is_cut else pieces,
        is_cut=is_cut,
        call=call,
        cached_tokens=wish.prompt_tokens // 2 if CACHED_PHRASE in wish.prompt else 0,
    )


def _pieces(wish: Wish, words: int | None) -> tuple[str, ...]:
    wanted = words
    if wanted is None and (found := _WORDS.match(wish.prompt)):
        wanted = int(found.group(1))
    if wish.schema is not None:
        said = json.dumps(example_of(wish.schema))
    elif wanted is not None:
        said = " ".join(f"word{number}" for number in range(1, min(wanted, WORDS_MAX) + 1))
    else:
        images = f" You sent {wish.images} images." if wish.images else ""
        said = f"This is a simulated answer.{images} You asked: {wish.prompt[:ECHO_CHARACTERS_MAX]}"
    first, *others = said.split(" ")
    return (first, *(f" {word}" for word in others))


def _slices(text: str) -> tuple[str, ...]:
    starts = range(0, len(text), _ARGUMENT_CHARACTERS)
    return tuple(text[start : start + _ARGUMENT_CHARACTERS] for start in starts)


def dumped(value: object) -> bytes:
    """Compact JSON in UTF-8; what UTF-8 cannot say becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def sse(data: object, *, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + dumped(data) + b"\n\n"
