"""Finds every await at which a client can leave: counts how often a request, with all its tasks, waits."""

import asyncio
import contextlib
import types
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Watch:
    """Counts the suspensions of one request, and does something at the n-th of them."""

    def __init__(self, at: int, leave: Callable[[], None]) -> None:
        self._at = at
        self._leave = leave
        self.count = 0
        self.tasks: list[asyncio.Task[Any]] = []
        """What the request started, itself included where it is a task."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the request runs any more."""
        return all(task.done() for task in self.tasks)

    @property
    def left(self) -> bool:
        """Whether there was an n-th one."""
        return self.count >= self._at

    def suspended(self) -> None:
        """One part of the request begins to wait. What follows happens while it does."""
        self.count += 1
        if self.count == self._at:
            asyncio.get_running_loop().call_soon(self._leave)


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@types.coroutine
def _counted(coroutine: Coroutine[Any, Any, Any], watch: Watch) -> Generator[Any, Any, Any]:
    step, argument = coroutine.send, None
    while True:
        try:
            awaited = step(argument)
        except StopIteration as end:
            return end.value
        watch.suspended()
        try:
            step, argument = coroutine.send, (yield awaited)
        except BaseException as error:  # noqa: BLE001 - a cancellation is what this is about
            step, argument = coroutine.throw, error


async def _driven(coroutine: Coroutine[Any, Any, Any], watch: Watch) -> object:
    return await _counted(coroutine, watch)


@contextlib.contextmanager
def tasks_counted() -> Iterator[None]:
    """While the block lasts, a task that a watched request starts belongs to the request."""

    def make(loop: Any, coroutine: Any, **options: Any) -> Any:
        watch = _watch.get()
        if watch is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        task = asyncio.Task(_driven(coroutine, watch), loop=loop, **options)
        watch.tasks.append(task)
        return task

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(None)


class Asked:
    """One `POST`, as the application is asked for it and as it goes over a socket."""

    def __init__(self, path: str, headers: Mapping[str, str], body: object) -> None:
        self.path = path
        self.headers = {**headers, "content-type": "application/json"}
        self.content = orjson.dumps(body)

    def scope(self) -> Scope:
        """The request for an application without a server."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in self.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

    def on_the_wire(self) -> bytes:
        """The request's bytes; the connection ends with its answer."""
        lines = {"host": "a", "connection": "close", "content-length": str(len(self.content))}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **self.headers}.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.content


@dataclass(frozen=True, slots=True)
class Left:
    """How it went: the status is there when there was no n-th await to leave at."""

    watch: Watch
    status: int | None


async def cancelled_at(
    application: ASGIApp, asked: Asked, number: int, *, cancel: Callable[[], None] | None = None
) -> Left:
    """Asks, and cancels the request, or something else, while it waits for the n-th time."""
    statuses: list[int] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": asked.content, "more_body": False}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    def leave() -> None:
        task.cancel()

    watch = Watch(number, cancel or leave)
    token = _watch.set(watch)
    call = application(asked.scope(), receive, send)
    assert asyncio.iscoroutine(call)
    task = asyncio.create_task(call)
    _watch.reset(token)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return Left(watch, None if watch.left else statuses[0])


class Watched:
    """Around an application: watches the next request that comes over a socket."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self.watch: Watch | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        watch, self.watch = self.watch, None
        call = self._application(scope, receive, send)
        if watch is None:
            await call
        else:
            assert asyncio.iscoroutine(call)
            _watch.set(watch)
            task = asyncio.current_task()
            assert task is not None
            watch.tasks.append(task)
            await _counted(call, watch)


async def hung_up_at(watched: Watched, port: int, asked: Asked, number: int) -> Left:
    """Asks over a socket, and cuts it while the request waits for the n-th time. As `cancelled_at`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    watch = watched.watch = Watch(number, writer.transport.abort)
    writer.write(asked.on_the_wire())
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    return Left(watch, None if watch.left else int(answer.split(b" ", 2)[1]))
