"""Sixty-four clients at once: what one account can pay for is sold, and nothing more."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.stage import Stage, run, staged

CLIENTS = 64


async def at_once(stage: Stage, header: dict[str, str]) -> list[httpx.Response]:
    """The answers to as many different calls, made together."""
    calls = (stage.chat(header, {"prompt": f"Question {number}"}) for number in range(CLIENTS))
    return await asyncio.gather(*calls)


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def test_funds_for_ten_calls_buy_ten(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path, extra={"[[services]]": "calls_per_day = 0"}) as stage:
            header = await stage.fund_token(10 * 50 + 49)
            answers = await at_once(stage, header)

            assert statuses(answers) == {200: 10, 402: CLIENTS - 10}
            assert len({answer.json()["request_id"] for answer in answers}) == CLIENTS
            assert len(stage.simulation.chat.request_ids) == 10
            assert (await stage.balance(header))["balance_sats"] == 49
            assert await stage.verify() == []

    run(story())


def test_the_day_s_limit_of_five_holds_whatever_the_funds(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            header = await stage.fund_token(10_000)
            answers = await at_once(stage, header)

            assert statuses(answers) == {200: 5, 429: CLIENTS - 5}
            assert len(stage.simulation.chat.request_ids) == 5
            assert (await stage.balance(header))["balance_sats"] == 10_000 - 5 * 50
            assert await stage.verify() == []

    run(story())


@pytest.mark.parametrize("lag_seconds", [0.0, 0.5], ids=["settled at once", "settled half a second later"])
def test_a_credential_presented_by_all_at_once_is_credited_once_and_buys_one_call(
    tmp_path: Path, lag_seconds: float
) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            stage.simulation.gate.habits.settlement_lag_seconds = lag_seconds
            credential = await stage.buy_credential()
            answers = await at_once(stage, credential.header)

            assert statuses(answers) == {200: 1, 402: CLIENTS - 1}
            assert len(stage.simulation.chat.request_ids) == 1
            lines = (await stage.http.get("/v1/usage", headers=credential.header)).json()["lines"]
            assert [(line["kind"], line["amount_sats"]) for line in lines] == [
                ("credit", 50),
                ("charge", -50),
            ]
            assert await stage.verify() == []

    run(story())


def test_failures_among_many_calls_are_refunded_to_the_msat(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path, extra={"[[services]]": "calls_per_day = 0"}) as stage:
            header = await stage.fund_token(CLIENTS * 50)
            faults = ("", "[fail:500] ", "[fail:cut] ", "[fail:empty] ")
            calls = (
                stage.chat(header, {"prompt": f"{faults[number % 4]}Question {number}"})
                for number in range(CLIENTS)
            )
            answers = await asyncio.gather(*calls)

            assert statuses(answers) == {200: CLIENTS // 4, 502: CLIENTS * 3 // 4}
            balance = await stage.balance(header)
            assert balance["balance_sats"] == CLIENTS * 50 * 3 // 4
            assert balance["held_sats"] == 0
            assert await stage.verify() == []

    run(story())
