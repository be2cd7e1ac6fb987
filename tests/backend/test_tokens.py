"""Our own count of tokens: that it is right, and that no text makes it slow."""

import asyncio
import random
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


def test_a_long_text_has_as_many_tokens_as_its_lines() -> None:
    lines = [
        f"Line {number} is about rounds,  virtual outputs and {number * 7919}.\n" for number in range(2000)
    ]

    assert count_tokens("".join(lines)) == pytest.approx(sum(map(count_tokens, lines)), rel=0.001)
    assert count_tokens(" word" * 100_000) == 100_000


def test_whoever_else_has_work_gets_to_it_while_a_long_text_is_counted() -> None:
    """In the same process: the library itself lets no other thread run."""
    text = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz", k=2_000_000))
    gaps: list[float] = []

    async def main() -> None:
        counting = asyncio.create_task(asyncio.to_thread(count_tokens, text))
        while not counting.done():
            before = time.monotonic()
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - before)

    count_tokens("load it")
    began = time.monotonic()
    asyncio.run(main())
    assert len(gaps) > 100
    assert max(gaps) < (time.monotonic() - began) / 2
