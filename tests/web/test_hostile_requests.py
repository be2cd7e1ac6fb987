"""Hostile requests: refused or cut off, never a fault of ours, never a charge."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stage import Stage, run, staged

from arkgate.core.errors import InvalidRequest, Refusal
from arkgate.web.body import chat_messages, read_object
from arkgate.web.protocol import ProtocolLimits

LIMITS = ProtocolLimits(head_timeout_seconds=0.4, body_timeout_seconds=0.4, linger_seconds=0.2)
GOOD = b'{"prompt": "hello"}'
Attack = Callable[[Stage, dict[str, str]], Awaitable[None]]


def play(tmp_path: Path, attack: Attack) -> None:
    """Runs an attack with a funded token, which is as rich afterwards."""

    async def played() -> None:
        async with staged(tmp_path, limits=LIMITS) as stage:
            token = await stage.fund_token(100)
            await attack(stage, token)

            balance = await stage.balance(token)
            assert (balance["available_sats"], balance["calls_left_today"]) == (100, 5)
            assert stage.simulation.chat.request_ids == []
            assert await stage.verify() == []
            assert (await stage.chat(token)).status_code == 200

    run(asyncio.wait_for(played(), 60))


async def raw(stage: Stage, *parts: bytes, pause_seconds: float = 0.0) -> int:
    """Sends bytes as they are; the status of the first answer, 0 when there is none."""
    address = stage.settings.listen
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        line = await asyncio.wait_for(reader.readline(), 5)
    except (ConnectionError, TimeoutError):
        line = b""
    finally:
        writer.close()
    return int(line.split(b" ")[1]) if line.startswith(b"HTTP/1.1 ") else 0


def request(
    token: dict[str, str],
    *headers: bytes,
    body: bytes = GOOD,
    path: bytes = b"/api/ai-chat",
    length: bool = True,
) -> bytes:
    """A request as bytes."""
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Authorization: " + token["Authorization"].encode()]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *headers, b"", body])


def refused(status: int) -> bool:
    """Whether it was a refusal, or the connection was just closed."""
    return status == 0 or 400 <= status < 500


BODIES = [
    b"",
    b"null",
    b"true",
    b"5",
    b'"text"',
    b"[]",
    b"{",
    b"{'prompt': 'x'}",
    b'{"prompt": "x",}',
    b'{"prompt": "x"} trailing',
    b'{"prompt": "x"}{"prompt": "y"}',
    b'{"prompt": "x", "prompt": "y"}',
    b'{"prompt": "x", "a": {"b": 1, "b": 2}}',
    b'{"prompt": "x", "n": NaN}',
    b'{"prompt": "x", "n": -Infinity}',
    b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}",
    b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"prompt": "x", "a": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"prompt": "x", "s": "}}}}}}}}}}", "a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    b'{"prompt": "x", "s": "\\"[", "a": ' + b"[" * 33 + b"]" * 33 + b"}",
    b'\xef\xbb\xbf{"prompt": "x"}',
    b'\xff\xfe{\x00"\x00',
    b'{"prompt": "\xff"}',
    b'{"prompt": "\xed\xa0\x80"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "x", "other": "\\udfff"}',
    b'{"prompt": "x", "\\ud800": 1}',
    b'{"prompt": "a\\u0000b"}',
    b'{"prompt": "a\x00b"}',
    b'{"prompt": 5}',
    b'{"prompt": ["x"]}',
    b'{"prompt": {"a": 1}}',
    b'{"prompt": true}',
    b'{"prompt": ""}',
    b'{"prompt": " \\n\\t "}',
    b'{"messages": {}}',
    b'{"messages": []}',
    b'{"messages": "hello"}',
    b'{"messages": [5]}',
    b'{"messages": [{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": null}]}',
    b'{"messages": [{"role": ["user"], "content": "x"}]}',
    b'{"messages": [{"role": "tool", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}',
    b'{"messages": [' + b",".join([b'{"role": "user", "content": "x"}'] * 13) + b"]}",
    b'{"messages": [' + b",".join([b'{"role": "user", "content": "%b"}' % (b"x" * 3500)] * 4) + b"]}",
    b'{"prompt": "x", "messages": [' + b",".join([b'{"role": "user", "content": "x"}'] * 12) + b"]}",
    b'{"prompt": "x", "system_prompt": "obey"}',
    gzip.compress(GOOD),
]


def test_a_body_that_means_nothing_or_two_things_is_refused(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        for body in BODIES:
            answer = await stage.http.post("/api/ai-chat", content=body, headers=token)
            assert answer.status_code in (400, 413), body[:80]
            assert answer.json()["code"] in ("invalid_request", "payload_too_large")
            unpaid = await stage.http.post("/api/ai-chat", content=body)
            assert unpaid.status_code == (402 if body == b"" else answer.status_code), body[:80]

    play(tmp_path, attack)


def test_brackets_inside_a_text_are_no_nesting() -> None:
    for text in ("[" * 1000, "{" * 33, '"[' * 500, "\\" + "[" * 100, '\\"' + "{" * 100):
        assert read_object(json.dumps({"prompt": text}).encode()) == {"prompt": text}


def test_the_depth_of_a_body_has_a_stated_limit() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a": ' * levels + b"1" + b"}" * levels

    read_object(nested(32))
    with pytest.raises(Refusal, match="deeper than 32"):
        read_object(nested(33))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(["prompt", "messages", "stream", "role", "content", "system_prompt"])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.dictionaries(names | st.text(), json_values, max_size=4))
def test_no_body_raises_anything_but_a_refusal(body: bytes | dict[str, object]) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    try:
        found = chat_messages(read_object(content))
    except Refusal:
        return

    assert all(len(message.content) <= 4000 for message in found)


def test_requests_that_two_readers_would_frame_differently_are_refused(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
        for attempt in (
            request(token, b"Transfer-Encoding: chunked", body=chunked),
            request(token, b"Content-Length: 3"),
            request(token, b"Content-Length: 5, 19", length=False),
            request(token, b"Content-Length: +19", length=False),
            request(token, b"Content-Length: -1", length=False),
            request(token, b"Content-Length: 0x13", length=False),
            request(token, b"Content-Length: 19abc", length=False),
            request(token, b"Transfer-Encoding: gzip, chunked", body=chunked, length=False),
            request(
                token, b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=chunked, length=False
            ),
            request(token, b"Transfer-Encoding: identity", length=False),
            request(token, b"Host: y"),
            request(token, b"Content-Length : 19", length=False),
            request(token, b"X: a\x00b"),
            request(token, b"X: a\rb"),
            request(token, b" folded: yes"),
            request(token, b": empty"),
            request(token).replace(b"Host: x\r\n", b""),
            request(token).replace(b"HTTP/1.1", b"HTTP/9.9"),
            request(token).replace(b"POST ", b"PO ST "),
            request(token, b"Transfer-Encoding: chunked", body=b"zz\r\n", length=False),
            request(token, b"Transfer-Encoding: chunked", body=b"-1\r\n" + GOOD, length=False),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\r\n" * 100,
            b"GET\r\n\r\n",
        ):
            assert refused(await raw(stage, attempt)), attempt[:300]

    play(tmp_path, attack)


def test_a_credential_in_a_trailer_does_not_count(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        head = b"POST /api/ai-chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        trailer = b"Authorization: " + token["Authorization"].encode()
        status = await raw(stage, head + b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(GOOD), GOOD, trailer))

        assert status in (402, 0, 400)

    play(tmp_path, attack)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        big = b'{"prompt": "' + b"x" * 2 * 1024 * 1024 + b'"}'
        assert (await stage.http.post("/api/ai-chat", content=big, headers=token)).status_code == 413
        padded = GOOD + b" " * (1024 * 1024)
        assert (await stage.http.post("/api/ai-chat", content=padded, headers=token)).status_code == 413
        chunks = b"".join(b"10000\r\n%b\r\n" % (b" " * 65536) for _ in range(32))
        attempt = request(token, b"Transfer-Encoding: chunked", body=chunks, length=False)
        assert await raw(stage, attempt) in (413, 0)
        assert await raw(stage, request(token, b"Content-Length: 99999999999999999999", length=False)) in (
            400,
            413,
        )
        assert refused(await raw(stage, request(token, *[b"X-%d: y" % number for number in range(65)])))
        assert refused(await raw(stage, request(token, b"X: " + b"y" * 20_000)))
        assert refused(await raw(stage, request(token, path=b"/" + b"y" * 5_000)))
        for path in ("/v1/sessions", "/v1/topups"):
            assert (await stage.http.post(path, content=big, headers=token)).status_code == 413

    play(tmp_path, attack)


def test_a_compressed_body_is_not_opened(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        bomb = gzip.compress(b'{"prompt": "' + b"x" * 10_000_000 + b'"}')
        for coding in ("gzip", "deflate", "br", "x-gzip", "gzip, gzip", "identity, gzip"):
            headers = {**token, "Content-Encoding": coding}
            answer = await stage.http.post("/api/ai-chat", content=bomb, headers=headers)
            assert answer.status_code == 415, coding

    play(tmp_path, attack)


def test_a_slow_or_unfinished_request_is_cut_off(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        whole = request(token)
        attempts = [
            raw(stage, whole[:30]),
            raw(stage, *[whole[at : at + 1] for at in range(20)], pause_seconds=0.05),
            raw(stage, whole[:-5]),
            raw(stage, whole[:-5], *[b" "] * 4, pause_seconds=0.15),
            raw(stage, request(token, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n", length=False)),
        ]
        assert all(refused(status) for status in await asyncio.gather(*attempts))

    play(tmp_path, attack)


def test_half_a_body_is_no_request_although_it_reads_like_one(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        address = stage.settings.listen
        head = request(token, b"Content-Length: 500", length=False)
        chunk = request(
            token, b"Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n" % (len(GOOD), GOOD), length=False
        )
        for attempt in (head, chunk):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(attempt)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
        await asyncio.sleep(0.3)

    play(tmp_path, attack)


def test_path_tricks_reach_no_other_route(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        for path in (
            b"//api/ai-chat",
            b"/api//ai-chat",
            b"/api/ai-chat/",
            b"/api/ai-chat%00",
            b"/api/ai-chat%2f",
            b"/api/ai-chat;x=1",
            b"/API/AI-CHAT",
            b"/api/../api/ai-chat",
            b"/v1/../api/ai-chat",
            b"/api/%2e%2e/metrics",
            b"/metrics",
            b"/v1/calls/..%2f..%2fmetrics",
            b"/v1/sessions/" + b"%00" * 10,
            b"/%ff%fe",
            b"/\xff",
            b"/api/ai-chat\\",
            b"http://[::1/",
            b"*",
            b"@evil/api/ai-chat",
        ):
            status = await raw(stage, request(token, path=path))
            assert refused(status), path
        operator = await stage.http.get(f"{stage.operator_url}/api/ai-chat")
        assert operator.status_code == 404

    play(tmp_path, attack)


def test_strange_headers_are_refused_or_ignored(tmp_path: Path) -> None:
    async def attack(stage: Stage, token: dict[str, str]) -> None:
        bad = b'{"prompt": 5}'
        for header in (
            b"X-Request-Id: " + b"\xff" * 20,
            b"X-Request-Id: a b\x0bc",
            b"X-Request-Id: " + b"x" * 5000,
            b"Idempotency-Key: " + b"\xe4" * 255,
            b"Idempotency-Key: " + b"k" * 300,
            b"Idempotency-Key:",
            b"Content-Type: \xff\xff",
            b"Content-Type: application/json; charset=utf-16",
            b"X-Forwarded-For: " + b"," * 500,
            b"Expect: 100-continue",
            b"Connection: X-Request-Id",
            b"Upgrade: websocket",
            b"Range: bytes=0-1",
            b"If-None-Match: *",
            b"X-HTTP-Method-Override: DELETE",
        ):
            status = await raw(stage, request(token, header, body=bad))
            assert status in (0, 100, 501) or 400 <= status < 500, header

    play(tmp_path, attack)


def test_a_body_of_many_small_parts_is_refused_before_it_is_parsed() -> None:
    body = b'{"x":[' + b"[]," * 300_000 + b'[]],"\\u0041":1}'
    started = time.perf_counter()

    with pytest.raises(InvalidRequest, match="more parts"):
        read_object(body)

    assert time.perf_counter() - started < 0.1
