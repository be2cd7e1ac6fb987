"""Pages for people: what is sold, funding a token, paying, looking at what is left."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from arkgate.core.catalog import Catalog, Endpoint, Service
from arkgate.core.errors import InvalidRequest, InvalidToken, PaymentRequired, Refusal
from arkgate.core.ledger import AccountRecord, StatementLine
from arkgate.core.money import sats, whole_sats
from arkgate.gateway.admit import Admission
from arkgate.gateway.claims import Claims
from arkgate.gateway.sessions import Sessions
from arkgate.l402.header import read_credentials
from arkgate.ports import Rates, Statements
from arkgate.web.body import read_object
from arkgate.web.client import ClientAddress
from arkgate.web.errors import public_sentence, status_of
from arkgate.web.examples import example_of
from arkgate.web.guard import read_body
from arkgate.web.llms import REFUNDS, RETRY, Means
from arkgate.web.openapi_schemas import Json
from arkgate.web.payment import Payments
from arkgate.web.prices import price_of, tariff_told
from arkgate.web.qr import lightning_code, qr_svg
from arkgate.web.reference import by_tag
from arkgate.web.render import NO_STORE, Renderer
from arkgate.web.requests import presented_in
from arkgate.web.respond import json_response, raw_response
from arkgate.web.shapes import exact_sats

CARDS_CALLS: Final = (10, 50, 200)
"""How many calls the amounts on the fund page are for."""
FORM_BYTES_MAX: Final = 4096
LINK_BYTES_MAX: Final = 2000
LINES_SHOWN: Final = 20
SHORT: Final = ((b"cache-control", b"public, max-age=60"),)


@dataclass(frozen=True, slots=True)
class Offered:
    """A priced endpoint as pages show it."""

    service: Service
    endpoint: Endpoint
    price: str
    kind: str
    """What the price is: names the words for it."""
    pricing: dict[str, object]
    fiat: str | None
    curl: str


@dataclass(frozen=True, slots=True)
class Card:
    """An amount to choose."""

    sats: int
    calls: int | None
    """How many of the first service's calls it buys; None where their price is not fixed."""
    fiat: str | None


class Pages:
    """The pages, and the forms on them that work without a script."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        means: Means,
        sessions: Sessions,
        payments: Payments,
        claims: Claims,
        admission: Admission,
        statements: Statements,
        rates: Rates | None,
        client_address: ClientAddress,
        public_url: str,
        renderer: Renderer,
        described: Json,
    ) -> None:
        """`described` is the OpenAPI document."""
        self._catalog = catalog
        self._means = means
        self._sessions = sessions
        self._payments = payments
        self._claims = claims
        self._admission = admission
        self._statements = statements
        self._rates = rates
        self._client_address = client_address
        self._url = public_url
        self._renderer = renderer
        self._tags = by_tag(described)
        self._drawing = asyncio.Semaphore(1)
        """A code takes some milliseconds of the one interpreter, also in a thread."""

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.home, methods=["GET"]),
            Route("/fund", self.fund, methods=["GET"]),
            Route("/fund", self.open_session, methods=["POST"]),
            Route("/fund/{session_id}", self.token, methods=["GET"]),
            Route("/pay/{session_id}", self.pay, methods=["GET"]),
            Route("/dashboard", self.dashboard, methods=["GET"]),
            Route("/dashboard", self.account, methods=["POST"]),
            Route("/docs", self.docs, methods=["GET"]),
            Route("/docs/reference", self.reference, methods=["GET"]),
            Route("/apis", self.apis, methods=["GET"]),
            Route("/v1/qr", self.qr, methods=["POST"]),
            Route("/v1/claims", self.claim, methods=["POST"]),
            Route("/static/{version}/{name}", self._renderer.files.serve, methods=["GET"]),
        ]

    async def home(self, request: Request) -> Response:
        """`GET /`: what is sold, and one line that works."""
        return self._renderer.page("home.html", headers=SHORT, offered=self._offered(), cards=self._cards())

    async def fund(self, request: Request) -> Response:
        """`GET /fund`: how much to pay."""
        return self._fund_page(entered=request.query_params.get("amount", ""))

    def _bounds(self) -> dict[str, int]:
        return {
            "minimum": whole_sats(self._means.minimum, asked_for=True),
            "maximum": whole_sats(self._means.maximum),
        }

    def _fund_page(
        self, *, entered: str = "", problem: str | None = None, refusal: Refusal | None = None
    ) -> Response:
        first = next(iter(self._catalog))
        wait = None if refusal is None else refusal.retry_after_seconds
        return self._renderer.page(
            "fund.html",
            status=200 if refusal is None else status_of(refusal),
            headers=(NO_STORE, *(() if wait is None else ((b"retry-after", str(wait).encode()),))),
            cards=self._cards(),
            entered=entered if entered.isascii() and entered.isdigit() and len(entered) <= 16 else "",
            problem=problem,
            price_sats=whole_sats(first.price, asked_for=True) if first.tariff.is_fixed else None,
            calls_per_day=first.calls_per_day,
            bounds=self._bounds(),
        )

    async def open_session(self, request: Request) -> Response:
        """`POST /fund`: a new token, shown on this page and never again, and where to pay for it."""
        form = await _form(request)
        entered = (form.get("other") or form.get("amount") or "").strip()
        try:
            if not (entered.isascii() and entered.isdigit() and len(entered) <= 16):
                raise InvalidRequest(self._renderer.say("fund.not_a_number"))
            opened = await self._sessions.open(
                sats(int(entered)), client=self._client_address.of(request.scope)
            )
        except Refusal as refusal:
            sentence = public_sentence(refusal) or refusal.message
            if refusal.reason == "amount_out_of_range":
                sentence = self._renderer.say("fund.out_of_range", **self._bounds())
            return self._fund_page(entered=entered, problem=sentence, refusal=refusal)
        payment = await self._payments.of(opened.session, None)
        return self._renderer.page("token.html", token=opened.token, payment=payment, curl=self._curl())

    async def token(self, request: Request) -> Response:
        """`GET /fund/{session_id}`: the same page again; only the tab that had the token still shows it."""
        payment = await self._payments.find(request.path_params["session_id"])
        return self._renderer.page("token.html", token=None, payment=payment, curl=self._curl())

    async def pay(self, request: Request) -> Response:
        """`GET /pay/{session_id}`: for whoever pays; the token is not there."""
        payment = await self._payments.find(request.path_params["session_id"])
        return self._renderer.page("pay.html", payment=payment)

    async def dashboard(self, request: Request) -> Response:
        """`GET /dashboard`: a place for a token."""
        return self._dashboard_page()

    async def account(self, request: Request) -> Response:
        """`POST /dashboard`: what a token has left, for browsers without scripts."""
        form = await _form(request)
        token = (form.get("token") or "").strip()
        try:
            admitted = await self._admission.require(read_credentials([f"Bearer {token}"], []), whole=True)
            account = await self._statements.account(admitted.account_id)
            if account is None:
                raise InvalidToken("This token is not known here.")
            lines = await self._statements.statement(
                admitted.account_id, offset=0, limit=LINES_SHOWN, newest_first=True
            )
            service = next(iter(self._catalog))
            allowance = await self._statements.allowance(
                admitted.account_id, service.name, service.calls_per_day
            )
        except Refusal as refusal:
            sentence = public_sentence(refusal) or refusal.message
            return self._dashboard_page(problem=sentence, status=status_of(refusal))
        return self._dashboard_page(
            account=account,
            lines=lines,
            calls_left=allowance.left,
            resets_at_ms=allowance.resets_at_ms,
        )

    def _dashboard_page(
        self,
        *,
        status: int = 200,
        problem: str | None = None,
        account: AccountRecord | None = None,
        lines: Sequence[StatementLine] = (),
        calls_left: int | None = None,
        resets_at_ms: int = 0,
    ) -> Response:
        return self._renderer.page(
            "dashboard.html",
            status=status,
            problem=problem,
            balance=account and _Balance.of(account),
            lines=[_line(line) for line in lines],
            calls_left=calls_left,
            resets_at_ms=resets_at_ms,
            offered=self._offered(),
            chat=next((one for one in self._offered() if one.service is self._catalog.chat), None),
            bounds=self._bounds(),
        )

    async def docs(self, request: Request) -> Response:
        """`GET /docs`: how to call, what is charged, what refusals mean."""
        return self._renderer.page(
            "docs.html",
            headers=SHORT,
            offered=self._offered(),
            retry=RETRY,
            refunds=REFUNDS,
            chat=self._catalog.chat,
            calls_per_day=next(iter(self._catalog)).calls_per_day,
            bounds=self._bounds(),
        )

    async def reference(self, request: Request) -> Response:
        """`GET /docs/reference`: every route, as `/openapi.json` describes it."""
        return self._renderer.page("reference.html", headers=SHORT, tags=self._tags)

    async def apis(self, request: Request) -> Response:
        """`GET /apis`: everything that is sold, with an example each."""
        models = [] if self._catalog.chat is None else self._catalog.chat.models
        return self._renderer.page(
            "apis.html",
            headers=SHORT,
            offered=self._offered(),
            models=[(model, _pricing(tariff_told(model.tariff))) for model in models],
        )

    async def qr(self, request: Request) -> Response:
        """`POST /v1/qr`: the code of a payment link, to whoever has a credential."""
        await self._admission.require(presented_in(request.scope))
        text = (await read_body(request.receive, request.scope, maximum=LINK_BYTES_MAX)).decode(
            "ascii", "replace"
        )
        if not text.startswith(("lightning:", "bitcoin:")):
            raise InvalidRequest("The body must be a payment link: lightning:… or bitcoin:….")
        shown = lightning_code(text.partition(":")[2]) if text.startswith("lightning:") else text
        async with self._drawing:
            svg = await asyncio.to_thread(qr_svg, shown, self._renderer.say("pay.qr"))
        return raw_response(svg.encode(), headers=[(b"content-type", b"image/svg+xml"), NO_STORE])

    async def claim(self, request: Request) -> Response:
        """`POST /v1/claims`: the token of the invoice that a 402 page showed, once that is paid."""
        body = read_object(await read_body(request.receive, request.scope, maximum=FORM_BYTES_MAX))
        macaroon, claim = body.get("macaroon"), body.get("claim")
        if not isinstance(macaroon, str) or not isinstance(claim, str) or not (macaroon + claim).isascii():
            raise InvalidRequest("A claim is an object with the texts macaroon and claim of a 402 page.")
        admitted = await self._claims.honour(macaroon, claim)
        token = await self._sessions.token(admitted)
        return json_response({"token": token}, headers=[NO_STORE])

    async def refusal(self, refusal: Refusal, scope: Scope, request_id: str) -> Response:
        """What a browser shows of a refusal: of a challenge, the invoice that opens the resource."""
        if isinstance(refusal, PaymentRequired) and scope["method"] == "GET":
            challenge = refusal.challenge
            code = await asyncio.to_thread(self._payments.code, challenge.payment_request)
            target = scope["path"] + (
                f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            )
            return self._renderer.page(
                "required.html",
                status=402,
                target=target,
                code=code,
                amount_sats=whole_sats(challenge.bundle.amount, asked_for=True),
                calls=challenge.bundle.calls,
                macaroon=challenge.macaroon,
                claim=self._claims.claim(challenge.macaroon),
                expires_at_ms=challenge.expires_at_ms,
            )
        return refusal_page(self._renderer, refusal, request_id)

    def _offered(self) -> list[Offered]:
        rate = None if self._rates is None else self._rates.current()
        return [
            Offered(
                service,
                endpoint,
                str(exact_sats(price.amount)),
                price.kind.value,
                _pricing(tariff_told(price.tariff)),
                None if rate is None else f"{rate.of(price.amount)} {rate.currency}",
                example_of(service, endpoint).curl(self._url, "Bearer ak_…"),
            )
            for service, endpoint in self._catalog.offered()
            for price in (price_of(service, endpoint),)
        ]

    def _curl(self) -> str:
        """The line with which a new token is tried, for it to be put in."""
        return example_of(*next(self._catalog.offered())).curl(self._url, "Bearer TOKEN")

    def _cards(self) -> list[Card]:
        first = next(iter(self._catalog))
        rate = None if self._rates is None else self._rates.current()
        least = whole_sats(self._means.minimum, asked_for=True)
        most = whole_sats(self._means.maximum)
        price = max(1, whole_sats(first.price, asked_for=True))
        amounts = sorted({min(max(price * calls, least), most) for calls in CARDS_CALLS})
        return [
            Card(
                amount,
                amount // price if first.tariff.is_fixed else None,
                None if rate is None else f"{rate.of(sats(amount))} {rate.currency}",
            )
            for amount in amounts
        ]


@dataclass(frozen=True, slots=True)
class _Balance:
    """An account's figures in sats."""

    posted: int
    available: int
    held: int
    funded: bool

    @classmethod
    def of(cls, account: AccountRecord) -> "_Balance":
        balance = account.balance
        return cls(
            whole_sats(balance.posted),
            whole_sats(balance.available),
            whole_sats(balance.held, asked_for=True),
            account.funded,
        )


def _line(line: StatementLine) -> dict[str, object]:
    return {
        "at_ms": line.at_ms,
        "kind": line.kind,
        "amount": exact_sats(line.amount),
        "balance": exact_sats(line.balance),
        "detail": line.detail,
    }


def _pricing(told: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", " "): value for name, value in told.items()}


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises InvalidRequest or PayloadTooLarge."""
    body = await read_body(request.receive, request.scope, maximum=FORM_BYTES_MAX)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=16)
    except ValueError as exc:
        raise InvalidRequest("The form cannot be read.") from exc
    return {name: values[0] for name, values in fields.items()}


def refusal_page(renderer: Renderer, refusal: Refusal, request_id: str) -> Response:
    """What a browser shows of a refusal."""
    status = status_of(refusal)
    known = {404: "error.e404", 429: "error.e429", 500: "error.e500", 503: "error.e503"}
    return renderer.page(
        "error.html",
        status=status,
        title=renderer.say(known.get(status, "error.title")),
        sentence=public_sentence(refusal) or refusal.message,
        wait=refusal.retry_after_seconds,
        request_id=request_id,
    )
