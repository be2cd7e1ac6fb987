"""The chat backend against servers that keep HTTP's rules, bend them, and break them."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest

from arkgate.backend.breaker import Breaker
from arkgate.backend.upstream import BackendSettings, Upstream
from arkgate.core.errors import (
    BackendRejected,
    BackendUnavailable,
    Overloaded,
    Refusal,
    UpstreamError,
    UpstreamTimeout,
)
from arkgate.ports import Backend, ChatMessage, Completion
from tests.backend.backend_server import COMPLETION, BackendServer, Behaviour, Peer, always, http, serving

HELLO = (ChatMessage("user", "Hello?"),)
KEY = "sk-canary-0123456789"


def settings(server: BackendServer, **changes: Any) -> BackendSettings:
    values: dict[str, Any] = {
        "url": server.url,
        "model": "small",
        "api_key": KEY,
        "connect_timeout_seconds": 1.0,
        "first_byte_timeout_seconds": 0.3,
        "idle_timeout_seconds": 0.2,
        "total_timeout_seconds": 0.8,
        "answer_bytes_max": 64 * 1024,
    }
    return BackendSettings(**{**values, **changes})


def ask(behave: Behaviour, *, calls_count: int = 1, **changes: Any) -> tuple[list[Completion], BackendServer]:
    """Serves, asks one call after the other, and checks that nothing stayed busy."""

    async def main() -> tuple[list[Completion], BackendServer]:
        async with serving(behave) as server:
            backend = Upstream(settings(server, **changes))
            try:
                got = [await backend.chat(HELLO, call_id=f"call-{n}") for n in range(calls_count)]
                return got, server
            finally:
                assert backend.connections_busy_count == 0
                assert backend.under_way_count == 0
                await backend.close()

    return asyncio.run(main())


def refusal(behave: Behaviour, **changes: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask(behave, **changes)
    assert "127.0.0.1" not in caught.value.message
    assert KEY not in caught.value.message
    return caught.value


def once(*pieces: bytes, pause_seconds: float = 0.0, hang: bool = False) -> Behaviour:
    """Answers one request with these writes, then hangs or closes."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(pause_seconds)
        if hang:
            await asyncio.sleep(30)

    return behave


def test_an_answer_comes_back_with_its_usage() -> None:
    got, _ = ask(always(http()))

    assert got == [Completion("Hello.", "small-1", 3, 2, 5)]


def test_the_request_is_built_from_the_settings_and_the_messages_only() -> None:
    _, server = ask(always(http()))

    head, body = server.requests[0]
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:] if line) == sorted(
        [
            f"host: 127.0.0.1:{server.port}",
            "accept: application/json",
            "accept-encoding: identity",
            "user-agent: arkgate",
            f"authorization: bearer {KEY}",
            "content-type: application/json",
            "x-request-id: call-0",
            f"content-length: {len(body)}",
        ]
    )
    assert orjson.loads(body) == {
        "model": "small",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": False,
    }


def test_without_a_key_no_authorization_is_sent() -> None:
    _, server = ask(always(http()), api_key=None)

    assert b"authorization" not in server.requests[0][0].lower()


def test_a_call_id_cannot_smuggle_a_header() -> None:
    async def main() -> None:
        async with serving(always(http())) as server:
            backend = Upstream(settings(server))
            with pytest.raises(ValueError, match="printable"):
                await backend.chat(HELLO, call_id="a\r\nX-Evil: 1")
            await backend.close()
            assert server.requests == []

    asyncio.run(main())


def test_a_kept_connection_is_used_again() -> None:
    got, server = ask(always(http()), calls_count=5)

    assert len(got) == 5
    assert server.connections_count == 1


def test_a_chunked_answer_is_read_and_its_connection_kept() -> None:
    half = len(COMPLETION) // 2
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (COMPLETION[:half], COMPLETION[half:])]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    got, server = ask(always(head + b"".join(chunks) + b"0\r\nX-Trailer: 1\r\n\r\n"), calls_count=2)

    assert [each.text for each in got] == ["Hello.", "Hello."]
    assert server.connections_count == 1


def test_an_answer_may_come_byte_by_byte() -> None:
    answer = http()
    got, _ = ask(once(*[answer[n : n + 1] for n in range(len(answer))]))

    assert got[0].text == "Hello."


def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    got, server = ask(always(interim + http()), calls_count=2)

    assert [each.text for each in got] == ["Hello.", "Hello."]
    assert server.connections_count == 1


def test_endless_interim_answers_end() -> None:
    assert isinstance(refusal(once(*[b"HTTP/1.1 102 Processing\r\n\r\n" * 100] * 100)), UpstreamError)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}], "two parts"),
    ],
)
def test_content_is_a_string_or_a_list_of_text_parts(content: object, text: str) -> None:
    body = orjson.dumps({"choices": [{"message": {"content": content}}]})
    got, _ = ask(always(http(body)))

    assert got == [Completion(text, "small", 0, 0, 0)]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "x",
        {"prompt_tokens": -1},
        {"prompt_tokens": "3"},
        {"prompt_tokens": True},
        {"prompt_tokens": 1.5},
    ],
)
def test_usage_that_makes_no_sense_counts_as_none(usage: object) -> None:
    body = orjson.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage})
    got, _ = ask(always(http(body)))

    assert (got[0].prompt_tokens, got[0].completion_tokens, got[0].total_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": ""}}]}',
        b'{"choices": [{"message": {"content": " \\n"}}]}',
        b'{"choices": [{"message": {"content": []}}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"error": {"message": "broken"}}',
        b'{"choices": [{"message": {"content": "half"}, "error": {"code": 502}}]}',
        b'{"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]}',
        b"[" * 5000,
        COMPLETION[:-1],
        COMPLETION + b"x",
    ],
)
def test_an_answer_without_text_is_an_upstream_error(body: bytes) -> None:
    assert type(refusal(always(http(body)))) is UpstreamError


BAD_WIRE = {
    "cut in the head": [b"HTTP/1.1 200 OK\r\nContent-Le"],
    "cut in the body": [http()[:-5]],
    "closed at once": [],
    "not http": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "length too great": [http(length=len(COMPLETION) + 1)],
    "length not a number": [b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\nx"],
    "length negative": [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"],
    "two lengths": [http(headers=("Content-Length: 1",))],
    "twice the same length": [http(headers=(f"Content-Length: {len(COMPLETION)}",))],
    "ends with the connection": [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + COMPLETION],
    "ends with the connection, 1.0": [b"HTTP/1.0 200 OK\r\n\r\n" + COMPLETION],
    "length and chunked": [http(headers=("Transfer-Encoding: chunked",))],
    "gzip and chunked": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
    "chunked twice": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    "gzip encoding": [http(headers=("Content-Encoding: gzip",))],
    "bad chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n"],
    "cut between chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"],
    "upgrade": [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"],
    "stated too large": [http(length=64 * 1024 + 1)],
    "too large": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"400\r\n" + b"x" * 1024 + b"\r\n"] * 65,
    ],
    "huge head at once": [http(headers=("X-Pad: " + "x" * 40_000,))],
    "huge head in pieces": [b"HTTP/1.1 200 OK\r\nX-Pad: ", *[b"x" * 1000] * 40],
    "many headers": [http(headers=("X-Pad: x",) * 5000)],
    "chunk extensions": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 1000] * 100],
    "huge trailers": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", *[b"x" * 1000] * 100],
}


@pytest.mark.parametrize("name", BAD_WIRE)
def test_an_answer_that_breaks_the_rules_is_an_upstream_error(name: str) -> None:
    assert type(refusal(once(*BAD_WIRE[name]))) is UpstreamError


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200 OK\r\n"],
        [http()[:-5]],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"],
    ],
    ids=["before the head", "in the head", "in the body", "between chunks"],
)
def test_a_backend_that_hangs_is_a_timeout(pieces: list[bytes]) -> None:
    began_at = time.monotonic()
    got = refusal(once(*pieces, hang=True))

    assert type(got) is UpstreamTimeout
    assert time.monotonic() - began_at < 0.7


def test_a_drip_of_bytes_ends_at_the_total_timeout() -> None:
    answer = http()
    began_at = time.monotonic()
    got = refusal(once(*[answer[n : n + 1] for n in range(len(answer))], pause_seconds=0.05))

    assert type(got) is UpstreamTimeout
    assert 0.7 < time.monotonic() - began_at < 1.5


def test_a_slow_answer_within_its_times_is_read() -> None:
    answer = http()
    got, _ = ask(once(*[answer[n : n + 40] for n in range(0, len(answer), 40)], pause_seconds=0.05))

    assert got[0].text == "Hello."


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_mistake_of_the_caller_is_passed_on_with_the_backends_own_words(status: int) -> None:
    body = orjson.dumps({"error": {"message": f"too\r\n long\x00 \u202e {KEY} " + "y" * 500}})
    got = refusal(always(http(body, status=f"{status} Bad")))

    assert isinstance(got, BackendRejected)
    assert got.status == status
    assert got.message.startswith("The backend refused the request: too long … yyy")
    assert got.message.isprintable()
    assert len(got.message) < 350


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "no such role"}', ": no such role"),
        (b'{"message": "no such role"}', ": no such role"),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', ": field required"),
        (b'{"detail": "bad"}', ": bad"),
        (b"<html>", "(status 400)."),
        (b"[]", "(status 400)."),
        (b"", "(status 400)."),
    ],
)
def test_the_backends_words_are_found_where_servers_put_them(body: bytes, words: str) -> None:
    assert refusal(always(http(body, status="400 Bad Request"))).message.endswith(words)


@pytest.mark.parametrize(
    "status", [204, 301, 302, 304, 307, 401, 402, 403, 404, 405, 408, 409, 418, 429, 500, 502, 503]
)
def test_every_other_failure_is_the_operators_trouble(status: int) -> None:
    body = b"" if status in (204, 304) else orjson.dumps({"error": {"message": f"key {KEY} at 127.0.0.1"}})
    got = refusal(always(http(body, status=f"{status} X", headers=("Location: http://127.0.0.1:1/",))))

    assert type(got) is UpstreamError
    assert "key" not in got.message


def test_a_redirect_is_not_followed() -> None:
    async def main() -> None:
        async with serving(always(http())) as other:
            location = f"Location: http://127.0.0.1:{other.port}/v1/chat/completions"
            async with serving(always(http(status="307 Temporary Redirect", headers=(location,)))) as server:
                backend = Upstream(settings(server))
                with pytest.raises(UpstreamError):
                    await backend.chat(HELLO, call_id="c")
                await backend.close()
            assert other.requests == []

    asyncio.run(main())


def test_a_failed_answer_keeps_its_connection() -> None:
    async def main() -> None:
        async with serving(always(http(b"{}", status="500 Oops"))) as server:
            backend = Upstream(settings(server))
            for _ in range(3):
                with pytest.raises(UpstreamError):
                    await backend.chat(HELLO, call_id="c")
            backend.admit()
            await backend.close()
            assert server.connections_count == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        http() + b"x",
        http() + http(),
        http(headers=("Connection: close",)),
        http().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["a byte too many", "a second answer", "close", "1.0"],
)
def test_a_connection_is_kept_only_after_a_clean_end(answer: bytes) -> None:
    got, server = ask(always(answer), calls_count=3)

    assert [each.text for each in got] == ["Hello."] * 3
    assert server.connections_count == 3


def test_bytes_on_an_idle_connection_close_it() -> None:
    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(http())
            await asyncio.sleep(0.02)
            if peer.number == 1:
                await peer.send(http(COMPLETION.replace(b"Hello.", b"Poison")))

    async def main() -> None:
        async with serving(behave) as server:
            backend = Upstream(settings(server))
            await backend.chat(HELLO, call_id="a")
            await asyncio.sleep(0.1)
            second = await backend.chat(HELLO, call_id="b")
            await backend.close()
            assert second.text == "Hello."
            assert server.connections_count == 2

    asyncio.run(main())


def stale_after(answers_count: int, *, reset: bool = False, connections: Sequence[int] = (1,)) -> Behaviour:
    """Closes when it reads one request more, without a byte; only the named connections do."""

    async def behave(peer: Peer) -> None:
        served = 0
        while await peer.request() is not None:
            if served == answers_count and peer.number in connections:
                if reset:
                    peer.writer.transport.abort()
                return
            await peer.send(http())
            served += 1

    return behave


@pytest.mark.parametrize("reset", [False, True])
def test_a_call_that_a_kept_connection_took_along_is_not_made_again(reset: bool) -> None:
    with pytest.raises(UpstreamError):
        ask(stale_after(1, reset=reset), calls_count=2)


@pytest.mark.parametrize("reset", [False, True])
def test_what_changes_nothing_is_asked_again_when_a_kept_connection_turns_out_to_be_closed(
    reset: bool,
) -> None:
    async def main() -> None:
        async with serving(stale_after(1, reset=reset)) as server:
            backend = Upstream(settings(server))
            await backend.chat(HELLO, call_id="a")
            assert (await backend.health()).ready
            await backend.close()
            assert server.connections_count == 2
            assert len(server.requests) == 3

    asyncio.run(main())


def test_a_connection_that_was_closed_while_it_was_free_is_replaced_before_the_call_goes_out() -> None:
    received: list[bytes] = []

    def answer_one(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(65536))
            connection.sendall(http())

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            backend = Upstream(BackendSettings(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "small"))
            for call_id in ("a", "b"):
                server = threading.Thread(target=answer_one, args=(listener,))
                server.start()
                await backend.chat(HELLO, call_id=call_id)
                server.join()  # the event loop does not see the end of the connection before the next call
            await backend.close()

    asyncio.run(main())
    assert [b"X-Request-ID: a" in received[0], b"X-Request-ID: b" in received[1]] == [True, True]


def test_behind_a_refused_question_that_is_still_being_read_nobody_waits() -> None:
    async def behave(peer: Peer) -> None:
        if peer.number > 1:
            await peer.request()
            await peer.send(http())
            return
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(http(b"{}", status="400 Bad Request"))
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(behave) as server:
            backend = Upstream(settings(server))
            with pytest.raises(BackendRejected):
                await backend.chat([ChatMessage("user", "x" * 100_000)], call_id="a")
            async with asyncio.timeout(5):
                await backend.chat(HELLO, call_id="b")
            await backend.close()

    asyncio.run(main())


def test_a_new_connection_that_closes_is_not_tried_again() -> None:
    async def main() -> None:
        async with serving(stale_after(0, connections=range(100))) as server:
            backend = Upstream(settings(server))
            with pytest.raises(UpstreamError):
                await backend.chat(HELLO, call_id="a")
            await backend.close()
            assert server.connections_count == 1

    asyncio.run(main())


def test_after_one_byte_of_an_answer_nothing_is_tried_again() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(http())
        await peer.request()
        await peer.send(b"H")

    async def main() -> None:
        async with serving(behave) as server:
            backend = Upstream(settings(server))
            await backend.chat(HELLO, call_id="a")
            with pytest.raises(UpstreamError):
                await backend.chat(HELLO, call_id="b")
            await backend.close()
            assert server.connections_count == 1

    asyncio.run(main())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_refused_connection_is_an_upstream_error_and_then_no_call_is_sold() -> None:
    async def main() -> None:
        backend = Upstream(settings(BackendServer(port=free_port())))
        for _ in range(3):
            backend.admit()
            with pytest.raises(UpstreamError):
                await backend.chat(HELLO, call_id="c")

        with pytest.raises(BackendUnavailable) as caught:
            backend.admit()
        assert caught.value.retry_after_seconds == 1
        assert backend.connections_busy_count == 0
        await backend.close()

    asyncio.run(main())


def test_a_connection_that_is_never_accepted_is_a_timeout() -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = []
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            server = BackendServer(port=full.getsockname()[1])
            backend = Upstream(settings(server, connect_timeout_seconds=0.2))
            with pytest.raises(UpstreamTimeout):
                await backend.chat(HELLO, call_id="c")
            assert backend.connections_busy_count == 0
            await backend.close()
            for filler in fillers:
                filler.close()

    asyncio.run(main())


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pause_of(breaker: Breaker) -> int:
    with pytest.raises(BackendUnavailable, match=r"\AThe backend cannot be reached") as caught:
        breaker.admit()
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


def test_the_breakers_pause_doubles_and_lets_one_probe_through() -> None:
    seconds = Seconds()
    breaker = Breaker(seconds)
    for _ in range(3):
        breaker.admit()
        breaker.failed()

    pauses = []
    for _ in range(7):
        pauses.append(pause_of(breaker))
        seconds.now += pauses[-1]
        breaker.admit()
        with pytest.raises(BackendUnavailable):
            breaker.admit()
        breaker.failed()

    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_calls_that_fail_together_lengthen_the_pause_once() -> None:
    breaker = Breaker(Seconds())
    for _ in range(64):
        breaker.failed()

    assert pause_of(breaker) == 1


def test_a_probe_that_is_never_used_does_not_close_the_breaker_for_good() -> None:
    seconds = Seconds()
    breaker = Breaker(seconds)
    for _ in range(3):
        breaker.failed()
    seconds.now += 1
    breaker.admit()
    seconds.now += 1

    breaker.admit()


def test_a_success_opens_the_breaker() -> None:
    breaker = Breaker(Seconds())
    for _ in range(3):
        breaker.failed()
    breaker.succeeded()

    breaker.admit()


def gate() -> tuple[Behaviour, asyncio.Event]:
    opened = asyncio.Event()

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await opened.wait()
            await peer.send(http())

    return behave, opened


def test_calls_over_the_bound_are_not_admitted_and_wait_for_a_turn() -> None:
    async def main() -> None:
        behave, opened = gate()
        async with serving(behave) as server:
            backend = Upstream(settings(server, concurrency_max=2, first_byte_timeout_seconds=5))
            backend.admit()
            calls = [asyncio.create_task(backend.chat(HELLO, call_id=f"{n}")) for n in range(4)]
            await asyncio.sleep(0.1)
            with pytest.raises(Overloaded) as caught:
                backend.admit()
            with pytest.raises(Overloaded):
                await backend.chat(HELLO, call_id="fifth")
            assert caught.value.retry_after_seconds == 1
            assert server.connections_count == 2
            opened.set()
            assert len(await asyncio.gather(*calls)) == 4
            backend.admit()
            assert server.connections_count == 2
            await backend.close()

    asyncio.run(main())


def test_a_call_waits_for_its_turn_only_so_long() -> None:
    async def main() -> None:
        behave, opened = gate()
        async with serving(behave) as server:
            backend = Upstream(settings(server, concurrency_max=1, queue_timeout_seconds=0.1))
            first = asyncio.create_task(backend.chat(HELLO, call_id="1"))
            await asyncio.sleep(0.02)
            with pytest.raises(Overloaded):
                await backend.chat(HELLO, call_id="2")
            opened.set()
            assert (await first).text == "Hello."
            await backend.close()

    asyncio.run(main())


async def cancelled_calls(backend: Upstream, calls_count: int) -> None:
    chance = random.Random(7)

    async def one(number: int) -> None:
        call = asyncio.create_task(backend.chat(HELLO, call_id=f"{number}"))
        await asyncio.sleep(chance.random() * 0.01)
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()

    width = 128
    for begin in range(0, calls_count, width):
        await asyncio.gather(*[one(number) for number in range(begin, begin + width)])


def test_two_thousand_cancelled_calls_leak_nothing() -> None:
    async def behave(peer: Peer) -> None:
        answer = http()
        while await peer.request() is not None:
            for piece in (answer[:20], answer[20:90], answer[90:]):
                await asyncio.sleep(0.002)
                await peer.send(piece)

    async def main() -> None:
        async with serving(behave) as server:
            backend = Upstream(settings(server, first_byte_timeout_seconds=5, total_timeout_seconds=10))
            await cancelled_calls(backend, 2048)
            assert backend.connections_busy_count == 0
            assert backend.under_way_count == 0

            healthy = await asyncio.gather(*[backend.chat(HELLO, call_id=f"h{n}") for n in range(64)])
            assert [each.text for each in healthy] == ["Hello."] * 64
            assert backend.connections_busy_count == 0
            await backend.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "ready", "state", "word"),
    [
        (http(b'{"data": [{"id": "small"}]}'), True, "ready", "answers."),
        (http(b'{"data": [{"id": "other"}]}'), True, "unlisted", "model small"),
        (http(b"{}"), True, "ready", "answers."),
        (http(b"{}", status="401 No"), False, "refused", "401"),
        (http(b"{}", status="403 No"), True, "ready", "403"),
        (http(b"{}", status="404 No"), True, "ready", "404"),
        (http(b"{}", status="503 No"), False, "starting", "503"),
        (http(b"{}", status="500 No"), False, "unreachable", "500"),
        (http(b"{}", status="302 Found"), False, "unreachable", "302"),
        (http()[:-5], False, "unreachable", "cannot be used"),
    ],
)
def test_health_says_what_the_backend_says(answer: bytes, ready: bool, state: str, word: str) -> None:
    async def main() -> None:
        async with serving(always(answer, then_close=True)) as server:
            backend = Upstream(settings(server))
            health = await backend.health()
            await backend.close()
            assert (health.ready, health.state) == (ready, state)
            assert word in health.sentence
            assert health.sentence.startswith("The backend ")
            assert server.requests[0][0].startswith(b"GET /v1/models HTTP/1.1\r\n")
            assert KEY not in health.sentence

    asyncio.run(main())


@pytest.mark.parametrize(
    ("base", "status", "state"),
    [
        ("", "404 No", "unlisted"),
        ("/api/", "405 No", "unlisted"),
        ("", "403 No", "ready"),
        ("", "200 OK", "ready"),
        ("/openai/v1/", "404 No", "ready"),
    ],
)
def test_health_says_where_a_url_may_lack_its_end(base: str, status: str, state: str) -> None:
    async def main() -> None:
        async with serving(always(http(b"{}", status=status), then_close=True)) as server:
            backend = Upstream(settings(server, url=server.url.removesuffix("/v1") + base))
            health = await backend.health()
            await backend.close()
            assert (health.ready, health.state) == (True, state)
            assert ("does not end in /v1" in health.sentence) is (state == "unlisted")

    asyncio.run(main())


def test_health_of_nothing_is_unreachable() -> None:
    async def main() -> None:
        backend = Upstream(settings(BackendServer(port=free_port())))
        health = await backend.health()
        await backend.close()
        assert (health.ready, health.state) == (False, "unreachable")

    asyncio.run(main())


def test_health_answers_when_every_turn_is_taken() -> None:
    async def main() -> None:
        opened = asyncio.Event()

        async def behave(peer: Peer) -> None:
            while (got := await peer.request()) is not None:
                if got[0].startswith(b"POST"):
                    await opened.wait()
                await peer.send(http())

        async with serving(behave) as server:
            backend = Upstream(settings(server, concurrency_max=1))
            call = asyncio.create_task(backend.chat(HELLO, call_id="1"))
            await asyncio.sleep(0.05)
            first, second = await asyncio.gather(backend.health(), backend.health())
            opened.set()
            await call
            await backend.close()
            assert first.ready
            assert second.ready

    asyncio.run(main())


def test_closing_ends_what_is_under_way() -> None:
    async def main() -> None:
        behave, _ = gate()
        async with serving(behave) as server:
            backend = Upstream(settings(server))
            call = asyncio.create_task(backend.chat(HELLO, call_id="1"))
            await asyncio.sleep(0.05)
            await backend.close()
            with pytest.raises(UpstreamError):
                await call
            assert backend.connections_busy_count == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://x/v1"},
        {"url": "http:///v1"},
        {"url": "127.0.0.1:8000"},
        {"url": "http://user:secret@host/v1"},
        {"url": "http://host/v1?key=1"},
        {"api_key": "a\r\nb"},
        {"concurrency_max": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backend|at least"):
        BackendSettings(**{"url": "http://host/v1", "model": "m", **changes})


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(BackendSettings("http://host/v1", "m", api_key=KEY))


def test_a_chat_backend_is_a_backend() -> None:
    backend: Backend = Upstream(BackendSettings("http://host/v1", "m"))
    ways: list[Callable[[], Awaitable[Any]]] = [backend.health, backend.close]

    assert len(ways) == 2
