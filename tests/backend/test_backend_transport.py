"""The transport on its own: its pool, its streams, TLS, and both event loops."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from arkgate.backend.transport import PooledTransport, TransportLimits, complete, encode_head
from arkgate.backend.upstream import BackendSettings, Upstream
from arkgate.core.errors import UpstreamError
from arkgate.ports import ChatMessage
from tests.backend.backend_server import COMPLETION, BackendServer, Peer, always, http, serving


def post(server: BackendServer, body: bytes = b"{}") -> httpx.Request:
    return httpx.Request("POST", f"{server.url}/x", content=body)


async def read(transport: PooledTransport, request: httpx.Request) -> bytes:
    response = await transport.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def in_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)

    return in_loop


def test_it_serves_httpxs_own_client(run: Any) -> None:
    async def main() -> None:
        async with serving(always(http())) as server:
            transport = PooledTransport(server.url)
            async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
                answers = [await client.post(f"{server.url}/x", json={"n": n}) for n in range(3)]
            assert [answer.content for answer in answers] == [COMPLETION] * 3
            assert server.connections_count == 1
            assert transport.open_count == 0

    run(main())


def test_another_origin_is_refused() -> None:
    async def main() -> None:
        transport = PooledTransport("http://127.0.0.1:9")
        for url in ("http://127.0.0.1:8/", "https://127.0.0.1:9/", "http://localhost:9/"):
            with pytest.raises(httpx.UnsupportedProtocol):
                await transport.handle_async_request(httpx.Request("GET", url))
        assert transport.open_count == 0

    asyncio.run(main())


@pytest.mark.parametrize("url", ["ftp://host", "unix:///x", "host:80", "http://"])
def test_an_origin_is_http(url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        PooledTransport(url)


def test_head_is_refused_because_its_answer_is_framed_differently() -> None:
    async def main() -> None:
        transport = PooledTransport("http://127.0.0.1:9")
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(httpx.Request("HEAD", "http://127.0.0.1:9/"))

    asyncio.run(main())


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nX: 1", "a\rX: 1", "a\0"])
def test_control_characters_never_reach_the_wire(value: str) -> None:
    async def main() -> None:
        async with serving(always(http())) as server:
            transport = PooledTransport(server.url)
            request = httpx.Request("GET", server.url, headers={"X-Canary": value})
            with pytest.raises(httpx.LocalProtocolError):
                await transport.handle_async_request(request)
            assert server.connections_count == 0

    asyncio.run(main())


def test_the_connection_that_worked_last_is_taken_first() -> None:
    async def main() -> None:
        peers: list[int] = []

        async def behave(peer: Peer) -> None:
            while await peer.request() is not None:
                peers.append(peer.number)
                await asyncio.sleep(0.01)
                await peer.send(http())

        async with serving(behave) as server:
            transport = PooledTransport(server.url)
            await asyncio.gather(*[read(transport, post(server)) for _ in range(8)])
            assert transport.open_count == 8
            last = peers[-1]
            for _ in range(5):
                await read(transport, post(server))
            assert peers[8:] == [last] * 5
            await transport.aclose()

    asyncio.run(main())


def test_a_request_over_the_bound_is_refused_at_once() -> None:
    async def main() -> None:
        opened = asyncio.Event()

        async def behave(peer: Peer) -> None:
            while await peer.request() is not None:
                await opened.wait()
                await peer.send(http())

        async with serving(behave) as server:
            transport = PooledTransport(server.url, limits=TransportLimits(connections_max=2))
            busy = [asyncio.create_task(read(transport, post(server))) for _ in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(httpx.PoolTimeout):
                await read(transport, post(server))
            opened.set()
            await asyncio.gather(*busy)
            assert await read(transport, post(server)) == COMPLETION
            await transport.aclose()

    asyncio.run(main())


def test_connections_with_nothing_to_do_are_closed_in_time(run: Any) -> None:
    async def main() -> None:
        async with serving(always(http())) as server:
            transport = PooledTransport(server.url, limits=TransportLimits(keepalive_seconds=0.1))
            await asyncio.gather(*[read(transport, post(server)) for _ in range(4)])
            assert (transport.open_count, transport.busy_count) == (4, 0)
            await asyncio.sleep(0.25)
            assert transport.open_count == 0

    run(main())


def test_a_connection_that_the_backend_closes_leaves_the_pool() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(http())

    async def main() -> None:
        async with serving(behave) as server:
            transport = PooledTransport(server.url)
            await read(transport, post(server))
            await asyncio.sleep(0.05)
            assert transport.open_count == 0

    asyncio.run(main())


def test_a_slow_reader_holds_the_backend_back_and_misses_nothing(run: Any) -> None:
    body = bytes(range(256)) * 32 * 1024
    written = 0

    async def behave(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        answer = http(body)
        for begin in range(0, len(answer), 65536):
            await peer.send(answer[begin : begin + 65536])
            written = begin
        await asyncio.sleep(5)

    async def main() -> None:
        limits = TransportLimits(body_bytes_max=len(body), idle_timeout_seconds=0.2)
        async with serving(behave) as server:
            transport = PooledTransport(server.url, limits=limits)
            response = await transport.handle_async_request(post(server))
            await asyncio.sleep(0.5)  # longer than the idle time: the pause is the reader's
            assert written < len(body) - 65536
            stream = response.stream
            assert isinstance(stream, httpx.AsyncByteStream)
            assert b"".join([part async for part in stream]) == body
            assert transport.busy_count == 0
            await transport.aclose()

    run(main())


def test_a_stream_that_is_closed_early_closes_its_connection() -> None:
    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(http(length=len(COMPLETION) + 100))

    async def main() -> None:
        async with serving(behave) as server:
            transport = PooledTransport(server.url)
            response = await transport.handle_async_request(post(server))
            assert transport.busy_count == 1
            await response.aclose()
            assert transport.open_count == 0

    asyncio.run(main())


def test_a_stall_right_after_the_first_byte_is_noticed_before_the_first_byte_timeout() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(http()[:-1])
        await asyncio.sleep(5)

    async def main() -> None:
        limits = TransportLimits(first_byte_timeout_seconds=5, idle_timeout_seconds=0.1)
        async with serving(behave) as server:
            transport = PooledTransport(server.url, limits=limits)
            async with asyncio.timeout(1):
                with pytest.raises(httpx.ReadTimeout):
                    await read(transport, post(server))
            assert transport.open_count == 0

    asyncio.run(main())


def test_cancelling_at_every_point_frees_the_slot(run: Any) -> None:
    async def behave(peer: Peer) -> None:
        answer = http()
        while await peer.request() is not None:
            for piece in (answer[:10], answer[10:80], answer[80:]):
                await asyncio.sleep(0.001)
                await peer.send(piece)

    async def main() -> None:
        async with serving(behave) as server:
            transport = PooledTransport(server.url, limits=TransportLimits(connections_max=8))
            for turns_count in range(60):
                tasks = [asyncio.create_task(read(transport, post(server))) for _ in range(8)]
                for _ in range(turns_count // 2):
                    await asyncio.sleep(0.0002)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert transport.busy_count == 0
            assert (
                await asyncio.gather(*[read(transport, post(server)) for _ in range(8)]) == [COMPLETION] * 8
            )
            await transport.aclose()

    run(main())


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A certificate that signs itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "backend")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def test_tls_with_an_authority_of_ones_own(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(always(http()), tls=certificate(tmp_path, "127.0.0.1")) as server:
            url = server.url.replace("http:", "https:")
            backend = Upstream(BackendSettings(url, "m", ca_file=str(tmp_path / "ca.pem")))
            for _ in range(3):
                assert (await backend.chat([ChatMessage("user", "x")], call_id="c")).text == "Hello."
            assert server.connections_count == 1
            await backend.close()

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_does_not_verify_is_no_backend(run: Any, tmp_path: Path, trusted: bool) -> None:
    async def main() -> None:
        tls = certificate(tmp_path, "127.0.0.2" if trusted else "127.0.0.1")
        async with serving(always(http()), tls=tls) as server:
            url = server.url.replace("http:", "https:")
            backend = Upstream(
                BackendSettings(url, "m", ca_file=str(tmp_path / "ca.pem") if trusted else None)
            )
            with pytest.raises(UpstreamError):
                await backend.chat([ChatMessage("user", "x")], call_id="c")
            assert server.requests == []
            assert backend.connections_busy_count == 0
            await backend.close()

    run(main())


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_connection_whose_request_was_not_read_is_not_used_again(
    run: Any, tmp_path: Path, *, over_tls: bool
) -> None:
    """The answer came all the same, and is a good one."""

    async def early(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(http())
        if peer.number == 1:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(30)

    async def main() -> None:
        tls = certificate(tmp_path, "127.0.0.1") if over_tls else None
        async with serving(early, tls=tls) as server:
            ours = ssl.create_default_context(cafile=tmp_path / "ca.pem") if over_tls else None
            transport = PooledTransport(
                server.url.replace("http:", "https:") if tls else server.url, ssl_context=ours
            )
            head = encode_head("POST", b"/", [(b"Host", b"x")])
            async with asyncio.timeout(10):
                for body in (bytes(32 * 1024 * 1024), b"short"):
                    exchange = await transport.exchange(complete(head, body))
                    assert await exchange.read() == COMPLETION
            assert server.connections_count == 2
            await transport.aclose()

    run(main())
