"""What a simulated backend that means harm puts on the wire, read from raw sockets."""

import asyncio
import json
import re
import time
import zlib
from typing import Any

import httpx
import pytest

from arkgate.simulator.chat import SimulatedChat
from arkgate.simulator.chat_lies import LYING
from tests.simulator.simulated_chat import MODEL, ask, asking, events, posted, raw, run

PATHS = ["/chat/completions", "/completions", "/responses", "/messages"]


def _wish(said: str, **fields: Any) -> dict[str, Any]:
    """A request that every API can read."""
    wish = {"model": MODEL, "prompt": said, "input": said, "messages": asking(said), "max_tokens": 50}
    return {**wish, **fields}


def _split(got: bytes) -> tuple[bytes, bytes]:
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body


def test_half_a_status_line_is_all_there_is() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        assert await raw(chat, posted("[fail:half-status] x")) == (b"HTTP/1.1 20", "end")

    run(story)


def test_chunks_become_garbage() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got, how = await raw(chat, posted("[fail:bad-chunk] x"))

        assert b"\r\n\r\n14\r\n" in got
        assert (b"\r\nzz\r\n" in got, how) == (True, "end")
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(client, "[fail:bad-chunk] x", stream=True)

    run(story)


def test_two_lengths_contradict_each_other() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        head, body = _split((await raw(chat, posted("[fail:two-lengths] x")))[0])

        assert head.count(b"Content-Length: ") == 2
        assert b"Content-Length: 5\r\n" in head
        assert head.endswith(b"Content-Length: %d" % len(body))

    run(story)


@pytest.mark.parametrize("size", [0, 1, 17, 200, 250, 400])
@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_lets_exactly_so_many_bytes_through_and_resets(size: int, stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got, how = await raw(chat, posted(f"[fail:cut-at {size}] x", stream=stream))

        assert (len(got), how) == (size, "reset")
        assert got == b"HTTP/1.1 200 OK\r\n"[:size] or size > 17

    run(story)


def test_a_cut_far_into_a_long_answer_is_as_exact() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        chat.words = 100_000
        got, how = await raw(chat, posted("[fail:cut-at 700001] x"))

        assert (len(got), how) == (700_001, "reset")

    run(story)


def test_a_cut_beyond_the_end_changes_nothing() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        statuses = [(await ask(client, "[fail:cut-at 100000] x")).status_code for _ in range(2)]

        assert statuses == [200, 200]

    run(story)


@pytest.mark.parametrize("stream", [False, True])
def test_a_bomb_unpacks_to_a_thousand_times_its_size_and_a_good_answer(stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "messages": asking("[fail:gzip-bomb 20000000] x"), "stream": stream}
        headers = {"Accept-Encoding": "identity"}
        async with client.stream("POST", "/chat/completions", json=wish, headers=headers) as answer:
            packed = b"".join([part async for part in answer.aiter_raw()])
        unpacked = zlib.decompress(packed, zlib.MAX_WBITS | 16)

        assert answer.headers["content-encoding"] == "gzip"
        assert len(unpacked) > 20_000_000 > 500 * len(packed)
        if stream:
            assert unpacked.endswith(b"data: [DONE]\n\n")
        else:
            assert json.loads(unpacked)["choices"]

    run(story)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["endless", "never-done", "endless-headers", "endless-hints"])
def test_some_answers_go_on_until_the_reader_leaves(fault: str, stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got, how = await raw(chat, posted(f"[fail:{fault}] x", stream=stream), bytes_max=3_000_000)
        answer = await ask(client, "Are you still there?")

        assert (len(got) >= 3_000_000, how) == (True, "more")
        assert answer.status_code == 200

    run(story)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_answer_of_a_stated_size_is_well_formed(path: str, stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=_wish("[fail:endless 200000] x", stream=stream))

        assert len(answer.content) > 200_000
        assert events(answer) if stream else json.loads(answer.content)

    run(story)


def test_a_byte_comes_every_so_many_seconds() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        async def first_bytes(fault: str) -> tuple[bytes, float]:
            reader, writer = await asyncio.open_connection("127.0.0.1", chat.port)
            started = time.monotonic()
            writer.write(posted(f"[fail:{fault} 0.05] x"))
            if fault == "byte-a-minute":
                await reader.readuntil(b"\r\n\r\n")
            got = await reader.readexactly(6)
            writer.close()
            return got, time.monotonic() - started

        head, head_seconds = await first_bytes("head-byte-a-minute")
        body, body_seconds = await first_bytes("byte-a-minute")

        assert (head, body) == (b"HTTP/1", b"1\r\n{\r\n")
        assert 0.2 < head_seconds < 2
        assert body_seconds < 0.2

    run(story)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_turns_into_an_error_after_its_first_token(path: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=_wish("[fail:error-after-token] x", stream=True))
        *_, (_, token), (name, error) = events(answer)

        assert '"This"' in json.dumps(token)
        assert "a simulated failure" in json.dumps(error)
        assert name == ("error" if path in ("/messages", "/responses") else None)

    run(story)


def test_a_whole_answer_can_be_an_error_with_status_200() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await ask(client, "[fail:error-after-token] x")

        assert (answer.status_code, list(answer.json())) == (200, ["error"])

    run(story)


@pytest.mark.parametrize("path", PATHS)
def test_the_end_comes_twice(path: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=_wish("[fail:double-done] x", stream=True))
        whole = await client.post(path, json=_wish("[fail:double-done] x"))
        got = events(answer)

        assert got[-1] == got[-2] != got[-3]
        assert whole.content[: len(whole.content) // 2] * 2 == whole.content

    run(story)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_text_is_no_utf_8(path: str, stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=_wish("[fail:bad-utf8] x", stream=stream))

        with pytest.raises(UnicodeDecodeError):
            answer.content.decode()
        assert b" simulated" in answer.content.partition(b" \xff\xfe")[0]

    run(story)


@pytest.mark.parametrize("path", [*PATHS, "/embeddings"])
@pytest.mark.parametrize("fault", LYING)
def test_usage_lies_whole_and_streamed(path: str, fault: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        honest = (await client.post(path, json=_wish("[fail:none] x"))).json()
        whole = (await client.post(path, json=_wish(f"[fail:{fault}] x"))).json()

        assert whole["usage"] != honest["usage"]
        assert whole["usage"].keys() == honest["usage"].keys()

    run(story)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}])
def test_usage_lies_in_a_stream_also_when_nobody_asked(path: str, asked: dict[str, Any]) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = _wish("[fail:lying-usage-text] x", stream=True, **asked)
        answer = await client.post(path, json=wish)

        assert re.search(r'"(completion|output)_tokens":"9"', answer.text)

    run(story)


def test_an_answer_can_come_before_the_request_is_whole() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        request = posted("[fail:early-answer] " + "x" * 2000, stream=True)
        prompted, _ = await raw(chat, request[:500], bytes_max=1)
        chat.faults.once.append("early-answer 413")
        refused, how = await raw(chat, posted("never read")[:100])
        after = await ask(client, "Why?")

        assert prompted.startswith(b"HTTP/1.1 200 OK")
        assert refused.startswith(b"HTTP/1.1 413")
        assert how in ("end", "reset")
        assert [received.fault for received in chat.received] == ["early-answer", "early-answer 413", None]
        assert (after.status_code, chat.received[1].body) == (200, b"")

    run(story)


def test_a_long_request_that_was_answered_early_does_not_harm_the_next_one() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        long = await ask(client, "[fail:early-answer] " + "x" * 3_000_000)
        after = await ask(client, "Why?")

        assert (long.status_code, after.status_code) == (200, 200)
        assert len(chat.received[0].body) <= 65536

    run(story)
