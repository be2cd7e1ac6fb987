"""How much memory the bodies of requests may take: all together, those of an address, those of strangers.

A body is here before anybody has paid for it, and a price may depend on it: whoever asks without money has
it read, too, but may not take the memory of those who pay.
"""

from types import TracebackType
from typing import Self

from arkgate.core.errors import Overloaded, RateLimited

UNWEIGHED_BYTES = 64 * 1024
"""A body up to this is not weighed: sockets hold as much."""
STRANGERS_SHARE = 2
"""Strangers together, or one address, have this part of all: a half."""


class Bodies:
    """Weighs the bodies that are being read or served. Lives in memory of one process."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._strangers_bytes = 0
        self._by_client: dict[str, int] = {}

    def share(self, client: str) -> "Share":
        """What the body of one request takes, until the block ends."""
        return Share(self, client)

    def take(self, more: int, client: str, *, is_stranger: bool) -> None:
        """Raises Overloaded or RateLimited; then nothing is taken."""
        part = self._bytes_max // STRANGERS_SHARE
        own = self._by_client.get(client, 0)
        if own and own + more > part:
            raise RateLimited(
                "Your address sends as much at once as one may. Repeat this when the rest is done.",
                retry_after_seconds=1,
            )
        full = self._bytes + more > self._bytes_max
        if full or (is_stranger and self._strangers_bytes + more > part):
            raise Overloaded(
                "As many large requests are being read as this gateway has memory for; try again.",
                retry_after_seconds=1,
            )
        self._bytes += more
        self._strangers_bytes += more if is_stranger else 0
        self._by_client[client] = own + more

    def give_back(self, size: int, client: str, *, is_stranger: bool) -> None:
        """What was taken."""
        self._bytes -= size
        self._strangers_bytes -= size if is_stranger else 0
        left = self._by_client[client] - size
        if left:
            self._by_client[client] = left
        else:
            del self._by_client[client]


class Share:
    """One request's part."""

    __slots__ = ("_bodies", "_size", "client", "is_stranger")

    def __init__(self, bodies: Bodies, client: str) -> None:
        self._bodies = bodies
        self.client = client
        self._size = 0
        self.is_stranger: bool | None = None
        """Whether nobody with money sends it; None until that is looked at."""

    def __enter__(self) -> Self:
        return self

    def grow(self, size: int) -> None:
        """So much is going to be kept. Raises Overloaded or RateLimited."""
        if size > self._size:
            self._bodies.take(size - self._size, self.client, is_stranger=bool(self.is_stranger))
            self._size = size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._bodies.give_back(self._size, self.client, is_stranger=bool(self.is_stranger))
