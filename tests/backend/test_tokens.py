"""Our own count of tokens: what it counts, and that no text makes it slow."""

import base64
import contextlib
import threading
import time
from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.backend.counting import IMAGE_TOKENS, count_used
from arkgate.backend.tokens import count_tokens
from arkgate.core.catalog import Model
from arkgate.core.errors import Refusal
from arkgate.core.money import Msat
from arkgate.core.pricing import Tariff
from arkgate.ports import Dialect, Outgoing
from arkgate.web.bounds import refuse_unpriced

SLOW = {
    "one letter": "a" * 100_000,
    "one word": "abcdefghij" * 10_000,
    "spaces": " " * 100_000,
    "no spaces": "你好世界" * 25_000,
    "noise": "".join(chr(33 + (number * 7919) % 90) for number in range(100_000)),
}


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_no_text_makes_it_slow(text: str) -> None:
    count_tokens("load it")
    started = time.perf_counter()
    count = count_tokens(text)

    assert time.perf_counter() - started < 0.5
    assert 0 < count <= 3 * len(text)


def test_it_counts_as_openai_does() -> None:
    assert count_tokens("") == 0
    assert count_tokens("hello world") == 2
    assert count_tokens("tiktoken is great!") == 6


@given(st.text(st.characters(), max_size=200))
def test_any_text_has_a_count(text: str) -> None:
    assert 0 <= count_tokens(text) <= 4 * len(text)


def test_half_a_character_is_counted_like_another_one() -> None:
    assert count_tokens("\ud800 and more") > 0


def test_threads_may_count_together() -> None:
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(count_tokens("hello world " * 100))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(counts)) == 1


def question(**more: object) -> Outgoing:
    return Outgoing(Dialect.CHAT, {"model": "m", **more}, "m")


def test_a_question_is_all_its_texts_and_its_pictures() -> None:
    text = {"role": "user", "content": "hello world"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    shown = {"role": "user", "content": [{"type": "text", "text": "hello world"}, picture]}
    plain = count_used(question(messages=[text]), b"").input_tokens
    pictured = count_used(question(messages=[shown]), b"").input_tokens

    assert plain == 6
    assert pictured == 6 + IMAGE_TOKENS
    tools = [{"type": "function", "function": {"name": "now", "description": "what time it is"}}]
    assert count_used(question(messages=[text], tools=tools), b"").input_tokens > plain + 5


LONG = "some words that somebody has to pay for " * 200
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def parts(*shown: object) -> list[object]:
    return [{"role": "user", "content": list(shown)}]


HIDDEN: dict[str, dict[str, object]] = {
    "under type": {"tools": [{"type": "function", "function": {"parameters": {"type": LONG}}}]},
    "under types": {"tools": [{"type": "function", "parameters": {"properties": {"type": {"const": LONG}}}}]},
    "under role": {"messages": [{"role": LONG, "content": "x"}]},
    "as an image in a tool": {"tools": [{"type": "image", "source": LONG}]},
    "in a picture's other fields": {"messages": parts({**PICTURE, "alt": LONG})},
    "as a picture without one": {"messages": parts({"type": "image", "text": LONG})},
    "as the input of a tool": {
        "messages": parts({"type": "tool_use", "name": "f", "input": {"type": "image", "source": LONG}})
    },
    "in a document": {
        "messages": parts({"type": "document", "source": {"type": "text", "data": LONG}, "title": "t"})
    },
    "in a document's parts": {
        "messages": parts(
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": LONG}]}}
        )
    },
    "beside a document": {
        "messages": parts(
            {"type": "document", "source": {"type": "base64", "data": "JVBERi0xLjcK"}, "context": LONG}
        )
    },
    "in a file": {"messages": parts({"type": "file", "file": {"file_data": base64_of(LONG)}})},
    "in a file by its data": {
        "input": parts({"type": "input_file", "file_data": "data:text/plain;base64," + base64_of(LONG)})
    },
    "in a name": {"messages": parts({"type": "tool_use", "input": {LONG: 1}})},
    "in the result of a tool": {
        "messages": parts({"type": "tool_result", "content": [{"type": "text", "text": LONG}]})
    },
    "in what a function gave": {"input": [{"type": "function_call_output", "output": LONG}]},
    "in a system text": {"messages": parts(), "system": [{"type": "text", "text": LONG}]},
}


@pytest.mark.parametrize("document", HIDDEN.values(), ids=HIDDEN)
def test_no_text_of_a_question_is_overlooked(document: Mapping[str, object]) -> None:
    assert count_used(question(**document), b"").input_tokens >= count_tokens(LONG)


@pytest.mark.parametrize("value", [1, 1.5, None, True, {}, [], [{}], "", 123456789])
def test_what_is_no_text_but_is_read_as_json_is_counted(value: object) -> None:
    said = parts({"type": "tool_use", "name": "f", "input": {"rows": [value] * 1000}})

    assert count_used(question(messages=said), b"").input_tokens >= 1000


PICTURES: dict[str, dict[str, object]] = {
    "chat": {"messages": parts(PICTURE)},
    "responses": {"input": parts({"type": "input_image", "image_url": "data:," + "A" * 10_000})},
    "messages": {"messages": parts({"type": "image", "source": {"type": "base64", "data": "A" * 10_000}})},
    "of a screen": {
        "input": [
            {
                "type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": "data:," + "A" * 10_000},
            }
        ]
    },
    "in the result of a tool": {
        "messages": parts(
            {"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 9_999}}]}
        )
    },
    "made before": {"input": [{"type": "image_generation_call", "result": "A" * 10_000}]},
}


@pytest.mark.parametrize("document", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_no_text_wherever_it_may_stand(document: Mapping[str, object]) -> None:
    assert IMAGE_TOKENS < count_used(question(**document), b"").input_tokens < IMAGE_TOKENS + 40


def test_a_file_that_is_no_text_is_taken_by_its_size() -> None:
    pdf = base64.b64encode(b"%PDF-1.7 \xff\xfe" * 4000).decode()
    document = {"type": "document", "source": {"type": "base64", "data": pdf}}

    counted = count_used(question(messages=parts(document)), b"").input_tokens

    assert len(pdf) // 4 < counted < len(pdf) // 4 + 40


def test_token_ids_count_one_each() -> None:
    for prompt in ([7] * 1000, [[7] * 500, [8] * 500]):
        assert 1000 <= count_used(question(prompt=prompt), b"").input_tokens < 1010


def test_tools_cost_about_what_a_model_reads_of_them() -> None:
    assert 5 < count_used(question(messages=parts(), tools=[TOOL]), b"").input_tokens < 40


def test_an_answer_is_what_was_said_in_it() -> None:
    whole = b'{"choices": [{"message": {"role": "assistant", "content": "hello world"}}]}'
    stream = b"".join(
        b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % word for word in (b"hello", b" world")
    )

    assert count_used(question(), whole).output_tokens == 2
    streamed = Outgoing(Dialect.CHAT, {}, "m", stream=True)
    assert count_used(streamed, stream + b"data: {broken\n\n").output_tokens == 2
    assert count_used(question(), b"not json").output_tokens == 0


def test_a_picture_in_an_answer_is_not_counted_as_words() -> None:
    picture = b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,%b"}}' % (b"A" * 10_000)
    said = b'{"type": "text", "text": "hello world"}'
    whole = b'{"choices": [{"message": {"content": [%b, %b]}}]}' % (said, picture)

    assert count_used(question(), whole).output_tokens == 2


NAMES = (
    "messages input prompt system content output type source file file_data image_url id role audio tools "
    "context_management edits environment execution name parameters data iterations"
)
VALUES = (
    "image_url document file input_file item_reference text base64 content tool_use namespace shell "
    "computer_screenshot image_generation_call compact_1 user assistant url"
)
NAMED = st.sampled_from(NAMES.split())
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TEXTS = st.text(max_size=9) | st.sampled_from(VALUES.split())
BODIES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMED, inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(NAMED, BODIES, max_size=6), st.sampled_from(Dialect))
def test_whatever_a_body_holds_it_is_counted_or_refused(
    document: dict[str, object], dialect: Dialect
) -> None:
    model = Model("m", Tariff(input_tokens=Msat(1)))
    with contextlib.suppress(Refusal):
        refuse_unpriced(dialect, document, model, ("mcp",))
    assert count_used(Outgoing(dialect, document, "m"), orjson.dumps(document)).input_tokens >= 0
