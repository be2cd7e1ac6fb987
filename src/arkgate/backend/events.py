"""Follows a stream of Server-Sent Events: has it begun, has it ended, what did it use; knows no sockets.

Events leave in the bytes in which they came. Most of them are looked at only for words that the few which
matter contain; those are read. What tells of usage and of the end is held back, because the gateway has to
charge the call first and then says what it cost.

The formats are OpenAI's (chat completions, completions, responses) and Anthropic's (messages), as their
clients read them; where servers differ the comment names one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from arkgate.core.errors import UpstreamError
from arkgate.core.pricing import Used
from arkgate.ports import Dialect, Usage

USAGE_DEPTH_MAX = 8
USAGE_BYTES_MAX = 16 * 1024
LOOKED_BACK = 8
"""How many events that tell nothing may stand between those that tell of usage and the end."""
TOKENS_MAX = 2**40
"""More of them than any call has: whoever says so is not believed."""
DONE = b"[DONE]"
_QUESTION = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_BOUNDARY = re.compile(rb"\r?\n\r?\n|\r\r")
_BROKE_OFF = "The backend broke its stream off; nothing was charged."
_EMPTY = "The backend's answer is empty; nothing was charged."


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, read."""

    raw: bytes
    """With the empty line that ends it."""
    data: bytes
    document: Mapping[str, object]
    """The data as a JSON object; empty where it is none."""

    @property
    def type(self) -> object:
        """What the typed dialects say that it is."""
        return self.document.get("type")


def events_in(block: bytes) -> Iterator[Event]:
    """The events of a block that ends where an event ends. Comments alone are events without data."""
    start = 0
    for boundary in _BOUNDARY.finditer(block):
        raw = block[start : boundary.end()]
        start = boundary.end()
        yield _event(raw)


def _event(raw: bytes) -> Event:
    lines = [line[5:].removeprefix(b" ") for line in raw.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data or data == DONE:
        return Event(raw, data, {})
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise UpstreamError("The backend's stream cannot be read; nothing was charged.") from exc
    return Event(raw, data, document if isinstance(document, dict) else {})


class EventMeter:
    """Follows one stream of one dialect."""

    def __init__(self, dialect: Dialect, *, choices: int = 1) -> None:
        """`choices` is how many answers were asked for. The transport bounds how large an event may be."""
        self.begun = False
        self.ended = False
        self.usage: Usage | None = None
        self.only_kept_open = False
        """Whether what came last says nothing: comments, and the events that servers keep alive with."""
        self._dialect = dialect
        self._choices = choices
        self._rest: list[bytes] = []
        """The event that is not whole yet."""
        self._tail = b""
        """Its last bytes, in which its end may have begun."""
        self._held_back: list[bytes] = []
        self._told_usage: dict[str, object] = {}
        self._finished: set[object] = set()
        """The choices that said why they ended: with all of them it is whole also without its [DONE]."""

    @property
    def held_back(self) -> bytes:
        """The last events: what tells of usage and of the end."""
        return b"".join(self._held_back)

    def feed(self, data: bytes) -> bytes:
        """What of the stream may go on to the reader now. Raises UpstreamError for a failure told in it."""
        if self.ended:
            return b""  # nothing that follows the end is anybody's business: a second [DONE], say
        if self._dialect is Dialect.RAW:
            self.begun = True
            return data
        end = _last_boundary(self._tail + data) - len(self._tail)
        if end <= 0:
            self._rest.append(data)
            self._tail = (self._tail + data)[-3:]
            return b""
        block = data if end == len(data) else data[:end]
        if self._rest:
            block = b"".join([*self._rest, block])
        self._tail = data[end:][-3:]
        self._rest = [data[end:]] if self._tail else []
        self.only_kept_open = _says_nothing(self._dialect, block)
        return self._looked_through(block)

    def _looked_through(self, block: bytes) -> bytes:
        """Reads what has to be read of some whole events: up to the first token, and what may be the end."""
        passed: list[bytes] = []
        start = 0
        if not self.begun:
            for event in events_in(block):
                passed.append(self._pass(event))
                start += len(event.raw)
                if self.begun or self.ended:
                    break
        # The ends of several choices may be far from each other: from the first on all is read.
        words = _FINISHED if self._choices > 1 else ()
        mark = _first_mark(self._dialect, block, start, words)
        if mark > start:
            passed.append(block[start:mark])
        if mark < len(block):
            passed += [self._pass(event) for event in events_in(block[mark:])]
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def finish(self) -> bytes:
        """What may go on once the bytes have ended where their framing said.

        Raises UpstreamError when the stream had not ended.
        """
        if self._dialect is Dialect.RAW:
            self.ended = True
        return b"" if self.ended else self._last()

    def _last(self) -> bytes:
        passed = b""
        rest, self._rest = b"".join(self._rest), []
        if rest.strip():  # the last empty line is missing, as some servers leave it out
            for event in events_in(rest + b"\n\n"):
                passed += self._pass(event)
        if len(self._finished) >= self._choices:
            self._end()
        if not self.ended:
            raise UpstreamError(_BROKE_OFF)
        return passed

    def _end(self) -> None:
        """The end, where it says that it is one. Raises UpstreamError when nothing was said before it."""
        if not self.begun:
            raise UpstreamError(_EMPTY)
        self.ended = True

    def _pass(self, event: Event) -> bytes:
        if self.ended:
            return b""
        if event.data == DONE:
            if self._dialect in (Dialect.CHAT, Dialect.COMPLETIONS):
                self._end()
            return b""
        if self._dialect is Dialect.MESSAGES:
            return self._of_messages(event)
        if self._dialect is Dialect.RESPONSES:
            return self._of_responses(event)
        return self._of_choices(event)

    def _of_choices(self, event: Event) -> bytes:
        document = event.document
        if tells_failure(document):
            raise UpstreamError("The backend's stream tells of a failure; nothing was charged.")
        choices = document.get("choices")
        found = usage_in(Dialect.CHAT, document)
        if found is not None:
            self.usage = found
            if not choices:  # the chunk of the usage alone: who asked for it gets it with the cost
                self._held_back.append(event.raw)
                return b""
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self.begun = self.begun or _says_something(choice)
                if isinstance(choice.get("finish_reason"), str):
                    self._finished.add(choice.get("index") if isinstance(choice.get("index"), int) else 0)
        return event.raw

    def _of_responses(self, event: Event) -> bytes:
        kind = event.type
        if kind in ("error", "response.failed"):
            raise UpstreamError("The backend's stream tells of a failure; nothing was charged.")
        self.begun = self.begun or _is_output(event)
        if kind in ("response.completed", "response.incomplete"):
            response = event.document.get("response")
            if isinstance(response, dict):
                self.usage = usage_in(Dialect.RESPONSES, response)
                self.begun = self.begun or bool(response.get("output"))
            self._end()
            self._held_back.append(event.raw)
            return b""
        return event.raw

    def _of_messages(self, event: Event) -> bytes:
        kind = event.type
        if kind == "error":
            raise UpstreamError("The backend's stream tells of a failure; nothing was charged.")
        if kind == "message_start":
            self._add_usage(event.document.get("message"))
        elif kind == "content_block_start":
            self.begun = self.begun or _holds_something(event.document.get("content_block"))
        elif kind == "content_block_delta":
            self.begun = True
        elif kind == "message_delta":
            self._add_usage(event.document)
            self._held_back.append(event.raw)
            return b""
        elif kind == "message_stop":
            self._end()
            self._held_back.append(event.raw)
            return b""
        return event.raw

    def _add_usage(self, document: object) -> None:
        """Anthropic tells the question's tokens at the start and the answer's at the end."""
        told = document.get("usage") if isinstance(document, dict) else None
        if not isinstance(told, dict):
            return
        merged = _merged_usage(self._told_usage, told)
        if _is_small(merged):
            self._told_usage = merged
            self.usage = usage_in(Dialect.MESSAGES, {"usage": merged})


def _merged_usage(earlier: Mapping[str, object], told: Mapping[str, object]) -> dict[str, object]:
    """Anthropic's usage after a further word of it.

    The question's three counts belong together: some servers tell at the end which part of it came from their
    cache, others then tell nothing of it, or zeros. The answer's count only grows.
    """
    merged = {**earlier, **{name: value for name, value in told.items() if value is not None}}
    if told.get("iterations") is None:
        merged.pop("iterations", None)  # they belong to the sums that they came with
    question = _counts_of(told, input_tokens=_count(earlier, "input_tokens"))
    known = _counts_of(earlier)
    if (sum(known.values()), _cached(known)) > (sum(question.values()), _cached(question)):
        question = known
    if question:
        merged = {name: value for name, value in merged.items() if name not in _QUESTION}
        merged |= {"input_tokens": 0, **question}
    before, now = _count(earlier, "output_tokens"), _count(told, "output_tokens")
    if before is not None and (now is not None or told.get("output_tokens") is None):
        merged["output_tokens"] = max(before, now or 0)
    return merged


def usage_in(dialect: Dialect, document: Mapping[str, object]) -> Usage | None:
    """The usage that a JSON answer or chunk tells; None where it tells none that can be believed.

    Counts that are no whole numbers, or below zero, are not believed, nor is what is nested deeper than any
    usage: it goes into documents of ours, which could not be written.
    """
    told = document.get("usage")
    if not isinstance(told, dict) or not _is_shallow(told, USAGE_DEPTH_MAX):
        return None
    read = _used_by_anthropic if dialect is Dialect.MESSAGES else _used
    used = read(told)
    return None if used is None else Usage(used, told)


def _is_small(usage: Mapping[str, object]) -> bool:
    try:
        return len(orjson.dumps(usage)) <= USAGE_BYTES_MAX
    except orjson.JSONEncodeError:  # too deep
        return False


def _is_shallow(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _used(told: Mapping[str, object]) -> Used | None:
    """OpenAI's two spellings: prompt and completion tokens, or input and output tokens (responses)."""
    question = _count(told, "prompt_tokens", "input_tokens")
    answer = _count(told, "completion_tokens", "output_tokens")
    if question is None or answer is None:
        total = _count(told, "total_tokens")
        if question is None or answer is not None or total is None:
            return None
        answer = max(0, total - question)  # embeddings have no answer's tokens
    total, thought = _count(told, "total_tokens"), _thought_tokens(told)
    if thought and total == question + answer + thought:
        answer += thought  # xAI counts them beside the answer's, others among them
    details = told.get("prompt_tokens_details") or told.get("input_tokens_details")
    told_details = details if isinstance(details, dict) else {}
    cached = _count(told_details, "cached_tokens")
    if cached is None:
        cached = _count(told, "prompt_cache_hit_tokens", "cached_tokens") or 0  # DeepSeek's, Moonshot's
    cached = min(cached, question)
    written = (
        _count(told_details, "cache_write_tokens", "cache_creation_tokens") or 0
    )  # OpenRouter's, LiteLLM's
    written = min(written, question - cached)
    return Used(question, cached, written, answer)


def _thought_tokens(told: Mapping[str, object]) -> int:
    details = told.get("completion_tokens_details") or told.get("output_tokens_details")
    return (_count(details, "reasoning_tokens") or 0) if isinstance(details, dict) else 0


def _used_by_anthropic(told: Mapping[str, object]) -> Used | None:
    """Anthropic's usage. Where an answer took several runs of models the sums may leave some of them out."""
    sums, runs = _used_in_run(told), told.get("iterations")
    if not isinstance(runs, list) or not runs:
        return sums
    used = [_used_in_run(run) for run in runs if isinstance(run, dict)]
    known = [run for run in used if run is not None]
    if len(known) < len(runs):
        return sums
    added = Used(
        input_tokens=sum(run.input_tokens for run in known),
        cached_tokens=sum(run.cached_tokens for run in known),
        written_tokens=sum(run.written_tokens for run in known),
        output_tokens=sum(run.output_tokens for run in known),
    )
    if sums is None:
        return added
    larger = added if added.input_tokens >= sums.input_tokens else sums
    return replace(larger, output_tokens=max(added.output_tokens, sums.output_tokens))


def _used_in_run(told: Mapping[str, object]) -> Used | None:
    """Anthropic counts what came from its cache, and what went into it, beside the other input tokens."""
    question, answer = _count(told, "input_tokens"), _count(told, "output_tokens")
    if question is None or answer is None:
        return None
    cached = _count(told, "cache_read_input_tokens") or 0
    written = _count(told, "cache_creation_input_tokens") or 0
    return Used(question + cached + written, cached, written, answer)


def _counts_of(told: Mapping[str, object], *, input_tokens: int | None = None) -> dict[str, int]:
    """What Anthropic's usage tells of a question; `input_tokens` where it does not tell them."""
    counts = {name: _count(told, name) for name in _QUESTION}
    if told.get("input_tokens") is None and any(counts.values()):
        counts["input_tokens"] = input_tokens
    return {name: count for name, count in counts.items() if count is not None}


def _cached(counts: Mapping[str, int]) -> int:
    return counts.get("cache_read_input_tokens", 0)


def _count(told: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        value = told.get(name)
        if type(value) is int and 0 <= value <= TOKENS_MAX:
            return value
    return None


def _says_nothing(dialect: Dialect, block: bytes) -> bool:
    """Whether a block only keeps the connection open."""
    if b"data:" not in block:
        return True
    kinds = _IDLE.get(dialect, ())
    if not any(kind.encode() in block for kind in kinds):
        return False
    try:
        return all(event.type in kinds or not event.data for event in events_in(block))
    except UpstreamError:  # whoever has to read it says so
        return False


def _says_something(choice: Mapping[str, object]) -> bool:
    """Whether a choice holds a token: text, a tool call, a refusal, or reasoning; its role is none."""
    if choice.get("text"):  # completions
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _is_output(event: Event) -> bool:
    """Whether an event of responses holds a part of the answer, such as an image that comes as one piece."""
    kind = event.type
    if kind == "response.output_item.done":
        item = event.document.get("item")
        return isinstance(item, dict) and item.get("type") != "reasoning"
    return isinstance(kind, str) and kind.endswith((".delta", ".partial_image"))


def _holds_something(block: object) -> bool:
    """Whether the start of a block of messages holds more than its type: a tool's name, a tool's result."""
    return isinstance(block, dict) and any(value for name, value in block.items() if name != "type")


def tells_failure(document: Mapping[str, object]) -> bool:
    """Whether a chat's answer, or a chunk of it, tells of a failure: as a whole, or in one of its choices."""
    if document.get("error") or document.get("object") == "error":  # the second is an older vLLM's
        return True
    choices = document.get("choices")
    return any(
        isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason") == "error")
        for choice in (choices if isinstance(choices, list) else ())
    )  # OpenRouter's


def _last_boundary(buffer: bytes) -> int:
    """Where the last complete event ends; 0 where none does."""
    end = buffer.rfind(b"\n\n") + 2
    boundary = 0 if end == 1 else end
    if b"\r" in buffer:
        boundary = max([boundary, *(one.end() for one in _BOUNDARY.finditer(buffer))])
    return boundary


_IDLE = {Dialect.MESSAGES: ("ping",), Dialect.RESPONSES: ("keepalive", "response.in_progress")}
_MARKS = {
    Dialect.RESPONSES: (b"response.completed", b"response.incomplete", b"response.failed"),
    Dialect.MESSAGES: (b"message_", b'"ping"'),
}
_FAILURE = b'"error"'
_FINISHED = (b'"finish_reason":"', b'"finish_reason": "')
_ENDS = {Dialect.RESPONSES: b"response.completed", Dialect.MESSAGES: b"message_stop"}
"""Looked for everywhere: a failure may be told at any time, and nothing that follows an end counts."""


def _first_mark(dialect: Dialect, block: bytes, start: int, more: Sequence[bytes]) -> int:
    """Where the first event begins that must be read; the block's end where there is none.

    Usage is told last, so the events are looked at from the last one back, as long as some of them tell
    something: looking through all of a stream for every word costs more than everything else that is done
    with it. A usage that is told in the middle is superseded, or counts as not told.
    """
    if b"\r" in block:
        return start  # written with other line ends than all servers that we know: all of it is read
    mark = place = len(block)
    silent = 0
    while place > start and silent < LOOKED_BACK:
        begin = _begin(block, start, place - 2)
        if _is_remarkable(dialect, block[begin:place]):
            mark, silent = begin, 0
        else:
            silent += 1
        place = begin
    for word in (_FAILURE, _ENDS.get(dialect, DONE), *more):
        place = block.find(word, start, mark)
        if place >= 0:
            mark = _begin(block, start, place)
    return mark


def _begin(block: bytes, start: int, place: int) -> int:
    """Where the event begins that a place is in."""
    boundary = block.rfind(b"\n\n", start, place)
    return start if boundary < 0 else boundary + 2


def _is_remarkable(dialect: Dialect, event: bytes) -> bool:
    """Whether an event may tell of usage or of the end. May say yes without reason, and never no."""
    marks = _MARKS.get(dialect)
    if marks is not None:
        return any(mark in event for mark in marks)
    return DONE in event or _has_value(event, b'"usage"') or _has_value(event, b'"finish_reason"')


def _has_value(event: bytes, name: bytes) -> bool:
    """Whether a name stands there with another value than null, which OpenAI puts into every chunk."""
    times = event.count(name)
    return times > 0 and times != event.count(name + b": null") + event.count(name + b":null")
