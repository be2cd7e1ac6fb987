"""Large bodies of those who do not pay: what they may take of memory, the event loop and connections."""

import asyncio
import gc
import tracemalloc
from pathlib import Path

import httpx
import pytest
from tests.backend.backend_server import always, http, serving
from tests.gateway.test_streams import CHAT
from tests.stage import Stage, eventually, play, run, staged
from tests.web.test_protocol import connected
from tests.web.test_services import service

from arkgate.core.errors import InvalidRequest, Overloaded, RateLimited
from arkgate.gateway.bodies import Bodies
from arkgate.web.body import read_object
from arkgate.web.openai import read_document
from arkgate.web.protocol import ProtocolLimits

MEBIBYTE = 1024 * 1024
UNKNOWN = {"Authorization": "Bearer ak_" + "0" * 32}
LARGE = ProtocolLimits(body_bytes_max=9 * MEBIBYTE)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHAT, {}, 400),
        (CHAT, UNKNOWN, 401),
        ("/v1/quote?path=" + CHAT, {}, 400),
        ("/weather/map", UNKNOWN, 401),
        ("/weather/map", {}, 402),
    ],
)
def test_a_request_that_is_refused_leaves_nothing_in_memory(
    tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    """Without the collector of garbage, which large bodies do not call."""
    body = b"[" + b" " * (8 * MEBIBYTE - 1)

    async def played() -> None:
        async with serving(always(http())) as server:
            extra = service(server.port, request_bytes_max=9 * MEBIBYTE)
            async with staged(tmp_path, extra=extra, limits=LARGE) as stage:
                method = "PUT" if "weather" in path else "POST"
                await stage.http.request(method, path, content=body, headers=headers)
                gc.collect()
                gc.disable()
                tracemalloc.start()
                for _ in range(6):
                    answer = await stage.http.request(method, path, content=body, headers=headers)
                    assert answer.status_code == status
                    del answer
                await asyncio.sleep(0.1)
                kept, _ = tracemalloc.get_traced_memory()
                assert kept < 2 * len(body)

    try:
        run(asyncio.wait_for(played(), 60))
    finally:
        tracemalloc.stop()
        gc.enable()


def test_bodies_have_a_bound_strangers_a_half_of_it_and_so_has_an_address() -> None:
    bodies = Bodies(100)
    with bodies.share("a") as one, bodies.share("a") as two, bodies.share("b") as other:
        one.is_stranger, two.is_stranger, other.is_stranger = True, False, True
        one.grow(30)
        with pytest.raises(RateLimited, match="Your address"):
            two.grow(30)
        two.grow(20)
        with pytest.raises(Overloaded):
            other.grow(30)
        other.is_stranger = False
        other.grow(50)
        with bodies.share("c") as late, pytest.raises(Overloaded):
            late.grow(1)
    with bodies.share("b") as all_of_it:
        all_of_it.is_stranger = False
        all_of_it.grow(100)


def test_strangers_with_large_bodies_take_no_memory_from_those_who_pay(tmp_path: Path) -> None:
    blank = b" " * (8 * MEBIBYTE)

    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(blank)}\r\n\r\n"
        ).encode()
        port = stage.settings.listen.port
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in strangers:
            writer.write(head + bytes(100_000))

        async def answers(status: int) -> bool:
            return (await stage.http.post(CHAT, content=blank)).status_code == status

        await eventually(lambda: answers(429))
        unknown = await stage.http.post(CHAT, content=blank, headers=UNKNOWN)
        full = await stage.http.post(CHAT, content=blank)
        assert unknown.status_code == 401
        assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limited")
        assert full.headers["retry-after"] == "1"
        assert (await stage.chat(token)).status_code == 200
        for _, writer in strangers:
            writer.close()
        await eventually(lambda: answers(402))

    async def played() -> None:
        async with staged(tmp_path, extra={"[limits]": "bodies_megabytes = 128"}, limits=LARGE) as stage:
            await story(stage)

    run(asyncio.wait_for(played(), 60))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[]" * 40 + b"]" * MEBIBYTE,
        b'{"a":"' + b'"' * MEBIBYTE,
        b'{"a":"' + b"\\u0041" * (MEBIBYTE // 6) + b'"}',
    ],
    ids=["closing brackets", "quotes", "escapes"],
)
def test_what_is_slow_to_look_at_is_refused_before_that(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="more parts"):
        read_object(body)


@pytest.mark.parametrize(
    "body",
    [b'{"prompt":[' + b"1," * 1_000_001 + b"1]}", b"{" + b'"a":1,' * 260_000 + b'"b":1}'],
    ids=["numbers", "names"],
)
def test_a_body_with_too_many_values_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="1,000,000 values or 250,000 names"):
        read_document(body)


def test_many_requests_at_once_on_a_connection_are_refused_after_the_first_ones(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        many = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 40
        async with connected(stage.settings.listen.port, many) as client:
            statuses = [(await client.answer())[0] for _ in range(18)]
            assert statuses == [200] * 17 + [429]
            assert await client.is_closed()

    play(tmp_path, story)


def test_who_leaves_while_the_first_of_several_requests_is_answered_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = b'{"prompt": "[fail:slow 0.7] How?"}'
        asked = (
            f"POST /api/ai-chat HTTP/1.1\r\nHost: x\r\nAuthorization: {token['Authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        _, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
        writer.write(asked + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.transport.abort()
        await asyncio.sleep(1)
        async with httpx.AsyncClient(base_url=stage.url) as other:
            assert (await other.get("/health")).status_code == 200
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    play(tmp_path, story)
