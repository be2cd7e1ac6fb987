"""What requests and answers look like, as JSON Schema: the parts that the OpenAPI description refers to."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from arkgate.core.money import Msat, whole_sats
from arkgate.web.prices import PriceKind

Json = dict[str, Any]
SATS: Final[Json] = {"type": "integer", "minimum": 0}
EXACT_SATS: Final[Json] = {"type": "number", "description": "Sats, to the msat"}
TIME: Final[Json] = {"type": "string", "format": "date-time"}
TEXT: Final[Json] = {"type": "string"}
URL: Final[Json] = {"type": "string", "format": "uri"}
ANY: Final[Json] = {"type": "object"}
SESSION_STATUS: Final = ("awaiting_payment", "awaiting_finality", "active", "expired", "cancelled")


def fields(required: Mapping[str, Json], **optional: Json) -> Json:
    """An object with these fields; others may come."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def maybe(schema: Json) -> Json:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Json, **bounds: int) -> Json:
    """A list of them."""
    return {"type": "array", "items": schema, **bounds}


def ref(name: str, kind: str = "schemas") -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


_FUNDING: Final = fields(
    {
        "lightning_invoice": maybe({"type": "string", "description": "BOLT11"}),
        "ark_address": maybe(TEXT),
        "payment_hash": maybe({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
        "bip321": {"type": "string", "description": "One URI for a wallet that knows any of them"},
    }
)
_PAYABLE: Final = {
    "funding": ref("Funding"),
    "amount_sats": SATS,
    "status": {"enum": list(SESSION_STATUS)},
    "expires_in": {"type": "integer", "minimum": 0, "description": "Seconds"},
    "expires_at": TIME,
    "balance_sats": SATS,
    "balance_expires": TEXT,
}
_SESSION: Final = {
    "session_id": TEXT,
    **_PAYABLE,
    "status_url": URL,
    "events_url": URL,
    "pay_url": URL,
}
_TOKEN: Final[Json] = {"type": "string", "pattern": "^ak_[0-9a-f]{32,}$"}
_LINE: Final = fields(
    {
        "at": TIME,
        "kind": {"enum": ["credit", "charge", "refund"]},
        "amount_sats": EXACT_SATS,
        "balance_sats": EXACT_SATS,
        "reference": TEXT,
        "detail": TEXT,
    }
)
_PRICED: Final = fields(
    {
        "path": TEXT,
        "method": TEXT,
        "methods": many(TEXT),
        "cost_sats": SATS,
        "price_is": {"enum": [kind.value for kind in PriceKind]},
        "pricing": ANY,
        "calls_per_day": maybe({"type": "integer"}),
        "description": TEXT,
        "service": TEXT,
    }
)
_MODEL: Final = fields({"id": TEXT, "pricing": ANY})
_AT_MOST: Final = "At most 4,000 characters, or 413"
_MESSAGE: Final = fields(
    {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string", "description": _AT_MOST}}
)
_TEXTS: Final[Json] = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {}, "minItems": 1}]
}
_TURNS: Final = many(ANY, minItems=1)

SCHEMAS: Final[Json] = {
    "Refusal": fields(
        {
            "success": {"const": False},
            "error": {
                "anyOf": [TEXT, ANY],
                "description": "What to do. On the AI APIs their own object, with message and type.",
            },
            "code": {"type": "string", "description": "The same sentence for programs"},
            "request_id": TEXT,
        },
        cost_sats=SATS,
        refunded={"type": "boolean"},
        retry_after_seconds={"type": "integer"},
        balance_remaining=SATS,
        endpoint=TEXT,
    ),
    "Challenge": {
        "allOf": [
            ref("Refusal"),
            fields(
                {},
                invoice={"type": "string", "description": "BOLT11, lower case"},
                macaroon={"type": "string", "description": "Base64; with the preimage it is the credential"},
                payment_hash=TEXT,
                price_sats={"type": "integer", "description": "The invoice's amount"},
                call_price_sats=SATS,
                calls={"type": "integer", "description": "How many calls the invoice pays"},
                calls_per_day=maybe({"type": "integer"}),
                expires_at=TIME,
                next=many(ANY),
                topup_url=URL,
            ),
        ]
    },
    "Funding": _FUNDING,
    "Session": fields(_SESSION, waiting_sats=SATS),
    "OpenedSession": fields({"token": _TOKEN, **_SESSION}),
    "TopUp": fields(_PAYABLE),
    "Token": fields({"token": _TOKEN}, balance_sats=SATS, status=TEXT),
    "Claim": fields({"macaroon": TEXT, "claim": TEXT}),
    "Balance": fields(
        {
            "token": maybe(_TOKEN),
            "balance_sats": SATS,
            "available_sats": SATS,
            "held_sats": SATS,
            "status": {"enum": ["awaiting_payment", "active"]},
            "price_sats": SATS,
            "calls_left_today": maybe({"type": "integer"}),
            "resets_at": TIME,
            "expires_at": maybe(TIME),
            "balance_expires": TEXT,
        }
    ),
    "Statement": fields(
        {"lines": many(_LINE), "balance_sats": SATS, "next_offset": maybe({"type": "integer"})}
    ),
    "Catalog": fields({"endpoints": many(_PRICED), "models": many(_MODEL), "session": ANY, "auth": TEXT}),
    "Quote": fields(
        {
            "endpoint": TEXT,
            "method": TEXT,
            "service": TEXT,
            "model": maybe(TEXT),
            "hold_sats": SATS,
            "hold_msat": {"type": "integer"},
            "expected_sats": SATS,
            "expected_msat": {"type": "integer"},
            "pricing": ANY,
            "calls_per_day": maybe({"type": "integer"}),
        }
    ),
    "Models": fields({"data": many(_MODEL)}),
    "Model": _MODEL,
    "Health": fields({"status": TEXT}),
    "Readiness": fields({"status": {"enum": ["ready", "not ready"]}, "dependencies": ANY}),
    "AiChat": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string", "description": _AT_MOST},
            "messages": many(_MESSAGE, maxItems=12),
            "stream": {"type": "boolean", "default": False},
        },
        "description": "One of prompt and messages is needed.",
    },
    "AiChatAnswer": fields(
        {
            "success": {"const": True},
            "data": fields({"answer": TEXT, "model": TEXT, "usage": ANY}),
            "cost_sats": SATS,
            "balance_remaining": SATS,
            "endpoint": TEXT,
            "request_id": TEXT,
            "cached": {"type": "boolean"},
        },
        response_ms={"type": "integer"},
    ),
    "ChatCompletion": fields({"messages": _TURNS}, model=TEXT, stream={"type": "boolean"}, tools=many(ANY)),
    "Completion": fields(
        {"prompt": _TEXTS},
        model=TEXT,
        stream={"type": "boolean"},
    ),
    "Embedding": fields({"input": _TEXTS}, model=TEXT),
    "Response": fields(
        {"input": _TEXTS},
        model=TEXT,
        stream={"type": "boolean"},
    ),
    "Message": fields(
        {"messages": _TURNS, "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}},
        model=TEXT,
        stream={"type": "boolean"},
    ),
}


def amount_schema(minimum: Msat, maximum: Msat) -> Json:
    """The body of a funding request, between what can be paid here."""
    least, most = whole_sats(minimum, asked_for=True), whole_sats(maximum)
    return fields({"amount_sats": {"type": "integer", "minimum": least, "maximum": most}})


KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "One key is one purchase: the same key and request again gives the stored answer.",
}
HEADERS: Final[Json] = {
    "Request-Id": {"schema": TEXT, "description": "The request's number, for the operator"},
    "Cost": {"schema": SATS, "description": "What this request cost, in sats"},
    "Balance": {"schema": SATS, "description": "What is left, in whole sats"},
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"},
    "Challenge": {"schema": TEXT, "description": 'L402 macaroon="…", invoice="…"'},
}
_REFUSED: Final[Mapping[int, str]] = {
    400: "The request has to be changed; nothing was charged.",
    401: "The credential is missing, not ours, or damaged.",
    402: "Payment required: the challenge is in WWW-Authenticate and in the body.",
    403: "A credential that its holder narrowed may not do this.",
    404: "There is no such thing here.",
    405: "Another method is needed: see Allow.",
    409: "The same purchase is under way: repeat it after Retry-After.",
    410: "The call was charged and its answer is not stored.",
    413: "The request is too large.",
    415: "The body must be application/json.",
    422: "The amount is out of range, or the Idempotency-Key belongs to another request.",
    429: "The day's calls are used up, or requests come too fast: see Retry-After.",
    501: "WebSockets are not served.",
    502: "The backend failed; refunded.",
    503: "Not now, and nothing was held. See Retry-After.",
    504: "The backend did not answer in time; refunded.",
}


def _refusal(status: int, words: str) -> Json:
    headers = {"X-Request-Id": ref("Request-Id", "headers")}
    if status in (409, 429, 503):
        headers["Retry-After"] = ref("Retry-After", "headers")
    if status in (401, 402):
        headers["WWW-Authenticate"] = ref("Challenge", "headers")
    schema = ref("Challenge" if status == 402 else "Refusal")
    return {
        "description": words,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }


RESPONSES: Final[Json] = {f"Refused{status}": _refusal(status, words) for status, words in _REFUSED.items()}


def refusals(statuses: Iterable[int]) -> Json:
    """What may be answered instead, by status."""
    return {str(status): ref(f"Refused{status}", "responses") for status in sorted(statuses)}
