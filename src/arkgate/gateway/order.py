"""What a paid request asks for, what it costs, and how its reply is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from arkgate.core.errors import Refusal
from arkgate.core.ledger import Balance
from arkgate.core.money import Msat
from arkgate.core.pricing import Tariff, Used
from arkgate.ports import Outgoing, Usage

DATA_TYPE = "application/json"
"""The stored type of ArkAPI's `data` object alone: it is wrapped anew for whoever asks again.

Every other answer is stored as it went out, and its type ends in a line break: see `stored_head`.
"""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call cost and used, for whoever is told."""

    cost: Msat
    used: Used
    usage: Mapping[str, object] | None
    """As the backend wrote it; None where it wrote none that can be believed."""
    request_id: str
    balance: Balance | None = None
    """After the call; None in what is stored, because it will not be true any more."""
    cached: bool = False


class Shape(Protocol):
    """How the reply to one kind of request is written. Knows no HTTP."""

    def whole(self, body: bytes, bill: Bill) -> bytes:
        """A buffered answer with its bill. Raises UpstreamError when it is not one."""
        ...

    def closing(self, held_back: bytes, bill: Bill) -> bytes:
        """The last events of a stream, once it is paid for."""
        ...

    def failure(self, refusal: Refusal, request_id: str) -> bytes:
        """The event that ends a stream which failed."""
        ...


@dataclass(frozen=True, slots=True)
class CacheWish:
    """That an answer may come from the cache, and go there."""

    document: Mapping[str, object]
    """The request."""
    ignored: frozenset[str] = frozenset()
    """What of it does not affect the answer."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long an answer may be by what was asked for."""

    tokens: int
    """In all of its choices together."""
    has_sounds: bool = False
    """Whether it may be spoken: such an answer has few words."""

    def explains(self, events: int, *, tokens: int) -> bool:
        """Whether so many events, with so many tokens in them as we count, are what was asked for.

        A token has an event of its own at most. A backend that does not end has more of them, or says next to
        nothing in them.
        """
        return events <= 2 * self.tokens and (self.has_sounds or 4 * tokens >= events)


@dataclass(frozen=True, slots=True)
class Order:
    """A request that can be served."""

    outgoing: Outgoing
    tariff: Tariff
    hold: Msat
    """What it costs at most."""
    expected: Msat
    """What it costs most likely."""
    shape: Shape
    is_data: bool = False
    """Whether a buffered answer is ArkAPI's `data` object alone."""
    cache: CacheWish | None = None
    length: Length | None = None
    """How long its answer may be by what its caller asked for; None where that is nothing in particular."""
    response_headers: frozenset[bytes] = frozenset()
    """Lower-case names of the backend's headers that may go on to the caller."""

    def cost(self, used: Used) -> Msat:
        """What it costs in the end: never more than was held."""
        return min(self.hold, self.tariff.cost(used))


@dataclass(frozen=True, slots=True)
class Head:
    """What a reply begins with."""

    status: int
    content_type: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def stored_head(head: Head) -> str:
    """A head as it is kept beside an answer: the type, a line break, and a line for each further header."""
    lines = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in head.headers]
    return "\n".join([head.content_type, *lines, ""])


def read_head(status: int, stored: str) -> Head:
    """The head that `stored_head` wrote."""
    content_type, *lines = stored.rstrip("\n").split("\n")
    pairs = [line.partition(": ") for line in lines]
    return Head(
        status,
        content_type,
        tuple((name.encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs),
    )


def usage_document(usage: Usage | None) -> Mapping[str, object] | None:
    """What the backend wrote of its usage."""
    return None if usage is None else usage.document
