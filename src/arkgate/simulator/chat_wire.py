"""The connection beneath an answer, for faults that no HTTP server would commit by itself."""

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLL_SECONDS = 0.001
_POLLS_MAX = 30_000


class Wire:
    """One connection, written to directly."""

    def __init__(self, cycle: Any) -> None:  # noqa: ANN401  uvicorn's own, which has no public type
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport

    @property
    def is_closed(self) -> bool:
        """Whether either side has closed."""
        return self._transport.is_closing() or bool(self._cycle.disconnected)

    async def write(self, data: bytes) -> None:
        """Sends bytes as they are; waits while the reader is slow."""
        if self.is_closed:
            return
        self._transport.write(data)
        if self._cycle.flow.write_paused and not self._cycle.disconnected:
            await self._cycle.flow.drain()

    def close(self) -> None:
        """Ends the connection politely, after what is written."""
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once; what is not sent yet is lost."""
        self._transport.abort()

    async def reset(self) -> None:
        """Sends what is written, then a TCP reset. The reader gets every byte before it."""
        for _ in range(_POLLS_MAX):
            if self.is_closed or not self._unsent():
                break
            await asyncio.sleep(_POLL_SECONDS)
        connection = self._transport.get_extra_info("socket")
        if not self.is_closed and connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _unsent(self) -> int:
        """Bytes that the other side's kernel does not have yet."""
        connection = self._transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return 0
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return self._transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])

    def cut_after(self, size: int) -> "Cut":
        """From now on, only so many bytes of what the server writes go out."""
        cut = Cut(self._transport, size)
        self._cycle.transport = cut
        return cut


class Cut:
    """Stands between the server and its transport, and lets a number of bytes through."""

    def __init__(self, transport: asyncio.Transport, size: int) -> None:
        self._transport = transport
        self._left = size

    @property
    def is_full(self) -> bool:
        """Whether no byte more goes out."""
        return self._left == 0

    def write(self, data: bytes) -> None:
        """Passes on as much as may still go out."""
        part = data[: self._left]
        self._left -= len(part)
        if part:
            self._transport.write(part)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever a transport has
        return getattr(self._transport, name)


def with_transport(application: ASGIApp) -> ASGIApp:
    """Shows the application its connection, so that it can break it.

    uvicorn's `send` is a method of what knows the connection; Starlette's layers would hide that.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await application({**scope, "wire": Wire(getattr(send, "__self__", None))}, receive, send)

    return wrapped


async def until_gone(receive: Receive) -> None:
    """Waits for the end of the connection: uvicorn answers 500 for an application that ends before it."""
    message: Message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
