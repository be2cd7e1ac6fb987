"""The operator listener: metrics, health with its reasons, commands; on loopback unless settings differ."""

import ipaddress
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from arkgate.core.errors import NodeUnavailable, OperatorOnly, Refusal, StoreUnavailable
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.gateway.reconcile import Reconcile
from arkgate.ports import Statements
from arkgate.web.metrics import Metrics
from arkgate.web.respond import json_response, raw_response

COMMAND_HEADER = "x-arkgate-command"
"""Carried by every request that changes something.

A page in the operator's browser cannot send it: the browser asks first, and no answer allows it.
"""
RECONCILE_PATH = "/ledger/reconcile"
_METRICS_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Admin:
    """The endpoints of the operator listener; `host` is where it listens."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        readiness: ReadinessCheck,
        statements: Statements,
        reconcile: Reconcile,
        host: str,
    ) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._statements = statements
        self._reconcile = reconcile
        self._host = host

    def routes(self) -> Router:
        """The routes."""
        return Router(
            routes=[
                Route("/metrics", self.metrics, methods=["GET"]),
                Route("/health/ready", self.ready, methods=["GET"]),
                Route(RECONCILE_PATH, self.reconcile, methods=["POST"]),
            ],
            redirect_slashes=False,
        )

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics` for Prometheus."""
        readiness = await self._readiness.check()
        try:
            totals = await self._statements.totals()
        except StoreUnavailable:
            totals = None
        return raw_response(self._metrics.render(readiness, totals), headers=[_METRICS_TYPE])

    async def ready(self, request: Request) -> Response:
        """`GET /health/ready`, with the sentences that the public listener keeps to itself."""
        readiness = await self._readiness.check()
        body = {
            name: {"ready": health.ready, "state": health.state, "sentence": health.sentence}
            for name, health in readiness.dependencies.items()
        }
        return json_response(body, status=200 if readiness.ready else 503)

    async def reconcile(self, request: Request) -> Response:
        """`POST /ledger/reconcile`: asks every node about everything; answers when all is done."""
        self._require_operator(request)
        try:
            full = await self._reconcile.with_every_node()
        except (NodeUnavailable, StoreUnavailable) as refusal:
            return _told(refusal)
        return json_response(asdict(full))

    def _require_operator(self, request: Request) -> None:
        """Refuses what may come from another program than the operator's. Raises OperatorOnly.

        The name that was asked for is looked at, because a page may point a name of its own at this
        address and then count as being of the same origin.
        """
        peer = request.client.host if request.client else ""
        if COMMAND_HEADER not in request.headers:
            raise OperatorOnly(f"Commands carry the header {COMMAND_HEADER}; use `arkgate ledger reconcile`.")
        if not _is_loopback(peer):
            raise OperatorOnly("Commands are taken from this machine only.")
        host = request.url.hostname or ""
        if not (_is_address(host) or host in ("localhost", self._host)):
            raise OperatorOnly("Commands name this listener by its address.")


def _told(refusal: Refusal) -> Response:
    """A refusal with its own sentence, which the public listener would keep to itself."""
    return json_response({"error": refusal.message, "code": refusal.reason}, status=503)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
