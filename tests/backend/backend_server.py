"""A backend on a real socket that answers exactly as a test tells it to."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

COMPLETION = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "model": "small-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
)


def http(
    body: bytes = COMPLETION,
    *,
    status: str = "200 OK",
    headers: tuple[str, ...] = (),
    length: int | None = None,
) -> bytes:
    """An answer with a Content-Length, a wrong one if told so."""
    stated = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {stated}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Peer:
    """One accepted connection, from the server's side."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Counts connections from 1."""

    async def request(self) -> tuple[bytes, bytes] | None:
        """Head and body of the next request; None at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class BackendServer:
    """What a test can see and change."""

    port: int = 0
    connections_count: int = 0
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def always(answer: bytes, *, then_close: bool = False) -> Behaviour:
    """Answers every request on a connection with the same bytes."""

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(answer)
            if then_close:
                break

    return behave


@asynccontextmanager
async def serving(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[BackendServer]:
    """Runs the server; what still hangs at the end is cancelled."""
    state = BackendServer()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        state.tasks.add(task)
        state.connections_count += 1
        peer = _Recording(reader, writer, state.connections_count, state)
        try:
            await behave(peer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            state.tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, backlog=1024)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.sleep(0)


@dataclass
class _Recording(Peer):
    state: BackendServer

    async def request(self) -> tuple[bytes, bytes] | None:
        got = await super().request()
        if got is not None:
            self.state.requests.append(got)
        return got
