"""The outermost ASGI layer: request id, common headers, preflights, and one place that answers refusals."""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arkgate.core.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Refusal,
    bare,
)
from arkgate.core.ids import random_bits
from arkgate.gateway.bodies import UNWEIGHED_BYTES
from arkgate.web.errors import public_sentence, refusal_response, style_of
from arkgate.web.respond import raw_response

log = structlog.get_logger()
BODY_BYTES_MAX = 1024 * 1024
WEIGHED_AT_ONCE_BYTES = 1024 * 1024
"""How much more is asked for when a body goes on that did not state its length."""
Weigh = Callable[[int], Awaitable[None]]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
_EXPOSED = (
    b"WWW-Authenticate, X-Request-Id, X-Cost-Sats, X-Balance-Sats, X-Credit-Balance, X-RateLimit-Limit, "
    b"X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, "
    b"X-RateLimit-Reset-Requests, X-Concurrency-Limit, X-Concurrency-Remaining, Retry-After, "
    b"X-Should-Retry, X-Cache, Idempotent-Replayed"
)
_ALLOWED = (
    b"Authorization, Content-Type, Idempotency-Key, X-Request-Id, Accept-Authenticate, "
    b"Grpc-Metadata-Macaroon, X-Api-Key, Anthropic-Version, Anthropic-Beta, "
    b"Anthropic-Dangerous-Direct-Browser-Access, OpenAI-Organization, OpenAI-Project, X-Stainless-Arch, "
    b"X-Stainless-Lang, X-Stainless-OS, X-Stainless-Package-Version, X-Stainless-Retry-Count, "
    b"X-Stainless-Runtime, X-Stainless-Runtime-Version, X-Stainless-Timeout, X-Stainless-Helper-Method, "
    b"Mcp-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name, Last-Event-ID"
)
COMMON_HEADERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", _EXPOSED),
    (b"x-content-type-options", b"nosniff"),
)
PREFLIGHT_HEADERS: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (
        b"access-control-allow-headers",
        _ALLOWED,
    ),
    (b"access-control-max-age", b"86400"),
)


@dataclass(slots=True)
class Arrival:
    """What the guard knows of a request; endpoints find it under `scope["state"]["arrival"]`."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the request arrived, rounded."""
        return round((time.perf_counter() - self.started) * 1000)


class Guard:
    """Wraps the public application. Plain ASGI, because everything here is on the paid path."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        public_url: str,
        answered: Callable[[int], None],
        append_token: bool = False,
        refusal_page: Callable[[Refusal, Scope, str], Awaitable[Response]] | None = None,
    ) -> None:
        """`refusal_page` makes what a browser shows of a refusal of that request with that id."""
        self._app = app
        self._answered = answered
        self._public_url = public_url
        self._append_token = append_token
        self._refusal_page = refusal_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one HTTP request; other scopes are not served."""
        if scope["type"] != "http":
            return
        arrival = _arrival(scope)
        scope.setdefault("state", {})["arrival"] = arrival
        scope["app"] = self._app  # the router raises its 404 and 405 only inside an application
        request_id = arrival.request_id.encode()
        own_headers = [(b"x-request-id", request_id)]
        if scope["path"] == "/v1/messages":
            own_headers.append((b"request-id", request_id))  # what Anthropic's clients read
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._answered(message["status"])
                message["headers"] = [*message["headers"], *own_headers, *COMMON_HEADERS]
            await send(message)

        if scope["method"] == "OPTIONS":
            await raw_response(b"", status=204, headers=PREFLIGHT_HEADERS)(scope, receive, send_with_headers)
            return
        refusal: Refusal | None = None
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            refusal = _as_refusal(error, scope)
            if started:
                raise
            bare(refusal)
        if refusal is not None:
            response = await self._refused(refusal, scope, arrival)
            await response(scope, receive, send_with_headers)

    async def _refused(self, refusal: Refusal, scope: Scope, arrival: Arrival) -> Response:
        response = refusal_response(
            refusal,
            request_id=arrival.request_id,
            endpoint=scope["path"],
            public_url=self._public_url,
            response_ms=arrival.elapsed_ms,
            append_token=self._append_token,
            style=style_of(scope["path"]),
        )
        if self._refusal_page is None or not wants_page(scope):
            return response
        page = await self._refusal_page(refusal, scope, arrival.request_id)
        kept = [pair for pair in response.raw_headers if pair[0] not in _OF_A_BODY]
        page.raw_headers = [*page.raw_headers, *kept]
        return page


_OF_A_BODY: Final = (b"content-type", b"content-length", b"cache-control")


def wants_page(scope: Scope) -> bool:
    """Whether a request comes from a browser that shows what it gets: programs do not ask for HTML."""
    return any(name == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"])


def _arrival(scope: Scope) -> Arrival:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return Arrival(value.decode())
    return Arrival(f"{random_bits(96):024x}")


def _as_refusal(error: Exception, scope: Scope) -> Refusal:
    if isinstance(error, Refusal):
        if public_sentence(error) is not None:
            log.warning("a request met a dependency that failed", code=error.reason, reason=error.message)
        return error
    if isinstance(error, HTTPException):
        path, method = scope["path"][:200], scope["method"]
        if error.status_code == 404:
            return NotFound(f"There is nothing at {path}. GET /v1/catalog lists what is on offer.")
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed(f"{path} does not answer to {method}; use {allowed}.", allowed=allowed)
    log.exception("a request failed", path=scope["path"], method=scope["method"])
    return InternalError(
        "The gateway failed. Nothing was charged; the operator can find this request by its id."
    )


async def read_body(
    receive: Receive, scope: Scope, *, maximum: int = BODY_BYTES_MAX, weigh: Weigh | None = None
) -> bytes:
    """The request's body. Raises PayloadTooLarge before more than `maximum` bytes are kept.

    `weigh` is told how much there will be before more than UNWEIGHED_BYTES are kept, and may refuse.
    Raises InvalidRequest when the client left before it was complete: what came may well be a request,
    but not the one that was meant.
    """
    message = await _receive(receive)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > maximum:
            raise _too_large(maximum)
        return body
    chunks, size = [body], len(body)
    weighed = max(_stated_length(scope), UNWEIGHED_BYTES)
    if weighed > maximum > UNWEIGHED_BYTES:
        raise _too_large(maximum)
    if weigh is not None and weighed > UNWEIGHED_BYTES:
        await weigh(weighed)
    while message.get("more_body", False):
        if size > maximum:
            raise _too_large(maximum)
        if weigh is not None and size > weighed:
            weighed = size + WEIGHED_AT_ONCE_BYTES
            await weigh(weighed)
        message = await _receive(receive)
        chunk = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
    if size > maximum:
        raise _too_large(maximum)
    return b"".join(chunks)


def _stated_length(scope: Scope) -> int:
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise InvalidRequest("The connection ended before the body was complete.")
    return message


def _too_large(maximum: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {maximum} bytes.")
