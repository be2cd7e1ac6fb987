"""Streams as servers write them: what goes on, what is held back, what was used, and where they end."""

import json
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.backend.events import EventMeter, events_in, usage_in
from arkgate.core.errors import UpstreamError
from arkgate.core.pricing import Used
from arkgate.ports import Dialect

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def event(document: Mapping[str, object] | str, *, kind: str = "", end: str = "\n\n") -> bytes:
    data = document if isinstance(document, str) else json.dumps(document)
    return (f"event: {kind}{end[: len(end) // 2]}" if kind else "").encode() + f"data: {data}{end}".encode()


def chunk(delta: Mapping[str, object], finish: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


ROLE = event(chunk({"role": "assistant", "content": ""}))
TOKEN = event(chunk({"content": "Hello"}))
LAST = event(chunk({}, "stop"))
COUNTED = event({"choices": [], "usage": USAGE})
DONE = event("[DONE]")


def fed(data: bytes, dialect: Dialect = Dialect.CHAT, *, size: int | None = None) -> tuple[EventMeter, bytes]:
    """A meter that was fed in pieces of that size to the end, and what went on."""
    meter = EventMeter(dialect)
    step = size or len(data) or 1
    passed = b"".join(meter.feed(data[at : at + step]) for at in range(0, len(data), step))
    meter.finish()
    return meter, passed


@given(st.integers(1, 300))
def test_however_a_stream_is_cut_into_reads_the_same_goes_on(size: int) -> None:
    meter, passed = fed(ROLE + TOKEN + LAST + COUNTED + DONE, size=size)

    assert passed == ROLE + TOKEN + LAST
    assert meter.held_back == COUNTED
    assert meter.usage is not None
    assert meter.usage.used == Used(input_tokens=9, output_tokens=4)
    assert meter.begun
    assert meter.ended


def test_a_role_alone_is_no_token() -> None:
    meter = EventMeter(Dialect.CHAT)
    meter.feed(ROLE)
    assert not meter.begun
    meter.feed(b": keep-alive\n\n")
    assert not meter.begun
    meter.feed(event(chunk({"tool_calls": [{"index": 0}]})))
    assert meter.begun


def test_events_may_end_with_carriage_returns() -> None:
    crlf = [event(chunk({"content": "Hi"}), end="\r\n\r\n"), event("[DONE]", end="\r\n\r\n")]
    meter, passed = fed(b"".join(crlf))

    assert passed == crlf[0]
    assert meter.ended


def test_the_last_empty_line_may_be_missing() -> None:
    meter, _ = fed((TOKEN + DONE).rstrip())

    assert meter.ended


def test_what_follows_the_end_is_dropped() -> None:
    meter, passed = fed(TOKEN + DONE + DONE + TOKEN + b"garbage")

    assert passed == TOKEN
    assert meter.ended


def test_a_stream_without_its_end_broke_off() -> None:
    for data in (b"", ROLE, TOKEN, TOKEN + COUNTED, TOKEN + DONE[:9]):
        with pytest.raises(UpstreamError):
            fed(data)


def named(kind: str, **more: object) -> bytes:
    return event({"type": kind, **more}, kind=kind)


EMPTY = {
    "nothing but its end": (Dialect.CHAT, DONE),
    "a role": (Dialect.CHAT, ROLE + LAST + COUNTED + DONE),
    "a role, without its end": (Dialect.CHAT, ROLE + LAST),
    "completions": (Dialect.COMPLETIONS, event({"choices": [{"text": "", "finish_reason": "stop"}]}) + DONE),
    "responses": (Dialect.RESPONSES, named("response.completed", response={"output": []})),
    "messages": (
        Dialect.MESSAGES,
        named("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})
        + named("content_block_start", content_block={"type": "text", "text": ""})
        + named("message_stop"),
    ),
}


@pytest.mark.parametrize(("dialect", "data"), EMPTY.values(), ids=EMPTY)
def test_a_stream_that_says_nothing_is_no_answer(dialect: Dialect, data: bytes) -> None:
    with pytest.raises(UpstreamError, match="empty"):
        fed(data, dialect)


IN_ONE_PIECE = {
    "an image": (Dialect.RESPONSES, named("response.image_generation_call.partial_image", partial="aGk=")),
    "an item": (Dialect.RESPONSES, named("response.output_item.done", item={"type": "message"})),
    "a tool's result": (
        Dialect.MESSAGES,
        named("content_block_start", content_block={"type": "web_search_tool_result", "content": [{}]}),
    ),
    "a tool's name": (
        Dialect.MESSAGES,
        named("content_block_start", content_block={"type": "tool_use", "name": "look_up", "input": {}}),
    ),
}


@pytest.mark.parametrize(("dialect", "data"), IN_ONE_PIECE.values(), ids=IN_ONE_PIECE)
def test_a_part_that_comes_in_one_piece_begins_the_answer(dialect: Dialect, data: bytes) -> None:
    meter = EventMeter(dialect)
    meter.feed(data)

    assert meter.begun


def test_thoughts_that_nobody_is_shown_do_not_begin_an_answer() -> None:
    meter = EventMeter(Dialect.RESPONSES)
    meter.feed(named("response.output_item.done", item={"type": "reasoning", "summary": []}))

    assert not meter.begun


FAILURES = {
    "OpenAI's": (Dialect.CHAT, {"error": {"message": "no"}}),
    "an older vLLM's": (Dialect.CHAT, {"object": "error", "message": "no", "code": 400}),
    "OpenRouter's": (Dialect.CHAT, {"choices": [{"delta": {}, "error": {"code": 502}}]}),
    "OpenRouter's by its reason": (Dialect.CHAT, {"choices": [{"delta": {}, "finish_reason": "error"}]}),
    "of responses": (Dialect.RESPONSES, {"type": "response.failed", "response": {}}),
    "of responses, as an event": (Dialect.RESPONSES, {"type": "error", "message": "no"}),
    "Anthropic's": (Dialect.MESSAGES, {"type": "error", "error": {"type": "overloaded_error"}}),
}


@pytest.mark.parametrize(("dialect", "document"), FAILURES.values(), ids=FAILURES)
def test_a_failure_inside_a_stream_is_one(dialect: Dialect, document: Mapping[str, object]) -> None:
    meter = EventMeter(dialect)
    meter.feed(TOKEN if dialect is Dialect.CHAT else event({"type": "ping"}))

    with pytest.raises(UpstreamError):
        meter.feed(event(document))


LIES = [
    {"prompt_tokens": -1, "completion_tokens": 4},
    {"prompt_tokens": "9", "completion_tokens": 4},
    {"prompt_tokens": 9.5, "completion_tokens": 4},
    {"prompt_tokens": True, "completion_tokens": 4},
    {"prompt_tokens": {"of": 1}, "completion_tokens": 4},
    {"prompt_tokens": 2**62, "completion_tokens": 4},
    {"prompt_tokens": 9},
    [9, 4],
    "many",
]


@pytest.mark.parametrize("told", LIES, ids=str)
def test_usage_that_cannot_be_is_not_believed(told: object) -> None:
    meter, _ = fed(TOKEN + event({"choices": [], "usage": told}) + DONE)

    assert meter.usage is None


def test_cached_tokens_are_a_part_of_the_question() -> None:
    told = {**USAGE, "prompt_tokens_details": {"cached_tokens": 100}}
    meter, _ = fed(TOKEN + event({"choices": [], "usage": told}) + DONE)

    assert meter.usage is not None
    assert meter.usage.used == Used(input_tokens=9, cached_tokens=9, output_tokens=4)


def test_usage_beside_a_choice_counts_and_goes_on() -> None:
    both = event(chunk({"content": "Hi"}, "stop", usage=USAGE))
    meter, passed = fed(both + DONE)

    assert passed == both
    assert meter.usage is not None


def test_responses_end_with_their_completed_event_which_is_held_back() -> None:
    delta = event({"type": "response.output_text.delta", "delta": "Hi"}, kind="response.output_text.delta")
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}}
    end = event({"type": "response.completed", "response": {"usage": usage}}, kind="response.completed")
    meter, passed = fed(delta + end, Dialect.RESPONSES, size=7)

    assert (passed, meter.held_back) == (delta, end)
    assert meter.usage is not None
    assert meter.usage.used == Used(input_tokens=5, cached_tokens=1, output_tokens=2)


def test_messages_end_with_their_stop_and_tell_the_usage_in_two_places() -> None:
    start = event({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}})
    delta = event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}})
    last = event({"type": "message_delta", "usage": {"output_tokens": 12}})
    stop = event({"type": "message_stop"})
    meter, passed = fed(start + delta + last + stop, Dialect.MESSAGES, size=11)

    assert (passed, meter.held_back) == (start + delta, last + stop)
    assert meter.usage is not None
    assert meter.usage.used == Used(input_tokens=7, output_tokens=12)


def test_several_runs_of_a_model_are_added_up() -> None:
    """Anthropic's sums leave out what a compaction used: each run is told in `iterations`."""
    runs = [
        {"type": "compaction", "input_tokens": 180, "cache_read_input_tokens": 20, "output_tokens": 35},
        {"type": "message", "input_tokens": 23, "output_tokens": 10},
    ]
    for told, used in (
        (runs, Used(223, 20, output_tokens=45)),
        ([*runs, {"type": "?"}], Used(23, output_tokens=10)),
        ([], Used(23, output_tokens=10)),
    ):
        usage = {"input_tokens": 23, "output_tokens": 10, "iterations": told}
        found = usage_in(Dialect.MESSAGES, {"usage": usage})

        assert found is not None
        assert (found.used, found.document) == (used, usage)


def test_the_larger_of_the_sums_and_the_runs_counts() -> None:
    run = {"type": "message", "input_tokens": 5, "cache_creation_input_tokens": 7, "output_tokens": 1000}
    for sums, used in (
        ({"input_tokens": 900, "output_tokens": 10}, Used(900, output_tokens=1000)),
        ({"input_tokens": 9, "output_tokens": 2000}, Used(12, 0, 7, 2000)),
        ({}, Used(12, 0, 7, 1000)),
    ):
        found = usage_in(Dialect.MESSAGES, {"usage": {**sums, "iterations": [run]}})

        assert found is not None
        assert found.used == used


def test_runs_told_at_the_start_do_not_stand_for_the_end() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    begun = {"input_tokens": 900, "output_tokens": 1}
    run = {"type": "message", "input_tokens": 9000, "output_tokens": 1}
    meter.feed(event({"type": "message_start", "message": {"usage": {**begun, "iterations": [run]}}}))
    meter.feed(event({"type": "message_delta", "usage": {"output_tokens": 500}}))

    assert meter.usage is not None
    assert meter.usage.used == Used(900, output_tokens=500)


def test_what_goes_into_the_backends_cache_is_a_part_of_the_question() -> None:
    anthropics = {"input_tokens": 5, "cache_creation_input_tokens": 70, "output_tokens": 1}
    openrouters = {
        "prompt_tokens": 75,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 70},
    }
    details = {"cache_creation_tokens": 70}
    litellms = {"prompt_tokens": 75, "completion_tokens": 1, "prompt_tokens_details": details}
    for dialect, told in (
        (Dialect.MESSAGES, anthropics),
        (Dialect.CHAT, openrouters),
        (Dialect.CHAT, litellms),
    ):
        found = usage_in(dialect, {"usage": told})

        assert found is not None
        assert found.used == Used(75, 0, 70, 1)


@pytest.mark.parametrize(
    ("dialect", "data", "is_kept_open"),
    [
        (Dialect.CHAT, b": PROCESSING\n\n", True),
        (Dialect.CHAT, b": PROCESSING\n\ndata: {}\n\n", False),
        (Dialect.MESSAGES, b'event: ping\ndata: {"type": "ping"}\n\n: hello\n\n', True),
        (Dialect.MESSAGES, b'data: {"type": "ping"}\n\ndata: {"type": "content_block_stop"}\n\n', False),
        (
            Dialect.MESSAGES,
            b'data: {"type": "content_block_delta", "delta": {"text": "\\"ping\\""}}\n\n',
            False,
        ),
        (Dialect.RESPONSES, b'data: {"type": "keepalive", "sequence_number": 3}\n\n', True),
        (Dialect.RESPONSES, b'data: {"type": "response.in_progress", "response": {}}\n\n', True),
        (Dialect.RESPONSES, b'data: {"type": "response.output_text.delta", "delta": "keepalive"}\n\n', False),
        (Dialect.RAW, b": anything", False),
    ],
)
def test_comments_and_pings_only_keep_the_connection_open(
    dialect: Dialect, data: bytes, *, is_kept_open: bool
) -> None:
    meter = EventMeter(dialect)
    meter.feed(data)

    assert meter.only_kept_open is is_kept_open


def test_a_ping_between_the_usage_and_the_end_hides_nothing() -> None:
    start = named("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})
    said = named("content_block_delta", delta={"type": "text_delta", "text": "Hi"})
    last = named("message_delta", usage={"output_tokens": 12})
    for rest in (named("ping") + named("message_stop"), named("ping"), b""):
        meter = EventMeter(Dialect.MESSAGES)
        for data in (start + said, said + last + rest):
            meter.feed(data)

        assert meter.usage is not None
        assert meter.usage.used == Used(input_tokens=7, output_tokens=12)


def test_an_event_of_many_lines_is_read_as_one() -> None:
    (found,) = events_in(b'data: {"a":\ndata: 1}\n\n')

    assert found.document == {"a": 1}


def test_a_large_event_in_small_pieces_costs_no_more_than_its_size() -> None:
    large = event(chunk({"content": "x" * 2_000_000}), end="\r\n\r\n", kind="message")
    started = time.thread_time()
    meter, passed = fed(large + LAST + DONE, size=1400)

    assert time.thread_time() - started < 1
    assert passed == large + LAST
    assert meter.ended


def test_a_usage_that_is_no_usage_is_not_kept() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    begun = {"input_tokens": 9, "output_tokens": 1, "more": [0] * 100_000}
    started = time.thread_time()
    meter.feed(event({"type": "message_start", "message": {"usage": begun}}))
    for _ in range(2000):
        meter.feed(event({"type": "message_delta", "usage": {"output_tokens": 1}}))

    assert time.thread_time() - started < 1
    assert meter.usage is None


def test_thousands_of_usages_cost_no_more_than_their_size() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    usages = b"".join(
        event({"type": "message_delta", "usage": {f"name{number}": 1}}) for number in range(40_000)
    )
    started = time.thread_time()
    meter.feed(usages)

    assert time.thread_time() - started < 2
    assert meter.held_back == usages


BETWEEN: list[tuple[Dialect, bytes, bytes]] = [
    (Dialect.CHAT, COUNTED, b": ping\n\n" * 3),
    (Dialect.MESSAGES, event({"type": "message_delta", "usage": {"output_tokens": 4}}), b": ping\n\n"),
    (
        Dialect.MESSAGES,
        event({"type": "message_delta", "usage": {"output_tokens": 4}}),
        event({"type": "content_block_stop", "index": 0}),
    ),
]


@pytest.mark.parametrize(("dialect", "usage", "between"), BETWEEN)
@pytest.mark.parametrize("are_together", [True, False])
def test_what_stands_between_the_usage_and_the_end_hides_nothing(
    dialect: Dialect, usage: bytes, between: bytes, *, are_together: bool
) -> None:
    begin = event({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}})
    word = event({"type": "content_block_delta", "delta": {"text": "x"}})
    head, end = (TOKEN * 50, LAST), DONE
    if dialect is Dialect.MESSAGES:
        head, end = (begin, word * 50), event({"type": "message_stop"})
    blocks = [b"".join(head), usage, between, end]
    meter = EventMeter(dialect)
    passed = b"".join(meter.feed(block) for block in ([b"".join(blocks)] if are_together else blocks))

    assert meter.ended
    assert meter.usage is not None
    assert meter.usage.used == Used(9, output_tokens=4)
    assert usage not in passed


def test_the_end_of_one_of_two_choices_is_not_the_end() -> None:
    def of(index: int, finish: str | None = None) -> bytes:
        return event({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": finish}]})

    meter = EventMeter(Dialect.CHAT, choices=2)
    meter.feed(of(0) + of(1) + of(0, "stop") + of(1))
    with pytest.raises(UpstreamError):
        meter.finish()
    whole = EventMeter(Dialect.CHAT, choices=2)
    whole.feed(of(0) + of(1))
    whole.feed(of(0, "stop") + of(1) * 20 + of(1, "length"))
    whole.finish()

    assert whole.ended


@pytest.mark.parametrize("name", ["prompt_cache_hit_tokens", "cached_tokens"])
def test_tokens_from_a_cache_are_told_in_several_places(name: str) -> None:
    """DeepSeek's and Moonshot's."""
    found = usage_in(Dialect.CHAT, {"usage": {"prompt_tokens": 75, "completion_tokens": 1, name: 70}})

    assert found is not None
    assert found.used == Used(75, 70, 0, 1)


TOLD_TWICE: dict[str, tuple[dict[str, object], dict[str, object], Used]] = {
    "nothing of the question at the end": (
        {"input_tokens": 6000, "cache_read_input_tokens": 70, "output_tokens": 1},
        {"output_tokens": 500},
        Used(6070, 70, output_tokens=500),
    ),
    "a zero at the end": (
        {"input_tokens": 6000, "cache_read_input_tokens": 70, "output_tokens": 1},
        {"input_tokens": 0, "cache_read_input_tokens": None, "output_tokens": 500},
        Used(6070, 70, output_tokens=500),
    ),
    "the cache's part at the end, as vLLM": (
        {"input_tokens": 100_000, "output_tokens": 0},
        {"input_tokens": 5000, "cache_read_input_tokens": 95_000, "output_tokens": 5},
        Used(100_000, 95_000, output_tokens=5),
    ),
    "all of it at the end": (
        {"input_tokens": 5000, "cache_read_input_tokens": 95_000, "output_tokens": 0},
        {"input_tokens": 100_000, "output_tokens": 5},
        Used(100_000, 95_000, output_tokens=5),
    ),
    "the cache's part alone at the end": (
        {"input_tokens": 5000, "output_tokens": 0},
        {"cache_read_input_tokens": 95_000, "output_tokens": 5},
        Used(100_000, 95_000, output_tokens=5),
    ),
    "no runs any more": (
        {"input_tokens": 10, "output_tokens": 1, "iterations": [{"input_tokens": 900, "output_tokens": 900}]},
        {"iterations": None, "output_tokens": 6},
        Used(10, output_tokens=6),
    ),
    "the same twice": (
        {"input_tokens": 10, "cache_creation_input_tokens": 7, "output_tokens": 1},
        {"input_tokens": 10, "cache_creation_input_tokens": 7, "output_tokens": 5},
        Used(17, 0, 7, 5),
    ),
    "more at the end": (
        {"input_tokens": 10, "output_tokens": 1},
        {"input_tokens": 400, "output_tokens": 5},
        Used(400, output_tokens=5),
    ),
    "all at the end": ({}, {"input_tokens": 400, "output_tokens": 5}, Used(400, output_tokens=5)),
}


@pytest.mark.parametrize(("begun", "ended", "used"), TOLD_TWICE.values(), ids=TOLD_TWICE)
def test_what_messages_tell_twice_is_put_together(
    begun: dict[str, object], ended: dict[str, object], used: Used
) -> None:
    meter = EventMeter(Dialect.MESSAGES)
    meter.feed(event({"type": "message_start", "message": {"usage": begun}}))
    meter.feed(event({"type": "message_delta", "usage": ended}))

    assert meter.usage is not None
    assert meter.usage.used == used


def test_an_impossible_count_at_the_end_is_not_covered_by_the_one_at_the_start() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    begun = {"input_tokens": 10, "output_tokens": 1}
    meter.feed(event({"type": "message_start", "message": {"usage": begun}}))
    meter.feed(event({"type": "message_delta", "usage": {"output_tokens": -5}}))

    assert meter.usage is None


def test_a_ping_that_is_no_json_goes_on_as_it_is() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    meter.feed(event({"type": "content_block_delta", "delta": {"text": "x"}}))
    odd = b"event: ping\ndata: ping\n\n"

    assert meter.feed(odd) == odd


def test_a_start_without_the_answers_tokens_tells_the_questions() -> None:
    meter = EventMeter(Dialect.MESSAGES)
    meter.feed(event({"type": "message_start", "message": {"usage": {"input_tokens": 10}}}))
    meter.feed(event({"type": "message_delta", "usage": {"output_tokens": 500}}))

    assert meter.usage is not None
    assert meter.usage.used == Used(10, output_tokens=500)


@pytest.mark.parametrize(
    ("answered", "total", "thought", "counted"),
    [(9, 2041, 2000, 2009), (2009, 2041, 2000, 2009), (9, 3000, 2000, 9), (9, 41, None, 9)],
)
def test_thoughts_that_are_counted_beside_the_answer_are_a_part_of_it(
    answered: int, total: int, thought: int | None, counted: int
) -> None:
    told = {
        "prompt_tokens": 32,
        "completion_tokens": answered,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
    found = usage_in(Dialect.CHAT, {"usage": told})

    assert found is not None
    assert found.used.output_tokens == counted


@given(st.binary(max_size=400))
def test_whatever_comes_is_passed_refused_or_waited_for(data: bytes) -> None:
    for dialect in (Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES):
        meter = EventMeter(dialect)
        try:
            meter.feed(data + b"\n\n")
            meter.feed(data)
        except UpstreamError:
            continue
