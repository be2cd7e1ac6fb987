"""One answer of a backend while it arrives: whole and checked, or as a stream that is followed."""

from collections.abc import AsyncIterator, Sequence

import httpx

from arkgate.backend.answer import ModelNames, read_whole
from arkgate.backend.connection import AnswerTooLarge, Exchange, HeadTooLarge
from arkgate.backend.events import EventMeter
from arkgate.core.errors import Refusal, UpstreamError, UpstreamTimeout
from arkgate.ports import Dialect, Outgoing, Usage

WHOLE_BYTES_MAX = 1024 * 1024
"""What a RAW answer with a stated length may have to be waited for; a larger one leaves as it comes."""


class Whole:
    """`ports.Incoming` of an answer that is given in one piece, once all of it is here and was read."""

    is_stream = False
    held_back = b""

    def __init__(
        self, exchange: Exchange, outgoing: Outgoing, names: ModelNames, *, answer_bytes_max: int
    ) -> None:
        self.status = exchange.status
        self.headers: Sequence[tuple[bytes, bytes]] = exchange.headers
        self.sent_at, self.ends_at = exchange.sent_at, exchange.ends_at
        self.begun = self.only_kept_open = False
        self.usage: Usage | None = None
        self._exchange = exchange
        self._outgoing = outgoing
        self._names = names
        self._answer_bytes_max = answer_bytes_max

    def check(self) -> None:
        """See `ports.Incoming`."""
        _check(self._exchange)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with map_transport_errors():
            body = await read_all(self._exchange, self._answer_bytes_max)
        if self._outgoing.dialect is not Dialect.RAW:
            body, self.usage = read_whole(body, self._outgoing.dialect, self._names)
        self.begun = True
        yield body


class Stream:
    """`ports.Incoming` of an answer that leaves as it comes."""

    is_stream = True

    def __init__(self, exchange: Exchange, outgoing: Outgoing, names: ModelNames) -> None:
        self.status = exchange.status
        self.headers: Sequence[tuple[bytes, bytes]] = exchange.headers
        self.sent_at, self.ends_at = exchange.sent_at, exchange.ends_at
        self._exchange = exchange
        self._meter = EventMeter(outgoing.dialect, choices=outgoing.choices)
        self._names = names

    @property
    def begun(self) -> bool:
        """See `ports.Incoming`."""
        return self._meter.begun

    @property
    def only_kept_open(self) -> bool:
        """See `ports.Incoming`."""
        return self._meter.only_kept_open

    @property
    def usage(self) -> Usage | None:
        """See `ports.Incoming`."""
        return self._meter.usage

    @property
    def held_back(self) -> bytes:
        """See `ports.Incoming`."""
        return self._names.mapped(self._meter.held_back)

    def check(self) -> None:
        """See `ports.Incoming`."""
        _check(self._exchange)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        meter, exchange, names = self._meter, self._exchange, self._names
        with map_transport_errors():
            while data := await exchange.read():
                piece = meter.feed(data)
                if piece:
                    yield names.mapped(piece)
                if meter.ended:
                    return
            last = meter.finish()
        if last:
            yield names.mapped(last)


def _check(exchange: Exchange) -> None:
    if exchange.failure is not None:
        with map_transport_errors():
            raise exchange.failure


async def read_all(exchange: Exchange, bytes_max: int) -> bytes:
    """The rest of an answer. Raises AnswerTooLarge."""
    parts, size = [], 0
    while part := await exchange.read():
        size += len(part)
        if size > bytes_max:
            raise AnswerTooLarge("the answer's body is over the limit")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def is_to_be_streamed(exchange: Exchange, outgoing: Outgoing, *, answer_bytes_max: int) -> bool:
    """Whether an answer leaves as it comes: events, and RAW answers of unknown size or over the limit.

    A RAW answer that is a refusal costs nothing, and its caller is told so in its head: it is read whole.
    """
    is_raw = outgoing.dialect is Dialect.RAW
    if (is_raw and exchange.status >= 300) or not (is_raw or outgoing.stream):
        return False
    headers = {name.lower(): value for name, value in exchange.headers}
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if not is_raw:
        return media_type == b"text/event-stream"
    if media_type == b"text/event-stream":
        return True
    length = headers.get(b"content-length")
    if length is None:
        return exchange.status != 204
    return int(length) > min(WHOLE_BYTES_MAX, answer_bytes_max)


class map_transport_errors:  # noqa: N801 - reads as a verb at its use
    """httpx's exceptions become refusals here and nowhere else, most specific first."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, httpx.TransportError):
            raise refusal_of(error) from error


def refusal_of(error: httpx.TransportError) -> Refusal:
    """What a failed exchange means for the caller."""
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimeout("The backend did not answer in time; nothing was charged.")
    if isinstance(error, HeadTooLarge):
        return UpstreamError("The backend's answer has too much around it; nothing was charged.")
    if isinstance(error, AnswerTooLarge):
        refusal = UpstreamError("The backend answered too much; nothing was charged.")
        refusal.is_too_large = True
        return refusal
    return UpstreamError("The backend broke off or could not be reached; nothing was charged.")
