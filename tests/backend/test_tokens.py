"""Our own count of tokens: what it counts, and that no text makes it slow."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.backend.counting import IMAGE_TOKENS, count_used
from arkgate.backend.tokens import count_tokens
from arkgate.ports import Dialect, Outgoing

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
