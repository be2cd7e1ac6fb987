"""Limits on paid calls: at once and how fast, by account, address and all. What they refuse costs nothing."""

import asyncio
from pathlib import Path

import pytest
from tests.gateway.test_streams import CHAT, at_rest, question, reading, spent, until
from tests.stage import Stage, play

from arkgate.core.errors import Overloaded, RateLimited
from arkgate.gateway.limits import Rate
from arkgate.gateway.traffic import Traffic, TrafficTerms

SLOW = {"prompt": "[fail:slow 0.5] How?"}


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def traffic(clock: Seconds, **changes: object) -> Traffic:
    return Traffic(TrafficTerms(**changes), clock=clock)  # type: ignore[arg-type]


def test_what_was_counted_is_given_back_also_when_a_call_fails() -> None:
    limits = traffic(Seconds(), at_once=2, at_once_account=1)
    for _ in range(5):
        with pytest.raises(KeyError), limits.call("alice", "1.2.3.4"):
            raise KeyError
    with limits.call("alice", "1.2.3.4") as call:
        assert (call.limits.at_once, call.limits.at_once_left) == (1, 0)
        with pytest.raises(RateLimited, match="This account"), limits.call("alice", "5.6.7.8"):
            pass
        with limits.call("bob", "1.2.3.4"), pytest.raises(Overloaded), limits.call("carol", "9.9.9.9"):
            pass


def test_an_address_has_a_limit_of_its_own() -> None:
    limits = traffic(Seconds(), at_once_client=1)
    with (
        limits.call("alice", "1.2.3.4"),
        pytest.raises(RateLimited, match="Your address"),
        limits.call("bob", "1.2.3.4"),
    ):
        pass


def test_a_rate_is_refilled_evenly_and_the_time_to_wait_is_true() -> None:
    clock = Seconds()
    limits = traffic(clock, account=Rate(6, 60))
    for left in range(5, -1, -1):
        with limits.call("alice", "1.2.3.4") as call:
            assert (call.limits.per_minute, call.limits.left) == (6, left)
    with pytest.raises(RateLimited) as refused, limits.call("alice", "1.2.3.4"):
        pass
    assert refused.value.retry_after_seconds == 10
    clock.now += 9.9
    with pytest.raises(RateLimited), limits.call("alice", "1.2.3.4"):
        pass
    clock.now += 0.1
    with limits.call("alice", "1.2.3.4") as call:
        assert call.limits.full_in_seconds == pytest.approx(60)


def test_token_holders_see_their_limits_on_every_answer(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        good = await stage.chat(token)
        bad = await stage.chat(token, {"prompt": 5})
        for answer, left in ((good, "99"), (bad, "98")):
            assert answer.headers["x-ratelimit-limit-requests"] == "100"
            assert answer.headers["x-ratelimit-remaining-requests"] == left
            assert answer.headers["x-ratelimit-reset-requests"].endswith("ms")
            assert answer.headers["x-concurrency-limit"] == "3"
            assert answer.headers["x-concurrency-remaining"] == "2"

    play(tmp_path, story, {"[limits]": "calls_per_minute_and_account = 100\ncalls_at_once_and_account = 3"})


def test_more_at_once_than_an_account_may_have_is_429_and_holds_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        under_way = [asyncio.create_task(stage.chat(token, SLOW)) for _ in range(2)]
        await asyncio.sleep(0.2)
        refused = await stage.chat(token)
        held = (await stage.balance(token))["held_sats"]

        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert held == 100
        assert {answer.status_code for answer in await asyncio.gather(*under_way)} == {200}
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story, {"[limits]": "calls_at_once_and_account = 2"})


def test_a_full_gateway_is_503_for_payers_and_still_answers_everything_else(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        one, other = await stage.fund_token(), await stage.fund_token()
        under_way = asyncio.create_task(stage.chat(one, SLOW))
        await asyncio.sleep(0.2)
        refused = await stage.chat(other)

        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await stage.balance(other))["held_sats"] == 0
        assert (await stage.http.get("/health/ready")).status_code == 200
        assert (await under_way).status_code == 200

    play(tmp_path, story, {"[limits]": "calls_at_once = 1"})


def test_a_stream_counts_until_its_reader_has_it_all(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        async with stage.http.stream(
            "POST", CHAT, json=question("[fail:trickle 0.05] How?"), headers=token
        ) as answer:
            await anext(answer.aiter_bytes())
            refused = await stage.chat(token)
            assert refused.status_code == 429
        assert answer.status_code == 200

    play(tmp_path, story, {"[limits]": "calls_at_once_and_account = 1"})


def test_a_stream_that_its_reader_left_counts_until_it_is_charged(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        async with reading(stage, token, question("[fail:trickle 0.05] How?")) as answer:
            await until(answer, "This")
        refused = await stage.chat(token)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        await at_rest(stage, token)
        assert (await stage.chat(token)).status_code == 200
        assert await spent(stage, token) == 100

    play(tmp_path, story, {"[limits]": "calls_at_once_and_account = 1"})


def test_an_address_has_few_long_requests_read_at_once() -> None:
    limits = traffic(Seconds(), at_once_client=3)
    order: list[str] = []

    async def read(client: str, name: str) -> None:
        async with limits.reading(client):
            order.append(f"begin {name}")
            await asyncio.sleep(0.01)
            order.append(f"end {name}")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(read("1.2.3.4", name))
            group.create_task(read("5.6.7.8", "other"))
            await asyncio.sleep(0)
            with pytest.raises(RateLimited, match="Your address"):
                await read("1.2.3.4", "d")
        await read("1.2.3.4", "e")

    asyncio.run(main())
    assert order[:3] == ["begin a", "begin b", "begin other"]
    assert min(order.index("end a"), order.index("end b")) < order.index("begin c")
    assert order[-2:] == ["begin e", "end e"]


def test_what_takes_long_to_read_is_not_read_for_whoever_asks_without_money_again_and_again(
    tmp_path: Path,
) -> None:
    """An account that never paid is counted like a request without credential."""

    async def story(stage: Stage) -> None:
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
        token = {"Authorization": f"Bearer {opened['token']}"}
        funded = await stage.fund_token()
        long = {"messages": [{"role": "user", "content": "word " * 4000}]}
        quote = f"/v1/quote?path={CHAT}"
        statuses = [(await stage.http.post(quote, json=long, headers=token)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert (await stage.http.post(CHAT, json=long, headers=token)).status_code == 429
        assert (await stage.http.post(CHAT, json=long)).status_code == 429
        for _ in range(5):
            assert (await stage.http.post(quote, json=long, headers=funded)).status_code == 200

    prices = 'name = "small"\ninput_sats_per_million = 10\noutput_sats_per_million = 10'
    extra = {"[[models]]": prices, "[limits]": "challenges_per_minute_and_client = 3"}
    play(tmp_path, story, extra)


def test_strangers_do_not_keep_an_account_that_has_paid_from_its_long_requests(tmp_path: Path) -> None:
    """It has spent all, and asks for what it bought."""

    async def story(stage: Stage) -> None:
        long = {"messages": [{"role": "user", "content": "word " * 4000}]}
        token = {**await stage.fund_token(100), "Idempotency-Key": "long-1"}
        bought = await stage.http.post(CHAT, json=long, headers=token)
        spend = {"prompt": "[fail:slow 3] How?"}
        under_way = asyncio.create_task(stage.chat({"Authorization": token["Authorization"]}, spend))
        strangers = [(await stage.http.post(CHAT, json=long)).status_code for _ in range(5)]
        again = await stage.http.post(CHAT, json=long, headers=token)

        assert bought.status_code == 200
        assert strangers[-1] == 429
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        await under_way

    prices = 'name = "small"\nprice_sats = 50\ninput_sats_per_million = 1\noutput_sats_per_million = 1'
    extra = {"[[models]]": prices, "[limits]": "challenges_per_minute = 4", "[[services]]": "price_sats = 49"}
    play(tmp_path, story, extra)
