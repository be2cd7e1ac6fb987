"""The server over raw sockets: what is refused, what is not, and that no request is read in two ways."""

import asyncio
import contextlib
import queue
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest
import uvloop
from tests.stage import eventually

from arkgate.web.protocol import ProtocolLimits, protocol_with
from arkgate.web.server import CannotListen, Listener, PortTaken, bind, serve

LIMITS = ProtocolLimits(
    body_bytes_max=64 * 1024,
    head_timeout_seconds=0.3,
    body_timeout_seconds=0.3,
    write_timeout_seconds=0.3,
    linger_seconds=0.2,
)

BIG_BYTES = 30_000_000

seen: list[str] = []
"""Paths that reached the application."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it saw. Paths ask for delays, early answers and big ones."""
    seen.append(scope["path"])
    body = b""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] != "/early":
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen.append("disconnected")
                return
            body += message["body"]
            if not message["more_body"]:
                break
    headers = [f"{name.decode()}: {value.decode('latin-1')}" for name, value in scope["headers"]]
    answer = orjson.dumps(
        {"method": scope["method"], "path": scope["path"], "headers": headers, "body": body.decode("latin-1")}
    )
    if scope["path"] == "/big":
        answer = b"x" * BIG_BYTES
    length = str(len(answer)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def running(limits: ProtocolLimits = LIMITS, *, grace_seconds: float = 1.0) -> AsyncIterator[int]:
    listening = bind("127.0.0.1", 0)
    stop = asyncio.Event()
    listener = Listener(echo, listening, protocol_with(limits))
    port: int = listening.getsockname()[1]
    task = asyncio.create_task(serve([listener], stop=stop, grace_seconds=grace_seconds))
    try:
        yield port
    finally:
        stop.set()
        await task


@pytest.fixture(scope="module")
def server_port() -> Iterator[int]:
    """One server for all tests that do not stop it: on uvloop, in a thread of its own."""
    started: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def whole() -> None:
        stop = asyncio.Event()
        async with running() as port:
            started.put((port, asyncio.get_running_loop(), stop))
            await stop.wait()

    def in_thread() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    thread = threading.Thread(target=in_thread)
    thread.start()
    port, loop, stop = started.get(timeout=10)
    yield port
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


Main = Callable[[int], Awaitable[None]]


@pytest.fixture
def run(server_port: int) -> Callable[[Main], None]:
    async def whole(main: Main) -> None:
        seen.clear()
        async with asyncio.timeout(10):
            await main(server_port)

    return lambda main: asyncio.run(whole(main))


Run = Callable[[Main], None]


class Client:
    """A raw connection that reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, orjson.loads(body) if body else None

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def connected(port: int, *pieces: bytes) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    client = Client(reader, writer)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02 if len(pieces) > 1 else 0)
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


def post(body: bytes, *lines: str, path: str = "/") -> bytes:
    stated = (
        ()
        if any(line.lower().startswith("transfer") for line in lines)
        else (f"Content-Length: {len(body)}",)
    )
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", *stated, *lines, "", ""]).encode("latin-1") + body


CHUNKED = "Transfer-Encoding: chunked"

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and chunked": (400, post(b"0\r\n\r\n", CHUNKED, "Content-Length: 5")),
    "chunked and length": (400, post(b"0\r\n\r\n", "Content-Length: 5", CHUNKED)),
    "gzip, chunked": (400, post(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked")),
    "chunked, gzip": (400, post(b"0\r\n\r\n", "Transfer-Encoding: chunked, gzip")),
    "gzip": (400, post(b"x", "Transfer-Encoding: gzip")),
    "identity": (400, post(b"x", "Transfer-Encoding: identity")),
    "chunked twice": (400, post(b"0\r\n\r\n", CHUNKED, CHUNKED)),
    "chunked, chunked": (400, post(b"0\r\n\r\n", "Transfer-Encoding: chunked, chunked")),
    "chunked with a tab inside": (400, post(b"0\r\n\r\n", "Transfer-Encoding: \x0bchunked")),
    "chunked in 1.0": (400, post(b"0\r\n\r\n", CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0")),
    "two lengths": (400, post(b"x", "Content-Length: 2")),
    "the same length twice": (400, post(b"x", "Content-Length: 1")),
    "a list of lengths": (400, get("/", "Content-Length: 1, 1")),
    "length with a sign": (400, get("/", "Content-Length: +1")),
    "length negative": (400, get("/", "Content-Length: -1")),
    "length in hex": (400, get("/", "Content-Length: 0x1")),
    "length empty": (400, get("/", "Content-Length: ")),
    "length over 64 bits": (400, get("/", "Content-Length: 99999999999999999999999")),
    "two hosts": (400, get("/", "Host: b")),
    "the same host twice": (400, get("/", "Host: a")),
    "no host": (400, b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    "obs-fold": (400, get("/", "X-A: 1\r\n folded")),
    "bare LF": (400, get("/", "X-A: 1\nX-B: 2")),
    "bare LF everywhere": (400, get().replace(b"\r\n", b"\n")),
    "bare CR": (400, get("/", "X-A: 1\rX-B: 2")),
    "NUL in a value": (400, get("/", "X-A: 1\x002")),
    "NUL in a name": (400, get("/", "X\x00A: 1")),
    "space before the colon": (400, get("/", "Content-Length : 5")),
    "no colon": (400, get("/", "X-A")),
    "empty name": (400, get("/", ": x")),
    "NUL in the target": (400, get("/\x00")),
    "not http": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
    "http 0.9": (400, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    "http 2.0": (400, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "http 2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "unknown method": (400, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "connect": (400, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "upgrade with a body": (400, post(b"GET /evil HTTP/1.1\r\n\r\n", "Connection: Upgrade", "Upgrade: h2c")),
    "upgrade with chunks": (400, post(b"0\r\n\r\n", CHUNKED, "Connection: Upgrade", "Upgrade: h2c")),
    "target too long": (414, get("/" + "x" * 4096)),
    "65 headers": (431, get("/", *["X-A: 1"] * 64)),
    "giant header at once": (431, get("/", "X-A: " + "x" * 17_000)),
    "very giant header at once": (431, get("/", "X-A: " + "x" * 5_000_000)),
    "giant name at once": (431, get("/", "x" * 17_000 + ": 1")),
    "many bytes of headers": (431, get("/", *["X-A: " + "x" * 400] * 50)),
    "body declared too large": (413, post(b"x" * (64 * 1024 + 1))),
    "chunked body too large": (
        413,
        post(b"400\r\n" + b"x" * 1024 + b"\r\n", CHUNKED) + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 64,
    ),
    "bad chunk": (400, post(b"zz\r\nx\r\n", CHUNKED)),
    "chunk length over 64 bits": (400, post(b"fffffffffffffffff\r\nx\r\n", CHUNKED)),
    "chunk without its end": (400, post(b"1\r\nxyz", CHUNKED)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_could_be_read_in_two_ways_or_is_too_much_is_refused(run: Run, name: str) -> None:
    status, request = REFUSED[name]

    async def main(port: int) -> None:
        async with connected(port, request) as client:
            got, headers, body = await client.answer()
            assert got == status
            assert body["success"] is False
            assert body["code"] == ("payload_too_large" if status == 413 else "invalid_request")
            assert body["error"].endswith(".")
            assert headers["connection"] == "close"
            assert headers["content-type"] == "application/json"
            assert len(headers["x-request-id"]) == 32
            assert await client.is_closed()
        assert "/evil" not in seen

    run(main)


ACCEPTED: dict[str, bytes] = {
    "get": get(),
    "64 headers": get("/", *["X-A: 1"] * 63),
    "a head of almost 16 KiB": get("/", *["X-A: " + "x" * 4000] * 4),
    "a target of 4096": get("/" + "x" * 4095),
    "several authorizations": get("/", "Authorization: L402 a:b", "Authorization: Bearer c"),
    "1.0 without host": b"GET / HTTP/1.0\r\n\r\n",
    "body": post(b"x" * 64 * 1024),
    "chunked": post(b"4\r\nabcd\r\n0\r\n\r\n", CHUNKED),
    "Chunked in capitals": post(b"4\r\nabcd\r\n0\r\n\r\n", "Transfer-Encoding: Chunked"),
    "line ends before the request": b"\r\n\r\n" + get(),
    "absolute target": get("http://a/"),
    "an offer to upgrade": get(
        "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    ),
    "an offer of a websocket": get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
    "latin-1": get("/", "X-A: \xe4"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_ordinary_request_is_answered(run: Run, name: str) -> None:
    async def main(port: int) -> None:
        async with connected(port, ACCEPTED[name]) as client:
            assert (await client.answer())[0] == 200

    run(main)


@pytest.mark.parametrize(
    "name", ["get", "body", "chunked", "a head of almost 16 KiB", "line ends before the request"]
)
def test_an_ordinary_request_may_come_in_many_pieces(run: Run, name: str) -> None:
    request = ACCEPTED[name]
    step = max(1, len(request) // 60)

    async def main(port: int) -> None:
        async with connected(port) as client:
            for _ in range(2):
                for begin in range(0, len(request), step):
                    client.writer.write(request[begin : begin + step])
                    await asyncio.sleep(0.001)
                status, _, body = await client.answer()
                assert status == 200
            assert len(body["body"]) in (0, 4, 64 * 1024)

    run(main)


def test_after_an_offer_to_upgrade_the_connection_closes_and_nothing_more_is_read(run: Run) -> None:
    async def main(port: int) -> None:
        request = get("/", "Connection: Upgrade", "Upgrade: h2c")
        async with connected(port, request + get("/evil"), get("/evil")) as client:
            status, headers, _ = await client.answer()
            assert status == 200
            assert headers["connection"] == "close"
            assert await client.is_closed()
        assert seen == ["/"]

    run(main)


def test_trailers_never_reach_the_application(run: Run) -> None:
    trailers = b"4\r\nabcd\r\n0\r\nAuthorization: Bearer evil\r\nHost: evil\r\nExpect: 100-continue\r\n\r\n"

    async def main(port: int) -> None:
        async with connected(port, post(b"", CHUNKED), trailers) as client:
            _, _, first = await client.answer()
            client.writer.write(post(trailers, CHUNKED) + get("/after"))
            _, _, second = await client.answer()
            _, _, third = await client.answer()
        assert first["headers"] == second["headers"] == ["host: a", "transfer-encoding: chunked"]
        assert first["body"] == second["body"] == "abcd"
        assert third["headers"] == ["host: a"]

    run(main)


@pytest.mark.parametrize("start", [b"0\r\nX-A: ", b"1;x="], ids=["trailers", "chunk extension"])
def test_what_frames_a_body_is_bounded_like_a_head(run: Run, start: bytes) -> None:
    async def main(port: int) -> None:
        async with connected(port, post(start, CHUNKED)) as client:
            for _ in range(40):
                client.writer.write(b"x" * 1000)
                await asyncio.sleep(0.002)
            status, _, _ = await client.answer()
            assert status == 431

    run(main)


def test_a_head_that_never_ends_is_refused_before_its_deadline(run: Run) -> None:
    async def main(port: int) -> None:
        async with connected(port, b"GET / HTTP/1.1\r\nX-A: ") as client:
            for _ in range(30):
                client.writer.write(b"x" * 1000)
                await asyncio.sleep(0.002)
            assert (await client.answer())[0] == 431

    run(main)


async def drip(client: Client, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for begin in range(len(data)):
            client.writer.write(data[begin : begin + 1])
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("before", [b"", get()], ids=["first request", "second request"])
@pytest.mark.parametrize(
    ("quick", "slow"),
    [(b"", get("/", "X-A: 1")), (get()[:-2], b"X-A: 1234567890"), (post(b"x" * 100)[:-100], b"x" * 100)],
    ids=["head", "rest of the head", "body"],
)
def test_a_slow_request_is_timed_out_however_it_drips(
    run: Run, before: bytes, quick: bytes, slow: bytes
) -> None:
    async def main(port: int) -> None:
        async with connected(port, before) as client:
            if before:
                await client.answer()
            client.writer.write(quick)
            began_at = time.monotonic()
            dripping = asyncio.create_task(drip(client, slow))
            status, _, body = await client.answer()
            dripping.cancel()
            assert status == 408
            assert body["code"] == "invalid_request"
            assert 0.25 < time.monotonic() - began_at < 0.8

    run(main)


@pytest.mark.parametrize("data", [b"", b"\r\n"], ids=["nothing", "a line end"])
def test_a_client_that_asks_for_nothing_is_let_go_without_a_word(run: Run, data: bytes) -> None:
    async def main(port: int) -> None:
        async with connected(port, data) as client:
            began_at = time.monotonic()
            assert await client.is_closed()
            assert 0.25 < time.monotonic() - began_at < 0.8

    run(main)


def test_line_ends_do_not_keep_an_idle_connection(run: Run) -> None:
    async def main(port: int) -> None:
        async with connected(port, get()) as client:
            await client.answer()
            dripping = asyncio.create_task(drip(client, b"\r\n" * 20))
            assert await client.is_closed()
            dripping.cancel()

    run(main)


def test_a_slow_application_is_no_slow_client(run: Run) -> None:
    async def main(port: int) -> None:
        limits_passed = post(b"x" * 1000, path="/slow")
        async with connected(port, limits_passed[:-1], limits_passed[-1:]) as client:
            assert (await client.answer())[0] == 200
            client.writer.write(get("/slow") * 4)
            assert [(await client.answer())[0] for _ in range(4)] == [200] * 4

    run(main)


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def main(port: int) -> None:
        requests = (
            get("/slow")
            + post(b"body", path="/2")
            + get("/3")
            + post(b"2\r\nhi\r\n0\r\n\r\n", CHUNKED, path="/4")
        )
        async with connected(port, requests) as client:
            answers = [(await client.answer())[2] for _ in range(4)]
        assert [answer["path"] for answer in answers] == ["/slow", "/2", "/3", "/4"]
        assert [answer["body"] for answer in answers] == ["", "body", "", "hi"]

    run(main)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    "bad",
    [
        get("/bad", "Host: b"),
        b"garbage\r\n\r\n",
        b"GET /bad HTTP/1.1\r\nX: ",
        post(b"zz\r\n", CHUNKED, path="/bad"),
    ],
    ids=["bad head", "garbage", "slow head", "bad body"],
)
def test_a_refusal_waits_for_the_answers_before_it(run: Run, bad: bytes, depth: int) -> None:
    async def main(port: int) -> None:
        async with connected(port, get("/slow") * depth + bad) as client:
            for _ in range(depth):
                status, _, body = await client.answer()
                assert (status, body["path"]) == (200, "/slow")
            status, headers, _ = await client.answer()
            assert status in (400, 408)
            assert headers["connection"] == "close"
            assert await client.is_closed()
        assert "/bad" not in seen

    run(main)


def test_a_refused_body_looks_to_the_application_like_a_client_that_left(run: Run) -> None:
    async def told() -> bool:
        return len(seen) == 2

    async def main(port: int) -> None:
        async with connected(port, post(b"400\r\n" + b"x" * 1024 + b"\r\n", CHUNKED)) as client:
            await asyncio.sleep(0.05)
            client.writer.write(b"zz\r\n")
            assert (await client.answer())[0] == 400
            assert await client.is_closed()
        await eventually(told)
        assert seen == ["/", "disconnected"]

    run(main)


def test_an_answer_before_the_end_of_the_body_stands(run: Run) -> None:
    async def main(port: int) -> None:
        request = post(b"x" * 60_000, path="/early")
        async with connected(port, request[:30_000]) as client:
            assert (await client.answer())[0] == 200
            client.writer.write(request[30_000:])
            await asyncio.sleep(0.05)
            client.writer.write(get("/next"))
            assert (await client.answer())[2]["path"] == "/next"

    run(main)


def test_after_an_early_answer_the_body_still_has_its_deadline(run: Run) -> None:
    async def main(port: int) -> None:
        request = post(b"x" * 60_000, path="/early")
        async with connected(port, request[:30_000]) as client:
            assert (await client.answer())[0] == 200
            assert await client.is_closed()

    run(main)


def test_a_refused_upload_gets_to_read_why(run: Run) -> None:
    async def main(port: int) -> None:
        async with connected(port, post(b"x" * 20_000_000)) as client:
            assert (await client.answer())[0] == 413

    run(main)


def test_expect_is_answered_when_the_application_reads(run: Run) -> None:
    async def main(port: int) -> None:
        head = post(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 4")
        async with connected(port, head) as client:
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(b"body")
            assert (await client.answer())[2]["body"] == "body"

    run(main)


def test_expect_for_too_large_a_body_is_refused_at_once(run: Run) -> None:
    async def main(port: int) -> None:
        head = post(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 99999999")
        async with connected(port, head) as client:
            assert (await client.answer())[0] == 413

    run(main)


def test_a_client_that_does_not_read_is_cut_off(run: Run) -> None:
    async def main(port: int) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, get("/big"))
            await asyncio.sleep(0.8)
            received_bytes = 0
            with contextlib.suppress(ConnectionError):
                while data := await loop.sock_recv(client, 1 << 20):
                    received_bytes += len(data)
            assert received_bytes < BIG_BYTES

    run(main)


def test_random_bytes_never_make_a_500(run: Run) -> None:
    chance = random.Random(11)
    requests = [*(request for _, request in REFUSED.values() if len(request) < 2000), *ACCEPTED.values()]

    async def one(port: int) -> None:
        request = bytearray(chance.choice(requests)[:3000])
        for _ in range(chance.randint(1, 6)):
            request[chance.randrange(len(request))] = chance.choice(b"\r\n\x00 :/,;%\xff0aZ")
        async with connected(port, bytes(request)) as client:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                assert (await client.answer())[0] in (100, 200, 400, 408, 413, 414, 431)

    async def main(port: int) -> None:
        for _ in range(8):
            await asyncio.gather(*[one(port) for _ in range(32)])

    run(main)


def test_it_behaves_on_asyncios_own_loop_too() -> None:
    async def main() -> None:
        async with running() as port, connected(port, get() + get("/", "Host: b")) as client:
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 400
            assert await client.is_closed()

    asyncio.run(main())


def test_a_taken_port_is_said_in_a_sentence() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            bind("127.0.0.1", port)

    sentence = f"port {port} on 127.0.0.1 is taken by another program: stop it, or choose another port"
    assert str(caught.value) == sentence


@pytest.mark.parametrize("host", ["203.0.113.77", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_said_in_a_sentence(host: str) -> None:
    with pytest.raises(CannotListen, match="not an address of this machine"):
        bind(host, 0)


def test_a_bound_socket_accepts_before_it_is_served() -> None:
    with bind("127.0.0.1", 0) as listening, socket.socket() as client:
        client.settimeout(1)
        client.connect(listening.getsockname())


def test_several_listeners_stop_together_and_open_requests_end_first() -> None:
    async def main() -> None:
        seen.clear()
        sockets = [bind("127.0.0.1", 0) for _ in range(3)]
        ports = [listening.getsockname()[1] for listening in sockets]
        stop = asyncio.Event()
        listeners = [Listener(echo, listening) for listening in sockets]
        serving = asyncio.create_task(serve(listeners, stop=stop, grace_seconds=2))
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(port, get("/slow"))) for port in ports]
            idle = await stack.enter_async_context(connected(ports[0], get("/")))
            await idle.answer()
            await asyncio.sleep(0.1)
            stop.set()
            assert [(await client.answer())[0] for client in clients] == [200] * 3
            assert await idle.is_closed()
        await serving
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_what_is_over_its_grace_is_cancelled_and_waited_for() -> None:
    cleaned_up: list[bool] = []

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.1)
            cleaned_up.append(True)

    async def main() -> None:
        listening = bind("127.0.0.1", 0)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve([Listener(stuck, listening)], stop=stop, grace_seconds=0.2))
        async with connected(listening.getsockname()[1], get()):
            await asyncio.sleep(0.1)
            stop.set()
            began_at = time.monotonic()
            await serving
            assert time.monotonic() - began_at < 1
        assert cleaned_up == [True]

    asyncio.run(main())
