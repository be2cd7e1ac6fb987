"""The paid call as its users make it, over real sockets."""

from pathlib import Path

from tests.stage import PROMPT, run, staged


def test_an_unpaid_call_is_challenged_paid_and_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            unpaid = await stage.chat()
            assert unpaid.status_code == 402
            lines = unpaid.headers.get_list("www-authenticate")
            assert [line.split(" ")[0] for line in lines] == ["LSAT", "L402"]
            paid = await stage.simulation.pay(unpaid.json()["invoice"])

            answer = await stage.http.post(
                "/api/ai-chat",
                json=PROMPT,
                headers={"Authorization": f"L402 {unpaid.json()['macaroon']}:{paid.preimage.hex()}"},
            )

            assert answer.status_code == 200
            assert answer.json()["data"]["answer"].startswith("This is a simulated answer")
            assert answer.json()["cost_sats"] == 50
            assert answer.json()["balance_remaining"] == 0
            assert await stage.verify() == []

    run(story())


def test_a_funded_token_buys_calls_until_the_days_limit(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            token = await stage.fund_token(500)
            answers = [await stage.chat(token, {"prompt": f"question {number}"}) for number in range(6)]

            assert [answer.status_code for answer in answers] == [200] * 5 + [429]
            assert answers[4].headers["x-balance-sats"] == "250"
            assert answers[5].json()["code"] == "daily_limit_reached"
            assert answers[5].headers["x-should-retry"] == "false"
            assert await stage.verify() == []

    run(story())
