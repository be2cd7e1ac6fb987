"""A user of ArkAPI, with the curl line of its page: only host and token are this gateway's."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import execute
from tests.stage import Stage, run, staged

CURL = r"""
curl -X POST https://arkapi.dev/api/ai-chat \
  -H "Authorization: Bearer ak_your_token" \
  -H "Content-Type: application/json" \
  -d '{"prompt":"How is Ark different from Lightning?"}'
"""
ANSWER = {
    "success": bool,
    "data": {
        "answer": str,
        "model": str,
        "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int},
    },
    "cost_sats": int,
    "balance_remaining": int,
    "response_ms": int,
    "endpoint": str,
}
"""The fields of the page's example response, and their types."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: apt-get install curl")


def shape_of(value: Any, wanted: Any) -> Any:
    """The types of a value's fields, as far as they are wanted."""
    if isinstance(wanted, dict):
        return {name: shape_of(value[name], inner) for name, inner in wanted.items()}
    return type(value)


async def funded_token(stage: Stage, amount_sats: int) -> str:
    header = await stage.fund_token(amount_sats)
    return header["Authorization"].removeprefix("Bearer ")


async def curl(stage: Stage, token: str, question: str | None = None) -> dict[str, Any]:
    line = CURL.replace("https://arkapi.dev", stage.url).replace("ak_your_token", token)
    if question is not None:
        line = line.replace("How is Ark different from Lightning?", question)
    done = await asyncio.to_thread(execute, ("bash", "-c", line), directory=stage.directory)
    assert done.status == 0, done
    body: dict[str, Any] = json.loads(done.output)
    return body


def test_the_page_s_curl_line_gets_the_page_s_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            answer = await curl(stage, await funded_token(stage, 1450))

            assert shape_of(answer, ANSWER) == ANSWER
            assert set(answer["data"]) == set(ANSWER["data"])  # type: ignore[call-overload]  # a dict's keys
            assert answer["success"]
            assert (answer["cost_sats"], answer["balance_remaining"]) == (50, 1400)
            assert answer["endpoint"] == "/api/ai-chat"
            usage = answer["data"]["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    run(story())


def test_five_calls_a_day_cost_fifty_sats_each_and_the_sixth_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            token = await funded_token(stage, 1000)
            answers = [await curl(stage, token, f"Question {number}") for number in range(6)]

            assert [answer["success"] for answer in answers] == [True] * 5 + [False]
            assert [answer["balance_remaining"] for answer in answers] == [950, 900, 850, 800, 750, 750]
            assert answers[5]["code"] == "daily_limit_reached"
            refused = await stage.chat({"Authorization": f"Bearer {token}"}, {"prompt": "Once more?"})
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= 86_400
            assert refused.headers["x-ratelimit-remaining"] == "0"
            assert await stage.verify() == []

    run(story())


def test_a_session_answers_as_arkapi_does(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            created = await stage.http.post("/v1/sessions", json={"amount_sats": 500})
            session = created.json()
            header = {"Authorization": f"Bearer {session['token']}"}
            unpaid = await stage.balance(header)
            call = await stage.chat(header)

            assert created.status_code == 201
            assert session["token"].startswith("ak_")
            assert len(session["token"]) >= 35
            assert (session["amount_sats"], session["balance_sats"]) == (500, 0)
            assert session["status"] == "awaiting_payment"
            assert 86_400 - 5 < session["expires_in"] <= 86_400
            assert session["funding"]["lightning_invoice"].startswith("lnbcrt5u1")
            assert len(session["funding"]["payment_hash"]) == 64
            assert (unpaid["balance_sats"], unpaid["status"]) == (0, "awaiting_payment")
            assert (call.status_code, call.json()["code"]) == (402, "awaiting_payment")

    run(story())


def test_a_failed_paid_call_is_refunded(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            token = await funded_token(stage, 500)
            failed = await curl(stage, token, "[fail:500] How?")

            assert not failed["success"]
            assert (failed["cost_sats"], failed["refunded"]) == (0, True)
            assert failed["balance_remaining"] == 500
            assert (await stage.balance({"Authorization": f"Bearer {token}"}))["calls_left_today"] == 5
            assert await stage.verify() == []

    run(story())
