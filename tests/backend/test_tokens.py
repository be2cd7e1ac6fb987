"""Our own count of tokens: that it is right, and that no text makes it slow."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.backend.tokens import count_tokens

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
    started = time.thread_time()
    count = count_tokens(text)

    assert time.thread_time() - started < 0.5
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
