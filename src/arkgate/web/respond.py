"""Builds responses: JSON by orjson, raw header lists, times and amounts as the contract spells them."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

import orjson
from starlette.responses import Response, StreamingResponse

from arkgate.core.ledger import Standing
from arkgate.core.money import whole_sats

Headers = list[tuple[bytes, bytes]]
JSON_TYPE = (b"content-type", b"application/json")
BODILESS: Final = (204, 304)
"""They end with their head: RFC 9110 forbids a 204 a length, and that of a 304 would be another answer's."""


def json_response(
    body: object, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    """A JSON response; `headers` may name a header more than once, and their order is kept."""
    return raw_response(orjson.dumps(body), status=status, headers=[JSON_TYPE, *headers])


def raw_response(
    content: bytes, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    """A response with exactly these headers, and its length where its status may have a body."""
    response = Response(content, status_code=status)
    length = [] if status in BODILESS else [(b"content-length", str(len(content)).encode())]
    response.raw_headers = [*headers, *length]
    return response


STREAM_TICKS: Final = 4
STREAM_PAUSE_SECONDS: Final = 0.25
STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx buffers answers unless they say this
)


def streaming_response(events: AsyncIterator[bytes]) -> Response:
    """Server-Sent Events that leave as they come."""
    response = StreamingResponse(events)
    response.raw_headers = list(STREAM_HEADERS)
    return response


async def ticks(*, count: int, pause_seconds: float) -> AsyncIterator[bytes]:
    """Events that say only which one they are, with a pause between them."""
    for number in range(count):
        if number:
            await asyncio.sleep(pause_seconds)
        yield b'data: {"tick":%d}\n\n' % number


def standing_headers(standing: Standing) -> Headers:
    """The balance, the day's allowance and the limits, as every metered answer carries them.

    The limits have OpenAI's names and their way to write a time; concurrency has none there.
    """
    balance = str(whole_sats(standing.balance.available)).encode()
    headers = [(b"x-balance-sats", balance), (b"x-credit-balance", balance)]
    allowance = standing.allowance
    if allowance.limit is not None:
        headers += [
            (b"x-ratelimit-limit", str(allowance.limit).encode()),
            (b"x-ratelimit-remaining", str(allowance.left).encode()),
            (b"x-ratelimit-reset", str(allowance.resets_at_ms // 1000).encode()),
        ]
    if standing.limits is not None:
        limits = standing.limits
        headers += [
            (b"x-ratelimit-limit-requests", str(limits.per_minute).encode()),
            (b"x-ratelimit-remaining-requests", str(limits.left).encode()),
            (b"x-ratelimit-reset-requests", b"%dms" % math.ceil(limits.full_in_seconds * 1000)),
            (b"x-concurrency-limit", str(limits.at_once).encode()),
            (b"x-concurrency-remaining", str(limits.at_once_left).encode()),
        ]
    return headers


def timestamp(unix_ms: int) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
