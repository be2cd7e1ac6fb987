"""Further maps, for the directories and programs that look for one at an address of their own.

Each says what `discovery` says, in the form that its readers expect; all are rendered from the catalog.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arkgate.core.catalog import Catalog
from arkgate.core.errors import NotFound
from arkgate.ports import Clock
from arkgate.web.discovery import MAP_HEADERS, category_of, text_response
from arkgate.web.examples import example_of
from arkgate.web.llms import Means, short_text
from arkgate.web.openapi import operation_id
from arkgate.web.prices import Price, PriceKind, price_of
from arkgate.web.respond import json_response, raw_response

PAGES: Final = ("/", "/fund", "/apis", "/docs", "/docs/reference")
SKILL: Final = "buy-api-calls"
SECURITY_DAYS: Final = 180
"""How long readers may rely on `security.txt`: RFC 9116 wants less than a year."""


class Manifests:
    """The maps of other conventions."""

    def __init__(self, catalog: Catalog, means: Means, clock: Clock, public_url: str, *, icon: str) -> None:
        """`icon` is the path of the gateway's picture."""
        self._icon = icon
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
            Route("/.well-known/l402.txt", self.l402_txt, methods=["GET"]),
            Route("/.well-known/agent-skills/index.json", self.skills, methods=["GET"]),
            Route("/skill.md", self.skill, methods=["GET"]),
            Route("/.well-known/ai-plugin.json", self.plugin, methods=["GET"]),
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
                "price_sats": price_of(service, endpoint).cost_sats,
                "price": {
                    "type": price_of(service, endpoint).kind.value,
                    "amount_msat": price_of(service, endpoint).amount,
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
                "default_price_sats": price_of(*offered[0]).cost_sats,
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
                    "pricing": _pricing(price_of(service, endpoint)),
                    "tags": [category_of(service)],
                }
                for service, endpoint in offered
            ],
        }
        return json_response(body, headers=MAP_HEADERS)

    async def l402_txt(self, request: Request) -> Response:
        """`GET /.well-known/l402.txt`: a line for each endpoint, as l402-kit's DNS records have it."""
        lines = [
            f"v=l402 endpoint={self._url}{endpoint.path} price={price_of(service, endpoint).cost_sats} "
            f"docs={self._url}/llms.txt"
            for service, endpoint in self._catalog.offered()
        ]
        return text_response("\n".join([*lines, ""]), b"text/plain; charset=utf-8")

    async def skills(self, request: Request) -> Response:
        """`GET /.well-known/agent-skills/index.json`: the one skill, with the digest of its text."""
        skill = {
            "name": SKILL,
            "type": "skill-md",
            "description": self._means.summary,
            "url": f"{self._url}/skill.md",
            "digest": f"sha256:{hashlib.sha256(self._skill().encode()).hexdigest()}",
        }
        return json_response({"skills": [skill]}, headers=MAP_HEADERS)

    async def skill(self, request: Request) -> Response:
        """`GET /skill.md`: how to call and pay, as a skill that an agent's host installs."""
        return text_response(self._skill(), b"text/markdown; charset=utf-8")

    def _skill(self) -> str:
        text = short_text(self._catalog, self._means, self._url)
        return f"---\nname: {SKILL}\ndescription: {self._means.summary}\n---\n\n{text}"

    async def plugin(self, request: Request) -> Response:
        """`GET /.well-known/ai-plugin.json`: the older form, which some hosts still look for."""
        body = {
            "schema_version": "v1",
            "name_for_human": self._means.name,
            "name_for_model": SKILL.replace("-", "_"),
            "description_for_human": self._means.summary,
            "description_for_model": f"{self._means.summary} How: {self._url}/llms.txt",
            "auth": {"type": "user_http", "authorization_type": "bearer"},
            "api": {"type": "openapi", "url": f"{self._url}/openapi.json"},
            "logo_url": f"{self._url}{self._icon}",
            "contact_email": self._means.contact.partition("mailto:")[2],
            "legal_info_url": f"{self._url}/docs",
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


def _pricing(price: Price) -> dict[str, object]:
    is_fixed = price.kind is PriceKind.FIXED
    return {"model": "per_call" if is_fixed else "metered", "base_price_sats": price.cost_sats}
