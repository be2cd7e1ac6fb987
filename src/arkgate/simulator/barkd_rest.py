"""The REST of a simulated barkd: its paths, its bearer token and the many forms of its errors."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from arkgate.simulator.barkd_wallet import ArkWallet, BarkdError, Wait
from arkgate.simulator.network import Refused, lying_answer

API = "/api/v1"
WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.05
"""How often a wait looks whether its caller is still there."""
_NOT_JSON = "Failed to deserialize the JSON body into the target type: "
Handler = Callable[[ArkWallet, Request], Awaitable[Response]]


def rest(wallet: ArkWallet) -> Starlette:
    """The REST application of a wallet's barkd."""

    def route(method: str, path: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answered(wallet, f"{method} {path}", handler, request)

        return Route(API + path, endpoint, methods=[method])

    async def ping(request: Request) -> Response:
        return PlainTextResponse("pong")

    async def nowhere(request: Request) -> Response:
        return JSONResponse("path not found: ", 404)

    routes = [route(method, path, handler) for (method, path), handler in _HANDLERS.items()]
    return Starlette(routes=[Route("/ping", ping), *routes, Route("/{path:path}", nowhere)])


async def _answered(wallet: ArkWallet, call: str, handler: Handler, request: Request) -> Response:
    """What comes before and after every call: the delay, refusal or loss that a test asked for."""
    wallet.calls.append(call)
    habits = wallet.peer.habits
    await asyncio.sleep(habits.delay_seconds(call))
    given = request.headers.get("authorization", "")
    if given != f"Bearer {wallet.token}":
        word = "invalid" if given.startswith("Bearer ") else "missing"
        return JSONResponse({"message": f"{word} auth token"}, 401)
    if habits.failure(call) is not None:
        return _error(wallet, BarkdError(f"simulated failure of {call}"))
    if not wallet.ark.has_wallet and call != "GET /wallet":
        return JSONResponse({"message": "No wallet set"}, 422)
    try:
        answer = await handler(wallet, request)
    except BarkdError as error:
        return _error(wallet, error)
    return Response(status_code=502) if call in habits.lost_answers else answer


def _error(wallet: ArkWallet, error: BarkdError) -> Response:
    body: dict[str, Any] = {"message": error.text}
    if error.status == 404:
        body["resources"] = ["ark server"]
    forms = {
        "json": JSONResponse(body, error.status),
        "text": PlainTextResponse(error.text, error.status),
        "empty": Response(status_code=error.status),
    }
    return forms[wallet.ark.error_bodies]


async def _wallet(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse({"fingerprint": "bfc8fb06" if wallet.ark.has_wallet else None})


async def _connected(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse({"connected": not wallet.ark.never_connected})


async def _ark_info(wallet: ArkWallet, request: Request) -> Response:
    ark = wallet.ark
    if ark.never_connected:
        raise BarkdError("not connected to an Ark server", 404)
    fees = {"lightning_receive": {"base_fee_sat": ark.base_fee_sats, "ppm": ark.fee_ppm}}
    return JSONResponse({"network": ark.network, "round_interval": "10s", "fees": fees})


async def _balance(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse(
        {
            "spendable_sat": wallet.spendable_sats,
            "pending_lightning_send_sat": 0,
            "claimable_lightning_receive_sat": 0,
            "pending_in_round_sat": 0,
            "pending_board_sat": 0,
            "pending_exit_sat": 0,
        }
    )


async def _mailbox(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse({"checkpoint": wallet.look_into_mailbox()})


async def _make_invoice(wallet: ArkWallet, request: Request) -> Response:
    try:
        wish = json.loads(await request.body())
        amount = wish["amount_sat"]
    except (ValueError, KeyError, TypeError) as error:
        return PlainTextResponse(f"{_NOT_JSON}missing field {error} at line 1", 422)
    if not isinstance(amount, int) or amount < 0:
        return PlainTextResponse(f"{_NOT_JSON}amount_sat: expected u64 at line 1", 422)
    try:
        row = wallet.add(amount, wish.get("description") or "")
    except Refused as refused:
        raise BarkdError(f"Failed to create invoice: {refused.text}") from refused
    return JSONResponse({"invoice": lying_answer(wallet.peer, row)[1]})


async def _receive(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse(wallet.receive(_payment_hash(request)))


async def _delete(wallet: ArkWallet, request: Request) -> Response:
    wallet.delete(_payment_hash(request))
    return Response()


def _payment_hash(request: Request) -> bytes:
    """The hash in a path; barkd takes preimages and invoices as well."""
    text = request.path_params["identifier"]
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != hashlib.sha256().digest_size:
        raise BarkdError("bad request: identifier is not a valid payment hash, invoice or preimage", 400)
    return found


async def _history(wallet: ArkWallet, request: Request) -> Response:
    kind, value = request.query_params.get("type"), request.query_params.get("value")
    if (kind is None) != (value is None):
        raise BarkdError("bad request: type and value belong together", 400)
    return JSONResponse(wallet.history(kind, value))


async def _next_address(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse({"address": wallet.purse.new_address()})


async def _coin(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse(wallet.coin(request.path_params["identifier"]).as_json())


async def _refresh(wallet: ArkWallet, request: Request) -> Response:
    try:
        outpoints = [str(one) for one in json.loads(await request.body())["vtxos"]]
    except (ValueError, KeyError, TypeError) as error:
        return PlainTextResponse(f"{_NOT_JSON}missing field {error} at line 1", 422)
    if not outpoints:
        raise BarkdError("bad request: No VTXO IDs provided", 400)
    wallet.refresh(outpoints)
    return JSONResponse({"id": 1, "status": {"type": "pending"}, "participation": {}})


async def _rounds(wallet: ArkWallet, request: Request) -> Response:
    return JSONResponse(
        [
            {"id": number, "status": {"status": "pending"}, "participation": {"inputs": coins, "outputs": []}}
            for number, coins in enumerate(wallet.participations, start=1)
        ]
    )


async def _wait(wallet: ArkWallet, request: Request) -> Response:
    """Waits for notifications after `since`, for half a minute."""
    since = request.query_params.get("since")
    until = asyncio.get_running_loop().time() + WAIT_SECONDS
    wait = Wait()
    wallet.waits.add(wait)
    try:
        while not (found := wallet.notifications(since)):
            if asyncio.get_running_loop().time() > until or await request.is_disconnected():
                return JSONResponse({"notifications": [], "last_pushed_at": since})
            try:
                await asyncio.wait_for(wait.changed.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue
            wait.changed.clear()
            if wait.cut:
                raise BarkdError("simulated end of a wait")
    finally:
        wallet.waits.discard(wait)
    told = [one.message for one in found]
    return JSONResponse({"notifications": told, "last_pushed_at": found[-1].at})


_HANDLERS: dict[tuple[str, str], Handler] = {
    ("GET", "/wallet"): _wallet,
    ("GET", "/wallet/connected"): _connected,
    ("GET", "/wallet/ark-info"): _ark_info,
    ("GET", "/wallet/balance"): _balance,
    ("POST", "/wallet/sync/mailbox"): _mailbox,
    ("POST", "/wallet/addresses/next"): _next_address,
    ("GET", "/wallet/vtxos/{identifier}"): _coin,
    ("GET", "/wallet/rounds"): _rounds,
    ("POST", "/wallet/refresh/delegated/vtxos"): _refresh,
    ("POST", "/lightning/receives/invoice"): _make_invoice,
    ("GET", "/lightning/receives/{identifier}"): _receive,
    ("DELETE", "/lightning/receives/{identifier}"): _delete,
    ("GET", "/history"): _history,
    ("GET", "/notifications/wait"): _wait,
}
"""Those that a gateway uses, or could be misled by, by method and path."""
