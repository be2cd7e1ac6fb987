"""A cache in this process: bounded in bytes, the least recently used goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable

ENTRY_BYTES = 512
"""What an entry costs beside its value: key, places in two tables, the objects' heads. Rather too much."""


class MemoryCache:
    """`ports.Cache` in memory."""

    def __init__(self, *, bytes_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._bytes_max = bytes_max
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes_held(self) -> int:
        """What the entries take, with what they cost beside their values."""
        return self._bytes

    async def get(self, key: bytes) -> bytes | None:
        """See `ports.Cache`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if expires_at <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: bytes, value: bytes, *, ttl_seconds: float) -> None:
        """See `ports.Cache`."""
        if key in self._entries:
            self._drop(key)
        size = len(value) + ENTRY_BYTES
        if size > self._bytes_max or ttl_seconds <= 0:
            return
        self._entries[key] = (self._clock() + ttl_seconds, value)
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        """See `ports.Cache`."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self._bytes -= len(value) + ENTRY_BYTES
