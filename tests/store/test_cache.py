"""What every cache promises, in memory and in a server; and what a server that fails may cost."""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.ports import Cache
from arkgate.store.cache import open_cache
from arkgate.store.cache.memory import ENTRY_BYTES, MemoryCache
from arkgate.store.cache.redis import REST_SECONDS, RedisCache
from tests import cache_server
from tests.stage import PROMPT, Stage, run, staged

Story = Callable[[Cache], Awaitable[None]]
MEBIBYTE = 1024 * 1024


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def with_cache(kind: str, story: Story) -> None:
    """Runs a story with one kind of cache."""
    with contextlib.ExitStack() as stack:
        url = "memory" if kind == "memory" else stack.enter_context(cache_server.running()).url

        async def played() -> None:
            cache = open_cache(url, bytes_max=4 * MEBIBYTE, timeout_seconds=1.0)
            try:
                await story(cache)
            finally:
                await cache.close()

        run(asyncio.wait_for(played(), 30))


each_kind = pytest.mark.parametrize("kind", ["memory", "redis"])


@each_kind
def test_what_was_put_comes_back_whole_until_its_time_is_over(kind: str) -> None:
    async def story(cache: Cache) -> None:
        value = random.Random(1).randbytes(100_000)
        assert await cache.get(key("a")) is None
        await cache.put(key("a"), value, ttl_seconds=0.3)
        await cache.put(key("b"), b"", ttl_seconds=60)
        assert await cache.get(key("a")) == value
        assert await cache.get(key("b")) == b""
        await cache.put(key("b"), b"new", ttl_seconds=60)
        await asyncio.sleep(0.35)
        assert await cache.get(key("a")) is None
        assert await cache.get(key("b")) == b"new"

    with_cache(kind, story)


@each_kind
def test_many_at_once_get_their_own(kind: str) -> None:
    async def story(cache: Cache) -> None:
        async def one(number: int) -> None:
            await cache.put(key(number), b"%d" % number, ttl_seconds=60)
            assert await cache.get(key(number)) == b"%d" % number

        await asyncio.gather(*(one(number) for number in range(300)))

    with_cache(kind, story)


@each_kind
def test_who_gives_up_never_makes_another_get_a_wrong_answer(kind: str) -> None:
    async def story(cache: Cache) -> None:
        for number in range(50):
            await cache.put(key(number), b"%d" % number, ttl_seconds=60)
        chance = random.Random(7)

        async def give_up(number: int) -> None:
            asking = asyncio.create_task(cache.get(key(number % 50)))
            await asyncio.sleep(chance.random() * 0.002)
            asking.cancel()
            await asyncio.wait([asking])

        async def ask(number: int) -> None:
            found = await cache.get(key(number % 50))
            assert found in (b"%d" % (number % 50), None)

        for _ in range(20):
            await asyncio.gather(
                *(give_up(number) for number in range(50)), *(ask(number) for number in range(20))
            )
        assert await cache.get(key(3)) in (b"3", None)

    with_cache(kind, story)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=60))
def test_memory_never_exceeds_its_bound_and_drops_what_was_used_least_lately(
    puts: list[tuple[int, int]],
) -> None:
    async def story() -> None:
        cache = MemoryCache(bytes_max=10_000)
        for name, size in puts:
            await cache.put(key(name), bytes(size), ttl_seconds=60)
            assert 0 <= cache.bytes_held <= 10_000
            assert await cache.get(key(name)) == bytes(size)
        await cache.close()
        assert cache.bytes_held == 0

    run(story())


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    async def story() -> None:
        cache = MemoryCache(bytes_max=1000 + ENTRY_BYTES)
        await cache.put(key("a"), bytes(1001), ttl_seconds=60)
        assert await cache.get(key("a")) is None
        await cache.put(key("a"), bytes(1000), ttl_seconds=60)
        await cache.put(key("b"), bytes(10), ttl_seconds=60)
        assert await cache.get(key("a")) is None

    run(story())


def test_a_server_that_dies_has_nothing_and_costs_one_wait_until_it_is_back() -> None:
    now = [0.0]

    async def story(server: cache_server.CacheServer) -> None:
        cache = RedisCache(server.url, timeout_seconds=0.2, clock=lambda: now[0])
        await cache.put(key("a"), b"1", ttl_seconds=60)
        assert await cache.get(key("a")) == b"1"
        server.kill()
        started = time.monotonic()
        for _ in range(1000):
            assert await cache.get(key("a")) is None
            await cache.put(key("a"), b"1", ttl_seconds=60)
        assert time.monotonic() - started < 1.0
        server.start()
        now[0] += REST_SECONDS
        await cache.put(key("a"), b"2", ttl_seconds=60)
        assert await cache.get(key("a")) == b"2"
        await cache.close()

    with cache_server.running() as server:
        run(asyncio.wait_for(story(server), 30))


def test_a_server_that_hangs_costs_its_timeout_once() -> None:
    async def story(server: cache_server.CacheServer) -> None:
        cache = RedisCache(server.url, timeout_seconds=0.2)
        await cache.put(key("a"), b"1", ttl_seconds=60)
        server.stop()
        started = time.monotonic()
        for _ in range(100):
            assert await cache.get(key("a")) is None
        assert time.monotonic() - started < 1.0
        server.go_on()
        await asyncio.sleep(REST_SECONDS + 0.1)
        assert await cache.get(key("a")) == b"1"
        await cache.close()

    with cache_server.running() as server:
        run(asyncio.wait_for(story(server), 30))


def test_a_wrong_password_is_told_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def story(server: cache_server.CacheServer) -> None:
        cache = RedisCache(server.url.replace("right", "canary-wrong"), timeout_seconds=1.0)
        assert await cache.get(key("a")) is None
        await cache.close()

    with cache_server.running(password="right") as server:
        run(asyncio.wait_for(story(server), 30))
    said = capsys.readouterr()
    assert "the cache does not answer" in said.out
    assert "canary" not in said.out + said.err


def test_another_url_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="redis://"):
        open_cache("memcached://localhost", bytes_max=1)


def test_two_gateways_share_a_server_and_go_on_without_it(tmp_path: Path) -> None:
    async def played(server: cache_server.CacheServer) -> None:
        extra = {"[[services]]": "calls_per_day = 0", "[cache]": f'ttl_seconds = 60\nurl = "{server.url}"'}
        async with staged(tmp_path / "one", extra=extra) as one, staged(tmp_path / "two", extra=extra) as two:
            cached = [await _cached(stage) for stage in (one, two)]
            assert cached == [False, False]  # keys are hashes with each gateway's own secret
            assert [await _cached(one), await _cached(two)] == [True, True]
            server.kill()
            assert [await _cached(one), await _cached(two)] == [False, False]

    with cache_server.running() as server:
        run(asyncio.wait_for(played(server), 60))


async def _cached(stage: Stage) -> bool:
    answer = await stage.chat(await stage.fund_token(100), PROMPT)
    assert answer.status_code == 200
    return bool(answer.json()["cached"])


@pytest.mark.parametrize("garbage", [b"$abc\r\n", b"$-5\r\n", b"*x\r\n", b"\xff\xfe", b":1\r\n" * 9])
def test_a_server_that_is_no_cache_costs_nothing_but_time(garbage: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(garbage)

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        cache = RedisCache(url, timeout_seconds=0.2)
        await cache.put(key("a"), b"1", ttl_seconds=60)
        assert await cache.get(key("a")) is None
        await cache.close()
        server.close()

    run(asyncio.wait_for(story(), 30))
