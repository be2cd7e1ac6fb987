"""An agent buys with `l402-requests`, unmodified, from a wallet that is LND's REST interface."""

import asyncio
from pathlib import Path

import httpx
import pytest
from l402_requests import BudgetController, L402Client, LndWallet
from l402_requests.exceptions import BudgetExceededError

from tests.stage import PROMPT, Stage, run, staged


def agent(stage: Stage, budget: BudgetController | None = None) -> L402Client:
    """A client with a cache of its own: it keeps credentials by host and path."""
    wallet = LndWallet(stage.simulation.payer_rest_url, stage.simulation.payer_macaroon_hex)
    return L402Client(wallet=wallet, budget=budget, timeout=30)


async def post(stage: Stage, client: L402Client, prompt: str = PROMPT["prompt"]) -> httpx.Response:
    """A call of the synchronous client, in a thread as a script would make it."""
    url = f"{stage.url}/api/ai-chat"
    response: httpx.Response = await asyncio.to_thread(client.post, url, json={"prompt": prompt})
    return response


def test_an_agent_pays_and_is_answered_in_one_call(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            client = agent(stage)
            answer = await post(stage, client)

            assert answer.status_code == 200
            assert answer.json()["data"]["answer"].endswith(PROMPT["prompt"])
            assert client.spending_log.total_spent() == 50
            assert await stage.verify() == []

    run(story())


def test_an_agent_whose_balance_is_used_up_buys_again_into_the_same_account(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            client = agent(stage)
            answers = [await post(stage, client, f"Question {number}") for number in range(3)]

            assert [answer.status_code for answer in answers] == [200, 200, 200]
            assert client.spending_log.total_spent() == 150
            header = {"Authorization": answers[-1].request.headers["authorization"]}
            usage = (await stage.http.get("/v1/usage", headers=header)).json()
            assert [line["kind"] for line in usage["lines"]] == ["credit", "charge"] * 3
            assert await stage.verify() == []

    run(story())


def test_an_agent_that_bought_several_calls_pays_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path, extra={"[l402]": "challenge_calls = 3"}) as stage:
            client = agent(stage)
            answers = [await post(stage, client, f"Question {number}") for number in range(3)]

            assert [answer.json()["balance_remaining"] for answer in answers] == [100, 50, 0]
            assert client.spending_log.total_spent() == 150
            assert await stage.verify() == []

    run(story())


def test_an_agent_with_a_small_budget_is_told_the_price_and_pays_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            client = agent(stage, BudgetController(max_sats_per_request=49))
            with pytest.raises(BudgetExceededError):
                await post(stage, client)

            assert client.spending_log.total_spent() == 0
            assert stage.simulation.chat.request_ids == []

    run(story())


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_directory_that_probes_learns_the_price_and_the_method(tmp_path: Path, method: str) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            probe = await stage.http.request(method, "/api/ai-chat")

            assert probe.status_code == 402
            assert 'invoice="lnbcrt' in probe.headers.get_list("www-authenticate")[1]
            if method != "HEAD":
                assert "POST /api/ai-chat" in probe.json()["error"]
                assert probe.json()["price_sats"] == 50

    run(story())


def test_an_agent_that_pays_with_get_is_told_to_use_post_and_keeps_its_money(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            client = agent(stage)
            refused: httpx.Response = await asyncio.to_thread(client.get, f"{stage.url}/api/ai-chat")
            answer = await post(stage, client)

            assert refused.status_code == 405
            assert "POST" in refused.json()["error"]
            assert answer.status_code == 200
            assert client.spending_log.total_spent() == 50
            assert await stage.verify() == []

    run(story())
