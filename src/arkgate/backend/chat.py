"""The chat backend: any server that speaks OpenAI's chat completions."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import orjson

from arkgate.backend.answer import plain, read_completion, read_model_names, read_refusal
from arkgate.backend.breaker import Breaker
from arkgate.backend.transport import AnswerTooLarge, PooledTransport, TransportLimits, complete, encode_head
from arkgate.core.errors import Overloaded, Refusal, UpstreamError, UpstreamTimeout
from arkgate.ports import ChatMessage, Completion, Health

WATCH_SECONDS = 2.0
HEALTH_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Where the backend is and what it may cost us. Raises ValueError with a sentence."""

    url: str
    """The API's base, such as `https://api.example.com/v1`."""
    model: str
    api_key: str | None = field(default=None, repr=False)
    system_prompt: str | None = None
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 60.0
    idle_timeout_seconds: float = 30.0
    total_timeout_seconds: float = 120.0
    answer_bytes_max: int = 1024 * 1024
    concurrency_max: int = 64
    max_tokens: int | None = None
    ca_file: str | None = None
    """Certificates to trust instead of the public authorities."""

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
        if self.concurrency_max < 1 or self.answer_bytes_max < 1:
            raise ValueError("concurrency and answer size are at least 1")


class ChatBackend:
    """`ports.Backend` over HTTP.

    What goes out is built anew from the settings, the messages and the call's id: nothing of the
    client's request, no redirect followed, no environment read. Requests are handed to the transport
    as bytes: httpx's client costs 200 µs a call, and its request and response objects another 30, for
    features that a request with a fixed head cannot use.
    """

    def __init__(self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        base_url = settings.url.rstrip("/")
        self._settings = settings
        chat_url = httpx.URL(f"{base_url}/chat/completions")
        headers = _fixed_headers(chat_url, settings.api_key)
        self._models_head = encode_head("GET", httpx.URL(f"{base_url}/models").raw_path, headers)
        headers.append((b"Content-Type", b"application/json"))
        self._chat_head = encode_head("POST", chat_url.raw_path, headers)
        self._preamble = (
            [{"role": "system", "content": settings.system_prompt}] if settings.system_prompt else []
        )
        self._breaker = Breaker(clock)
        self._turns = asyncio.Semaphore(settings.concurrency_max)
        self._under_way_count = 0
        self._health_turn = asyncio.Lock()
        self._transport = PooledTransport(
            chat_url, limits=_transport_limits(settings), ssl_context=_ssl_context(settings)
        )

    @property
    def under_way_count(self) -> int:
        """Calls between the beginning and the end of `chat`."""
        return self._under_way_count

    @property
    def connections_busy_count(self) -> int:
        """Connections that work for somebody; 0 when nothing is under way."""
        return self._transport.busy_count

    def check(self) -> None:
        """Raises Overloaded or BackendUnavailable when no call should be sold now."""
        if self._under_way_count >= self._settings.concurrency_max:
            raise _overloaded()
        self._breaker.check()

    def admit(self) -> None:
        """As `check`, for a paid call that follows at once: it may be the probe of a backend that failed."""
        if self._under_way_count >= self._settings.concurrency_max:
            raise _overloaded()
        self._breaker.admit()

    async def watch(self) -> None:
        """Asks a backend that could not be reached again and again, for ever, until it can be."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._breaker.is_open:
                await self.health()

    async def chat(self, messages: Sequence[ChatMessage], *, call_id: str) -> Completion:
        """Asks for one buffered completion; see `ports.Backend`.

        Calls over the bound, which were admitted while others were being admitted too, wait for a turn
        as long as a connection may take, then raise Overloaded.
        """
        if not (call_id.isascii() and call_id.isprintable()):
            raise ValueError("a call's id has only printable ASCII characters")
        head = b"%bX-Request-ID: %b\r\n" % (self._chat_head, call_id.encode("ascii"))
        body = orjson.dumps(self._question(messages))
        await self._take_turn()
        try:
            status, answer = await self._ask(complete(head, body))
        except httpx.TransportError as exc:
            raise _refusal_of(exc) from exc
        finally:
            self._give_turn_back()
        if 200 <= status < 300:
            return read_completion(answer, default_model=self._settings.model)
        raise read_refusal(status, answer, secret=self._settings.api_key)

    async def health(self) -> Health:
        """Asks for the list of models: it costs nothing and needs the key. Does not raise."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS), self._health_turn:
                status, answer = await self._ask(complete(self._models_head, b""))
        except TimeoutError:
            return Health(False, "unreachable", "The chat backend did not answer in time.")
        except httpx.TransportError as exc:
            return Health(False, "unreachable", f"The chat backend cannot be used: {exc}.")
        return _health_of(status, answer, self._settings.model)

    async def close(self) -> None:
        """Closes every connection; calls under way fail."""
        await self._transport.aclose()

    def _question(self, messages: Sequence[ChatMessage]) -> dict[str, object]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        question: dict[str, object] = {
            "model": self._settings.model,
            "messages": [*self._preamble, *turns],
            "stream": False,
        }
        if self._settings.max_tokens is not None:
            question["max_tokens"] = self._settings.max_tokens
        return question

    async def _take_turn(self) -> None:
        """Counts a call in, and holds it back while the bound is reached. Raises Overloaded."""
        if self._under_way_count >= 2 * self._settings.concurrency_max:
            raise _overloaded()
        self._under_way_count += 1
        try:
            if self._turns.locked():
                async with asyncio.timeout(self._settings.connect_timeout_seconds):
                    await self._turns.acquire()
            else:
                await self._turns.acquire()  # does not wait
        except BaseException as exc:  # cancelled or out of time: the call is not under way
            self._under_way_count -= 1
            if isinstance(exc, TimeoutError):
                raise _overloaded() from exc
            raise

    def _give_turn_back(self) -> None:
        self._turns.release()
        self._under_way_count -= 1

    async def _ask(self, request_bytes: bytes) -> tuple[int, bytes]:
        """Status and whole body of the answer. Raises httpx.TransportError; tells the breaker."""
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
        try:
            return exchange.status, b"".join([part async for part in exchange])
        finally:
            exchange.abandon()


def _fixed_headers(url: httpx.URL, api_key: str | None) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"Host", url.netloc),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", b"arkgate"),
    ]
    if api_key:
        headers.append((b"Authorization", b"Bearer " + api_key.encode("ascii")))
    return headers


def _transport_limits(settings: BackendSettings) -> TransportLimits:
    return TransportLimits(
        connections_max=settings.concurrency_max + 1,  # one for `health`, which must be able to ask when full
        connect_timeout_seconds=settings.connect_timeout_seconds,
        first_byte_timeout_seconds=settings.first_byte_timeout_seconds,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        total_timeout_seconds=settings.total_timeout_seconds,
        body_bytes_max=settings.answer_bytes_max,
    )


def _ssl_context(settings: BackendSettings) -> ssl.SSLContext | None:
    if settings.ca_file is None or not settings.url.startswith("https"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.load_verify_locations(cafile=settings.ca_file)
    return context


def _overloaded() -> Overloaded:
    return Overloaded("As many calls are under way as this gateway allows; try again.", retry_after_seconds=1)


def _health_of(status: int, answer: bytes, model: str) -> Health:
    if status == 401:
        return Health(False, "refused", "The chat backend answers and refuses the key (status 401).")
    if status in (403, 404, 405):  # some servers have no such list, some keys may not see it
        sentence = f"The chat backend answers but does not list its models (status {status})."
        return Health(True, "ready", sentence)
    if status == 503:
        return Health(False, "starting", "The chat backend answers that it is not ready (status 503).")
    if not 200 <= status < 300:
        return Health(False, "unreachable", f"The chat backend answers with status {status}.")
    names = read_model_names(answer)
    if names and model not in names:
        return Health(
            True, "unlisted", f"The chat backend answers but does not list the model {plain(model, 80)}."
        )
    return Health(True, "ready", "The chat backend answers.")


def _refusal_of(error: httpx.TransportError) -> Refusal:
    """httpx's exceptions become refusals here and nowhere else, most specific first."""
    if isinstance(error, httpx.PoolTimeout):
        return _overloaded()
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimeout("The chat backend did not answer in time; nothing was charged.")
    if isinstance(error, AnswerTooLarge):
        return UpstreamError("The chat backend answered too much; nothing was charged.")
    return UpstreamError("The chat backend broke off or could not be reached; nothing was charged.")
