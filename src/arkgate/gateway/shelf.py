"""Answers that several calls may share: those in a cache, and those that are on their way."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from arkgate.core.keys import Keyring
from arkgate.core.money import Msat
from arkgate.core.pricing import Tariff, Used
from arkgate.gateway.fetch import Entry, Fetch, FetchTerms
from arkgate.gateway.meter import Calls
from arkgate.gateway.order import CacheWish, Order, read_head, stored_head
from arkgate.gateway.sale import Source
from arkgate.ports import Backend, Cache, Outgoing, Usage

_VERSION = 1


@dataclass(frozen=True, slots=True)
class CacheTerms:
    """What is shared, with whom, for how long, and what a hit costs."""

    ttl_seconds: float = 600.0
    """0: nothing is kept, and calls under way are not shared either."""
    per_account: bool = False
    """Whether an account gets its own earlier answers only."""
    hit_percent: int = 100
    """What a hit costs of what the answer would have cost."""
    entry_bytes_max: int = 256 * 1024

    @property
    def is_on(self) -> bool:
        """Whether anything is shared."""
        return self.ttl_seconds > 0


class Shelf:
    """Finds an answer for a call, or a fetch that is under way, or begins one."""

    def __init__(
        self, cache: Cache | None, keyring: Keyring, calls: Calls, terms: CacheTerms, fetch_terms: FetchTerms
    ) -> None:
        self._cache = cache
        self._keyring = keyring
        self._calls = calls
        self._terms = terms
        self._fetch_terms = fetch_terms
        self._under_way: dict[bytes, Fetch] = {}

    def key(self, service: str, account_id: str, order: Order) -> bytes | None:
        """What the answer is kept under; None where it is not."""
        if order.cache is None or not self._terms.is_on:
            return None
        scope = account_id if self._terms.per_account else ""
        material = b"\0".join(
            [
                service.encode(),
                scope.encode(),
                order.outgoing.dialect.value.encode(),
                _canonical(order.cache, order.outgoing),
            ]
        )
        return self._keyring.digest(b"cache", material)

    async def find(self, key: bytes | None) -> Entry | None:
        """The kept answer."""
        if key is None or self._cache is None:
            return None
        kept = await self._cache.get(key)
        return None if kept is None else _decoded(kept)

    async def at_its_price(self, order: Order, entry: Entry, backend: Backend) -> Order:
        """The order for a kept answer: what that costs is known before it is sold. Floored to the msat."""
        used = entry.usage.used if entry.usage is not None else Used()
        if entry.usage is None and order.tariff.by_tokens:
            used = await asyncio.to_thread(backend.count, order.outgoing, entry.body)
        cost = Msat(order.cost(used) * self._terms.hit_percent // 100)
        return replace(order, tariff=Tariff(call=cost), hold=cost, expected=cost)

    def source(self, key: bytes | None, backend: Backend, order: Order) -> Source:
        """Where a new call gets its answer from: one that is under way, or a new one."""

        def begun(call_id: str) -> tuple[Fetch, bool]:
            if key is not None:
                under_way = self._under_way.get(key)
                if under_way is not None and under_way.is_open:
                    return under_way, False
            fetch = Fetch(backend, order.outgoing, call_id, self._fetch_terms)
            if key is not None:
                self._under_way[key] = fetch
                fetch.when_left(lambda: self._end(key, fetch))
                fetch.when_sold(lambda: self._keep(key, fetch))
            return fetch, True

        return begun

    def kept(self, backend: Backend, order: Order, entry: Entry) -> Source:
        """A kept answer as where a call gets it from."""
        fetch = Fetch.finished(backend, order.outgoing, entry, self._fetch_terms)
        return lambda _: (fetch, False)

    def _end(self, key: bytes, fetch: Fetch) -> None:
        if self._under_way.get(key) is fetch:
            del self._under_way[key]

    def _keep(self, key: bytes, fetch: Fetch) -> None:
        """Only what was sold: an answer that cannot be would be refused until its time is over."""
        if self._cache is None or fetch.head is None or fetch.head.status >= 300:
            return
        if fetch.size <= self._terms.entry_bytes_max:
            value = _encoded(fetch.entry())
            self._calls.begin(self._cache.put(key, value, ttl_seconds=self._terms.ttl_seconds))


def _canonical(wish: CacheWish, outgoing: Outgoing) -> bytes:
    """What of a request affects its answer, in one spelling."""
    kept = {name: value for name, value in wish.document.items() if name not in wish.ignored}
    headers = b"".join(b"\0" + name + b":" + value for name, value in outgoing.headers)
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS) + headers


def _encoded(entry: Entry) -> bytes:
    """A line of JSON with everything but the answer, then the answer."""
    usage = None
    if entry.usage is not None:
        used = entry.usage.used
        counts = [used.input_tokens, used.cached_tokens, used.written_tokens, used.output_tokens]
        usage = {"used": counts, "document": entry.usage.document}
    line = {
        "v": _VERSION,
        "status": entry.head.status,
        "head": stored_head(entry.head),
        "usage": usage,
        "body": len(entry.body),
    }
    return orjson.dumps(line) + b"\n" + entry.body + entry.held_back


def _decoded(value: bytes) -> Entry | None:
    """What `_encoded` wrote; None for anything else, such as another version's."""
    line, _, rest = value.partition(b"\n")
    try:
        told = orjson.loads(line)
        size = _number(told["body"])
        if told["v"] != _VERSION or len(rest) < size or not isinstance(told["head"], str):
            return None
        head = read_head(_number(told["status"]), told["head"])
        return Entry(head, rest[:size], rest[size:], _usage(told["usage"]))
    except (ValueError, KeyError, TypeError):
        return None


def _usage(told: Mapping[str, object] | None) -> Usage | None:
    if told is None:
        return None
    counts, document = told["used"], told["document"]
    if not isinstance(counts, list) or not isinstance(document, dict):
        raise TypeError("not a usage")
    asked, cached, written, answered = map(_number, counts)
    return Usage(Used(asked, cached, written, answered), document)


def _number(told: object) -> int:
    """A count. Raises TypeError for anything else."""
    if type(told) is not int or told < 0:
        raise TypeError("not a count")
    return told
