"""Further maps, for the directories and programs that look for one at an address of their own.

Each says what `discovery` says, in the form that its readers expect; all are rendered from the catalog.
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arkgate.core.catalog import Catalog
from arkgate.core.errors import NotFound
from arkgate.core.money import whole_sats
from arkgate.ports import Clock
from arkgate.web.discovery import MAP_HEADERS, category_of, text_response
from arkgate.web.examples import example_of
from arkgate.web.llms import Means
from arkgate.web.openapi import operation_id
from arkgate.web.respond import json_response, raw_response

PAGES: Final = ("/", "/fund", "/apis", "/docs", "/docs/reference")
SECURITY_DAYS: Final = 180
"""How long readers may rely on `security.txt`: RFC 9116 wants less than a year."""


class Manifests:
    """The maps of other conventions."""

    def __init__(self, catalog: Catalog, means: Means, clock: Clock, public_url: str) -> None:
        self._catalog = catalog
        self._means = means
        self._clock = clock
        self._url = public_url

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/.well-known/security.txt", self.security, methods=["GET"]),
            Route("/sitemap.xml", self.sitemap, methods=["GET"]),
            Route("/.well-known/l402-services", self.services, methods=["GET"]),
            Route("/.well-known/l402-manifest.json", self.manifest, methods=["GET"]),
            Route("/l402.json", self.manifest, methods=["GET"]),
            Route("/.well-known/api-catalog", self.api_catalog, methods=["GET"]),
        ]

    async def security(self, request: Request) -> Response:
        """`GET /.well-known/security.txt` (RFC 9116), where the operator says how he is reached."""
        if not self._means.contact:
            raise NotFound("The operator of this gateway has not said how he is reached.")
        ends = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC) + timedelta(days=SECURITY_DAYS)
        lines = [
            f"Contact: {self._means.contact}",
            f"Expires: {ends.strftime('%Y-%m-%dT00:00:00Z')}",
            "Preferred-Languages: en",
            f"Canonical: {self._url}/.well-known/security.txt",
            "",
        ]
        return text_response("\n".join(lines), b"text/plain; charset=utf-8")

    async def sitemap(self, request: Request) -> Response:
        """`GET /sitemap.xml`: the pages that anybody may find."""
        pages = "".join(f"<url><loc>{escape(self._url + path)}</loc></url>" for path in PAGES)
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{pages}</urlset>\n'
        )
        return text_response(body, b"application/xml; charset=utf-8")

    async def services(self, request: Request) -> Response:
        """`GET /.well-known/l402-services`: as 402index and nginx's L402 module list endpoints."""
        services = [
            {
                "endpoint": self._url + endpoint.path,
                "path": endpoint.path,
                "method": endpoint.methods[0],
                "description": endpoint.description,
                "price_sats": whole_sats(service.price, asked_for=True),
                "price": {
                    "type": "fixed" if service.tariff.is_fixed else "at_most",
                    "amount_msat": service.price,
                },
                "sample_request": example_of(service, endpoint).body,
            }
            for service, endpoint in self._catalog.offered()
        ]
        return json_response({"services": services}, headers=MAP_HEADERS)

    async def manifest(self, request: Request) -> Response:
        """`GET /.well-known/l402-manifest.json`: as Lightning Enable's registry reads it."""
        offered = list(self._catalog.offered())
        body = {
            "service": {
                "name": self._means.name,
                "description": self._means.summary,
                "base_url": self._url,
                "documentation_url": f"{self._url}/docs",
                "categories": sorted({category_of(service) for service, _ in offered}),
            },
            "l402": {
                "default_price_sats": whole_sats(offered[0][0].price, asked_for=True),
                "payment_flow": "402 with invoice and macaroon; pay; repeat with macaroon and preimage",
                "capabilities": {"multi_use_credentials": True, "refunds": True, "idempotency": True},
            },
            "endpoints": [
                {
                    "id": operation_id(endpoint, endpoint.methods[0]),
                    "path": endpoint.path,
                    "method": endpoint.methods[0],
                    "summary": endpoint.description,
                    "l402_enabled": self._means.lightning,
                    "pricing": {
                        "model": "per_call" if service.tariff.is_fixed else "metered",
                        "base_price_sats": whole_sats(service.price, asked_for=True),
                    },
                    "tags": [category_of(service)],
                }
                for service, endpoint in offered
            ],
        }
        return json_response(body, headers=MAP_HEADERS)

    async def api_catalog(self, request: Request) -> Response:
        """`GET /.well-known/api-catalog` (RFC 9727): a linkset."""
        url = self._url
        body = {
            "linkset": [
                {
                    "anchor": url,
                    "service-desc": [{"href": f"{url}/openapi.json", "type": "application/json"}],
                    "service-doc": [{"href": f"{url}/docs", "type": "text/html"}],
                    "service-meta": [{"href": f"{url}/.well-known/l402.json", "type": "application/json"}],
                    "status": [{"href": f"{url}/health", "type": "application/json"}],
                }
            ]
        }
        answer = json_response(body, headers=MAP_HEADERS)
        kind = b'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"'
        return raw_response(bytes(answer.body), headers=[(b"content-type", kind), *MAP_HEADERS])
