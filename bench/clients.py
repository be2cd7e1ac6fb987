"""What a request costs beside idle pooled connections, for clients of the backend that could be taken.

    python -m bench.clients

One request after the other; CPU of this process for each. Clients that are not installed are left out:
install aiohttp or httpx2 beside the others to see them.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import uvloop

from arkgate.backend.transport import PooledTransport, TransportLimits, complete, encode_head
from bench.servers import instant_backend

IDLE = (1, 8, 64, 256)
REQUESTS = 300
PORT = 18_470
BODY = b'{"messages": [{"role": "user", "content": "Hello"}]}'
HEADERS = {"Content-Type": "application/json"}
Ask = Callable[[], Awaitable[int]]
Opened = Callable[[str, int], "contextlib.AbstractAsyncContextManager[Ask]"]


@contextlib.asynccontextmanager
async def ours(url: str, connections: int) -> AsyncIterator[Ask]:
    """The protocol on httptools, as the gateway uses it."""
    origin = httpx.URL(url)
    transport = PooledTransport(origin, limits=TransportLimits(connections_max=connections))
    head = encode_head("POST", origin.raw_path, [(b"Host", origin.netloc)])

    async def ask() -> int:
        exchange = await transport.exchange(complete(head, BODY))
        return sum([len(part) async for part in exchange])

    yield ask
    await transport.aclose()


@contextlib.asynccontextmanager
async def ours_under_httpx(url: str, connections: int) -> AsyncIterator[Ask]:
    """The same under httpx's client."""
    transport = PooledTransport(url, limits=TransportLimits(connections_max=connections))
    async with httpx.AsyncClient(transport=transport) as client:
        yield lambda: _asked(client, url)


@contextlib.asynccontextmanager
async def httpx_itself(url: str, connections: int) -> AsyncIterator[Ask]:
    """httpx with its own pool."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        yield lambda: _asked(client, url)


@contextlib.asynccontextmanager
async def httpx2_itself(url: str, connections: int) -> AsyncIterator[Ask]:
    """httpx's successor with its own pool."""
    httpx2: Any = importlib.import_module("httpx2")
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:
        yield lambda: _asked(client, url)


@contextlib.asynccontextmanager
async def aiohttp_itself(url: str, connections: int) -> AsyncIterator[Ask]:
    """aiohttp with its own pool."""
    aiohttp: Any = importlib.import_module("aiohttp")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:

        async def ask() -> int:
            async with session.post(url, data=BODY, headers=HEADERS) as answer:
                return len(await answer.read())

        yield ask


async def _asked(client: Any, url: str) -> int:  # noqa: ANN401 - one of two libraries'
    return len((await client.post(url, content=BODY, headers=HEADERS)).content)


CLIENTS: dict[str, tuple[str, Opened]] = {
    "protocol on httptools": ("httptools", ours),
    "the same under httpx's client": ("httpx", ours_under_httpx),
    "aiohttp": ("aiohttp", aiohttp_itself),
    "httpx2": ("httpx2", httpx2_itself),
    "httpx": ("httpx", httpx_itself),
}


async def _cost(opened: Opened, url: str, idle: int) -> float:
    """CPU of one request in microseconds, when so many connections are open and free."""
    async with opened(url, idle) as ask:
        await asyncio.gather(*(ask() for _ in range(idle)))
        rounds = []
        for _ in range(3):
            before = time.process_time()
            for _ in range(REQUESTS):
                await ask()
            rounds.append((time.process_time() - before) / REQUESTS * 1e6)
        return statistics.median(rounds)


def main() -> None:
    """Measures and prints."""
    present = {
        name: opened
        for name, (module, opened) in CLIENTS.items()
        if importlib.util.find_spec(module) is not None
    }
    with tempfile.TemporaryDirectory() as name, instant_backend(Path(name), PORT) as backend:
        print(f"{'CPU us a request, idle connections:':36}" + "".join(f"{idle:>9}" for idle in IDLE))
        for words, opened in present.items():
            costs = [uvloop.run(_cost(opened, f"{backend}/chat/completions", idle)) for idle in IDLE]
            print(f"{words:36}" + "".join(f"{cost:9.0f}" for cost in costs), flush=True)
    left_out = ", ".join(name for name in CLIENTS if name not in present)
    if left_out:
        print(f"not installed: {left_out}", file=sys.stderr)


if __name__ == "__main__":
    main()
