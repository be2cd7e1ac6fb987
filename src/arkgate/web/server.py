"""Runs several applications on their own ports in one event loop, and stops them together."""

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from arkgate.web.protocol import ArkgateHttpProtocol, ProtocolLimits, protocol_with

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 15
FILES_WANTED = 32_768
CANCEL_SECONDS = 1.0
"""How long cancelled requests may take to clean up behind themselves."""


class CannotListen(RuntimeError):  # noqa: N818 - a sentence for the operator
    """An address cannot be listened on; says why and what to do."""


class PortTaken(CannotListen):
    """Another program listens there."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An application and the bound socket that it answers on."""

    app: Any
    """An ASGI 3 application."""
    socket: socket.socket
    protocol: type[HttpToolsProtocol] = ArkgateHttpProtocol
    leaving: Callable[[], None] = lambda: None
    """Called when the server stops: ends what would otherwise last until it is cancelled."""


def protocol_for_this_process(body_bytes_max: int = 0) -> type[HttpToolsProtocol]:
    """A protocol whose connections leave files for everything else; raises the soft limit first.

    `body_bytes_max` is the largest body that any route takes; a route says so in a better sentence.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_WANTED:
        wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    connections_max = max(64, min(ProtocolLimits().connections_max, soft // 2))
    return protocol_with(limits_for(body_bytes_max, connections_max=connections_max))


def limits_for(body_bytes_max: int, *, connections_max: int) -> ProtocolLimits:
    """Limits that let the largest body of any route through to it."""
    usual = ProtocolLimits()
    bytes_max = max(usual.body_bytes_max, body_bytes_max + 64 * 1024)
    return ProtocolLimits(body_bytes_max=bytes_max, connections_max=connections_max)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises CannotListen.

    It listens at once: with SO_REUSEADDR two programs may bind the same port, and only the second
    `listen` fails. Clients that come before `serve` wait in the backlog.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise _why(exc, host, port) from exc
    listening.setblocking(False)
    return listening


async def serve(listeners: Sequence[Listener], *, stop: asyncio.Event, grace_seconds: float) -> None:
    """Serves until `stop` is set, then takes no more and waits for what is under way.

    After `grace_seconds` open requests are cancelled. The sockets are closed in every case.
    """
    servers = [_Server(_config(listener, grace_seconds)) for listener in listeners]
    try:
        async with asyncio.TaskGroup() as group:
            for server, listener in zip(servers, listeners, strict=True):
                group.create_task(server.serve(sockets=[listener.socket]))
            await stop.wait()
            for server, listener in zip(servers, listeners, strict=True):
                listener.leaving()
                server.should_exit = True
        await _wait_for_cancelled(servers)
    finally:
        for server in servers:
            server.stop_listening()
        for listener in listeners:
            listener.socket.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: one program has one place that knows how it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop_listening(self) -> None:
        """Does nothing after a regular end; after a cancelled one the event loop lets the sockets go."""
        for listening in getattr(self, "servers", ()):
            listening.close()


def _config(listener: Listener, grace_seconds: float) -> uvicorn.Config:
    config = uvicorn.Config(
        listener.app,
        loop="none",
        http=listener.protocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    # Annotated as whole seconds, used as seconds.
    config.timeout_graceful_shutdown = grace_seconds  # type: ignore[assignment]
    return config


async def _wait_for_cancelled(servers: Sequence[_Server]) -> None:
    """uvicorn cancels what is over its time and leaves; whoever closes a database next must not."""
    tasks = [task for server in servers for task in server.server_state.tasks]
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


def _why(exc: OSError, host: str, port: int) -> CannotListen:
    if exc.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {port} on {host} is taken by another program: stop it, or choose another port"
        )
    if exc.errno in (errno.EACCES, errno.EPERM):
        return CannotListen(f"this user may not listen on port {port}: choose one above 1023")
    return CannotListen(f"{host} is not an address of this machine: choose another host")
