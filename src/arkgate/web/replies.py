"""Charged answers as HTTP: whole ones, stored ones, and streams while they come."""

import asyncio

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from arkgate.core.money import whole_sats
from arkgate.gateway.fetch import BrokenStream, Follower
from arkgate.gateway.serve import Reply
from arkgate.web.guard import Arrival
from arkgate.web.respond import Headers, json_response, raw_response, standing_headers

EVENT_STREAM = "text/event-stream"
OCTETS = "application/octet-stream"
"""What an answer without a type is."""
HEARTBEAT = b": still working\n\n"
_STREAM_HEADERS = (
    (b"x-accel-buffering", b"no"),  # nginx buffers answers unless they say this
    (b"cache-control", b"private, no-store, no-transform"),
)


async def respond(
    reply: Reply, path: str | None, arrival: Arrival, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answers with a reply; returns when all of it is sent, or its reader has left."""
    if reply.stream is not None:
        await _stream(reply, reply.stream, receive, send)
    else:
        await whole_response(reply, path, arrival)(scope, receive, send)


def whole_response(reply: Reply, path: str | None, arrival: Arrival) -> Response:
    """A charged answer that is here, with what it cost and what is left."""
    headers = _told(reply)
    if reply.is_data:
        return json_response(_envelope(reply, path, arrival), headers=[*headers, _PRIVATE])
    content_type = reply.head.content_type or OCTETS
    more = _STREAM_HEADERS if content_type.startswith(EVENT_STREAM) else (_PRIVATE,)
    return raw_response(
        reply.body,
        status=reply.head.status,
        headers=[(b"content-type", content_type.encode("latin-1")), *_further(reply), *headers, *more],
    )


_PRIVATE = (b"cache-control", b"private, no-store")


def _envelope(reply: Reply, path: str | None, arrival: Arrival) -> dict[str, object]:
    """The answer as ArkAPI shapes it."""
    assert reply.call_cost is not None
    body: dict[str, object] = {
        "success": True,
        "data": orjson.Fragment(reply.body),
        "cost_sats": whole_sats(reply.call_cost, asked_for=True),
        "balance_remaining": whole_sats(reply.standing.balance.available),
        "response_ms": arrival.elapsed_ms,
        "endpoint": path,
        "request_id": reply.request_id,
        "cached": reply.cached,
    }
    if reply.replayed:
        body["replayed"] = True
    return body


def _told(reply: Reply) -> Headers:
    headers = standing_headers(reply.standing)
    if reply.cost is not None:
        headers.append((b"x-cost-sats", str(whole_sats(reply.cost, asked_for=True)).encode()))
    if reply.cached:
        headers.append((b"x-cache", b"HIT"))
    if reply.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return headers


def _further(reply: Reply) -> Headers:
    return [(name, value) for name, value in reply.head.headers if name.lower() != b"content-type"]


async def _stream(reply: Reply, follower: Follower, receive: Receive, send: Send) -> None:
    """Sends what comes as it comes. A reader who leaves is noticed at once, also between two pieces."""
    content_type = reply.head.content_type or OCTETS
    is_events = content_type.startswith(EVENT_STREAM)
    more = _STREAM_HEADERS if is_events else (_PRIVATE,)
    headers = [(b"content-type", content_type.encode("latin-1")), *_further(reply), *_told(reply), *more]
    await send({"type": "http.response.start", "status": reply.head.status, "headers": headers})
    watching = asyncio.create_task(_leave_with(receive, follower))
    pieces = follower.pieces(HEARTBEAT if is_events else b"")
    try:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not follower.has_left:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except BrokenStream:
        return  # the server closes the connection of an answer that was not ended
    finally:
        await pieces.aclose()
        watching.cancel()


async def _leave_with(receive: Receive, follower: Follower) -> None:
    """Notes when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    follower.leave()
