"""Refusals over HTTP: each type of the tree with its status, code, sentence and headers."""

import asyncio
import base64
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
import pytest
from pymacaroons.serializers import BinarySerializer
from starlette.types import Receive, Scope, Send
from tests.stage import MODEL, Credential, Stage, eventually, play, run, staged

from arkgate.core import errors
from arkgate.core.errors import Refusal
from arkgate.core.reports import PAUSED_FACT
from arkgate.simulator.simulation import Simulation
from arkgate.store import open_store
from arkgate.web.admin import COMMAND_HEADER, RECONCILE_PATH
from arkgate.web.errors import STATUS, status_of
from arkgate.web.guard import Guard

Test = TypeVar("Test")
TESTED: set[type[Refusal]] = set()
LOG_BYTES = 1024 * 1024


def tells(*kinds: type[Refusal]) -> Callable[[Test], Test]:
    """Says which refusals a test is about, so that one without a test is noticed."""
    TESTED.update(kinds)
    return lambda test: test


def kinds(of: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """Every refusal of `core.errors`."""
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


def refused(answer: httpx.Response, kind: type[Refusal], *, code: str | None = None) -> dict[str, object]:
    """Checks what all refusals have in common, and gives the body."""
    body: dict[str, object] = answer.json()
    assert answer.status_code == STATUS[kind], body
    assert body["success"] is False
    assert body["code"] == (code or kind.code)
    assert body["cost_sats"] == 0
    assert re.fullmatch(r"\S.+ .+\.", str(body["error"])), body["error"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert str(body["endpoint"]).startswith("/")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"] == "application/json"
    challenged = answer.headers.get_list("www-authenticate")
    if answer.status_code == 401:
        assert challenged == ["L402"]
        assert answer.headers["cache-control"] == "no-store"
    elif kind is not errors.PaymentRequired:
        assert challenged == []
        assert "invoice" not in body
    if answer.status_code in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return body


def invoices_made(stage: Stage) -> int:
    return len(stage.simulation.gate.peer.invoices)


def test_every_refusal_has_a_status_and_a_test() -> None:
    found = set(kinds())

    assert found == set(STATUS) | {errors.BackendRejected}
    assert found == TESTED
    assert len({kind.code for kind in found}) == len(found)
    assert status_of(errors.BackendRejected("no", status=422)) == 422


@tells(errors.InvalidRequest, errors.NotSupported, errors.PayloadTooLarge, errors.UnsupportedMediaType)
def test_a_bad_body_is_refused_without_charge_or_use_of_the_day(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)

        async def send(content: str, **headers: str) -> httpx.Response:
            return await stage.http.post("/api/ai-chat", content=content, headers={**token, **headers})

        refused(await send("{"), errors.InvalidRequest)
        refused(await send("{}"), errors.InvalidRequest)
        refused(await send(""), errors.InvalidRequest)
        refused(await send('{"system_prompt": "x", "prompt": "y"}'), errors.InvalidRequest)
        refused(await send('{"messages": [{"role": "system", "content": "x"}]}'), errors.InvalidRequest)
        refused(await send('{"messages": [{"role": "assistant", "content": "x"}]}'), errors.InvalidRequest)
        refused(await send('{"prompt": "x", "stream": "please"}'), errors.InvalidRequest)
        refused(await send('{"prompt": "' + "x" * 4001 + '"}'), errors.PayloadTooLarge)
        refused(await send(" " * (1024 * 1024 + 1)), errors.PayloadTooLarge)
        refused(await send('{"prompt": "x"}', **{"content-type": "image/png"}), errors.UnsupportedMediaType)
        refused(await send('{"prompt": "x"}', **{"content-encoding": "br"}), errors.UnsupportedMediaType)
        refused(await send('{"prompt": "x"}', **{"idempotency-key": "k" * 256}), errors.InvalidRequest)
        balance = await stage.balance(token)
        assert (balance["balance_sats"], balance["calls_left_today"]) == (500, 5)
        assert stage.simulation.chat.request_ids == []

    play(tmp_path, story)


@tells(errors.Unprocessable)
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/topups"])
def test_an_amount_out_of_range_names_the_range_and_makes_no_invoice(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        before = invoices_made(stage)
        for amount in (9, 1_001):
            answer = await stage.http.post(path, json={"amount_sats": amount}, headers=token)
            body = refused(answer, errors.Unprocessable, code="amount_out_of_range")
            assert (body["minimum_sats"], body["maximum_sats"]) == (10, 1_000)
        for amount_text in ("0", "-1", "1.5", "true", '"50"', "1e3", "null", "9" * 30):
            answer = await stage.http.post(
                path, content=f'{{"amount_sats": {amount_text}}}', headers={**token}
            )
            refused(answer, errors.InvalidRequest)
        assert invoices_made(stage) == before

    play(tmp_path, story, {"[sessions]": "minimum_sats = 10\nmaximum_sats = 1000"})


@tells(errors.UpgradeNotSupported)
def test_a_websocket_is_told_that_there_is_none(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        for headers in (upgrade, {**token, **upgrade}):
            refused(await stage.http.get("/api/ai-chat", headers=headers), errors.UpgradeNotSupported)

    play(tmp_path, story)


@tells(errors.NotFound, errors.MethodNotAllowed)
def test_unknown_paths_and_methods_are_told_apart(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for path in ("/nothing", "/api/ai-chat/", "/v1/sessions/" + "0" * 32):
            refused(await stage.http.get(path), errors.NotFound)
        token = await stage.fund_token(100)
        refused(await stage.http.get("/v1/calls/none", headers=token), errors.NotFound)
        for method, path, allowed in (
            ("DELETE", "/api/ai-chat", "POST"),
            ("GET", "/v1/sessions", "POST"),
            ("POST", "/v1/balance", "GET"),
        ):
            answer = await stage.http.request(method, path)
            refused(answer, errors.MethodNotAllowed)
            assert allowed in answer.headers["allow"].split(", ")
        answer = await stage.http.get("/api/ai-chat", headers=token)
        refused(answer, errors.MethodNotAllowed)
        assert answer.headers["allow"] == "POST"

    play(tmp_path, story)


@tells(errors.InvalidCredential, errors.InvalidToken, errors.MissingCredential)
def test_a_bad_credential_is_401_and_costs_no_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for value in ("L402 abc", f"L402 AAAA:{'0' * 64}", "Bearer nonsense:0", "L402 " + "A" * 5000 + ":00"):
            refused(await stage.chat({"Authorization": value}), errors.InvalidCredential)
        refused(await stage.chat({"Macaroon": "zz"}), errors.InvalidCredential)
        for value in ("Bearer ak_" + "0" * 32, "Bearer ak_short", "Bearer ak_" + "Z" * 32):
            refused(await stage.chat({"Authorization": value}), errors.InvalidToken)
        for method, path in (
            ("GET", "/v1/balance"),
            ("GET", "/v1/usage"),
            ("GET", "/v1/calls/x"),
            ("POST", "/v1/tokens"),
        ):
            refused(await stage.http.request(method, path), errors.MissingCredential)
        refused(await stage.http.post("/v1/topups", json={"amount_sats": 5}), errors.MissingCredential)
        assert invoices_made(stage) == 0

    play(tmp_path, story)


@tells(errors.PaymentRequired)
def test_every_way_to_ask_without_credential_is_challenged(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        def check(answer: httpx.Response) -> None:
            lsat, l402 = answer.headers.get_list("www-authenticate")
            match = re.fullmatch(r'LSAT macaroon="([A-Za-z0-9+/]+=*)", invoice="(lnbcrt[0-9a-z]+)"', lsat)
            assert match
            assert l402 == "L402" + lsat.removeprefix("LSAT")
            assert answer.headers["cache-control"] == "no-store"
            assert sum(len(name) + len(value) + 4 for name, value in answer.headers.raw) < 3072

        for method, content in (
            ("GET", None),
            ("POST", ""),
            ("POST", "{}"),
            ("POST", " {}\n"),
            ("POST", '{"prompt": "hello"}'),
        ):
            answer = await stage.http.request(method, "/api/ai-chat", content=content)
            body = refused(answer, errors.PaymentRequired)
            check(answer)
            assert "POST /api/ai-chat" in str(body["error"])
            assert {body[name] for name in ("price_sats", "priceSats", "amount_sats")} == {50}
            assert (body["call_price_sats"], body["calls"], body["calls_per_day"]) == (50, 1, 5)
        head = await stage.http.head("/api/ai-chat")
        assert (head.status_code, head.content) == (402, b"")
        check(head)
        for value in ("Basic eDp5", "L402 :", "L402", "Bearer sk-other"):
            check(await stage.chat({"Authorization": value}))

    play(tmp_path, story)


def test_nobody_is_asked_to_pay_for_a_body_that_cannot_be_served(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for content, kind in (
            ("[]", errors.InvalidRequest),
            ("{", errors.InvalidRequest),
            ('{"prompt": 5}', errors.InvalidRequest),
            ('{"prompt": "x", "stream": "please"}', errors.InvalidRequest),
            ('{"prompt": "' + "x" * 4001 + '"}', errors.PayloadTooLarge),
        ):
            refused(await stage.http.post("/api/ai-chat", content=content), kind)
        answer = await stage.http.post("/api/ai-chat", content="x", headers={"content-type": "image/png"})
        refused(answer, errors.UnsupportedMediaType)
        assert invoices_made(stage) == 0

    play(tmp_path, story)


@tells(errors.FundedTokenRequired)
def test_where_no_node_makes_invoices_only_a_funded_token_pays(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,), barkds=("ark",)) as one,
            staged(
                tmp_path, simulation=one, nodes=one.barkds, extra={"[[nodes]]": "lightning = false"}
            ) as stage,
        ):
            body = refused(await stage.chat(), errors.FundedTokenRequired)

            assert body["price_sats"] == 50
            assert "/v1/sessions" in str(body["next"])

    run(asyncio.wait_for(story(), 30))


@tells(errors.AwaitingPayment, errors.InsufficientBalance)
def test_a_token_without_money_says_what_is_missing_and_gets_no_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = (await stage.http.post("/v1/sessions", json={"amount_sats": 70})).json()
        token = {"Authorization": f"Bearer {session['token']}"}
        waiting = refused(await stage.chat(token), errors.AwaitingPayment)
        assert (waiting["needed_sats"], waiting["available_sats"]) == (50, 0)
        token = await stage.fund_token(70)
        await stage.chat(token, {"prompt": "one"})
        before = invoices_made(stage)
        answer = await stage.chat(token, {"prompt": "two"})
        body = refused(answer, errors.InsufficientBalance)
        assert (body["needed_sats"], body["available_sats"]) == (50, 20)
        assert body["topup_url"] == f"{stage.url}/v1/topups"
        assert body["balance_remaining"] == 20
        assert answer.headers["x-balance-sats"] == "20"
        assert invoices_made(stage) == before

    play(tmp_path, story)


@tells(errors.DailyLimitReached)
def test_the_days_limit_outranks_the_balance_and_tells_when_it_ends(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        for number in range(2):
            await stage.chat(token, {"prompt": str(number)})
        answer = await stage.chat(token)
        body = refused(answer, errors.DailyLimitReached)
        balance = await stage.balance(token)

        assert int(answer.headers["retry-after"]) <= 86_400
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert str(balance["resets_at"]) in str(body["error"])
        assert str(balance["resets_at"]).endswith("T00:00:00Z")
        credential = await stage.buy_credential()
        topup = {"amount_sats": 500}
        paid = (await stage.http.post("/v1/topups", json=topup, headers=credential.header)).json()
        await stage.simulation.pay(paid["funding"]["lightning_invoice"])
        for number in range(2):
            assert (await stage.chat(credential.header, {"prompt": f"l402 {number}"})).status_code == 200
        refused(await stage.chat(credential.header), errors.DailyLimitReached)

    play(tmp_path, story, {"[[services]]": "calls_per_day = 2"})


@tells(errors.RateLimited)
def test_too_many_challenges_are_refused_with_a_true_wait(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.chat()
        body = refused(await stage.chat(), errors.RateLimited)

        assert body["retry_after_seconds"] in range(1, 61)
        assert invoices_made(stage) == 1

    play(tmp_path, story, {"[limits]": "challenges_per_minute_and_client = 1"})


@tells(errors.RequestInFlight, errors.IdempotencyKeyReused, errors.RequestIdReused, errors.AnswerGone)
def test_a_call_is_not_made_twice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        keyed, named = {**token, "Idempotency-Key": "k"}, {**token, "X-Request-Id": "mine"}
        slow = asyncio.create_task(stage.chat(keyed, {"prompt": "[fail:slow 0.6] one"}))
        await asyncio.sleep(0.3)
        refused(await stage.chat(keyed, {"prompt": "[fail:slow 0.6] one"}), errors.RequestInFlight)
        assert (await slow).status_code == 200
        refused(await stage.chat(keyed, {"prompt": "other"}), errors.IdempotencyKeyReused)
        assert (await stage.chat(named, {"prompt": "one"})).status_code == 200
        refused(await stage.chat(named, {"prompt": "two"}), errors.RequestIdReused)
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE answer SET expires_at_ms = 1")
        again = await stage.chat(keyed, {"prompt": "[fail:slow 0.6] one"})
        fetched = await stage.http.get("/v1/calls/mine", headers=token)
        for gone in (refused(again, errors.AnswerGone), refused(fetched, errors.AnswerGone)):
            why = "too large, was not read to its end, or its time is over"
            assert f"was made and charged, and its answer is not stored: it was {why}." in str(gone["error"])
        assert (await stage.balance(token))["balance_sats"] == 400

    play(tmp_path, story)


@tells(errors.AttenuatedCredential, errors.SettlementPending)
def test_a_credential_that_may_not_or_cannot_be_used_yet_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.PROOF_PATIENCE_SECONDS", 0.3)

    async def story(stage: Stage) -> None:
        bought = await stage.buy_credential()
        macaroon = BinarySerializer().deserialize_raw(base64.b64decode(bought.macaroon))
        macaroon.add_first_party_caveat("ai_chat_valid_until=1800000000")
        narrowed = base64.b64encode(BinarySerializer().serialize_raw(macaroon)).decode()
        header = Credential(narrowed, bought.preimage, "").header
        refused(await stage.http.post("/v1/tokens", headers=header), errors.AttenuatedCredential)
        stage.simulation.gate.habits.settlement_lag_seconds = 8
        pending = await stage.buy_credential()
        refused(await stage.chat(pending.header), errors.SettlementPending)

    play(tmp_path, story)


@tells(errors.NodeUnavailable)
def test_a_node_that_fails_is_said_to_whoever_needs_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        offer = (await stage.chat()).json()
        row = stage.simulation.gate.invoice(bytes.fromhex(offer["payment_hash"]))
        assert row is not None
        stage.simulation.gate.habits.failures["*"] = grpc.StatusCode.INTERNAL
        refused(await stage.chat(), errors.NodeUnavailable)
        refused(await stage.http.post("/v1/sessions", json={"amount_sats": 5}), errors.NodeUnavailable)
        unseen = Credential(offer["macaroon"], row.preimage.hex(), "")
        answer = await stage.chat(unseen.header)
        sentence = str(refused(answer, errors.NodeUnavailable)["error"])
        assert "simulated failure" not in sentence  # what the node said is the operator's
        assert "gate " not in sentence
        assert (await stage.chat(token)).status_code == 200
        stage.settings.nodes[0].files["macaroon_file"].unlink()
        await stage.simulation.gate.stop()
        for _ in range(4):  # until the channel is built anew, with the file that is not there
            answer = await stage.chat()
            assert "macaroon" not in str(refused(answer, errors.NodeUnavailable)["error"])

    play(tmp_path, story)


@tells(errors.BackendUnavailable)
def test_a_backend_that_is_down_is_not_sold(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        for _ in range(3):
            body = refused(await stage.chat(token), errors.UpstreamError)
            assert body["refunded"] is True
        before = invoices_made(stage)
        refused(await stage.chat(token), errors.BackendUnavailable)
        refused(await stage.chat(), errors.BackendUnavailable)
        refused(await stage.http.get("/api/ai-chat"), errors.BackendUnavailable)
        assert invoices_made(stage) == before
        assert (await stage.balance(token))["available_sats"] == 100

    play(tmp_path, story, {"[backend]": 'url = "http://127.0.0.1:9/v1"'})


@tells(errors.StoreUnavailable)
def test_a_ledger_that_cannot_be_written_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.store.sqlite.connections.BUSY_SECONDS", 0.3)

    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        other = sqlite3.connect(stage.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            refused(await stage.chat(token), errors.StoreUnavailable)
        finally:
            other.close()
        assert stage.simulation.chat.request_ids == []
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story)


@tells(errors.Overloaded, errors.Draining)
def test_a_full_or_stopping_gateway_takes_no_call_and_makes_no_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(200)
        slow = asyncio.create_task(stage.chat(token, {"prompt": "[fail:slow 1] one"}))
        await asyncio.sleep(0.3)
        before = invoices_made(stage)
        refused(await stage.chat(token, {"prompt": "two"}), errors.Overloaded)
        refused(await stage.chat(), errors.Overloaded)
        assert (await stage.balance(token))["held_sats"] == 50
        draining = asyncio.create_task(stage.app.calls.drain(5))
        await asyncio.sleep(0)
        refused(await stage.chat(token, {"prompt": "two"}), errors.Draining)
        refused(await stage.chat(), errors.Draining)
        refused(await stage.http.post("/v1/sessions", json={"amount_sats": 5}), errors.Draining)
        assert invoices_made(stage) == before
        assert (await slow).status_code == 200
        await draining

    play(tmp_path, story, {"[backend]": "concurrency_max = 1"})


FAULTS: dict[str, tuple[int, str]] = {
    **{name: (int(name), "rejected_by_backend") for name in ("400", "413", "422")},
    **dict.fromkeys(("401", "403", "404", "409", "429", "500", "502", "503"), (502, "upstream_error")),
    **dict.fromkeys(("cut", "empty", "garbage", "html", "huge", "no-choices"), (502, "upstream_error")),
    **dict.fromkeys(("redirect", "reset", "wrong-length"), (502, "upstream_error")),
    **dict.fromkeys(("hang", "stall", "trickle 0.5"), (504, "upstream_timeout")),
}


@tells(errors.UpstreamError, errors.UpstreamTimeout, errors.BackendRejected)
def test_whatever_goes_wrong_with_the_backend_costs_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(50)
        for fault, (status, code) in FAULTS.items():
            answer = await stage.chat(token, {"prompt": f"[fail:{fault}] hello"})
            body = answer.json()
            balance = await stage.balance(token)

            assert (answer.status_code, body["code"]) == (status, code), fault
            assert body["refunded"] is True, fault
            assert (body["cost_sats"], body["balance_remaining"]) == (0, 50), fault
            assert answer.headers["x-cost-sats"] == "0"
            assert answer.headers["x-ratelimit-remaining"] == "5"
            assert (balance["balance_sats"], balance["held_sats"]) == (50, 0), fault
            assert balance["calls_left_today"] == 5, fault
            assert "127.0.0.1" not in body["error"]
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story, {"[backend]": "total_timeout_seconds = 1"})


@tells(errors.Paused)
def test_restored_books_sell_nothing_until_every_node_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.reconcile.RESUME_RETRY_SECONDS", 0.1)

    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(tmp_path, simulation=simulation) as stage:
                token = await stage.fund_token(100)
                assert (
                    await stage.chat({**token, "Idempotency-Key": "k"}, {"prompt": "before"})
                ).status_code == 200
                answered = (await stage.chat({**token, "Idempotency-Key": "k"}, {"prompt": "before"})).json()
                bought = await stage.buy_credential()
            async with open_store(stage.settings.store_url, None, log_bytes=LOG_BYTES) as store:
                await store.ledger.note(PAUSED_FACT, 1)
            simulation.gate.habits.failures["ListInvoices"] = grpc.StatusCode.UNAVAILABLE
            async with staged(tmp_path, simulation=simulation) as stage:
                made = invoices_made(stage)
                for headers in (None, token, bought.header):
                    body = refused(await stage.chat(headers), errors.Paused)
                    assert "restored from a backup" in str(body["error"])
                for path in ("/v1/sessions", "/v1/topups"):
                    answer = await stage.http.post(path, json={"amount_sats": 5}, headers=token)
                    refused(answer, errors.Paused)
                assert invoices_made(stage) == made
                assert (await stage.balance(token))["balance_sats"] == 50
                assert (await stage.http.get("/v1/usage", headers=token)).status_code == 200
                again = await stage.chat({**token, "Idempotency-Key": "k"}, {"prompt": "before"})
                assert again.json()["data"] == answered["data"]
                ready = await stage.http.get("/health/ready")
                told = await stage.http.get(f"{stage.operator_url}/health/ready")
                assert ready.status_code == 503
                assert ready.json()["dependencies"]["gateway"]["state"] == "paused"
                assert "restored from a backup" in told.json()["gateway"]["sentence"]

                simulation.gate.habits.failures.clear()

                async def sold() -> bool:
                    return (await stage.chat(token)).status_code == 200

                await eventually(sold)
                assert await stage.verify() == []
            async with staged(tmp_path, simulation=simulation) as stage:
                assert (await stage.chat()).status_code == 402

    run(asyncio.wait_for(story(), 60))


@tells(errors.OperatorOnly)
def test_a_command_is_taken_from_the_operators_own_program_only(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        url, command = f"{stage.operator_url}{RECONCILE_PATH}", {COMMAND_HEADER: "1"}
        refused(await stage.http.post(url), errors.OperatorOnly)
        rebound = await stage.http.post(url, headers={**command, "Host": "page.example:80"})
        refused(rebound, errors.OperatorOnly)
        preflight = await stage.http.options(url, headers={"Origin": "http://page.example"})
        assert COMMAND_HEADER not in preflight.headers["access-control-allow-headers"].lower()
        assert (await stage.http.get(url, headers=command)).status_code == 405
        assert (await stage.http.post(f"{stage.url}{RECONCILE_PATH}", headers=command)).status_code == 404

        done = await stage.http.post(url, headers=command)
        assert done.status_code == 200
        assert done.json()["resumed"] is False
        stage.simulation.gate.habits.failures["ListInvoices"] = grpc.StatusCode.UNAVAILABLE
        away = await stage.http.post(url, headers=command)
        assert away.status_code == 503
        assert "node gate" in away.json()["error"]

    play(tmp_path, story)


@tells(errors.InternalError)
def test_a_fault_of_ours_is_a_refusal_without_its_reason() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("the secret reason")

    async def story() -> None:
        guard = Guard(broken, public_url="http://x", answered=lambda _: None)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(guard), base_url="http://x", timeout=5
        ) as http:
            answer = await http.get("/anything", headers={"X-Request-Id": "mine"})
            body = refused(answer, errors.InternalError)
            assert "secret" not in answer.text
            assert body["request_id"] == "mine"

    run(story())


@tells(errors.ForeignHost)
def test_a_browser_reaches_the_tools_under_the_gateways_own_name_only(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

        async def post(host: str, origin: str | None) -> httpx.Response:
            headers = {"Host": host, "Accept": "application/json", **({"Origin": origin} if origin else {})}
            return await stage.http.post("/mcp", json=body, headers=headers)

        refused(await post("page.example:8402", "http://page.example:8402"), errors.ForeignHost)
        for host in ("127.0.0.1:8402", "[::1]:8402", "localhost:8402", "arkgate:80", "LOCALHOST"):
            assert (await post(host, "https://page.example")).status_code == 200, host
        assert (await post("page.example:8402", None)).status_code == 200

    play(tmp_path, story)
