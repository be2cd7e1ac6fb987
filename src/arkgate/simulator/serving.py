"""Ports on the loopback interface, and ASGI applications that are served on them inside this process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"


def target_of(request: Request) -> str:
    """The path and the query as they came, undecoded."""
    target = bytes(request.scope["raw_path"])
    query = bytes(request.scope["query_string"])
    return (target + b"?" + query if query else target).decode("latin-1")


def headers_of(request: Request) -> tuple[tuple[str, str], ...]:
    """The headers as they came, repetitions included; their names in lower case."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)


class PortTaken(OSError):  # noqa: N818
    """A port that the simulator was told to listen on is in use."""

    def __init__(self, port: int, purpose: str) -> None:
        super().__init__(
            f"port {port}, which is for {purpose}, is in use: stop what listens there, or set another"
        )
        self.port = port


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs the simulator."""
        yield


@contextlib.asynccontextmanager
async def serving(
    application: ASGIApp, *, port: int, purpose: str, names_server: bool = True
) -> AsyncIterator[int]:
    """Serves the application until the block ends; gives the port, also when 0 was asked for.

    Answers have uvicorn's `Server` header unless the application writes its own.
    """
    listener = _listen(port, purpose)
    # The simulated services close connections rudely on purpose; uvicorn would report each one.
    config = uvicorn.Config(
        application,
        log_level="critical",
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=names_server,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=purpose)
    try:
        while not server.started and not task.done():  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield int(listener.getsockname()[1])
    finally:
        await _stop(server, task)
        listener.close()


async def _stop(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    """Breaks off what is open: uvicorn's own way waits for answers, and simulated hangs never end."""
    calls = list(server.server_state.tasks)
    for open_task in (task, *calls):
        open_task.cancel()
    await asyncio.gather(task, *calls, return_exceptions=True)
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        if connection.transport is not None:
            connection.transport.abort()


def _listen(port: int, purpose: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(1024)
    except OSError as exc:
        listener.close()
        raise PortTaken(port, purpose) from exc
    return listener
