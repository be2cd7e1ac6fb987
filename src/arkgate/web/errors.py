"""The one table from refusals to HTTP statuses, and how a refusal looks on the wire."""

from enum import Enum
from typing import Final

from starlette.responses import Response

from arkgate.core import errors
from arkgate.core.money import whole_sats
from arkgate.core.pricing import Challenge
from arkgate.web.respond import json_response, standing_headers, timestamp

STATUS: Final[dict[type[errors.Refusal], int]] = {
    errors.InvalidRequest: 400,
    errors.NotSupported: 400,
    errors.InvalidCredential: 401,
    errors.InvalidToken: 401,
    errors.MissingCredential: 401,
    errors.PaymentRequired: 402,
    errors.FundedTokenRequired: 402,
    errors.AwaitingPayment: 402,
    errors.InsufficientBalance: 402,
    errors.AttenuatedCredential: 403,
    errors.OperatorOnly: 403,
    errors.ForeignHost: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestInFlight: 409,
    errors.RequestIdReused: 409,
    errors.AnswerGone: 410,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unprocessable: 422,
    errors.IdempotencyKeyReused: 422,
    errors.DailyLimitReached: 429,
    errors.RateLimited: 429,
    errors.InternalError: 500,
    errors.UpgradeNotSupported: 501,
    errors.UpstreamError: 502,
    errors.SettlementPending: 503,
    errors.NodeUnavailable: 503,
    errors.BackendUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
    errors.Draining: 503,
    errors.Paused: 503,
    errors.UpstreamTimeout: 504,
}
RETRY_AFTER_SECONDS = 5
PUBLIC_SENTENCE: Final[dict[type[errors.Refusal], str]] = {
    errors.NodeUnavailable: "The payment node cannot be asked now. Try again in a few seconds.",
    errors.StoreUnavailable: "The ledger is not available now. Try again in a few seconds.",
}
"""Where a refusal's own sentence holds an address, a path or another program's words: the operator's."""


def status_of(refusal: errors.Refusal) -> int:
    """The HTTP status of a refusal."""
    if isinstance(refusal, errors.BackendRejected):
        return refusal.status
    for kind in type(refusal).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def public_sentence(refusal: errors.Refusal) -> str | None:
    """What stands for the refusal's own sentence in public, if anything does."""
    found = (sentence for kind, sentence in PUBLIC_SENTENCE.items() if isinstance(refusal, kind))
    return next(found, None)


class Style(Enum):
    """How a refusal is written, by what its reader can read."""

    FLAT = "flat"
    """ArkAPI's: `error` is a sentence."""
    OPENAI = "openai"
    """`error` is OpenAI's object, and everything else stands beside it."""
    ANTHROPIC = "anthropic"
    """As Anthropic's, with everything else beside it."""


OURS: Final = ("sessions", "balance", "topups", "tokens", "catalog", "usage", "calls", "quote")
"""The routes under /v1 that are ArkAPI's or our own; whoever asks for another one speaks OpenAI's API."""


def style_of(path: str) -> Style:
    """How a refusal is written for whoever asks there."""
    if not path.startswith("/v1/"):
        return Style.FLAT
    if path.startswith("/v1/messages"):
        return Style.ANTHROPIC
    return Style.FLAT if path.split("/")[2] in OURS else Style.OPENAI


OPENAI_TYPES: Final[dict[int, str]] = {
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
ANTHROPIC_TYPES: Final[dict[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_error(refusal: errors.Refusal) -> dict[str, object]:
    """The `error` object that OpenAI's clients read."""
    status = status_of(refusal)
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if isinstance(refusal, errors.DailyLimitReached):
        kind = "insufficient_quota"
    sentence = public_sentence(refusal) or refusal.message
    return {"error": {"message": sentence, "type": kind, "param": None, "code": refusal.reason}}


def anthropic_error(refusal: errors.Refusal) -> dict[str, object]:
    """The object that Anthropic's clients read."""
    status = status_of(refusal)
    kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    sentence = public_sentence(refusal) or refusal.message
    return {"type": "error", "error": {"type": kind, "message": sentence}}


def refusal_response(
    refusal: errors.Refusal,
    *,
    request_id: str,
    endpoint: str,
    style: Style = Style.FLAT,
    public_url: str,
    response_ms: int | None = None,
    append_token: bool = False,
) -> Response:
    """A refusal as JSON, with the headers that belong to its status."""
    status = status_of(refusal)
    body: dict[str, object] = {
        "success": False,
        "error": public_sentence(refusal) or refusal.message,
        "code": refusal.reason,
        "cost_sats": 0,
        **_wire_fields(refusal, status, public_url),
    }
    headers = _headers(refusal, status)
    if refusal.standing is not None:
        body["balance_remaining"] = whole_sats(refusal.standing.balance.available)
        headers += standing_headers(refusal.standing)
    if isinstance(refusal, errors.PaymentRequired):
        body |= challenge_body(refusal.challenge, public_url)
        headers += challenge_headers(refusal.challenge, append_token=append_token)
    if style is Style.OPENAI:
        body |= openai_error(refusal)
    elif style is Style.ANTHROPIC:
        body |= anthropic_error(refusal)
    if response_ms is not None:
        body["response_ms"] = response_ms
    body |= {"endpoint": endpoint, "request_id": request_id}
    return json_response(body, status=status, headers=headers)


def _wire_fields(refusal: errors.Refusal, status: int, public_url: str) -> dict[str, object]:
    fields = {name: value for name, value in refusal.fields.items() if name != "refund_at_ms"}
    if "refund_at_ms" in refusal.fields:
        fields["refund_at"] = timestamp(int(str(refusal.fields["refund_at_ms"])))
    if isinstance(refusal, (errors.AwaitingPayment, errors.InsufficientBalance)):
        fields["topup_url"] = f"{public_url}/v1/topups"
    if isinstance(refusal, errors.FundedTokenRequired):
        price = int(str(refusal.fields["price_sats"]))
        fields["next"] = [_fund_token(public_url, price)]
    if refusal.retry_after_seconds is not None:
        fields["retry_after_seconds"] = refusal.retry_after_seconds
    return fields


def _headers(refusal: errors.Refusal, status: int) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-cost-sats", b"0")]
    if status in (402, 401):
        headers.append((b"cache-control", b"no-store"))
    if status == 401:
        headers.append((b"www-authenticate", b"L402"))
    wait = refusal.retry_after_seconds
    if wait is None and status == 503:
        wait = RETRY_AFTER_SECONDS
    if wait is not None:
        headers.append((b"retry-after", str(wait).encode()))
    if isinstance(refusal, errors.MethodNotAllowed):
        headers.append((b"allow", refusal.allowed.encode()))
    if isinstance(refusal, errors.DailyLimitReached):
        headers.append((b"x-should-retry", b"false"))
    return headers


def challenge_headers(challenge: Challenge, *, append_token: bool) -> list[tuple[bytes, bytes]]:
    """The two challenge lines in the one form that every known client reads.

    LSAT first, then L402, with identical values; `append_token` adds the newest draft's parameters.
    """
    values = f'macaroon="{challenge.macaroon}", invoice="{challenge.payment_request}"'
    suffix = f', version="0", token="{challenge.macaroon}"' if append_token else ""
    return [
        (b"www-authenticate", f"LSAT {values}".encode()),
        (b"www-authenticate", f"L402 {values}{suffix}".encode()),
    ]


def challenge_body(challenge: Challenge, public_url: str) -> dict[str, object]:
    """What agents and body-reading clients need of a challenge, as one flat object."""
    amount = whole_sats(challenge.bundle.amount, asked_for=True)
    return {
        "price_sats": amount,
        "priceSats": amount,
        "amount_sats": amount,
        "call_price_sats": whole_sats(challenge.quote.price, asked_for=True),
        "calls": challenge.bundle.calls,
        "calls_per_day": challenge.quote.calls_per_day,
        "macaroon": challenge.macaroon,
        "invoice": challenge.payment_request,
        "payment_hash": challenge.payment_hash.hex(),
        "expires_at": timestamp(challenge.expires_at_ms),
        "balance_expires": challenge.balance_expiry.value,
        "next": [
            {
                "do": "pay_invoice_then_retry",
                "header": "Authorization",
                "value": "L402 <macaroon>:<preimage in hex>",
            },
            _fund_token(public_url, amount),
        ],
    }


def _fund_token(public_url: str, price_sats: int) -> dict[str, object]:
    """The step of an agent that pays for several calls at once."""
    return {
        "do": "fund_token",
        "method": "POST",
        "url": f"{public_url}/v1/sessions",
        "body": {"amount_sats": price_sats * 10},
    }
