"""The OpenAPI description of what is sold, rendered from the catalog, so that no price can drift from it."""

from collections.abc import Mapping
from typing import Any, Final

from arkgate.core.catalog import Catalog, Endpoint, Service, ServiceKind
from arkgate.core.money import whole_sats
from arkgate.web.offers import tariff_told

Json = dict[str, Any]
VERSION: Final = "0.1.0"
_ERROR: Final = {"$ref": "#/components/schemas/Refusal"}
_REFUSED: Final[Mapping[str, str]] = {
    "400": "The request has to be changed; nothing was charged.",
    "401": "The credential is not ours or damaged.",
    "402": "Payment required: the challenge is in WWW-Authenticate and in the body.",
    "409": "The same purchase is under way: repeat it after Retry-After.",
    "413": "The request is too large.",
    "422": "The Idempotency-Key belongs to another request.",
    "429": "The day's calls are used up, or calls come too fast: see Retry-After.",
    "502": "The backend failed; refunded.",
    "503": "Nothing is sold now; nothing was held. See Retry-After.",
    "504": "The backend did not answer in time; refunded.",
}
_CHAT_BODY: Final[Json] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "maxLength": 4000},
        "messages": {
            "type": "array",
            "maxItems": 12,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"enum": ["user", "assistant"]},
                    "content": {"type": "string", "maxLength": 4000},
                },
            },
        },
        "stream": {"type": "boolean", "default": False},
    },
    "anyOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
    "example": {"prompt": "How is Ark different from Lightning?"},
}


def described(catalog: Catalog, public_url: str) -> Json:
    """The whole document, OpenAPI 3.1."""
    paths: Json = {}
    for service, endpoint in catalog.offered():
        path = endpoint.path + ("{path}" if endpoint.is_prefix else "")
        paths[path] = {method.lower(): _operation(service, endpoint, method) for method in endpoint.methods}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "arkgate",
            "version": VERSION,
            "description": "Calls sold for sats: ask, pay the invoice of the 402, ask again; or use a token.",
        },
        "servers": [{"url": public_url}],
        "security": [{"token": []}, {"l402": []}],
        "paths": {**paths, **_FREE},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A funded token, ak_…"},
                "l402": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "L402 <macaroon>:<preimage>, from a paid challenge",
                },
            },
            "schemas": {"Refusal": _REFUSAL},
        },
    }


def operation_id(endpoint: Endpoint, method: str) -> str:
    """A name for programs: `post_api_ai_chat`."""
    words = endpoint.path.replace("/", " ").replace("-", " ").replace(".", " ").split()
    return "_".join([method.lower(), *words])


def _operation(service: Service, endpoint: Endpoint, method: str) -> Json:
    is_ai_chat = service.kind is ServiceKind.CHAT and endpoint == service.endpoints[0]
    operation: Json = {
        "operationId": operation_id(endpoint, method),
        "summary": endpoint.description or f"{service.name}, {method}",
        "x-cost-sats": whole_sats(service.price, asked_for=True),
        "x-pricing": tariff_told(service.tariff),
        "parameters": [_KEY, *([_PATH] if endpoint.is_prefix else [])],
        "responses": {
            "200": {"description": "The answer, charged. Server-Sent Events where a stream was asked for."},
            **{
                status: {"description": words, "content": {"application/json": {"schema": _ERROR}}}
                for status, words in _REFUSED.items()
            },
        },
    }
    if method in ("POST", "PUT", "PATCH"):
        schema = _CHAT_BODY if is_ai_chat else {}
        media_type = "application/json" if service.kind is ServiceKind.CHAT else "*/*"
        operation["requestBody"] = {
            "required": service.kind is ServiceKind.CHAT,
            "content": {media_type: {"schema": schema}},
        }
    return operation


_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "One key is one purchase: the same key and request again gives the stored answer.",
}
_PATH: Final[Json] = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
_REFUSAL: Final[Json] = {
    "type": "object",
    "required": ["success", "error", "code", "request_id"],
    "properties": {
        "success": {"const": False},
        "error": {"type": ["string", "object"], "description": "What to do; on the AI APIs their object."},
        "code": {"type": "string"},
        "refunded": {"type": "boolean"},
        "request_id": {"type": "string"},
        "invoice": {"type": "string", "description": "BOLT11, in a challenge"},
        "macaroon": {"type": "string", "description": "Base64, in a challenge"},
        "price_sats": {"type": "integer", "description": "The invoice's amount"},
    },
}


def _free(method: str, summary: str, *, open_to_all: bool = True) -> Json:
    operation: Json = {"summary": summary, "responses": {"default": {"description": "JSON"}}}
    if open_to_all:
        operation["security"] = []
    return {method: operation}


_FREE: Final[Json] = {
    "/v1/sessions": _free("post", "A new token and where it is paid for"),
    "/v1/balance": _free("get", "Balance, what is held, calls left today", open_to_all=False),
    "/v1/topups": _free("post", "Another invoice for the same account", open_to_all=False),
    "/v1/tokens": _free("post", "The token of an L402 credential", open_to_all=False),
    "/v1/usage": _free("get", "The statement", open_to_all=False),
    "/v1/catalog": _free("get", "What is sold and for how much"),
    "/v1/quote": _free("post", "What a body would cost at an endpoint"),
    "/v1/models": _free("get", "The models and their prices"),
    "/health": _free("get", "Whether the process answers"),
}
