"""The public routes: funding, balances, statements and health; the priced ones beside them."""

import csv
import io
from collections.abc import Iterable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from arkgate.core.catalog import Catalog, Service
from arkgate.core.errors import AnswerGone, InvalidRequest, NotFound, RequestInFlight
from arkgate.core.keys import token_digest
from arkgate.core.ledger import (
    AccountRecord,
    Answer,
    CallRecord,
    HoldState,
    Standing,
    StatementLine,
)
from arkgate.core.money import whole_sats
from arkgate.gateway.admit import Admission, Admitted
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.gateway.serve import replied
from arkgate.gateway.sessions import Sessions
from arkgate.ports import Clock, Statements
from arkgate.web.client import ClientAddress
from arkgate.web.funding import payable_body
from arkgate.web.llms import MCP_PATH
from arkgate.web.mcp.door import McpDoor
from arkgate.web.offers import OffersApi
from arkgate.web.pages import Pages
from arkgate.web.priced import Priced
from arkgate.web.replies import whole_response
from arkgate.web.requests import amount_in, arrival_of, presented_in, read, tokens_in, whole_number
from arkgate.web.respond import (
    STREAM_PAUSE_SECONDS,
    STREAM_TICKS,
    json_response,
    raw_response,
    standing_headers,
    streaming_response,
    ticks,
    timestamp,
)
from arkgate.web.services import check_spelling
from arkgate.web.watch import SessionWatch

NO_STORE = [(b"cache-control", b"no-store")]
USAGE_LINES_MAX = 1000
USAGE_LINES = 100


class Api:
    """The endpoints of the public listener."""

    def __init__(
        self,
        *,
        priced: Sequence[Priced],
        offers: OffersApi,
        admission: Admission,
        sessions: Sessions,
        statements: Statements,
        readiness: ReadinessCheck,
        catalog: Catalog,
        clock: Clock,
        client_address: ClientAddress,
        described: dict[str, object],
        discovery: Sequence[Route],
        watch: SessionWatch,
        pages: Pages,
        mcp: McpDoor,
    ) -> None:
        self._priced = priced
        self._offers = offers
        self._admission = admission
        self._sessions = sessions
        self._statements = statements
        self._readiness = readiness
        self._catalog = catalog
        self._clock = clock
        self._client_address = client_address
        self._described = described
        self._discovery = discovery
        self._watch = watch
        self._pages = pages
        self._mcp = mcp

    def routes(self) -> "Routes":
        """The routes; refusals are raised through it, to be answered by the guard."""
        priced = [_route(one) for one in self._priced]
        free = [
            Route("/v1/sessions", self.open_session, methods=["POST"]),
            Route("/v1/sessions/{session_id}", self.session, methods=["GET"]),
            Route("/v1/sessions/{session_id}/events", self.events, methods=["GET"]),
            Route("/v1/balance", self.balance, methods=["GET"]),
            Route("/v1/topups", self.top_up, methods=["POST"]),
            Route("/v1/tokens", self.token, methods=["POST"]),
            Route("/v1/usage", self.usage, methods=["GET"]),
            Route("/v1/calls/{request_id}", self.call, methods=["GET"]),
            Route(MCP_PATH, self._mcp, methods=["POST"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/health/live", self.health, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            Route("/health/stream", self.stream, methods=["GET"]),
        ]
        router = Router(
            routes=[
                *free,
                *self._offers.routes(),
                *self._discovery,
                *self._pages.routes(),
                *priced,
            ],
            redirect_slashes=False,
        )
        return Routes(self._priced, router)

    async def open_session(self, request: Request) -> Response:
        """`POST /v1/sessions`: a token and where it is paid for."""
        _, body, headers = await read(request)
        opened = await self._sessions.open(
            amount_in(body, headers), client=self._client_address.of(request.scope)
        )
        session = self._watch.body(opened.session, None)
        return json_response({"token": opened.token, **session}, status=201, headers=NO_STORE)

    async def session(self, request: Request) -> Response:
        """`GET /v1/sessions/{session_id}`: its status, without the token."""
        return json_response(await self._watch.look(request.path_params["session_id"]), headers=NO_STORE)

    async def events(self, request: Request) -> Response:
        """`GET /v1/sessions/{session_id}/events`: the same, and again whenever its status changes."""
        events = await self._watch.events(
            request.path_params["session_id"], client=self._client_address.of(request.scope)
        )
        return streaming_response(events)

    async def top_up(self, request: Request) -> Response:
        """`POST /v1/topups`: another way to pay for the presented token or L402 account."""
        _, body, headers = await read(request)
        admitted = await self._admission.require(presented_in(request.scope), whole=True)
        payable = await self._sessions.top_up(
            admitted, amount_in(body, headers), client=self._client_address.of(request.scope)
        )
        account = await self._account(admitted.account_id)
        return json_response(
            {
                **payable_body(payable.invoice, payable.address, self._clock.now_ms()),
                "balance_sats": whole_sats(account.balance.available),
                "balance_expires": self._catalog.balance_expiry.value,
            },
            status=201,
            headers=NO_STORE,
        )

    async def token(self, request: Request) -> Response:
        """`POST /v1/tokens`: the `ak_` token of an L402 payment, the same one each time."""
        admitted = await self._admission.require(presented_in(request.scope), whole=True)
        token = await self._sessions.token(admitted)
        account = await self._account(admitted.account_id)
        body = {
            "token": token,
            "balance_sats": whole_sats(account.balance.available),
            "status": _status(account),
        }
        return json_response(body, headers=NO_STORE)

    async def balance(self, request: Request) -> Response:
        """`GET /v1/balance`: what an account has, holds and may still do today."""
        presented = presented_in(request.scope)
        admitted = await self._admission.require(presented)
        account = await self._account(admitted.account_id)
        service = self._bought_by(admitted)
        allowance = await self._statements.allowance(account.account_id, service.name, service.calls_per_day)
        token = await self._token_of(account, tokens_in(presented))
        body = {
            "token": token,
            "balance_sats": whole_sats(account.balance.posted),
            "available_sats": whole_sats(account.balance.available),
            "held_sats": whole_sats(account.balance.held, asked_for=True),
            "status": _status(account),
            "price_sats": whole_sats(service.price, asked_for=True),
            "calls_left_today": allowance.left,
            "resets_at": timestamp(allowance.resets_at_ms),
            "expires_at": None,
            "balance_expires": self._catalog.balance_expiry.value,
        }
        headers = [*NO_STORE, *standing_headers(Standing(account.balance, allowance))]
        return json_response(body, headers=headers)

    def _bought_by(self, admitted: Admitted) -> Service:
        """The first service that the credential buys; the first of all where it buys none any more."""
        services, proof = tuple(self._catalog), admitted.proof
        bought = (one for one in services if proof is None or proof.terms.buys(one.name))
        return next(bought, services[0])

    async def _token_of(self, account: AccountRecord, tokens: Iterable[str]) -> str | None:
        """The first of the tokens that opens that account."""
        for token in tokens:
            if await self._statements.account_by_token(token_digest(token)) == account.account_id:
                return token
        return None

    async def usage(self, request: Request) -> Response:
        """`GET /v1/usage`: the holder's statement, as JSON or CSV; the oldest line first, or the newest."""
        admitted = await self._admission.require(presented_in(request.scope), whole=True)
        offset = whole_number(request, "offset", default=0, maximum=10**9)
        limit = whole_number(request, "limit", default=USAGE_LINES, minimum=1, maximum=USAGE_LINES_MAX)
        account = await self._account(admitted.account_id)
        lines = await self._statements.statement(
            admitted.account_id, offset=offset, limit=limit + 1, newest_first=_newest_first(request)
        )
        shown = lines[:limit]
        if _wants_csv(request):
            return raw_response(
                _csv(shown), headers=[(b"content-type", b"text/csv; charset=utf-8"), *NO_STORE]
            )
        body = {
            "lines": [_line(line) for line in shown],
            "balance_sats": whole_sats(account.balance.posted),
            "next_offset": offset + limit if len(lines) > limit else None,
        }
        return json_response(body, headers=NO_STORE)

    async def call(self, request: Request) -> Response:
        """`GET /v1/calls/{request_id}`: the stored answer of a charged call, to its own account."""
        admitted = await self._admission.require(presented_in(request.scope))
        record = await self._statements.call(admitted.account_id, request.path_params["request_id"])
        if record is None:
            raise NotFound("This account has made no call with that request id.")
        answer = _charged_answer(record)
        account = await self._account(admitted.account_id)
        service = next((one for one in self._catalog if one.name == record.service), None)  # maybe retired
        calls_per_day = service.calls_per_day if service else None
        allowance = await self._statements.allowance(account.account_id, record.service, calls_per_day)
        reply = replied(answer, Standing(account.balance, allowance))
        return whole_response(reply, service.path if service else None, arrival_of(request.scope))

    async def _account(self, account_id: str) -> AccountRecord:
        account = await self._statements.account(account_id)
        if account is None:
            raise NotFound("This credential's account does not exist here.")
        return account

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: what is sold, for programs that read OpenAPI."""
        return json_response(self._described)

    async def health(self, request: Request) -> Response:
        """`GET /health` and `/health/live`: the process answers."""
        return json_response({"status": "ok"})

    async def stream(self, request: Request) -> Response:
        """`GET /health/stream`: events with pauses, which show whether a proxy lets streams through."""
        return streaming_response(ticks(count=STREAM_TICKS, pause_seconds=STREAM_PAUSE_SECONDS))

    async def ready(self, request: Request) -> Response:
        """`GET /health/ready`: every dependency with its state; 503 while one of them is not ready."""
        readiness = await self._readiness.check()
        body = {
            "status": "ready" if readiness.ready else "not ready",
            "dependencies": {
                name: {"ready": health.ready, "state": health.state}
                for name, health in readiness.dependencies.items()
            },
        }
        headers = NO_STORE if readiness.ready else [*NO_STORE, (b"retry-after", b"5")]
        return json_response(body, status=200 if readiness.ready else 503, headers=headers)


class Routes:
    """The router, and a look-up before it for what is called most: matching routes costs 5% of a call."""

    def __init__(self, priced: Sequence[Priced], router: Router) -> None:
        self._router = router
        self._paths = frozenset(one.endpoint.path for one in priced)
        self._direct = {
            (one.endpoint.path, method): one
            for one in priced
            if not one.endpoint.is_prefix
            for method in one.endpoint.methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request to what answers it."""
        priced = self._direct.get((scope["path"], scope["method"]))
        if priced is None:
            check_spelling(scope["path"], self._paths)
            await self._router(scope, receive, send)
        else:
            await priced(scope, receive, send)


def _route(priced: Priced) -> Route:
    """A priced endpoint's route, whatever the method: no other route may take what this one does not sell."""
    path = priced.endpoint.path + ("{rest:path}" if priced.endpoint.is_prefix else "")
    return Route(path, priced)


def _charged_answer(record: CallRecord) -> Answer:
    if record.answer is not None:
        return record.answer
    if record.state is HoldState.OPEN:
        raise RequestInFlight("This call is still under way. Ask again in a second.", retry_after_seconds=1)
    if record.state is HoldState.RELEASED:
        raise NotFound(
            f"This call failed ({record.reason}) and was refunded; it has no answer.",
            code="call_refunded",
            fields={"refunded": True},
        )
    raise AnswerGone(
        "This call was made and charged, and its answer is not stored: it was too large, was not read to "
        "its end, or its time is over."
    )


def _status(account: AccountRecord) -> str:
    return "active" if account.funded else "awaiting_payment"


def _line(line: StatementLine) -> dict[str, object]:
    return {
        "at": timestamp(line.at_ms),
        "kind": line.kind,
        "amount_sats": line.amount / 1000 if line.amount % 1000 else line.amount // 1000,
        "balance_sats": line.balance / 1000 if line.balance % 1000 else line.balance // 1000,
        "reference": line.reference,
        "detail": line.detail,
    }


def _csv(lines: Sequence[StatementLine]) -> bytes:
    text = io.StringIO()
    rows = [_line(line) for line in lines]
    writer = csv.DictWriter(
        text, ["at", "kind", "amount_sats", "balance_sats", "reference", "detail"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _newest_first(request: Request) -> bool:
    order = request.query_params.get("order", "oldest")
    if order not in ("oldest", "newest"):
        raise InvalidRequest("order must be oldest or newest.")
    return order == "newest"


def _wants_csv(request: Request) -> bool:
    wanted = request.query_params.get("format")
    if wanted not in (None, "json", "csv"):
        raise InvalidRequest("format must be json or csv.")
    return wanted == "csv" or (wanted is None and request.headers.get("accept", "").startswith("text/csv"))
