"""The payer's REST interface, as far as clients that pay over it go: the same calls, JSON over plain HTTP."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.messages import payment_message
from arkgate.simulator.network import Refused
from arkgate.simulator.records import PaymentRow

BODY_BYTES_MAX = 64 * 1024
_STATUSES = {
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAVAILABLE: 503,
}


def rest(node: SimulatedNode) -> Starlette:
    """The node's REST application."""
    return Starlette(
        routes=[
            Route("/v1/getinfo", _Information(node).get, methods=["GET"]),
            Route("/v2/router/send", _Payments(node).post, methods=["POST"]),
        ]
    )


class _Information:
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def get(self, request: Request) -> Response:
        try:
            _check(self._node, "GetInfo", request)
        except Refused as refused:
            return _refusal(refused, stream=False)
        return JSONResponse(_json(self._node.information()))


class _Payments:
    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def post(self, request: Request) -> Response:
        try:
            _check(self._node, "SendPaymentV2", request)
            wish = await _body(request)
            payment = self._node.network.pay(
                self._node.peer,
                str(wish.get("payment_request", "")),
                amount_msat=int(wish.get("amt_msat", 0)) or int(wish.get("amt", 0)) * 1000,
                allow_self_payment=bool(wish.get("allow_self_payment")),
            )
        except Refused as refused:
            return _refusal(refused, stream=True)
        return StreamingResponse(self._updates(payment), media_type="application/json")

    async def _updates(self, payment: PaymentRow) -> AsyncIterator[bytes]:
        yield _line(payment)
        yield _line(await self._node.network.finished(self._node.peer, payment.payment_hash))


def _check(node: SimulatedNode, method: str, request: Request) -> None:
    node.check(method, request.headers.getlist("Grpc-Metadata-macaroon"))


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises Refused."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise Refused("the request is too large", grpc.StatusCode.INVALID_ARGUMENT)
    try:
        wish = json.loads(body)
    except ValueError as exc:
        raise Refused(f"the request is not JSON: {exc}", grpc.StatusCode.INVALID_ARGUMENT) from exc
    if not isinstance(wish, dict):
        raise Refused("the request is not a JSON object", grpc.StatusCode.INVALID_ARGUMENT)
    return wish


def _line(payment: PaymentRow) -> bytes:
    return json.dumps({"result": _json(payment_message(payment))}).encode() + b"\n"


def _json(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _refusal(refused: Refused, *, stream: bool) -> JSONResponse:
    error = {"code": refused.code.value[0], "message": refused.text, "details": []}
    return JSONResponse({"error": error} if stream else error, status_code=_STATUSES.get(refused.code, 500))
