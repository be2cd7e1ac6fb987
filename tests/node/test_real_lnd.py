"""The stories of the paid call against a real LND, paid by a real payer."""

import asyncio
import json
import subprocess
from pathlib import Path

import httpx
import pytest
from l402_requests import L402Client, LndWallet

from arkgate.simulator.wallet import macaroon_hex
from tests.node.real import RESTART, Pair, staged_with
from tests.stage import PROMPT, Credential, Stage, eventually, run

RESTART_SECONDS = 120

pytestmark = pytest.mark.node

CURL = r"""
curl -s -X POST {url}/api/ai-chat \
  -H "Authorization: Bearer {token}" \
  -H "Content-Type: application/json" \
  -d '{{"prompt":"How is Ark different from Lightning?"}}'
"""


def test_a_call_is_challenged_paid_and_answered(tmp_path: Path, pair: Pair) -> None:
    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            ready = (await stage.http.get("/health/ready")).json()
            credential = await stage.buy_credential()
            answer = await stage.chat(credential.header)
            used_up = await stage.chat(credential.header, {"prompt": "Another question"})

            assert ready["dependencies"]["node:gate"]["ready"], ready
            assert answer.status_code == 200
            assert answer.json()["balance_remaining"] == 0
            assert (used_up.status_code, used_up.json()["code"]) == (402, "insufficient_balance")
            assert await stage.verify() == []

    run(story())


def test_a_token_is_funded_by_the_stream_and_spent_with_curl(tmp_path: Path, pair: Pair) -> None:
    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            header = await stage.fund_token(500)
            line = CURL.format(url=stage.url, token=header["Authorization"].removeprefix("Bearer "))
            answer = json.loads(await asyncio.to_thread(subprocess.check_output, ("bash", "-c", line)))

            assert answer["success"]
            assert answer["balance_remaining"] == 450
            assert await stage.verify() == []

    run(story())


def test_l402_requests_pays_over_rest(tmp_path: Path, pair: Pair) -> None:
    if pair.payer_rest is None:
        pytest.skip("ARKGATE_TEST_PAYER_REST is not set")
    cert = str(pair.payer.tls_cert) if pair.payer_rest.startswith("https") else None
    client = L402Client(
        wallet=LndWallet(pair.payer_rest, macaroon_hex(pair.payer.macaroon), cert), timeout=60
    )

    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            url = f"{stage.url}/api/ai-chat"
            answers: list[httpx.Response] = [
                await asyncio.to_thread(client.post, url, json={"prompt": f"Question {number}"})
                for number in range(2)
            ]

            assert [answer.status_code for answer in answers] == [200, 200]
            assert client.spending_log.total_spent() == 100
            assert await stage.verify() == []

    run(story())


def test_payments_while_the_gateway_is_down_are_credited_at_its_next_start(
    tmp_path: Path, pair: Pair
) -> None:
    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            session = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
            challenge = (await stage.chat()).json()
        await pair.pay(session["funding"]["lightning_invoice"])
        paid = await pair.pay(challenge["invoice"])
        async with staged_with(pair, tmp_path) as stage:
            token = {"Authorization": f"Bearer {session['token']}"}

            async def credited() -> bool:
                return await stage.metric("arkgate_payments_total") == 2

            await eventually(credited)
            credential = Credential(challenge["macaroon"], paid.preimage.hex(), challenge["invoice"])
            answers = [await stage.chat(header) for header in (token, credential.header)]

            assert [answer.json()["balance_remaining"] for answer in answers] == [450, 0]
            assert await stage.verify() == []

    run(story())


async def restarted(pair: Pair) -> None:
    """Restarts the gateway's node."""
    assert pair.restart is not None
    done = await asyncio.to_thread(
        subprocess.run,
        pair.restart,
        shell=True,
        timeout=RESTART_SECONDS,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    assert done.returncode == 0


async def answered(stage: Stage, credential: Credential) -> httpx.Response:
    """The answer, asked for until the node is back, as clients do that are told to try again."""
    answers: list[httpx.Response] = []

    async def final() -> bool:
        answers.append(await stage.chat(credential.header))
        return answers[-1].status_code != 503

    await eventually(final, 30)
    return answers[-1]


def test_a_restart_between_payment_and_call_loses_nothing(tmp_path: Path, pair: Pair) -> None:
    if pair.restart is None:
        pytest.skip(f"{RESTART} is not set")

    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            session = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
            token = {"Authorization": f"Bearer {session['token']}"}
            credential = await stage.buy_credential()
            await restarted(pair)
            answer = await answered(stage, credential)
            await pair.pay(session["funding"]["lightning_invoice"])

            async def paid() -> bool:
                return bool((await stage.balance(token))["status"] == "active")

            await eventually(paid, 60)
            call = await stage.chat(token, PROMPT)

            assert answer.status_code == 200
            assert answer.json()["cost_sats"] == 50
            assert call.json()["balance_remaining"] == 450
            assert (await stage.http.get("/health/ready")).status_code == 200
            assert await stage.verify() == []

    run(story())
