"""What is on offer, for machines: the catalog, the models, and the price of a request before it is made."""

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arkgate.core.catalog import Catalog, Endpoint, Model, Service
from arkgate.core.errors import InvalidRequest, NotFound, Refusal
from arkgate.core.money import Msat, whole_sats
from arkgate.core.pricing import FiatRate
from arkgate.gateway.admit import Admission
from arkgate.gateway.sessions import Sessions
from arkgate.ports import Rates, Statements
from arkgate.web.priced import Priced
from arkgate.web.prices import price_of, tariff_told
from arkgate.web.requests import arrival_of, presented_in
from arkgate.web.respond import json_response, timestamp
from arkgate.web.services import check_spelling


class OffersApi:
    """Free routes that say what is sold and for how much."""

    def __init__(
        self,
        catalog: Catalog,
        priced: Sequence[Priced],
        sessions: Sessions,
        admission: Admission,
        statements: Statements,
        rates: Rates | None = None,
    ) -> None:
        """`rates` are what prices are shown in beside sats."""
        self._catalog = catalog
        self._priced = priced
        self._sessions = sessions
        self._admission = admission
        self._statements = statements
        self._rates = rates

    def routes(self) -> list[Route]:
        """The routes; those of the models only where models are sold."""
        routes = [
            Route("/v1/catalog", self.catalog, methods=["GET"]),
            Route("/v1/quote", self.quote, methods=["POST"]),
        ]
        if self._catalog.chat is not None:
            routes += [
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            ]
        return routes

    async def catalog(self, request: Request) -> Response:
        """`GET /v1/catalog`: every priced endpoint."""
        rate = self._rate()
        endpoints = [
            endpoint_told(service, endpoint) | _in_fiat(rate, cost_fiat=price_of(service, endpoint).amount)
            for service, endpoint in self._catalog.offered()
        ]
        chat = self._catalog.chat
        body = {
            "endpoints": endpoints,
            "models": [] if chat is None else [_priced_model(model) for model in chat.models],
            "session": {
                "create": "POST /v1/sessions",
                "balance": "GET /v1/balance",
                "minimum_sats": whole_sats(self._sessions.minimum, asked_for=True),
                "maximum_sats": whole_sats(self._sessions.maximum),
                "balance_expires": self._catalog.balance_expiry.value,
            },
            "quote": "POST /v1/quote?path=<endpoint>",
            **({} if rate is None else {"fiat": _rate(rate)}),
            "auth": "Authorization: Bearer ak_… or Authorization: L402 <macaroon>:<preimage>",
        }
        return json_response(body)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: as OpenAI lists them, or Anthropic for whoever speaks its API."""
        chat = self._catalog.chat
        models = [] if chat is None else chat.models
        if "anthropic-version" in request.headers:
            body: dict[str, object] = {
                "data": [_anthropic_model(model) for model in models],
                "has_more": False,
                "first_id": models[0].name if models else None,
                "last_id": models[-1].name if models else None,
            }
        else:
            body = {"object": "list", "data": [_openai_model(model) for model in models]}
        return json_response(body)

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`."""
        name = request.path_params["name"]
        chat = self._catalog.chat
        model = None if chat is None else chat.model(name)
        if model is None:
            raise NotFound(f"There is no model {name[:80]!r} here.", code="model_not_found")
        anthropic = "anthropic-version" in request.headers
        return json_response(_anthropic_model(model) if anthropic else _openai_model(model))

    async def quote(self, request: Request) -> Response:
        """`POST /v1/quote`: what the body would cost at the endpoint that `path` names; free of charge."""
        path, _, query = request.query_params.get("path", self._usual_path()).partition("?")
        method = request.query_params.get("method", "").upper()
        check_spelling(path, [one.endpoint.path for one in self._priced])
        priced = self._at(path)
        if method:
            priced.check_method(method)
        scope = {
            **request.scope,
            "method": method or priced.endpoint.methods[0],
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
        }
        with priced.share(request.scope) as share:
            body = await priced.read_body(request.scope, request.receive, share)
            headers = dict(request.scope["headers"])
            arrival = arrival_of(request.scope)
            paid = await priced.paid_request(scope, headers, arrival, body, share.client)
        if isinstance(paid.order, Refusal):
            raise paid.order
        order, service = paid.order, priced.service
        answer: dict[str, object] = {
            "endpoint": path,
            "method": scope["method"],
            "service": service.name,
            "model": order.outgoing.model,
            "hold_sats": whole_sats(order.hold, asked_for=True),
            "hold_msat": order.hold,
            "expected_sats": whole_sats(order.expected, asked_for=True),
            "expected_msat": order.expected,
            "pricing": tariff_told(order.tariff),
            "calls_per_day": service.calls_per_day,
        }
        answer |= _in_fiat(self._rate(), hold_fiat=order.hold, expected_fiat=order.expected)
        return json_response({**answer, **await self._for_account(request, service)})

    def _rate(self) -> FiatRate | None:
        return None if self._rates is None else self._rates.current()

    async def _for_account(self, request: Request, service: Service) -> Mapping[str, object]:
        """What it means for the account of whoever asks with a credential."""
        admitted = await self._admission.admit(presented_in(request.scope))
        account = None if admitted is None else await self._statements.account(admitted.account_id)
        if account is None:
            return {}
        allowance = await self._statements.allowance(account.account_id, service.name, service.calls_per_day)
        return {
            "available_sats": whole_sats(account.balance.available),
            "calls_left_today": allowance.left,
            "resets_at": timestamp(allowance.resets_at_ms),
        }

    def _usual_path(self) -> str:
        return next(iter(self._catalog)).path

    def _at(self, path: str) -> Priced:
        for priced in self._priced:
            endpoint = priced.endpoint
            if path == endpoint.path or (endpoint.is_prefix and path.startswith(endpoint.path)):
                return priced
        if not path.startswith("/"):
            raise InvalidRequest("path names an endpoint, like ?path=/v1/chat/completions.")
        raise NotFound(f"Nothing is sold at {path[:200]}. GET /v1/catalog lists what is on offer.")


def _rate(rate: FiatRate) -> dict[str, object]:
    return {"currency": rate.currency, "per_bitcoin": rate.per_bitcoin, "at": timestamp(rate.at_ms)}


def _in_fiat(rate: FiatRate | None, **amounts: Msat) -> dict[str, object]:
    """Amounts in the operator's currency; nothing without a rate."""
    if rate is None:
        return {}
    return {name: {"amount": rate.of(amount), "currency": rate.currency} for name, amount in amounts.items()}


def endpoint_told(service: Service, endpoint: Endpoint) -> dict[str, object]:
    """An endpoint with its price, as every list shows it."""
    price = price_of(service, endpoint)
    return {
        "path": endpoint.path,
        "method": endpoint.methods[0],
        "methods": list(endpoint.methods),
        "cost_sats": price.cost_sats,
        "price_is": price.kind.value,
        "pricing": tariff_told(price.tariff),
        "calls_per_day": service.calls_per_day,
        "description": endpoint.description,
        "service": service.name,
    }


def _priced_model(model: Model) -> dict[str, object]:
    return {
        "id": model.name,
        "pricing": tariff_told(model.tariff),
        "max_tokens": model.max_tokens,
        "context_length": model.context_tokens,
    }


def _openai_model(model: Model) -> dict[str, object]:
    return {"object": "model", "created": 0, "owned_by": "arkgate", **_priced_model(model)}


def _anthropic_model(model: Model) -> dict[str, object]:
    return {
        "type": "model",
        "display_name": model.name,
        "created_at": timestamp(0),
        **_priced_model(model),
    }
