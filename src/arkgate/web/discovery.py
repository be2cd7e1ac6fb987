"""Maps for agents that have only the address: what is sold, for how much, how to pay, how to call.

All of them are rendered from the one catalog, so that no price can drift from what is charged.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arkgate.core.catalog import Catalog, Endpoint, Service, ServiceKind
from arkgate.core.money import whole_sats
from arkgate.web.examples import example_of
from arkgate.web.llms import (
    CREDENTIAL,
    MCP_PATH,
    REFUNDS,
    RETRY,
    Means,
    examples_text,
    session_amount,
    short_text,
)
from arkgate.web.offers import endpoint_told
from arkgate.web.openapi import VERSION, operation_id
from arkgate.web.prices import price_of
from arkgate.web.respond import json_response, raw_response

MAP_HEADERS: Final = ((b"cache-control", b"public, max-age=300"),)
_MARKDOWN: Final = b"text/markdown; charset=utf-8"
_TOKEN: Final = "Authorization: Bearer ak_…"  # noqa: S105 - how one looks


class Discovery:
    """The maps, at the addresses where agents and directories look for them."""

    def __init__(self, catalog: Catalog, means: Means, public_url: str) -> None:
        self._catalog = catalog
        self._means = means
        self._url = public_url

    def routes(self) -> list[Route]:
        """All of them; they are free and name no secret."""
        return [
            Route("/.well-known/l402.json", self.l402, methods=["GET"]),
            Route("/.well-known/l402", self.l402, methods=["GET"]),
            Route("/.well-known/arkapi.json", self.arkapi, methods=["GET"]),
            Route("/.well-known/mcp.json", self.mcp, methods=["GET"]),
            Route("/llms.txt", self.llms, methods=["GET"]),
            Route("/llms-full.txt", self.llms_full, methods=["GET"]),
            Route("/AGENTS.md", self.llms, methods=["GET"]),
            Route("/robots.txt", self.robots, methods=["GET"]),
        ]

    async def l402(self, request: Request) -> Response:
        """`GET /.well-known/l402.json`: what is sold, as directories of L402 services read it."""
        chat = self._catalog.chat
        body = {
            "version": "1",
            "name": self._means.name,
            "description": self._means.summary,
            "base_url": self._url,
            "documentation_url": f"{self._url}/docs",
            "openapi_url": f"{self._url}/openapi.json",
            "catalog_url": f"{self._url}/v1/catalog",
            "pricing": {
                "unit": "call",
                "currency": "sat",
                "default": price_of(*next(self._catalog.offered())).cost_sats,
            },
            "payment": {
                "methods": self._means.methods,
                "network": self._means.network,
                "challenge": "A request without credential is answered 402 with WWW-Authenticate: L402 "
                'macaroon="…", invoice="…"; the body has the same as macaroon and invoice.',
                "credential": CREDENTIAL,
                "token": self._session(),
            },
            "capabilities": {
                "streaming": chat is not None,
                "models": [] if chat is None else [model.name for model in chat.models],
                "idempotency": RETRY,
                "refunds": REFUNDS,
                "balance_expires": self._catalog.balance_expiry.value,
            },
            "endpoints": [self._endpoint(service, endpoint) for service, endpoint in self._catalog.offered()],
        }
        return json_response(body, headers=MAP_HEADERS)

    async def arkapi(self, request: Request) -> Response:
        """`GET /.well-known/arkapi.json`: the fields that ArkAPI's own map has."""
        url = self._url
        body = {
            "name": self._means.name,
            "description": self._means.summary,
            "homepage": url,
            "openapi_url": f"{url}/openapi.json",
            "llms_url": f"{url}/llms.txt",
            "llms_full_url": f"{url}/llms-full.txt",
            "catalog_url": f"{url}/v1/catalog",
            "version": VERSION,
            "auth": {
                "type": "bearer",
                "format": "Bearer ak_…",
                "session_create_url": f"{url}/v1/sessions",
                "session_balance_url": f"{url}/v1/balance",
                "l402": CREDENTIAL,
            },
            "funding": {"network": self._means.network, "methods": self._means.methods},
            "pricing_model": {"type": "prepaid", "unit": "sats", "cost_field": "cost_sats"},
            "discovery": {"l402": f"{url}/.well-known/l402.json", "models": f"{url}/v1/models"},
            "capabilities": ["l402", "streaming", "refunds", "idempotency", "top_up", "statement"],
            "tools": [self._tool(service, endpoint) for service, endpoint in self._catalog.offered()],
        }
        return json_response(body, headers=MAP_HEADERS)

    async def mcp(self, request: Request) -> Response:
        """`GET /.well-known/mcp.json`: where the tools for hosts of MCP are, and how they are paid."""
        where = self._url + MCP_PATH
        body = {
            "name": self._means.name,
            "version": VERSION,
            "description": self._means.summary,
            "url": where,
            "transport": {"type": "streamable-http", "url": where, "endpoint": MCP_PATH},
            "capabilities": {"tools": {}},
            "authentication": {
                "required": False,
                "schemes": ["bearer"],
                "description": f"{_TOKEN}, or none: what is not paid for is answered with an invoice.",
            },
            "documentation_url": f"{self._url}/llms.txt",
        }
        return json_response(body, headers=MAP_HEADERS)

    async def llms(self, request: Request) -> Response:
        """`GET /llms.txt`: the shortest way to a paid call, in words."""
        return text_response(short_text(self._catalog, self._means, self._url), _MARKDOWN)

    async def llms_full(self, request: Request) -> Response:
        """`GET /llms-full.txt`: the same with an example of each endpoint and what refusals mean."""
        short = short_text(self._catalog, self._means, self._url)
        return text_response(short + examples_text(self._catalog, self._url), _MARKDOWN)

    async def robots(self, request: Request) -> Response:
        """`GET /robots.txt`: priced routes are not for crawlers; the maps are."""
        paths = [f"Disallow: {endpoint.path}" for _, endpoint in self._catalog.offered()]
        maps = [f"Sitemap: {self._url}/sitemap.xml", f"Llms-txt: {self._url}/llms.txt"]
        lines = ["User-agent: *", *paths, "Allow: /", "", *maps, ""]
        return text_response("\n".join(lines), b"text/plain; charset=utf-8")

    def _session(self) -> dict[str, object]:
        return {
            "create": f"POST {self._url}/v1/sessions",
            "body": {"amount_sats": session_amount(self._means)},
            "balance": f"GET {self._url}/v1/balance",
            "top_up": f"POST {self._url}/v1/topups",
            "credential": _TOKEN,
            "minimum_sats": whole_sats(self._means.minimum, asked_for=True),
            "maximum_sats": whole_sats(self._means.maximum),
        }

    def _endpoint(self, service: Service, endpoint: Endpoint) -> dict[str, object]:
        told, body = endpoint_told(service, endpoint), example_of(service, endpoint).body
        return {
            "price_sats": told.pop("cost_sats"),
            **told,
            "url": self._url + endpoint.path,
            "everything_under_it": endpoint.is_prefix,
            "category": category_of(service),
            "request": body and {"type": "application/json", "example": body},
        }

    def _tool(self, service: Service, endpoint: Endpoint) -> dict[str, object]:
        told = endpoint_told(service, endpoint)
        return {
            "id": operation_id(endpoint, endpoint.methods[0]),
            **{name: told[name] for name in ("path", "method", "cost_sats", "price_is", "description")},
            "category": category_of(service),
            "sample_intent": endpoint.description,
        }


def category_of(service: Service) -> str:
    """What directories file it under."""
    return "ai" if service.kind is ServiceKind.CHAT else "api"


def text_response(words: str, media_type: bytes) -> Response:
    """A map in words."""
    return raw_response(words.encode(), headers=[(b"content-type", media_type), *MAP_HEADERS])
