"""Where answers are kept: in this process, or in a server that several gateways share."""

from arkgate.ports import Cache
from arkgate.store.cache.memory import MemoryCache
from arkgate.store.cache.redis import RedisCache

SERVERS = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")


def open_cache(url: str, *, bytes_max: int, timeout_seconds: float = 0.1) -> Cache:
    """The cache that a URL names: `memory`, or a Redis or Valkey. Raises ValueError with a sentence.

    `bytes_max` bounds the memory of this process; a server has a bound of its own. A server that does not
    answer within `timeout_seconds` has nothing.
    """
    if url == "memory":
        return MemoryCache(bytes_max=bytes_max)
    if not url.startswith(SERVERS):
        raise ValueError('the cache is "memory" or like "redis://127.0.0.1:6379/0"')
    return RedisCache(url, timeout_seconds=timeout_seconds)
