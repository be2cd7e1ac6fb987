"""The routes that cost nothing, as the OpenAPI description has them."""

from collections.abc import Sequence
from typing import Final

from arkgate.web.openapi_schemas import TEXT, Json, ref, refusals

_JSON: Final = "application/json"
_STREAM: Final = "text/event-stream"
_OFFSET: Final[Json] = {
    "name": "offset",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**9},
}
_LIMIT: Final[Json] = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
}
_ORDER: Final[Json] = {"name": "order", "in": "query", "schema": {"enum": ["oldest", "newest"]}}
_FORMAT: Final[Json] = {"name": "format", "in": "query", "schema": {"enum": ["json", "csv"]}}
_ENDPOINT: Final[Json] = {
    "name": "path",
    "in": "query",
    "schema": {"type": "string"},
    "description": "The priced endpoint; the first of the catalog if it is not named",
}
_METHOD: Final[Json] = {"name": "method", "in": "query", "schema": {"type": "string"}}
_WITH_AMOUNT: Final[Json] = {
    "required": True,
    "content": {_JSON: {"schema": ref("Amount"), "example": {"amount_sats": 500}}},
}


def in_path(name: str, words: str) -> Json:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": TEXT, "description": words}


def _free(
    operation_id: str,
    summary: str,
    tag: str,
    answer: str | Json,
    *,
    status: int = 200,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    refused: Sequence[int] = (),
    account: bool = False,
) -> Json:
    """`answer` is a schema's name, or the content by its types; `account` where a credential is needed."""
    content = {_JSON: {"schema": ref(answer)}} if isinstance(answer, str) else answer
    of_account = (400, 401, 503) if account else ()
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        **({} if account else {"security": []}),
        **({"parameters": list(parameters)} if parameters else {}),
        **({} if body is None else {"requestBody": body}),
        "responses": {
            str(status): {
                "description": summary,
                "headers": {"X-Request-Id": ref("Request-Id", "headers")},
                "content": content,
            },
            **refusals({*refused, *of_account}),
        },
    }


_SESSION_ID: Final = in_path("session_id", "From the session's answer; who has it sees the status")
_FUND: Final = (400, 413, 415, 422, 429, 503)


_READY: Final = _free("ready", "Every dependency with its state", "health", "Readiness")
_READY["responses"]["503"] = {
    "description": "One of them is not ready",
    "content": {_JSON: {"schema": ref("Readiness")}},
}
_PATHS: Final[Json] = {
    "/v1/sessions": {
        "post": _free(
            "open_session",
            "A new token and where it is paid for",
            "funding",
            "OpenedSession",
            status=201,
            body=_WITH_AMOUNT,
            refused=_FUND,
        )
    },
    "/v1/sessions/{session_id}": {
        "get": _free(
            "look_at_session",
            "What became of a session",
            "funding",
            "Session",
            parameters=[_SESSION_ID],
            refused=(404, 503),
        )
    },
    "/v1/sessions/{session_id}/events": {
        "get": _free(
            "watch_session",
            "The session now and after each change, until it is paid",
            "funding",
            {_STREAM: {"schema": {}}},
            parameters=[_SESSION_ID],
            refused=(404, 429, 503),
        )
    },
    "/v1/topups": {
        "post": _free(
            "top_up",
            "Another invoice for the same account",
            "funding",
            "TopUp",
            status=201,
            body=_WITH_AMOUNT,
            refused=(*_FUND, 403),
            account=True,
        )
    },
    "/v1/tokens": {
        "post": _free(
            "token_of_credential",
            "The token of an L402 credential",
            "funding",
            "Token",
            refused=(403,),
            account=True,
        )
    },
    "/v1/claims": {
        "post": _free(
            "claim_token",
            "The token of the invoice that a 402 page showed",
            "funding",
            "Token",
            body={"required": True, "content": {_JSON: {"schema": ref("Claim")}}},
            refused=(400, 401, 402, 413, 503),
        )
    },
    "/v1/balance": {
        "get": _free(
            "balance",
            "What an account has, holds and may still do today",
            "account",
            "Balance",
            account=True,
        )
    },
    "/v1/usage": {
        "get": _free(
            "usage",
            "The statement: credits, charges, refunds",
            "account",
            {_JSON: {"schema": ref("Statement")}, "text/csv": {"schema": TEXT}},
            parameters=[_OFFSET, _LIMIT, _ORDER, _FORMAT],
            refused=(403,),
            account=True,
        )
    },
    "/v1/calls/{request_id}": {
        "get": _free(
            "stored_answer",
            "The stored answer of a charged call",
            "account",
            {"*/*": {"schema": {}}},
            parameters=[in_path("request_id", "The X-Request-Id of the call")],
            refused=(404, 409, 410),
            account=True,
        )
    },
    "/v1/qr": {
        "post": _free(
            "payment_code",
            "The QR of a payment link",
            "funding",
            {"image/svg+xml": {"schema": TEXT}},
            body={
                "required": True,
                "content": {
                    "text/plain": {
                        "schema": {
                            "type": "string",
                            "pattern": "^(lightning|bitcoin):[!-~]+$",
                            "maxLength": 2000,
                        }
                    }
                },
            },
            refused=(413,),
            account=True,
        )
    },
    "/v1/catalog": {"get": _free("catalog", "What is sold and for how much", "offers", "Catalog")},
    "/v1/quote": {
        "post": _free(
            "quote",
            "What a body would cost at an endpoint",
            "offers",
            "Quote",
            parameters=[_ENDPOINT, _METHOD],
            body={"required": False, "content": {_JSON: {"schema": {}}}},
            refused=(400, 401, 404, 405, 413, 415, 422, 429, 503),
        )
    },
    "/health": {"get": _free("health", "Whether the process answers", "health", "Health")},
    "/health/live": {"get": _free("live", "Whether the process answers", "health", "Health")},
    "/health/ready": {"get": _READY},
    "/health/stream": {
        "get": _free(
            "stream_through_proxy",
            "Whether a proxy hands events on one by one",
            "health",
            {_STREAM: {"schema": {}}},
        )
    },
}
_OF_MODELS: Final[Json] = {
    "/v1/models": {"get": _free("models", "The models and their prices", "offers", "Models")},
    "/v1/models/{name}": {
        "get": _free(
            "model",
            "One model and its price",
            "offers",
            "Model",
            parameters=[in_path("name", "The model's name")],
            refused=(404,),
        )
    },
}


def free_paths(*, models: bool) -> Json:
    """Every free route; those of the models where models are sold."""
    return {**_PATHS, **(_OF_MODELS if models else {})}
