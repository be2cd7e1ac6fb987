"""What every endpoint takes from a request: its credentials, its key, its body."""

from collections.abc import Iterator, Mapping, Sequence

from starlette.requests import Request
from starlette.types import Scope

from arkgate.core.errors import InvalidRequest
from arkgate.core.money import Msat, sats
from arkgate.gateway.bodies import UNWEIGHED_BYTES
from arkgate.l402.header import Presented, Token, read_credentials
from arkgate.web.body import read_amount
from arkgate.web.guard import Arrival, read_body

HeaderMap = Mapping[bytes, bytes]
IDEMPOTENCY_KEY_CHARACTERS_MAX = 255


async def read(request: Request) -> tuple[Arrival, bytes, HeaderMap]:
    """What the guard knows, the body, and the headers."""
    body = await read_body(request.receive, request.scope, maximum=UNWEIGHED_BYTES)
    return arrival_of(request.scope), body, dict(request.scope["headers"])


def arrival_of(scope: Scope) -> Arrival:
    """What the guard knows of a request."""
    arrival: Arrival = scope["state"]["arrival"]
    return arrival


def presented_in(scope: Scope) -> tuple[Presented, ...]:
    """The credentials of a request. `X-Api-Key`, which Anthropic's clients send, is a bearer token."""
    authorization, macaroon = [], []
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization.append(value.decode("latin-1"))
        elif name == b"x-api-key":
            authorization.append("Bearer " + value.decode("latin-1"))
        elif name in (b"macaroon", b"grpc-metadata-macaroon"):
            macaroon.append(value.decode("latin-1"))
    return read_credentials(authorization, macaroon)


def tokens_in(presented: Sequence[Presented]) -> Iterator[str]:
    """The `ak_` tokens among credentials."""
    return (one.text for one in presented if isinstance(one, Token))


def idempotency_key(headers: HeaderMap) -> str | None:
    """The caller's key for this purchase. Raises InvalidRequest."""
    key = headers.get(b"idempotency-key")
    if key is None:
        return None
    text = key.decode("latin-1").strip()
    if not text or len(text) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
        raise InvalidRequest(f"Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters.")
    return text


def amount_in(body: bytes, headers: HeaderMap) -> Msat:
    """The amount of a funding request. Raises InvalidRequest or PayloadTooLarge."""
    return sats(read_amount(body, headers))


def whole_number(request: Request, name: str, *, default: int, maximum: int, minimum: int = 0) -> int:
    """A number in the query. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or not minimum <= int(text) <= maximum:
        raise InvalidRequest(f"{name} must be a whole number between {minimum} and {maximum}.")
    return int(text)
