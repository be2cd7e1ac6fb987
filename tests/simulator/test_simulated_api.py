"""The simulated HTTP API: it keeps what reached it and answers as APIs do."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest

from arkgate.simulator.http_api import PATTERN, SimulatedApi

Story = Callable[[SimulatedApi, httpx.AsyncClient], Awaitable[None]]


def _run(story: Story) -> None:
    async def play() -> None:
        api = SimulatedApi()
        async with api.running(), httpx.AsyncClient(base_url=api.url, timeout=5) as client:
            await story(api, client)

    asyncio.run(asyncio.wait_for(play(), 20))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_an_echo_says_what_came(method: str) -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        headers = [("X-Twice", "1"), ("X-Twice", "2")]
        target = "/echo/a%2Fb//c?x=%20&y"
        answer = (await client.request(method, target, content=b"abc", headers=headers)).json()
        [came] = api.received

        assert (answer["method"], answer["target"]) == (came.method, came.target) == (method, target)
        assert (answer["sha256"], answer["length"]) == (hashlib.sha256(b"abc").hexdigest(), 3)
        assert [pair for pair in answer["headers"] if pair[0] == "x-twice"] == [
            ["x-twice", "1"],
            ["x-twice", "2"],
        ]
        assert (came.body, came.header("X-Twice"), came.header("x-none")) == (b"abc", "1", None)

    _run(story)


def test_bytes_have_their_length() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        some = await client.get("/bytes/300")
        many = await client.get("/bytes/1000001")
        none = await client.get("/bytes/0")

        assert some.content == PATTERN + PATTERN[:44]
        assert (some.headers["content-length"], len(many.content), none.content) == ("300", 1_000_001, b"")

    _run(story)


def test_a_stream_has_so_many_events_and_pauses() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        started = time.monotonic()
        answer = await client.get("/stream/3?pause=0.05")

        assert time.monotonic() - started >= 0.1
        assert answer.text.split("\n\n")[:3] == [f'data: {{"number":{number}}}' for number in range(3)]

    _run(story)


def test_an_upload_is_measured_whole_and_kept_in_part() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        body = b"x" * 1_000_000
        answer = (await client.post("/upload", content=body)).json()

        assert answer == {"length": 1_000_000, "sha256": hashlib.sha256(body).hexdigest()}
        assert (len(api.received[0].body), api.received[0].length) == (65536, 1_000_000)

    _run(story)


def test_an_upload_that_breaks_off_is_kept_and_says_so() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        for _ in range(200):
            if api.received:
                break
            await asyncio.sleep(0.01)

        assert (api.received[0].length, api.received[0].is_whole) == (3, False)

    _run(story)


@pytest.mark.parametrize("code", [200, 204, 304, 404, 429, 500, 599])
def test_a_status_is_chosen_by_the_path(code: int) -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        assert (await client.get(f"/status/{code}")).status_code == code
        assert (await client.get("/status/99")).status_code == 400

    _run(story)


def test_slow_takes_its_time() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        started = time.monotonic()
        answer = await client.get("/slow/0.1")

        assert (answer.status_code, time.monotonic() - started >= 0.1) == (200, True)

    _run(story)


def test_headers_for_the_caller_and_headers_for_one_hop() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        headers = (await client.get("/headers")).headers

        assert headers.get_list("set-cookie") == ["first=1; Path=/; HttpOnly", "second=2; Path=/"]
        assert (headers["connection"], headers["x-secret"]) == ("X-Secret", "for one hop only")
        assert headers.get_list("server") == ["simulated/1.0"]
        assert headers["etag"] == '"simulated-1"'
        assert headers["content-disposition"].startswith("attachment")
        assert headers["cache-control"] == "public, max-age=60"

    _run(story)


def test_a_redirect_leads_to_the_time() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        plain = await client.get("/redirect")
        other = await client.get("/redirect?to=http://127.0.0.1:1/&code=307")

        assert (plain.status_code, plain.headers["location"]) == (302, "/time")
        assert (other.status_code, other.headers["location"]) == (307, "http://127.0.0.1:1/")
        assert isinstance((await client.get("/time")).json()["unix"], int)

    _run(story)


@pytest.mark.parametrize("path", ["/time", "/bytes/10", "/stream/2", "/headers", "/echo"])
def test_head_answers_like_get_but_without_a_body(path: str) -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        head, get = await client.head(path), await client.get(path)

        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]

    _run(story)


def test_what_is_unknown_is_kept_too() -> None:
    async def story(api: SimulatedApi, client: httpx.AsyncClient) -> None:
        assert (await client.delete("/other?a=b")).status_code == 404
        assert [came.target for came in api.received] == ["/other?a=b"]

    _run(story)
