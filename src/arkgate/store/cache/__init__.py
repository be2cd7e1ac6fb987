"""Where answers are kept."""

from arkgate.ports import Cache


class _Memory:
    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    async def get(self, key: bytes) -> bytes | None:
        return self._kept.get(key)

    async def put(self, key: bytes, value: bytes, *, ttl_seconds: float) -> None:
        self._kept[key] = value

    async def close(self) -> None:
        self._kept.clear()


def open_cache(url: str | None, *, bytes_max: int, timeout_seconds: float = 0.1) -> Cache:
    return _Memory()
