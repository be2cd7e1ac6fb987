"""What an API must show to its clients, whichever library reads it, and how it must refuse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.stage import MODEL, PROMPT

Json = dict[str, Any]
ANSWER = f"This is a simulated answer. You asked: {PROMPT['prompt']}"
WEATHER = {"city": "simulated", "days": 1}
DIMENSIONS = 64
LABEL = "arkgate-chat-v1"
"""The model's name at the gateway, which at the backend is MODEL."""


def asking(content: str) -> list[Json]:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]


def counted(usage: Mapping[str, Any]) -> tuple[int, int]:
    """The tokens in and out, in the words of either vendor."""
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    written = usage.get("completion_tokens", usage.get("output_tokens"))
    assert isinstance(read, int)
    assert isinstance(written, int)
    return read, written


def _models(facts: Json) -> None:
    assert facts["models"] in ([MODEL], [LABEL])


def _buffered(facts: Json) -> None:
    answer = facts["buffered"]
    assert answer["text"] == ANSWER
    assert answer.get("finish") in (None, "stop", "end_turn")
    assert min(counted(answer["usage"])) > 0


def _bearer(facts: Json) -> None:
    assert facts["bearer"]["text"] == facts["buffered"]["text"]
    assert counted(facts["bearer"]["usage"]) == counted(facts["buffered"]["usage"])


def _streamed(facts: Json) -> None:
    """The stream says what the buffered answer says, and counts the same where the library shows it."""
    stream, buffered = facts["streamed"], facts["buffered"]
    assert stream["text"] == buffered["text"]
    assert counted(stream.get("usage", buffered["usage"])) == counted(buffered["usage"])
    assert stream.get("usages", 1) == 1
    assert stream.get("chunks_without_choices", 1) == 1


def _streamed_without_usage(facts: Json) -> None:
    """Who did not ask for usage gets no chunk without choices, on which some clients break."""
    stream = facts["streamed_without_usage"]
    assert stream["text"] == facts["buffered"]["text"]
    assert stream["usage"] is None
    assert stream.get("chunks_without_choices", 0) == 0


def _tool(facts: Json) -> None:
    assert facts["tool"]["name"].lower() == "weather"
    assert facts["tool"]["arguments"] == WEATHER


def _streamed_tool(facts: Json) -> None:
    assert facts["streamed_tool"] == facts["tool"]


def _tool_answered(facts: Json) -> None:
    assert facts["tool_answered"].endswith("You asked: rain")


def _json(facts: Json) -> None:
    assert facts["json"] == {"answer": "simulated"}


def _parsed(facts: Json) -> None:
    assert facts["parsed"] == WEATHER


def _image(facts: Json) -> None:
    assert "You sent 1 images." in facts["image"]


def _embeddings(facts: Json) -> None:
    assert facts["embeddings"] == [DIMENSIONS, DIMENSIONS]


def _responses(facts: Json) -> None:
    assert facts["responses"]["text"] == ANSWER
    assert min(counted(facts["responses"]["usage"])) > 0


def _responses_streamed(facts: Json) -> None:
    assert facts["responses_streamed"]["text"] == facts["responses"]["text"]
    assert counted(facts["responses_streamed"]["usage"]) == counted(facts["responses"]["usage"])


def _responses_tool(facts: Json) -> None:
    assert facts["responses_tool"] == {"name": "weather", "arguments": WEATHER}


FACTS: Mapping[str, Callable[[Json], None]] = {
    "models": _models,
    "buffered": _buffered,
    "bearer": _bearer,
    "streamed": _streamed,
    "streamed_without_usage": _streamed_without_usage,
    "tool": _tool,
    "streamed_tool": _streamed_tool,
    "tool_answered": _tool_answered,
    "json": _json,
    "parsed": _parsed,
    "image": _image,
    "embeddings": _embeddings,
    "responses": _responses,
    "responses_streamed": _responses_streamed,
    "responses_tool": _responses_tool,
}
COMPLETE: Sequence[str] = [fact for fact in FACTS if fact != "bearer"]
"""What OpenAI's own SDK can show."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that must fail, and how."""

    kind: str
    """The exception's type, or one that it is derived from."""
    status: int | None
    """None when the stream had begun."""
    differs: Json = field(default_factory=dict)
    """What of the address, the key, the model, the messages and whether it streams makes it fail."""
    prompt: str | None = None
    """What is asked. Each client adds its name: the same question with the same key may be one call."""
    may_heal: bool = False
    """Clients are told, or must assume, that it goes away."""
    is_retried: bool = False
    code: str | None = None

    def call(self, client: str) -> Json:
        """What differs in a client's call."""
        asked = {} if self.prompt is None else {"messages": asking(f"{self.prompt} Hello from {client}")}
        return {**self.differs, **asked}


def check_refusal(seen: Json, expected: Refusal, *, retries: int, has_kinds: bool) -> None:
    """The exception's type, its status, and how many requests were made."""
    assert seen["kinds"], "it was not refused"
    if has_kinds:
        assert expected.kind in seen["kinds"], seen
    if expected.status is not None:
        assert seen["status"] == expected.status, seen
    assert seen["requests"] == (1 + retries if expected.is_retried else 1), seen
