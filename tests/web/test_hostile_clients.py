"""Hostile clients before an HTTP service: its server sees one good request or none, and no credential."""

import asyncio
import socket
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.backend.backend_server import BackendServer, always, http, serving
from tests.gateway.test_streams import CHAT, at_rest, question
from tests.stage import Stage, eventually, run, staged
from tests.web.test_services import JSON, service

from arkgate.web.protocol import ProtocolLimits

LIMITS = ProtocolLimits(
    head_timeout_seconds=0.5, body_timeout_seconds=0.5, write_timeout_seconds=1.0, linger_seconds=0.2
)
ALLOWED = {b"host", b"accept-encoding", b"user-agent", b"authorization", b"accept", b"accept-language",
           b"content-type", b"content-length", b"x-request-id"}  # fmt: skip
HIDDEN = b"GET /weather/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
PUT, GET = b"PUT /weather/x HTTP/1.1\r\nHost: x\r\n", b"GET /weather/x HTTP/1.1\r\nHost: x\r\n"
FRAMED: Mapping[str, bytes] = {
    "CL and TE": PUT + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE and CL": PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": PUT + b"Content-Length: 0\r\nContent-Length: 45\r\n\r\n" + HIDDEN,
    "two equal lengths": PUT + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "lengths in a list": PUT + b"Content-Length: 3, 3\r\n\r\nabc",
    "a length with a plus": PUT + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": PUT + b"Content-Length: -3\r\n\r\nabc",
    "a length in hex": PUT + b"Content-Length: 0x3\r\n\r\nabc",
    "a length with a space": PUT + b"Content-Length: 3 4\r\n\r\nabc",
    "a length that overflows": PUT + b"Content-Length: 18446744073709551619\r\n\r\nabc",
    "TE of another coding": PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE twice": PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE with a tab inside": PUT + b"Transfer-Encoding: chun\tked\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": PUT + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "TE folded": PUT + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": PUT + b"Content-Length : 45\r\n\r\n" + HIDDEN,
    "a folded header": GET + b"X-A: 1\r\n b: 2\r\n\r\n",
    "bare line feeds": b"GET /weather/x HTTP/1.1\nHost: x\n\n",
    "a bare carriage return": GET + b"X-A: 1\rContent-Length: 45\r\n\r\n" + HIDDEN,
    "a NUL in a value": GET + b"X-A: 1\x002\r\n\r\n",
    "a NUL in a name": GET + b"X\x00A: 1\r\n\r\n",
    "a chunk size that overflows": PUT
    + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": PUT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "a chunk size with a space": PUT + b"Transfer-Encoding: chunked\r\n\r\n3 ;\r\nabc\r\n0\r\n\r\n",
    "a chunk without its end": PUT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "no host": b"GET /weather/x HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "HTTP/0.9": b"GET /weather/x\r\n\r\n",
    "HTTP/1.2": b"GET /weather/x HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE": b"TRACE /weather/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "another authority": b"GET http://10.0.0.1/weather/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /weather/x y HTTP/1.1\r\nHost: x\r\n\r\n",
    "a line break in the query": b"GET /weather/x?a=1%0d%0aX: 1\r\n\r\n",
    "h2c": GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "an expectation": PUT + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "a trailer with a credential": PUT
    + b"Trailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    + b"Authorization: Bearer x\r\n\r\n",
    "a request in a body": PUT + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a body on a GET": GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a large header": GET + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "a thousand headers": GET + b"X-A: 1\r\n" * 1000 + b"\r\n",
    "a connection header that names the credential": GET + b"Connection: Authorization\r\n\r\n",
}


@pytest.fixture(scope="module")
def seen() -> dict[str, tuple[bytes, list[tuple[bytes, bytes]], float]]:
    """What each request was answered, what reached the server, and what the payer was charged for it."""
    found = {}

    async def main() -> None:
        answer = http(JSON, headers=("Content-Type: application/json",))
        with tempfile.TemporaryDirectory() as name:
            async with (
                serving(always(answer)) as server,
                staged(Path(name), extra=service(server.port, price_sats=1), limits=LIMITS) as stage,
            ):
                token = await stage.fund_token(1000)
                for words, request in FRAMED.items():
                    found[words] = await _tried(stage, server, token, request)
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 100))
    return found


async def _tried(
    stage: Stage, server: BackendServer, token: dict[str, str], request: bytes
) -> tuple[bytes, list[tuple[bytes, bytes]], float]:
    server.requests.clear()
    before = (await stage.balance(token))["balance_sats"]
    line, separator, rest = request.partition(b"\n")
    credential = f"Authorization: {token['Authorization']}\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
    writer.write(line + separator + credential + rest)
    try:
        answer = await asyncio.wait_for(reader.read(65536), 3)
    except (TimeoutError, ConnectionError):
        answer = b""
    writer.close()
    await asyncio.sleep(0.02)
    return answer, list(server.requests), before - (await stage.balance(token))["balance_sats"]


@pytest.mark.parametrize("words", FRAMED)
def test_one_well_formed_request_or_none_reaches_the_server(
    seen: dict[str, tuple[bytes, list[tuple[bytes, bytes]], float]], words: str
) -> None:
    answer, requests, charged = seen[words]

    assert len(requests) <= 1
    assert charged == len(requests)
    assert b"hidden" not in b"".join(head for head, _ in requests)
    for head, _ in requests:
        assert b"ak_" not in head
        names = [line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line]
        assert set(names) <= ALLOWED
        assert len(set(names)) == len(names)
        assert b"\n" not in head.replace(b"\r\n", b"")
    if not requests:
        assert not answer.startswith(b"HTTP/1.1 200")
        assert not answer.startswith(b"HTTP/1.1 5") or answer.startswith(b"HTTP/1.1 501")


def test_slow_requests_are_cut_off_while_others_are_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with staged(tmp_path, limits=LIMITS) as stage:
            token = await stage.fund_token()
            slow = []
            for number in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
                head = b"POST /api/ai-chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
                writer.write(head[:-2] if number % 2 else head + b"\r\n{")
                slow.append((reader, writer))
            assert (await stage.chat(token)).status_code == 200
            answers = await asyncio.gather(*(asyncio.wait_for(reader.read(), 5) for reader, _ in slow))
            assert {answer.split(b" ")[1] for answer in answers} == {b"408"}
            for _, writer in slow:
                writer.close()

    run(asyncio.wait_for(main(), 60))


async def _stalled(stage: Stage, path: str, token: dict[str, str], body: bytes) -> socket.socket:
    """A client that asks, and reads nothing of the answer."""
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: {token['Authorization']}"]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", stage.settings.listen.port))
    await loop.sock_sendall(
        client, "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    )
    return client


def test_a_reader_who_stops_reading_a_large_answer_is_cut_off(tmp_path: Path) -> None:
    large = b"x" * 6_000_000

    async def main() -> None:
        async with (
            serving(always(http(large))) as server,
            staged(tmp_path, extra=service(server.port, price_sats=1), limits=LIMITS) as stage,
        ):
            token = await stage.fund_token(100)
            client = await _stalled(stage, "/weather/large", token, b"")

            async def over() -> bool:
                return len(stage.app.calls) == 0 and (await stage.balance(token))["held_sats"] == 0

            await asyncio.sleep(0.3)
            await eventually(over)
            client.close()
            # It had the first byte, so that it pays; it could not have had all of it without paying.
            assert (await stage.balance(token))["balance_sats"] == 99
            assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_whoever_leaves_a_stream_after_any_event_leaves_no_hold_and_pays_by_the_table(
    tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        async with staged(tmp_path, extra={"[[services]]": "calls_per_day = 0"}, limits=LIMITS) as stage:
            token = await stage.fund_token(2000)
            stage.simulation.chat.token_seconds, stage.simulation.chat.words = 0.01, 40

            async def leave(events_read: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
                body = b'{"messages": [{"role": "user", "content": "%d"}], "stream": true}' % events_read
                head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {token['Authorization']}\r\n"
                writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                for _ in range(events_read):
                    await reader.readuntil(b"\n\n")
                if how == "resets":
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.close()

            await asyncio.gather(*(leave(number) for number in range(20)))
            await at_rest(stage, token)
            lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
            charged = sum(line["kind"] == "charge" for line in lines)
            # Who read two events had a token; who read none may have been given one before it left.
            assert 18 <= charged <= 20
            assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_question_with_two_credentials_is_paid_by_the_first_that_is_good(tmp_path: Path) -> None:
    async def main() -> None:
        async with staged(tmp_path) as stage:
            one, other = await stage.fund_token(), await stage.fund_token()
            headers = [("Authorization", "Bearer ak_" + "0" * 32), *one.items(), *other.items()]
            answer = await stage.http.post(CHAT, json=question(), headers=headers)

            assert answer.status_code == 200
            await at_rest(stage, one)
            assert (await stage.balance(one))["balance_sats"] == 450
            assert (await stage.balance(other))["balance_sats"] == 500

    run(asyncio.wait_for(main(), 60))
