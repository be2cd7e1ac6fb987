"""Stories with a simulated chat backend, and readers of what it sends."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from arkgate.simulator.chat import SimulatedChat

MODEL = "simulated-chat"
TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
Story = Callable[[SimulatedChat, httpx.AsyncClient], Awaitable[None]]


def run(story: Story, **options: Any) -> None:
    async def play() -> None:
        chat = SimulatedChat(**options)
        async with chat.running(), httpx.AsyncClient(base_url=chat.url, timeout=5) as client:
            await story(chat, client)

    asyncio.run(asyncio.wait_for(play(), 20))


def asking(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


async def ask(client: httpx.AsyncClient, content: Any, **fields: Any) -> httpx.Response:
    wish = {"model": MODEL, "messages": asking(content), **fields}
    return await client.post("/chat/completions", json=wish)


def events(answer: httpx.Response) -> list[tuple[str | None, Any]]:
    """The names and the data of a stream's events; `[DONE]` is left as it is."""
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if fields:
            data = fields["data"]
            found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


def chunks(answer: httpx.Response) -> list[Any]:
    """The chunks of OpenAI's stream, which ends with `[DONE]`."""
    *found, (_, last) = events(answer)
    assert last == "[DONE]"
    return [data for _, data in found]


async def raw(chat: SimulatedChat, request: bytes, *, bytes_max: int = 1_000_000) -> tuple[bytes, str]:
    """What comes over a socket until it ends or enough has come; and how: `end`, `reset` or `more`.

    A StreamReader would not do: at a reset it forgets what it has read before.
    """
    loop, got = asyncio.get_running_loop(), b""
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", chat.port))
        await loop.sock_sendall(connection, request)
        try:
            while len(got) < bytes_max:
                part = await asyncio.wait_for(loop.sock_recv(connection, 65536), 5)
                if not part:
                    return got, "end"
                got += part
        except ConnectionResetError:
            return got, "reset"
    return got, "more"


def posted(content: str, *, path: str = "/v1/chat/completions", **fields: Any) -> bytes:
    """A request in bytes."""
    wish = {"model": MODEL, "messages": asking(content), **fields}
    body = json.dumps(wish).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
