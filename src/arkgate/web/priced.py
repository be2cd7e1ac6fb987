"""The priced endpoints as ASGI applications: on the paid path Starlette's wrappers cost 8%."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from starlette.types import Receive, Scope, Send

from arkgate.core.catalog import Endpoint, Service
from arkgate.core.errors import MethodNotAllowed, Refusal, UpgradeNotSupported, bare
from arkgate.gateway.bodies import Share
from arkgate.gateway.order import Order
from arkgate.gateway.serve import Gateway, PaidRequest
from arkgate.web.client import ClientAddress
from arkgate.web.guard import Arrival, read_body
from arkgate.web.prices import price_of
from arkgate.web.replies import respond
from arkgate.web.requests import arrival_of, idempotency_key, presented_in

_NOTHING: Final = (b"", b"{}")
_ASIDE: Final = ThreadPoolExecutor(max_workers=4, thread_name_prefix="arkgate-reading")
"""Where long requests are read, so that nothing else waits for a thread behind them."""
_PROBES: Final = ("GET", "HEAD", "POST")
"""The methods that may ask for a price, whatever is sold."""
_FIRST: Final = b"0"


class Reader(Protocol):
    """Reads the requests of one endpoint."""

    body_bytes_max: int
    takes_nothing: bool
    """Whether a request without a body is one that can be served."""

    def read(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Order:
        """The order that a request is. Raises a Refusal where it can never be served."""
        ...

    def fingerprint(self, order: Order | Refusal, body: bytes) -> bytes:
        """What makes it the same request when it comes again."""
        ...

    def is_slow(self, body: bytes) -> bool:
        """Whether reading it takes longer than the event loop may be kept."""
        ...


class Priced:
    """One priced endpoint."""

    def __init__(
        self,
        service: Service,
        endpoint: Endpoint,
        reader: Reader,
        gateway: Gateway,
        client_address: ClientAddress,
    ) -> None:
        self.service = service
        self.endpoint = endpoint
        self._reader = reader
        self._gateway = gateway
        self._client_address = client_address
        self._usual = price_of(service, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; raises its refusal, to be answered by the guard."""
        arrival = arrival_of(scope)
        headers = dict(scope["headers"])
        self.check_method(scope["method"], *_PROBES)
        if headers.get(b"upgrade", b"").strip().lower() == b"websocket":
            raise UpgradeNotSupported("WebSockets are not sold here; use plain HTTP requests.")
        with self.share(scope) as share:
            body = await self.read_body(scope, receive, share)
            paid = await self.paid_request(scope, headers, arrival, body, share.client)
            if paid.presented:
                self.check_method(scope["method"])
            async with self._gateway.serve(paid) as reply:
                await respond(reply, self.endpoint.path, arrival, scope, receive, send)

    async def read_body(self, scope: Scope, receive: Receive, share: Share) -> bytes:
        """The request's body, for as long as the share lasts."""

        async def weigh(size: int) -> None:
            await self._gateway.make_room(share, size, presented_in(scope))

        return await read_body(receive, scope, maximum=self._reader.body_bytes_max, weigh=weigh)

    def share(self, scope: Scope) -> Share:
        """What the body of a request takes of the memory."""
        return self._gateway.bodies.share(self._client_address.of(scope))

    def check_method(self, method: str, *others: str) -> None:
        """Raises MethodNotAllowed for one that is neither sold here nor among the others."""
        methods = self.endpoint.methods
        if method not in methods and method not in others:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{self.endpoint.path} answers to {allowed}.", allowed=allowed)

    def _read(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Order | Refusal:
        """The order that a request is, or why it can never be served."""
        try:
            return self._reader.read(scope, headers, body)
        except Refusal as refusal:
            bare(refusal)
            return refusal

    async def paid_request(
        self, scope: Scope, headers: Mapping[bytes, bytes], arrival: Arrival, body: bytes, client: str
    ) -> PaidRequest:
        """The request with everything HTTP taken off; `client` is the address that it came from."""
        reader, presented = self._reader, presented_in(scope)
        is_counted = False
        if reader.is_slow(body):
            async with self._gateway.reading(presented, client) as is_counted:
                loop = asyncio.get_running_loop()
                order = await loop.run_in_executor(_ASIDE, self._read, scope, headers, body)
        else:
            order = self._read(scope, headers, body)
        usual = self._usual
        hold, tariff = (
            (usual.amount, usual.tariff) if isinstance(order, Refusal) else (order.hold, order.tariff)
        )
        is_empty = not reader.takes_nothing and body.strip() in _NOTHING
        return PaidRequest(
            service=self.service,
            endpoint=self.endpoint,
            request_id=arrival.request_id,
            presented=presented,
            fingerprint=reader.fingerprint(order, body),
            order=order,
            hold=hold,
            tariff=tariff,
            probe=scope["method"] not in self.endpoint.methods or is_empty,
            client=client,
            idempotency_key=idempotency_key(headers),
            is_retry=headers.get(b"x-stainless-retry-count", _FIRST) != _FIRST,
            is_counted=is_counted,
            method=scope["method"] if scope["method"] in self.endpoint.methods else None,
        )
