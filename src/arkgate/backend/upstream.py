"""One server of the backend: any that speaks OpenAI's API, or any HTTP API."""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import httpx
import orjson

from arkgate.backend.answer import (
    ModelNames,
    plain,
    read_completion,
    read_model_names,
    read_refusal,
)
from arkgate.backend.breaker import Breaker
from arkgate.backend.counting import count_question, count_used
from arkgate.backend.incoming import (
    Stream,
    Whole,
    is_to_be_streamed,
    map_transport_errors,
    read_all,
    refusal_of,
)
from arkgate.backend.transport import Exchange, PooledTransport, TransportLimits, complete, encode_head
from arkgate.core.errors import Overloaded, UpstreamError
from arkgate.core.pricing import Used
from arkgate.core.question import QuestionTokens
from arkgate.ports import ChatMessage, Completion, Dialect, Health, Incoming, Outgoing

WATCH_SECONDS = 2.0
HEALTH_TIMEOUT_SECONDS = 3.0
PASSED_ON = frozenset({304, 400, 404, 405, 406, 409, 410, 412, 413, 414, 415, 416, 422, 428, 451})
"""Statuses of an HTTP API that are its answer to the caller: they go on as they are and cost nothing."""
_JSON = (b"Content-Type", b"application/json")
_ACCEPT_JSON = (b"Accept", b"application/json")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Where a backend is and what it may cost us. Raises ValueError with a sentence."""

    url: str
    """The API's base, such as `https://api.example.com/v1`."""
    model: str = ""
    """What its list of models should have; empty where it has none."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Its own names of models, by the callers' names; empty: it is asked for any, by the caller's name."""
    name: str = "backend"
    api_key: str | None = field(default=None, repr=False)
    api_key_header: str = "Authorization"
    """Where the key goes; as a bearer token in Authorization, and bare anywhere else."""
    priority: int = 0
    """Backends with a lower number are asked first."""
    weight: int = 1
    """Its share of the calls among those of the same priority."""
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 60.0
    idle_timeout_seconds: float = 30.0
    total_timeout_seconds: float = 120.0
    answer_bytes_max: int = 1024 * 1024
    stream_bytes_max: int = 8 * 1024 * 1024
    concurrency_max: int = 64
    queue_max: int = 0
    """How many calls are sold beyond that, to wait for their turn."""
    queue_timeout_seconds: float = 5.0
    ca_file: str | None = None
    """Certificates to trust instead of the public authorities."""
    speaks_openai: bool = True
    """Whether it can be asked for its models."""

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as exc:
            raise ValueError("the backend's URL cannot be read") from exc
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the backend's URL begins with http:// or https:// and has a host")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("the backend's URL has no user name, query or fragment; keys go into api_key")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("the backend's key has only printable ASCII characters")
        if not _HEADER_NAME.match(self.api_key_header):
            raise ValueError("api_key_header is a header's name, like X-API-Key")
        if self.concurrency_max < 1 or self.answer_bytes_max < 1:
            raise ValueError("concurrency and answer size are at least 1")


class Upstream:
    """One server behind `ports.Backend`: a connection pool, a breaker, a bound and a queue.

    What goes out is built anew from the settings, the request's document and the call's id: nothing of the
    client's request but the headers that may pass, no redirect followed, no environment read. Requests are
    handed to the transport as bytes: httpx's client costs 200 µs a call, and its request and response objects
    another 30, for features that a request with a fixed head cannot use.
    """

    def __init__(self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        url = httpx.URL(settings.url.rstrip("/"))
        self.settings = settings
        self._base = url.raw_path.rstrip(b"/")
        self._fixed = _fixed_headers(url, settings)
        self._heads = {
            dialect: encode_head(
                "POST", self._base + dialect.value.encode(), [*self._fixed, _JSON, _ACCEPT_JSON]
            )
            for dialect in Dialect
            if dialect is not Dialect.RAW
        }
        self._models_head = encode_head("GET", self._base + b"/models", [*self._fixed, _ACCEPT_JSON])
        self._breaker = Breaker(clock)
        self._turns = asyncio.Semaphore(settings.concurrency_max)
        self._under_way_count = 0
        self._health_turn = asyncio.Lock()
        self._transport = PooledTransport(
            url, limits=_transport_limits(settings), ssl_context=_ssl_context(settings)
        )

    @property
    def under_way_count(self) -> int:
        """Calls between the beginning and the end of `forward`."""
        return self._under_way_count

    @property
    def connections_busy_count(self) -> int:
        """Connections that work for somebody; 0 when nothing is under way."""
        return self._transport.busy_count

    @property
    def is_resting(self) -> bool:
        """Whether it could not be reached lately."""
        return self._breaker.is_open

    def serves(self, model: str | None) -> bool:
        """Whether it has that model."""
        return model is None or not self.settings.models or model in self.settings.models

    def check(self, model: str | None = None) -> None:
        """Raises Overloaded or BackendUnavailable when no call should be sold now."""
        if self._under_way_count >= self.settings.concurrency_max + self.settings.queue_max:
            raise overloaded()
        self._breaker.check()

    def admit(self, model: str | None = None) -> None:
        """As `check`, for a paid call that follows at once: it may be the probe of a backend that failed."""
        if self._under_way_count >= self.settings.concurrency_max + self.settings.queue_max:
            raise overloaded()
        self._breaker.admit()

    async def watch(self) -> None:
        """Asks a backend that could not be reached again and again, for ever, until it can be."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._breaker.is_open:
                await self.health()

    def forward(self, outgoing: Outgoing, *, call_id: str) -> "_Forwarding":
        """Sends a request; see `ports.Backend`.

        Calls over the bound wait for a turn in a queue of bounded length and time, then raise Overloaded.
        """
        if not (call_id.isascii() and call_id.isprintable()):
            raise ValueError("a call's id has only printable ASCII characters")
        return _Forwarding(self, outgoing, call_id)

    async def begin(self, outgoing: Outgoing, call_id: str) -> tuple[Exchange, Incoming]:
        """Takes a turn, sends, and reads the head; the turn is given back here only where that fails."""
        names = ModelNames(outgoing.model, self._own_name(outgoing.model))
        request = self._request(outgoing, names, call_id)
        await self._take_turn()
        exchange: Exchange | None = None
        try:
            exchange = await self._exchange(request)
            return exchange, await self._incoming(exchange, outgoing, names)
        except BaseException:  # cancelled or failed: nobody else can give them back
            self.end(exchange)
            raise

    def end(self, exchange: Exchange | None) -> None:
        """Gives back what `begin` took."""
        if exchange is not None:
            exchange.abandon()
        self._give_turn_back()

    def count(self, outgoing: Outgoing, answer: bytes) -> Used:
        """See `ports.Backend`."""
        return count_used(outgoing, answer)

    def count_question(self, outgoing: Outgoing) -> QuestionTokens:
        """See `ports.Backend`."""
        return count_question(outgoing)

    async def chat(self, messages: Sequence[ChatMessage], *, call_id: str) -> Completion:
        """Asks for one buffered completion, outside of anything that is sold."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        document = {"messages": turns, "stream": False}
        outgoing = Outgoing(Dialect.CHAT, document, self.settings.model or None)
        async with self.forward(outgoing, call_id=call_id) as incoming:
            body = b"".join([piece async for piece in incoming])
        return read_completion(body, default_model=outgoing.model or "")

    async def health(self) -> Health:
        """Asks for the list of models: it costs nothing and needs the key. Does not raise."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS), self._health_turn:
                exchange = await self._transport_exchange(complete(self._models_head, b""))
                try:
                    answer = await read_all(exchange, self.settings.answer_bytes_max)
                finally:
                    exchange.abandon()
        except TimeoutError:
            return Health(False, "unreachable", "The backend did not answer in time.")
        except httpx.TransportError as exc:
            return Health(False, "unreachable", f"The backend cannot be used: {exc}.")
        if not self.settings.speaks_openai:
            return Health(True, "ready", "The backend answers.")
        return _health_of(exchange.status, answer, self.settings)

    async def close(self) -> None:
        """Closes every connection; calls under way fail."""
        await self._transport.aclose()

    def _own_name(self, model: str | None) -> str | None:
        return None if model is None else self.settings.models.get(model, model)

    def _request(self, outgoing: Outgoing, names: ModelNames, call_id: str) -> bytes:
        request_id = b"X-Request-ID: %b\r\n" % call_id.encode("ascii")
        if outgoing.dialect is Dialect.RAW:
            headers = [*self._fixed, *outgoing.headers]
            head = encode_head(outgoing.method, self._base + outgoing.target, headers)
            return complete(head + request_id, outgoing.body)
        document = dict(outgoing.document or {})
        if names.own is not None:
            document["model"] = names.own
        if outgoing.headers:
            path = self._base + outgoing.dialect.value.encode()
            head = encode_head("POST", path, [*self._fixed, _JSON, _ACCEPT_JSON, *outgoing.headers])
        else:
            head = self._heads[outgoing.dialect]
        return complete(head + request_id, orjson.dumps(document))

    async def _incoming(self, exchange: Exchange, outgoing: Outgoing, names: ModelNames) -> Incoming:
        """The answer, when its status is one that may go on. Raises what the others mean."""
        status = exchange.status
        settings = self.settings
        is_raw = outgoing.dialect is Dialect.RAW
        if 200 <= status < 300 or (is_raw and status in PASSED_ON):
            if is_to_be_streamed(exchange, outgoing, answer_bytes_max=settings.answer_bytes_max):
                return Stream(exchange, outgoing, names)
            if outgoing.stream and not is_raw:
                raise UpstreamError("The backend answered without a stream; nothing was charged.")
            return Whole(exchange, outgoing, names, answer_bytes_max=settings.answer_bytes_max)
        with map_transport_errors():
            answer = await read_all(exchange, settings.answer_bytes_max)
        raise read_refusal(status, answer, secret=settings.api_key)

    async def _take_turn(self) -> None:
        """Counts a call in, and holds it back while the bound is reached. Raises Overloaded."""
        # Twice as many: those that were admitted while others were being admitted too.
        if self._under_way_count >= 2 * self.settings.concurrency_max + self.settings.queue_max:
            raise overloaded()
        self._under_way_count += 1
        try:
            if self._turns.locked():
                async with asyncio.timeout(self.settings.queue_timeout_seconds):
                    await self._turns.acquire()
            else:
                await self._turns.acquire()  # does not wait
        except BaseException as exc:  # cancelled or out of time: the call is not under way
            self._under_way_count -= 1
            if isinstance(exc, TimeoutError):
                raise overloaded() from exc
            raise

    def _give_turn_back(self) -> None:
        self._turns.release()
        self._under_way_count -= 1

    async def _exchange(self, request_bytes: bytes) -> Exchange:
        """The answer once its head is here. Raises Overloaded, or what its failure means."""
        try:
            return await self._transport_exchange(request_bytes)
        except httpx.PoolTimeout as exc:
            raise overloaded() from exc
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            refusal = refusal_of(exc)
            refusal.nothing_begun = True
            raise refusal from exc
        except httpx.TransportError as exc:
            raise refusal_of(exc) from exc

    async def _transport_exchange(self, request_bytes: bytes) -> Exchange:
        """Tells the breaker how it went."""
        try:
            exchange = await self._transport.exchange(request_bytes)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._breaker.failed()
            raise
        except httpx.PoolTimeout:
            raise  # says nothing about the backend
        except httpx.TransportError:
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return exchange


class _Forwarding:
    """One request's block. A class, because a generator's costs 4 us on each call."""

    __slots__ = ("_call_id", "_exchange", "_outgoing", "_upstream")

    def __init__(self, upstream: Upstream, outgoing: Outgoing, call_id: str) -> None:
        self._upstream = upstream
        self._outgoing = outgoing
        self._call_id = call_id
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> Incoming:
        self._exchange, incoming = await self._upstream.begin(self._outgoing, self._call_id)
        return incoming

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upstream.end(self._exchange)


def _fixed_headers(url: httpx.URL, settings: BackendSettings) -> list[tuple[bytes, bytes]]:
    headers = [(b"Host", url.netloc), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"arkgate")]
    if settings.api_key:
        key, name = settings.api_key.encode("ascii"), settings.api_key_header
        value = b"Bearer " + key if name.lower() == "authorization" else key
        headers.append((name.encode("ascii"), value))
    return headers


def _transport_limits(settings: BackendSettings) -> TransportLimits:
    return TransportLimits(
        connections_max=settings.concurrency_max + 1,  # one for `health`, which must be able to ask when full
        connect_timeout_seconds=settings.connect_timeout_seconds,
        first_byte_timeout_seconds=settings.first_byte_timeout_seconds,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        total_timeout_seconds=settings.total_timeout_seconds,
        body_bytes_max=max(settings.answer_bytes_max, settings.stream_bytes_max),
    )


def _ssl_context(settings: BackendSettings) -> ssl.SSLContext | None:
    if settings.ca_file is None or not settings.url.startswith("https"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.load_verify_locations(cafile=settings.ca_file)
    return context


def overloaded() -> Overloaded:
    """As many calls are under way as one backend may have."""
    return Overloaded("As many calls are under way as this gateway allows; try again.", retry_after_seconds=1)


def _health_of(status: int, answer: bytes, settings: BackendSettings) -> Health:
    if status == 401:
        return Health(False, "refused", "The backend answers and refuses the key (status 401).")
    if status in (403, 404, 405):  # some servers have no such list, some keys may not see it
        return _without_list(status, settings)
    if status == 503:
        return Health(False, "starting", "The backend answers that it is not ready (status 503).")
    if not 200 <= status < 300:
        return Health(False, "unreachable", f"The backend answers with status {status}.")
    names = read_model_names(answer)
    wanted = [settings.model] if settings.model else [*settings.models.values()]
    missing = [name for name in wanted if name not in names]
    if names and missing:
        sentence = f"The backend answers but does not list the model {plain(missing[0], 80)}."
        return Health(True, "unlisted", sentence)
    return Health(True, "ready", "The backend answers.")


def _without_list(status: int, settings: BackendSettings) -> Health:
    sentence = f"The backend answers but does not list its models (status {status})."
    if status == 403 or settings.url.rstrip("/").endswith("/v1"):
        return Health(True, "ready", sentence)
    return Health(True, "unlisted", f"{sentence} Its url does not end in /v1, and most do.")
