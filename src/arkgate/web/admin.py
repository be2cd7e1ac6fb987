"""The operator listener: metrics, and health with its reasons. On loopback unless the settings say else."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from arkgate.core.errors import StoreUnavailable
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.ports import Statements
from arkgate.web.metrics import Metrics
from arkgate.web.respond import json_response, raw_response

_METRICS_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Admin:
    """The endpoints of the operator listener."""

    def __init__(self, *, metrics: Metrics, readiness: ReadinessCheck, statements: Statements) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._statements = statements

    def routes(self) -> Router:
        """The routes."""
        return Router(
            routes=[
                Route("/metrics", self.metrics, methods=["GET"]),
                Route("/health/ready", self.ready, methods=["GET"]),
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
