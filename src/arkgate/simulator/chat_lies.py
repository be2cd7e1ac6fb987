"""Answers that are good but for their usage, in which every count is a lie."""

import json
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.responses import Response

from arkgate.simulator.chat_answers import dumped
from arkgate.simulator.chat_delivery import EVENTS, JSON, Reply

_LIES: dict[str, Callable[[int], object]] = {
    "lying-usage": lambda count: count + 10**18,
    "lying-usage-huge": lambda count: count + 10**40,
    "lying-usage-negative": lambda count: -1 - count,
    "lying-usage-text": str,
    "lying-usage-float": lambda count: count + 0.5,
    "lying-usage-nested": lambda count: {"tokens": [count]},
    "lying-usage-null": lambda count: None,
    "lying-usage-bool": lambda count: True,
    "lying-usage-zero": lambda count: 0,
}


def _told(value: object, lie: Callable[[int], object]) -> object:
    """The value with every count inside replaced."""
    if isinstance(value, dict):
        return {name: _told(inner, lie) for name, inner in value.items()}
    return lie(value) if isinstance(value, int) else value


def _with_lies(value: object, lie: Callable[[int], object]) -> object:
    """The value with a lie in everything that is called usage."""
    if not isinstance(value, dict):
        return value
    return {
        name: _told(inner, lie) if name == "usage" else _with_lies(inner, lie)
        for name, inner in value.items()
    }


def _event_with_lies(event: bytes, lie: Callable[[int], object]) -> bytes:
    head, mark, data = event.partition(b"data: ")
    if not data.startswith(b"{"):
        return event
    return head + mark + dumped(_with_lies(json.loads(data), lie)) + b"\n\n"


async def _lying(lie: Callable[[int], object], reply: Reply, number: float | None) -> Response:
    if not reply.is_streamed:
        return Response(dumped(_with_lies(reply.body, lie)), media_type=JSON)
    events = [_event_with_lies(event, lie) for event in reply.events]
    if not any(b'"usage":{' in event for event in events):
        events.insert(
            -1, b"data: " + dumped({"choices": [], "usage": _told(reply.body["usage"], lie)}) + b"\n\n"
        )
    return Response(b"".join(events), media_type=EVENTS)


LYING: dict[str, Callable[[Reply, float | None], Awaitable[Response]]] = {
    name: partial(_lying, lie) for name, lie in _LIES.items()
}
"""A stream that would carry no usage gets a last chunk with one."""
