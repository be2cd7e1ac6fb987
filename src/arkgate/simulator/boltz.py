"""A simulated Boltz, as far as its terms go: what a payment into the Ark may be, and what it costs."""

import contextlib
import math
from collections.abc import AsyncIterator
from decimal import Decimal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arkgate.simulator.serving import LOOPBACK, serving


class SimulatedBoltz:
    """Its switches; `running` serves it."""

    def __init__(self) -> None:
        self.least_sats, self.most_sats = 333, 4_294_967
        self.submarine_least_sats = 333
        """The limit of the other direction, which Fulmine holds our invoices against."""
        self.percent = Decimal("0.4")
        self.flat_sats = 0
        self.up = True
        self.asked = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is, without the version."""
        return f"http://{LOOPBACK}:{self.port}"

    def keeps(self, amount_sats: int) -> int:
        """What it keeps of an invoice, in sats."""
        return math.ceil(amount_sats * self.percent / 100) + self.flat_sats

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves it until the block ends."""
        routes = [Route("/v2/swap/reverse", self._reverse), Route("/v2/swap/submarine", self._submarine)]
        async with serving(Starlette(routes=routes), port=self.port, purpose="the simulated Boltz") as port:
            self.port = port
            yield

    async def _reverse(self, request: Request) -> Response:
        pair = self._pair(self.least_sats, {"lockup": self.flat_sats, "claim": 0})
        return self._answer({"BTC": {"ARK": pair, "L-BTC": pair}})

    async def _submarine(self, request: Request) -> Response:
        return self._answer({"ARK": {"BTC": self._pair(self.submarine_least_sats, 0)}})

    def _pair(self, least_sats: int, miner_fees: object) -> dict[str, object]:
        return {
            "hash": "0" * 64,
            "rate": 1,
            "limits": {"minimal": least_sats, "maximal": self.most_sats, "maximalZeroConf": 0},
            "fees": {"percentage": float(self.percent), "minerFees": miner_fees},
        }

    def _answer(self, content: object) -> Response:
        self.asked += 1
        return JSONResponse(content) if self.up else Response(status_code=503)
