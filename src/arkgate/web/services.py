"""Reads requests to services that are any HTTP API: what may pass, and nothing else."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from arkgate.core.catalog import Service
from arkgate.core.errors import InvalidRequest, NotFound, Refusal, UnsupportedMediaType
from arkgate.gateway.order import Order
from arkgate.ports import Dialect, Outgoing
from arkgate.web.shapes import RawShape

REQUEST_HEADERS: Final = ("accept", "accept-language", "content-type")
RESPONSE_HEADERS: Final = (
    "content-type",
    "content-disposition",
    "content-language",
    "etag",
    "last-modified",
    "link",
    "retry-after",
)
"""What passes unless the settings say otherwise."""
NEVER: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "grpc-metadata-macaroon",
        "host",
        "idempotency-key",
        "keep-alive",
        "macaroon",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
        "x-api-key",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    }
)
"""Credentials of the caller's, framing, and what belongs to one connection: never passed, either way."""


@dataclass(frozen=True, slots=True)
class HttpTerms:
    """How one HTTP API is reached, and what may pass."""

    strip: bool = False
    """Whether the service's path is left out of what the backend is asked for."""
    request_headers: tuple[str, ...] = REQUEST_HEADERS
    response_headers: tuple[str, ...] = RESPONSE_HEADERS
    request_bytes_max: int = 1024 * 1024


class HttpReader:
    """Reads the requests of one HTTP service."""

    takes_nothing = True

    def __init__(self, service: Service, terms: HttpTerms) -> None:
        self.body_bytes_max = terms.request_bytes_max
        self._service = service
        self._prefix = service.path.encode("ascii")
        self._strip = terms.strip
        self._passed = frozenset(name.encode("ascii") for name in terms.request_headers)
        self._answered = frozenset(name.encode("ascii") for name in terms.response_headers)
        self._shape = RawShape()

    def read(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Order:
        """See `priced.Reader`."""
        return self._order(scope, body)

    def fingerprint(self, order: Order | Refusal, body: bytes) -> bytes:
        """See `priced.Reader`."""
        return b"" if isinstance(order, Refusal) else fingerprint(order.outgoing)

    def is_slow(self, body: bytes) -> bool:
        """See `priced.Reader`."""
        return False

    def _order(self, scope: Scope, body: bytes) -> Order:
        headers = scope["headers"]
        for name, value in headers:
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise UnsupportedMediaType("Send the body without Content-Encoding.")
        outgoing = Outgoing(
            Dialect.RAW,
            method=scope["method"],
            target=self._target(scope),
            headers=tuple((name, value) for name, value in headers if name in self._passed),
            body=body,
        )
        service = self._service
        hold = service.price
        return Order(outgoing, service.tariff, hold, hold, self._shape, response_headers=self._answered)

    def _target(self, scope: Scope) -> bytes:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        check_path(raw)
        if self._strip:
            if not raw.startswith(self._prefix):
                raise NotFound(f"What is sold here is {self._service.path}: write it so.")
            raw = b"/" + raw.removeprefix(self._prefix).lstrip(b"/")
        query: bytes = scope["query_string"]
        return raw + b"?" + query if query else raw


def fingerprint(outgoing: Outgoing) -> bytes:
    """What makes it the same request when it comes again."""
    headers = b"\n".join(name + b":" + value for name, value in outgoing.headers)
    return b"\0".join([outgoing.method.encode(), outgoing.target, headers, outgoing.body])


def check_spelling(path: str, sold: Collection[str]) -> None:
    """Raises NotFound for a path that is sold but for its last slash.

    Or it could be bought at the price of a shorter path, and be the same for the backend.
    """
    twin = path[:-1] if path.endswith("/") else path + "/"
    if twin in sold and path not in sold:
        raise NotFound(f"What is sold here is {twin}: write it so.")


def check_path(raw: bytes) -> None:
    """Raises InvalidRequest for a path that two servers could read as two different ones."""
    segments = raw.split(b"/")
    if b"" in segments[1:-1] or b";" in unquote_to_bytes(raw):
        raise InvalidRequest("The path holds // or a semicolon, which could be read in two ways.")
    for segment in segments:
        decoded = unquote_to_bytes(segment)
        if decoded in (b".", b"..") or any(byte in decoded for byte in b"/\\"):
            raise InvalidRequest("The path holds a segment that could be read in two ways.")
        if any(byte < 0x20 or byte == 0x7F for byte in decoded):
            raise InvalidRequest("The path holds a control character.")
