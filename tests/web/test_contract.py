"""The HTTP contract as clients meet it: shapes, headers, replays, answers that are kept."""

import asyncio
import csv
import io
import json
from pathlib import Path

import httpx
import pytest
from tests.stage import PROMPT, Stage, eventually, play

from arkgate.web.openai import PATHS

ALLOWED = {
    "authorization",
    "content-type",
    "idempotency-key",
    "accept-authenticate",
    "grpc-metadata-macaroon",
}
EXPOSED = {
    "www-authenticate",
    "x-request-id",
    "x-cost-sats",
    "x-balance-sats",
    "x-credit-balance",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "retry-after",
    "x-should-retry",
    "x-cache",
    "idempotent-replayed",
}


def listed(answer: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in answer.headers[header].split(",")}


def test_every_status_carries_cors_and_a_request_id(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(150)
        answers = [
            await stage.chat(token),
            await stage.http.post("/v1/sessions", json={"amount_sats": 5}),
            await stage.chat(token, {"prompt": ""}),
            await stage.chat({"Authorization": "L402 x:y"}),
            await stage.chat(),
            await stage.http.get("/nothing"),
            await stage.http.delete("/v1/balance"),
            await stage.chat(token, {"prompt": "x" * 5000}),
            await stage.http.post(
                "/api/ai-chat", content="x", headers={"Content-Type": "image/png", **token}
            ),
            await stage.http.post("/v1/sessions", json={"amount_sats": 2_000_000}),
            await stage.chat(token, {"prompt": "[fail:500] x"}),
            await stage.chat(token, {"prompt": "[fail:hang] x"}),
            await stage.http.get("/health"),
        ]
        statuses = [200, 201, 400, 401, 402, 404, 405, 413, 415, 422, 502, 504, 200]
        assert [answer.status_code for answer in answers] == statuses
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
            assert listed(answer, "access-control-expose-headers") >= EXPOSED
            assert len(answer.headers["x-request-id"]) >= 16
        assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)

    play(tmp_path, story, {"[backend]": "total_timeout_seconds = 1"})


def test_a_preflight_is_free_on_every_path(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for path in ("/api/ai-chat", "/v1/sessions", "/v1/balance", "/nothing"):
            answer = await stage.http.options(
                path,
                headers={
                    "Origin": "https://shop.example",
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
                },
            )
            assert (answer.status_code, answer.headers.get("content-length")) == (204, None)
            assert "transfer-encoding" not in answer.headers
            assert listed(answer, "access-control-allow-headers") >= ALLOWED
            assert listed(answer, "access-control-allow-methods") >= {"get", "post", "options"}
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "x-request-id" in answer.headers
        assert not stage.simulation.gate.peer.invoices

    play(tmp_path, story)


def test_a_request_id_is_the_callers_or_a_new_one(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for given, is_kept in (
            ("mine-1", True),
            ("a.b:c_D-9", True),
            ("x" * 64, True),
            ("x" * 65, False),
            ("-starts-badly", False),
            ("has space", False),
            ('quote"d', False),
        ):
            answer = await stage.chat({"X-Request-Id": given})
            assert (answer.headers["x-request-id"] == given) is is_kept, given
            assert answer.json()["request_id"] == answer.headers["x-request-id"]

    play(tmp_path, story)


def test_a_metered_answer_has_the_seeds_fields_and_no_others(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        answer = await stage.chat(token)
        body = answer.json()

        assert answer.status_code == 200
        assert set(body) == {
            "success",
            "data",
            "cost_sats",
            "balance_remaining",
            "response_ms",
            "endpoint",
            "request_id",
            "cached",
        }
        assert set(body["data"]) == {"answer", "model", "usage"}
        assert set(body["data"]["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert all(type(count) is int and count > 0 for count in body["data"]["usage"].values())
        assert (body["success"], body["cached"], body["endpoint"]) == (True, False, "/api/ai-chat")
        assert (body["cost_sats"], body["balance_remaining"]) == (50, 450)
        assert type(body["response_ms"]) is int
        headers = answer.headers
        assert (headers["x-cost-sats"], headers["x-balance-sats"]) == ("50", "450")
        assert headers["x-credit-balance"] == "450"
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("5", "4")
        assert int(headers["x-ratelimit-reset"]) % 86_400 == 0
        assert "no-store" in headers["cache-control"]
        assert "www-authenticate" not in headers

    play(tmp_path, story)


def test_a_prompt_follows_no_rule_but_the_stated_ones(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        turns = [
            {"role": "user", "content": "x" * 4000},
            {"role": "assistant", "content": "y" * 4000},
            {"role": "user", "content": "z" * 3000},
        ]
        for body in (
            {"prompt": "ä" * 4000},
            {"messages": [{"role": "user", "content": "hi"}] * 12},
            {"prompt": "first", "messages": turns, "temperature": 0.5, "unknown": [None]},
            {"prompt": "hi", "messages": None, "stream": False},
        ):
            answer = await stage.http.post(
                "/api/ai-chat",
                content=json.dumps(body),
                headers={**token, "Content-Type": "application/x-www-form-urlencoded"},
            )
            assert answer.status_code == 200, answer.text

    play(tmp_path, story)


def test_the_catalog_says_what_is_charged(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        catalog = (await stage.http.get("/v1/catalog")).json()
        endpoint, *others = catalog["endpoints"]

        assert (endpoint["path"], endpoint["method"]) == ("/api/ai-chat", "POST")
        assert (endpoint["cost_sats"], endpoint["calls_per_day"]) == (70, None)
        assert [other["path"] for other in others] == list(PATHS)
        assert all(other["cost_sats"] == 70 for other in others)
        assert (catalog["session"]["minimum_sats"], catalog["session"]["maximum_sats"]) == (1, 1_000_000)
        offer = (await stage.chat()).json()
        assert (offer["call_price_sats"], offer["price_sats"], offer["calls_per_day"]) == (70, 210, None)
        assert offer["calls"] == 3
        token = await stage.fund_token(100)
        answer = await stage.chat(token)
        assert answer.json()["cost_sats"] == 70
        assert "x-ratelimit-limit" not in answer.headers
        assert (await stage.balance(token))["calls_left_today"] is None

    extra = {"[[services]]": "price_sats = 70\ncalls_per_day = 0", "[l402]": "challenge_calls = 3"}
    play(tmp_path, story, extra)


def test_health_is_said_briefly_in_public_and_in_sentences_to_the_operator(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert (await stage.http.get("/health")).json() == {"status": "ok"}
        assert (await stage.http.get("/health/live")).json() == {"status": "ok"}
        stream = await stage.http.get("/health/stream")
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.text.count("data: {") == 4
        ready = await stage.http.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready",
            "dependencies": {
                name: {"ready": True, "state": "ready"} for name in ("store", "backend", "node:gate")
            },
        }
        operator = (await stage.http.get(f"{stage.operator_url}/health/ready")).json()
        assert operator["node:gate"]["sentence"].startswith("node gate")

    play(tmp_path, story)


def test_a_session_tells_of_its_payment_without_its_token(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        opened = await stage.http.post("/v1/sessions", json={"amount_sats": 500})
        body = opened.json()
        assert opened.status_code == 201
        assert opened.headers["cache-control"] == "no-store"
        assert (body["amount_sats"], body["balance_sats"], body["status"]) == (500, 0, "awaiting_payment")
        assert 86_390 <= body["expires_in"] <= 86_400
        assert set(body["funding"]) >= {"lightning_invoice", "payment_hash"}
        await stage.simulation.pay(body["funding"]["lightning_invoice"])

        async def paid() -> bool:
            status = await stage.http.get(f"/v1/sessions/{body['session_id']}")
            assert body["token"] not in status.text
            return bool(status.json()["status"] == "active" and status.json()["balance_sats"] == 500)

        await eventually(paid)
        assert body["status_url"] == f"{stage.url}/v1/sessions/{body['session_id']}"

    play(tmp_path, story)


def test_a_balance_is_told_before_during_and_after_payment(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = (await stage.http.post("/v1/sessions", json={"amount_sats": 50})).json()
        token = {"Authorization": f"Bearer {session['token']}"}
        waiting = await stage.balance(token)
        assert set(waiting) == {
            "token",
            "balance_sats",
            "available_sats",
            "held_sats",
            "status",
            "price_sats",
            "calls_left_today",
            "resets_at",
            "expires_at",
            "balance_expires",
        }
        assert (waiting["status"], waiting["balance_sats"], waiting["price_sats"]) == (
            "awaiting_payment",
            0,
            50,
        )
        assert waiting["token"] == session["token"]
        token = await stage.fund_token(50)
        slow = asyncio.create_task(stage.chat(token, {"prompt": "[fail:slow 0.5] x"}))
        await asyncio.sleep(0.25)
        during = await stage.balance(token)
        assert (during["balance_sats"], during["available_sats"], during["held_sats"]) == (50, 0, 50)
        assert during["calls_left_today"] == 4
        assert (await slow).status_code == 200
        after = await stage.balance(token)
        assert (after["balance_sats"], after["held_sats"], after["status"]) == (0, 0, "active")
        assert (await stage.balance((await stage.buy_credential()).header))["token"] is None

    play(tmp_path, story)


def test_a_statement_adds_up_page_by_page_as_json_and_csv(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(200)
        for prompt in ("one", "[fail:500] two", "three"):
            await stage.chat({**token, "X-Request-Id": f"id-{len(prompt)}"}, {"prompt": prompt})
        whole = (await stage.http.get("/v1/usage", headers=token)).json()
        lines = whole["lines"]
        assert [line["kind"] for line in lines] == ["credit", "charge", "refund", "charge"]
        assert [line["amount_sats"] for line in lines] == [200, -50, 0, -50]
        assert [line["balance_sats"] for line in lines] == [200, 150, 150, 100]
        assert [line["reference"] for line in lines[1:]] == ["id-3", "id-14", "id-5"]
        assert (whole["balance_sats"], whole["next_offset"]) == (100, None)
        pages: list[dict[str, object]] = []
        offset: int | None = 0
        while offset is not None:
            page = (await stage.http.get(f"/v1/usage?limit=3&offset={offset}", headers=token)).json()
            pages += page["lines"]
            offset = page["next_offset"]
        assert pages == lines
        for query, accept in (("?format=csv", "*/*"), ("", "text/csv")):
            text = await stage.http.get(f"/v1/usage{query}", headers={**token, "Accept": accept})
            assert text.headers["content-type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(text.text)))
            assert [row["reference"] for row in rows] == [line["reference"] for line in lines]
            assert [row["amount_sats"] for row in rows] == ["200", "-50", "0", "-50"]
        for query in ("limit=-1", "limit=0", "limit=1001", "limit=x", "offset=1.5", "offset=٣", "format=xml"):
            assert (await stage.http.get(f"/v1/usage?{query}", headers=token)).status_code == 400, query

    play(tmp_path, story)


def test_an_idempotency_key_lives_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        keyed = {**token, "Idempotency-Key": "order-7"}
        failed = await stage.chat(keyed, {"prompt": "[fail:500] x"})
        first = await stage.chat(keyed, {"prompt": "good"})
        again = await stage.chat(keyed, {"prompt": "good"})
        other = await stage.chat(keyed, {"prompt": "different"})
        neighbour = await stage.fund_token(100)
        theirs = await stage.chat({**neighbour, "Idempotency-Key": "order-7"}, {"prompt": "theirs"})

        assert [answer.status_code for answer in (failed, first, again, other)] == [502, 200, 200, 422]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.headers["x-cost-sats"], again.json()["cost_sats"]) == ("0", 50)
        assert again.json()["data"] == first.json()["data"]
        assert again.json()["request_id"] == first.json()["request_id"]
        assert other.json()["code"] == "idempotency_key_reused"
        assert theirs.status_code == 200
        assert "idempotent-replayed" not in theirs.headers
        assert (await stage.balance(token))["balance_sats"] == 450

    play(tmp_path, story)


def test_a_key_in_flight_is_told_to_wait_and_then_replayed(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        keyed = {**await stage.fund_token(500), "Idempotency-Key": "k"}
        body = {"prompt": "[fail:slow 0.6] hello"}
        calls = [asyncio.create_task(stage.chat(keyed, body)) for _ in range(6)]
        answers = await asyncio.gather(*calls)
        late = await stage.chat(keyed, body)

        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 409)
        assert late.headers["idempotent-replayed"] == "true"
        assert len(stage.simulation.chat.request_ids) == 1

    play(tmp_path, story)


def test_a_replay_outranks_price_limit_and_balance(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        keyed = {**await stage.fund_token(50), "Idempotency-Key": "k"}
        assert (await stage.chat(keyed)).status_code == 200

        replayed = await stage.chat(keyed)
        assert (replayed.status_code, replayed.headers["x-balance-sats"]) == (200, "0")
        stage.simulation.chat.faults.always = "500"
        assert (await stage.chat(keyed)).status_code == 200

    play(tmp_path, story, {"[[services]]": "calls_per_day = 1"})


def test_a_used_up_credential_that_repeats_its_body_gets_its_answer_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        credential = await stage.buy_credential()
        first = await stage.chat(credential.header)
        made = len(stage.simulation.gate.peer.invoices)
        again = await stage.chat(credential.header)
        assert again.status_code == 200
        assert again.json()["data"] == first.json()["data"]
        assert again.headers["x-cost-sats"] == "0"
        assert len(stage.simulation.gate.peer.invoices) == made

        other = await stage.chat(credential.header, {"prompt": "another"})
        assert other.status_code == 402
        assert len(stage.simulation.gate.peer.invoices) == made + 1

    play(tmp_path, story)


def test_a_charged_answer_can_be_fetched_by_its_request_id_by_its_owner(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token, stranger = await stage.fund_token(500), await stage.fund_token(500)
        first = await stage.chat({**token, "X-Request-Id": "mine-1"})
        await stage.chat({**token, "X-Request-Id": "mine-2"}, {"prompt": "[fail:500] x"})

        fetched = await stage.http.get("/v1/calls/mine-1", headers=token)
        assert fetched.status_code == 200
        assert fetched.json()["data"] == first.json()["data"]
        assert (fetched.json()["request_id"], fetched.json()["cost_sats"]) == ("mine-1", 50)
        assert fetched.headers["x-cost-sats"] == "0"
        failed = await stage.http.get("/v1/calls/mine-2", headers=token)
        assert (failed.status_code, failed.json()["code"]) == (404, "call_refunded")
        assert failed.json()["refunded"] is True
        assert (await stage.http.get("/v1/calls/mine-1", headers=stranger)).status_code == 404
        assert (await stage.chat({**stranger, "X-Request-Id": "mine-1"})).status_code == 200
        assert (await stage.chat({**token, "X-Request-Id": "mine-2"})).status_code == 200
        slow = asyncio.create_task(
            stage.chat({**token, "X-Request-Id": "mine-3"}, {"prompt": "[fail:slow 0.5] x"})
        )
        await asyncio.sleep(0.25)
        assert (await stage.http.get("/v1/calls/mine-3", headers=token)).status_code == 409
        await slow
        assert (await stage.http.get("/v1/calls/mine-3", headers=token)).status_code == 200

    play(tmp_path, story)


def test_a_client_that_leaves_pays_for_its_answer_and_can_fetch_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        named = {**token, "X-Request-Id": "left"}
        async with httpx.AsyncClient(base_url=stage.url) as impatient:
            with pytest.raises(httpx.ReadTimeout):
                await impatient.post(
                    "/api/ai-chat", json={"prompt": "[fail:slow 0.6] x"}, headers=named, timeout=0.3
                )

        async def stored() -> bool:
            return (await stage.http.get("/v1/calls/left", headers=token)).status_code == 200

        await eventually(stored)
        assert (await stage.balance(token))["balance_sats"] == 450

    play(tmp_path, story)


def test_a_client_that_leaves_a_call_that_fails_pays_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(50)
        async with httpx.AsyncClient(base_url=stage.url) as impatient:
            with pytest.raises(httpx.ReadTimeout):
                await impatient.post(
                    "/api/ai-chat", json={"prompt": "[fail:hang] x"}, headers=token, timeout=0.3
                )

        async def given_back() -> bool:
            return bool((await stage.balance(token))["available_sats"] == 50)

        await eventually(given_back)
        assert (await stage.balance(token))["calls_left_today"] == 5

    play(tmp_path, story, {"[backend]": "total_timeout_seconds = 1"})


def test_the_newest_drafts_parameters_come_last_and_only_when_asked_for(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        lsat, l402 = (await stage.chat()).headers.get_list("www-authenticate")
        body = (await stage.chat()).json()

        assert "version" not in lsat
        assert l402.startswith("L402" + lsat.removeprefix("LSAT") + ', version="0", token="')
        assert body["code"] == "payment_required"

    play(tmp_path, story, {"[l402]": "append_version_and_token = true"})


def test_a_memo_holds_nothing_that_a_client_wrote(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.chat({"X-Request-Id": "canary"}, {**PROMPT, "note": "canary"})
        await stage.http.post("/v1/sessions", json={"amount_sats": 5, "memo": "canary"})

        memos = [row.memo for row in stage.simulation.gate.peer.invoices.values()]
        assert len(memos) == 2
        assert "canary" not in " ".join(memos)

    play(tmp_path, story)


def test_nobody_pays_before_being_told_that_balances_never_expire(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = (await stage.http.post("/v1/sessions", json={"amount_sats": 50})).json()
        token = {"Authorization": f"Bearer {session['token']}"}
        top_up = await stage.http.post("/v1/topups", json={"amount_sats": 50}, headers=token)
        challenge = (await stage.chat()).json()
        catalog = (await stage.http.get("/v1/catalog")).json()["session"]
        status = (await stage.http.get(f"/v1/sessions/{session['session_id']}")).json()

        for told in (session, top_up.json(), challenge, catalog, status, await stage.balance(token)):
            assert told["balance_expires"] == "never"

    play(tmp_path, story)
