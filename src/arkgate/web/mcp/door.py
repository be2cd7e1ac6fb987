"""`/mcp`: who may ask, how much, and the way to the tools.

The tools and the SDK are imported when somebody asks: they would make every start half a second longer.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arkgate.core.errors import ForeignHost, InvalidRequest, Overloaded
from arkgate.web.guard import BODY_BYTES_MAX, read_body
from arkgate.web.llms import MCP_PATH

REQUESTS_MAX: Final = 256
"""How many may be under way at once."""
STRUCTURE_MAX: Final = 65_536
"""Commas and opening brackets in a body: what is read on the event loop must not take long."""
_SDK_SIDE: Final = "arkgate.web.mcp.server"


class McpDoor:
    """Streamable HTTP, stateless: each POST has one answer, as JSON, and there is nothing to wait for."""

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url
        self._host = (urlsplit(public_url).hostname or "").lower()
        self._inside: ASGIApp | None = None
        self._under_way = 0
        self._opened: asyncio.Future[ASGIApp] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    def lead_to(self, inside: ASGIApp) -> None:
        """Says what the tools ask: the public application with its guard, of which this is a part."""
        self._inside = inside

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Ends what serves the tools when the block ends, if anybody asked for them."""
        try:
            yield
        finally:
            self._ended.set()
            if self._keeping is not None:
                await asyncio.gather(self._keeping, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one POST. Raises ForeignHost, PayloadTooLarge, InvalidRequest or Overloaded."""
        refuse_rebound(scope, self._host, self._public_url)
        body = await read_body(receive, scope, maximum=BODY_BYTES_MAX)
        if body.count(b",") + body.count(b"{") + body.count(b"[") > STRUCTURE_MAX:
            raise InvalidRequest("The body has more parts than any request here can have.")
        with self._counted():
            app = await self._app()
            await app(scope, _again(body, receive), send)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._under_way >= REQUESTS_MAX:
            raise Overloaded(
                "Too many tools are called at once. Try again in a second.", retry_after_seconds=1
            )
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _app(self) -> ASGIApp:
        """What serves the tools, made when they are first asked for."""
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = asyncio.get_running_loop().create_future()
            self._keeping = asyncio.create_task(self._keep(self._opened), name="mcp")
        return await asyncio.shield(self._opened)

    async def _keep(self, opened: "asyncio.Future[ASGIApp]") -> None:
        """Holds it open until the end: its tasks belong to the task that opened it."""
        try:
            sdk: Any = await asyncio.to_thread(import_module, _SDK_SIDE)
            async with sdk.over_http(self._inside, self._public_url) as app:
                opened.set_result(app)
                await self._ended.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)


def refuse_rebound(scope: Scope, public_host: str, public_url: str) -> None:
    """Raises ForeignHost for a page of a browser that reached this under a name that is not ours.

    So does a page that had its own name rebound to this address, which the protocol demands to be refused.
    Programs send no Origin. Pages of other sites that ask for us by our name may ask, as everywhere here:
    there is nothing that a browser would add by itself, no cookie and no client certificate.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if b"origin" not in headers:
        return
    host = headers.get(b"host", "").strip().lower()
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name != public_host and "." in name and not _is_address(name):
        raise ForeignHost(
            f"A browser reached this under a name that is not the gateway's: use {public_url}{MCP_PATH}."
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes."""
    is_given = False

    async def given() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return given
