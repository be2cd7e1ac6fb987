"""Answers that fail in the middle: what was the backend's doing is free, and what its reader's was is not."""

import asyncio
import contextlib
import gc
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.backend.backend_server import Behaviour, Peer, serving
from tests.gateway.test_fetches import EVENT, HEAD, LAST, chunk, extra, read_after, send_much
from tests.gateway.test_hostile_backend import resident_bytes
from tests.gateway.test_streams import CHAT, at_rest, question, spent
from tests.stage import Stage, run, staged
from tests.web.test_hostile_clients import _stalled
from tests.web.test_services import service

MEBIBYTE = 1024 * 1024


def trickling(seconds: float) -> Behaviour:
    """Six megabytes at once, then a word each third of a second; never ends in time."""

    async def behave(peer: Peer) -> None:
        await send_much(peer, 100)
        for _ in range(int(seconds / 0.3)):
            await asyncio.sleep(0.3)
            await peer.send(chunk(EVENT.replace(b"word", b"late")))

    return behave


def test_a_backend_that_had_as_long_since_its_reader_was_slow_pays_for_its_own_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(trickling(10)) as server:
            settings = extra(server.url, "total_timeout_seconds = 5")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token()
                read = await read_after(stage, token, 1.5)
                await at_rest(stage, token)

                assert "late" in read
                assert '"refunded":true' in read
                assert await spent(stage, token) == 0

    run(asyncio.wait_for(main(), 60))


def test_who_reads_slowly_does_not_make_another_pay(tmp_path: Path) -> None:
    """One stalls until the answer's time is nearly over; the other comes late, and reads all at once."""

    async def large(peer: Peer) -> None:
        await send_much(peer, 120)
        await asyncio.sleep(10)

    async def main() -> None:
        async with serving(large) as server:
            settings = extra(server.url, "total_timeout_seconds = 4", "ttl_seconds = 60")
            async with staged(tmp_path, extra=settings) as stage:
                slow, fast = await stage.fund_token(), await stage.fund_token()
                body = question(temperature=0)
                client = await _stalled(stage, CHAT, slow, json.dumps(body).encode())
                await asyncio.sleep(2.5)
                answer = await stage.http.post(CHAT, json=body, headers=fast)
                await at_rest(stage, fast)
                client.close()

                assert len(server.requests) == 1
                assert '"refunded":true' in answer.text
                assert await spent(stage, fast) == 0
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def large_api(port: int) -> dict[str, str]:
    """An API with answers of up to 100 MB, that has eight seconds for each."""
    settings = service(port, price_sats=1)
    backend = settings["[[backends]]"].replace("total_timeout_seconds = 5", "total_timeout_seconds = 8")
    return {**settings, "[[backends]]": backend + "\nstream_bytes_max = 100000000"}


async def bought(stage: Stage, token: dict[str, str], *, stop_at: int, seconds: float) -> int:
    """How much of a large answer a reader has who stops once for so long."""
    read, stopped = 0, False
    try:
        async with stage.http.stream("GET", "/weather/large", headers=token) as answer:
            async for piece in answer.aiter_raw():
                read += len(piece)
                if not stopped and read >= stop_at:
                    stopped = True
                    await asyncio.sleep(seconds)
    except httpx.HTTPError:
        pass  # it breaks off
    await at_rest(stage, token)
    return read


@pytest.mark.parametrize(("seconds", "patience", "paid"), [(3.0, 1.0, 1), (0.0, 30.0, 0), (3.0, 30.0, 0)])
def test_a_backend_that_will_not_wait_for_a_reader_any_more_is_the_readers_doing(
    tmp_path: Path, seconds: float, patience: float, paid: int
) -> None:
    """As nginx's `send_timeout`: or most of a file could be had for nothing. Long after a stop it is not."""
    size = 64 * MEBIBYTE

    async def impatient(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MEBIBYTE - 1):
            try:
                await asyncio.wait_for(peer.send(b"x" * MEBIBYTE), patience)
            except TimeoutError:
                break
        peer.close()

    async def main() -> None:
        async with (
            serving(impatient) as server,
            staged(tmp_path, extra=large_api(server.port)) as stage,
        ):
            token = await stage.fund_token(100)
            read = await bought(stage, token, stop_at=16 * MEBIBYTE, seconds=seconds)

            assert 16 * MEBIBYTE <= read < size
            assert (await stage.balance(token))["balance_sats"] == 100 - paid
            assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def token_with_others(number: int) -> bytes:
    """A chunk of 2 KB: a word, and twenty others that it might have been."""
    others = [{"token": f" word{n}", "logprob": -1.2345678 - n, "bytes": [32, 119, 111]} for n in range(20)]
    content = [{"token": " w", "logprob": -0.1, "bytes": [32], "top_logprobs": others, "number": number}]
    choice = {"index": 0, "delta": {"content": " w"}, "logprobs": {"content": content}, "finish_reason": None}
    return chunk(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")


WORD = chunk(EVENT)
NOTHING = chunk(b'data: {"choices": [{"index": 0, "delta": {}}]}\n\n')
SOUND = chunk(b'data: {"choices": [{"delta": {"audio": {"data": "%b"}}}]}\n\n' % (b"A" * 40_000))
COMMENT = chunk(b": still here" * 100 + b"\n\n")
TOO_LARGE: dict[str, tuple[dict[str, Any], list[bytes], int]] = {
    "others for each token": (
        {"logprobs": True, "top_logprobs": 20},
        [token_with_others(number) for number in range(2000)],
        50,
    ),
    "a few of them": ({"logprobs": True}, [token_with_others(number) for number in range(2000)], 50),
    "many tokens": ({"max_tokens": 20_000}, [WORD] * 20_000, 50),
    "many tokens with much around them": ({"max_tokens": 2000}, [token_with_others(1)] * 2000, 50),
    "sounds": ({"max_tokens": 2000, "modalities": ["text", "audio"]}, [WORD, *[SOUND] * 40], 50),
    "many answers": ({"n": 16}, [WORD] * 20_000, 50),
    "others that nobody asked for": ({}, [token_with_others(number) for number in range(2000)], 0),
    "more tokens than were asked for": ({"max_tokens": 100}, [WORD] * 20_000, 0),
    "more tokens than were asked for with others": (
        {"max_tokens": 100, "logprobs": True},
        [WORD] * 20_000,
        0,
    ),
    "more tokens than anybody asked for": ({}, [WORD] * 20_000, 0),
    "nothing without end": ({"max_tokens": 20_000}, [WORD, *[NOTHING] * 40_000], 0),
    "comments without end": ({"max_tokens": 20_000}, [WORD, *[COMMENT] * 2000], 0),
}


@pytest.mark.parametrize(("more", "pieces", "cost"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_who_asks_for_too_large_an_answer_pays_and_who_is_sent_one_does_not(
    tmp_path: Path, more: dict[str, Any], pieces: list[bytes], cost: int
) -> None:
    """Or the caller could decide when his answer becomes too large, and have it for nothing."""

    async def talkative(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        await peer.send(b"".join(pieces) + chunk(LAST) + b"0\r\n\r\n")

    async def main() -> None:
        async with serving(talkative) as server:
            settings = extra(server.url, "stream_bytes_max = 1000000")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token()
                answer = await stage.http.post(CHAT, json=question(**more), headers=token)
                await at_rest(stage, token)
                last = json.loads(answer.text.rstrip().rsplit("data: ", 1)[1])

                assert len(answer.content) > 500_000
                assert "[DONE]" not in answer.text
                assert last["refunded"] is (cost == 0)
                assert ("nothing was charged" in last["error"]["message"]) == (cost == 0)
                assert last["balance_remaining"] == 500 - cost
                assert await spent(stage, token) == cost
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_reader_who_reads_on_steadily_does_not_pay_for_a_backend_that_breaks_off(tmp_path: Path) -> None:
    """However slow he is: that is no reason to break off."""
    size = 64 * MEBIBYTE

    async def breaking(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(32):
            await peer.send(b"x" * MEBIBYTE)
        peer.close()

    async def main() -> None:
        async with (
            serving(breaking) as server,
            staged(tmp_path, extra=large_api(server.port)) as stage,
        ):
            token = await stage.fund_token(100)
            read = 0
            with contextlib.suppress(httpx.HTTPError):
                async with stage.http.stream("GET", "/weather/large", headers=token) as answer:
                    async for piece in answer.aiter_raw():
                        read += len(piece)
                        await asyncio.sleep(len(piece) / (10 * MEBIBYTE))
            await at_rest(stage, token)

            assert 16 * MEBIBYTE < read < size
            assert (await stage.balance(token))["balance_sats"] == 100

    run(asyncio.wait_for(main(), 60))


def test_an_event_may_be_as_large_as_a_stream(tmp_path: Path) -> None:
    """Responses end with all of the answer in one event."""

    async def large(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        await peer.send(chunk(b'data: {"type": "response.output_text.delta", "delta": "x"}\n\n'))
        said = [{"type": "message", "content": [{"type": "output_text", "text": "x" * 3_000_000}]}]
        end = {"type": "response.completed", "response": {"output": said}}
        await peer.send(chunk(b"data: " + json.dumps(end).encode() + b"\n\n") + b"0\r\n\r\n")

    async def main() -> None:
        async with serving(large) as server, staged(tmp_path, extra=extra(server.url)) as stage:
            token = await stage.fund_token()
            body = {"input": "x", "stream": True}
            answer = await stage.http.post("/v1/responses", json=body, headers=token)
            await at_rest(stage, token)

            assert len(answer.text) > 3_000_000
            assert '"cost_sats":50' in answer.text
            assert await spent(stage, token) == 50

    run(asyncio.wait_for(main(), 60))


def test_late_followers_who_do_not_read_cost_little_memory(tmp_path: Path) -> None:
    async def large(peer: Peer) -> None:
        await send_much(peer, 100)
        await asyncio.sleep(3)
        await peer.send(chunk(LAST) + b"0\r\n\r\n")

    async def main() -> None:
        async with serving(large) as server:
            settings = extra(server.url, cache="ttl_seconds = 60")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token(5000)
                body = question(temperature=0)
                first = asyncio.create_task(stage.http.post(CHAT, json=body, headers=token))
                await asyncio.sleep(1)
                gc.collect()
                before = resident_bytes()
                clients = [await _stalled(stage, CHAT, token, json.dumps(body).encode()) for _ in range(40)]
                await asyncio.sleep(1)
                grown = resident_bytes() - before
                await first
                for client in clients:
                    client.close()
                await at_rest(stage, token)

                assert len(server.requests) == 1
                assert grown < 40 * MEBIBYTE

    run(asyncio.wait_for(main(), 60))
