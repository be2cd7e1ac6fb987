"""A cache in Redis or Valkey, which several gateways share. Losing it costs time and nothing else."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from urllib.parse import urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

log = structlog.get_logger()
_Answer = TypeVar("_Answer")
PREFIX: Final = b"arkgate:cache:"
CONNECTIONS_MAX = 32
REST_SECONDS = 2.0
"""How long a server that failed is left alone."""
VALUE_BYTES_MAX = 16 * 1024 * 1024


class RedisCache:
    """`ports.Cache` over a server.

    A server that fails is left alone for a while, so that a cache that is away costs one wait and not one for
    each call. A value carries its key, which is looked at: a connection on which a command was given up could
    hand out the answer to another one, and an answer for somebody else's question must not be possible.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._shown = _without_password(url)
        self._resting_until = 0.0
        self._is_lost = False
        pool = BlockingConnectionPool.from_url(
            url.replace("valkey", "redis", 1) if url.startswith("valkey") else url,
            max_connections=CONNECTIONS_MAX,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self._redis = Redis.from_pool(pool)

    async def get(self, key: bytes) -> bytes | None:
        """See `ports.Cache`."""
        found = await self._asked(lambda: self._redis.get(PREFIX + key))
        if not isinstance(found, bytes) or not found.startswith(key):
            return None
        return found[len(key) :]

    async def put(self, key: bytes, value: bytes, *, ttl_seconds: float) -> None:
        """See `ports.Cache`."""
        milliseconds = int(ttl_seconds * 1000)
        if milliseconds > 0 and len(value) <= VALUE_BYTES_MAX:
            await self._asked(lambda: self._redis.set(PREFIX + key, key + value, px=milliseconds))

    async def close(self) -> None:
        """See `ports.Cache`."""
        await self._redis.aclose()

    async def _asked(self, command: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """The server's answer; None when it gives none in time, or lately gave none."""
        if self._clock() < self._resting_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await command()
        except Exception as error:  # noqa: BLE001 - what is no Redis may say anything, and is read by a library
            self._rest(error)
            return None
        if self._is_lost:
            self._is_lost = False
            log.info("the cache is back", cache=self._shown)
        return answer

    def _rest(self, error: Exception) -> None:
        self._resting_until = self._clock() + REST_SECONDS
        if not self._is_lost:
            self._is_lost = True
            log.warning("the cache does not answer", cache=self._shown, reason=type(error).__name__)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
