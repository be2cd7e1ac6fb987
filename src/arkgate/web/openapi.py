"""The OpenAPI description of what is sold, rendered from the catalog, so that no price can drift from it.

`x-payment-info` and `x-service-info` are those of MPP's draft-payment-discovery-00.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from arkgate.core.catalog import Catalog, Endpoint, Service, ServiceKind
from arkgate.web.examples import example_of
from arkgate.web.llms import Means
from arkgate.web.openapi_free import free_paths, in_path
from arkgate.web.openapi_schemas import (
    HEADERS,
    KEY,
    RESPONSES,
    SCHEMAS,
    Json,
    amount_schema,
    ref,
    refusals,
)
from arkgate.web.prices import PriceKind, price_of, tariff_told

VERSION: Final = "0.1.0"
_BODIES: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "ChatCompletion",
    "/v1/completions": "Completion",
    "/v1/embeddings": "Embedding",
    "/v1/responses": "Response",
    "/v1/messages": "Message",
}
_REFUSED: Final = (400, 401, 402, 404, 405, 409, 410, 413, 415, 422, 429, 501, 502, 503, 504)
_TAGS: Final = {
    "ai": "Answers of AI models, priced",
    "api": "Other APIs, priced",
    "funding": "Tokens and where to pay; free of charge",
    "account": "What an account has and did; free of charge",
    "offers": "What is sold; free of charge",
    "health": "Whether it runs",
}


def described(catalog: Catalog, means: Means, public_url: str) -> Json:
    """The whole document, OpenAPI 3.1."""
    paths: Json = {}
    for service, endpoint in catalog.offered():
        path = endpoint.path + ("{path}" if endpoint.is_prefix else "")
        paths[path] = {
            method.lower(): _operation(service, endpoint, method, means.methods)
            for method in endpoint.methods
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "arkgate",
            "version": VERSION,
            "description": "Calls sold for sats: ask, pay the invoice of the 402, ask again; or use a token.",
        },
        "servers": [{"url": public_url}],
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "security": [{"token": []}, {"l402": []}],
        "x-service-info": {
            "categories": sorted({_tag(service) for service in catalog}),
            "docs": {
                "homepage": public_url,
                "apiReference": f"{public_url}/docs",
                "llms": f"{public_url}/llms.txt",
            },
        },
        "paths": {**paths, **free_paths(models=catalog.chat is not None)},
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
            "schemas": {**SCHEMAS, "Amount": amount_schema(means.minimum, means.maximum)},
            "headers": HEADERS,
            "responses": RESPONSES,
        },
    }


def operation_id(endpoint: Endpoint, method: str) -> str:
    """A name for programs: `post_api_ai_chat`."""
    words = endpoint.path.replace("/", " ").replace("-", " ").replace(".", " ").split()
    return "_".join([method.lower(), *words])


def _tag(service: Service) -> str:
    return "ai" if service.kind is ServiceKind.CHAT else "api"


def _operation(service: Service, endpoint: Endpoint, method: str, methods: Sequence[str]) -> Json:
    price = price_of(service, endpoint)
    is_bounded = price.kind in (PriceKind.FIXED, PriceKind.AT_MOST)
    operation: Json = {
        "operationId": operation_id(endpoint, method),
        "summary": endpoint.description or f"{service.name}, {method}",
        "tags": [_tag(service)],
        "x-cost-sats": price.cost_sats,
        "x-price-is": price.kind.value,
        "x-pricing": tariff_told(price.tariff),
        "x-payment-info": {
            "offers": [
                {
                    "intent": "charge",
                    "method": way,
                    "amount": str(price.cost_sats) if is_bounded else None,  # null: it depends on the call
                    "currency": "sat",
                    "description": price.words,
                }
                for way in methods
            ]
        },
        "parameters": [KEY, *([in_path("path", "Everything under it")] if endpoint.is_prefix else [])],
        "responses": {"200": _answer(service, endpoint), **refusals(_REFUSED)},
    }
    if service.kind is ServiceKind.HTTP:
        operation["responses"]["default"] = {"description": "The API's own answer; only a 2xx is charged."}
    if method in ("POST", "PUT", "PATCH"):
        operation["requestBody"] = _body(service, endpoint)
    return operation


def _body(service: Service, endpoint: Endpoint) -> Json:
    if service.kind is ServiceKind.HTTP:
        return {"required": False, "content": {"*/*": {"schema": {}}}}
    schema = ref(_BODIES.get(endpoint.path, "AiChat"))
    example = example_of(service, endpoint).body
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _answer(service: Service, endpoint: Endpoint) -> Json:
    headers = {
        "X-Request-Id": ref("Request-Id", "headers"),
        "X-Cost-Sats": ref("Cost", "headers"),
        "X-Balance-Sats": ref("Balance", "headers"),
    }
    content: Json = {"*/*": {"schema": {}}}
    if service.kind is ServiceKind.CHAT:
        own = endpoint.path in _BODIES
        schema: Json = {"type": "object"} if own else ref("AiChatAnswer")
        content = {"application/json": {"schema": schema}, "text/event-stream": {"schema": {}}}
    words = "The answer, charged. Server-Sent Events where a stream was asked for."
    return {"description": words, "headers": headers, "content": content}
