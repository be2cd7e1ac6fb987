"""The same server and the same client of the backend without anything between: no money, no metering."""

import os

import httpx
from starlette.types import Receive, Scope, Send

from arkgate.backend.transport import PooledTransport, TransportLimits, complete, encode_head

ORIGIN = httpx.URL(os.environ.get("BENCH_BACKEND", "http://127.0.0.1:1"))
LIMITS = TransportLimits(connections_max=4096, body_bytes_max=16 * 1024 * 1024)
HEAD = encode_head("POST", b"/v1/chat/completions", [(b"Host", ORIGIN.netloc)])
_transports: list[PooledTransport] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a request on and its answer back, as it comes."""
    if not _transports:
        _transports.append(PooledTransport(ORIGIN, limits=LIMITS))
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    exchange = await _transports[0].exchange(complete(HEAD, body))
    try:
        headers = [(b"content-type", dict(exchange.headers).get(b"Content-Type", b""))]
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        while piece := await exchange.read():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        exchange.abandon()
