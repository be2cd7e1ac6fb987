"""Answers from the cache, and identical calls under way: each is paid once, whoever leads."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.backend.backend_server import COMPLETION, Peer, http, serving
from tests.gateway.test_streams import CHAT, at_rest, events, question, reading, said, until
from tests.stage import PROMPT, Stage, eventually, play, run, staged

from arkgate.gateway.meter import Meter

CACHED = {"[[services]]": "calls_per_day = 0", "[cache]": "ttl_seconds = 60"}
SLOW = {"prompt": "[fail:slow 0.4] How is Ark different?"}


def cached(**changes: object) -> dict[str, str]:
    lines = ["ttl_seconds = 60", *(f"{name} = {value}" for name, value in changes.items())]
    return {**CACHED, "[cache]": "\n".join(lines)}


def asked(stage: Stage) -> int:
    """How often the backend was asked."""
    return len(stage.simulation.chat.request_ids)


async def charges(stage: Stage, token: Mapping[str, str]) -> list[float]:
    lines: list[Any] = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
    return [line["amount_sats"] for line in lines if line["kind"] == "charge"]


async def held_by(stage: Stage, token: Mapping[str, str]) -> None:
    """Waits until the account's call is under way."""

    async def holds() -> bool:
        return bool((await stage.balance(token))["held_sats"] == 50)

    await eventually(holds)


def test_an_exact_repeat_comes_from_the_cache_at_the_full_price(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        one, other = await stage.fund_token(), await stage.fund_token()
        first = await stage.chat(one)
        second = await stage.chat(other)

        assert (first.json()["cached"], second.json()["cached"]) == (False, True)
        assert second.headers["x-cache"] == "HIT"
        assert second.json()["data"] == first.json()["data"]
        assert second.json()["cost_sats"] == 50
        assert await charges(stage, other) == [-50]
        assert asked(stage) == 1

    play(tmp_path, story, CACHED)


def test_a_hit_may_cost_a_part_and_at_no_price_it_uses_no_allowance(tmp_path: Path) -> None:
    async def part(stage: Stage) -> None:
        token = await stage.fund_token()
        for _ in range(2):
            await stage.chat(token)
        assert await charges(stage, token) == [-50, -5]

    async def nothing(stage: Stage) -> None:
        token = await stage.fund_token()
        for _ in range(4):
            answer = await stage.chat(token)
            assert answer.status_code == 200
        assert answer.json()["cost_sats"] == 0
        assert await charges(stage, token) == [-50]
        assert (await stage.balance(token))["calls_left_today"] == 1
        assert asked(stage) == 1

    play(tmp_path, part, cached(hit_percent=10))
    free = {**cached(hit_percent=0), "[[services]]": "calls_per_day = 2"}
    play(tmp_path / "free", nothing, free)


def test_an_account_may_keep_its_answers_to_itself(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        one, other = await stage.fund_token(), await stage.fund_token()
        found = [(await stage.chat(token)).json()["cached"] for token in (one, other, one)]

        assert found == [False, False, True]

    play(tmp_path, story, cached(per_account="true"))


def test_only_what_affects_the_answer_is_compared_and_only_cool_questions_are(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()

        async def hit(**more: object) -> bool:
            body = {"messages": [{"role": "user", "content": "Hello"}], **more}
            answer = await stage.http.post(CHAT, json=body, headers=token)
            assert answer.status_code == 200
            return "x-cache" in answer.headers

        assert [await hit(temperature=0), await hit(stream_options=None, temperature=0)] == [False, True]
        assert not await hit(temperature=0, user="somebody"), "Responses repeat whom they are for"
        assert not await hit(temperature=0, metadata={"order": "7"})
        assert not await hit(temperature=0, seed=1)
        assert [await hit(), await hit()] == [False, False]
        assert [await hit(temperature=1), await hit(temperature=1)] == [False, False]

    play(tmp_path, story, CACHED)


def test_a_cached_stream_is_the_same_stream_with_its_own_bill(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        asked_for = question(temperature=0, stream_options={"include_usage": True})
        texts = [(await stage.http.post(CHAT, json=asked_for, headers=token)).text for _ in range(2)]
        first, second = (events(text) for text in texts)

        assert second[:-2] == first[:-2]
        assert (first[-2]["usage"]["balance_sats"], second[-2]["usage"]["balance_sats"]) == (450, 400)
        assert asked(stage) == 1

    play(tmp_path, story, CACHED)


def test_failures_are_not_kept(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for text in ("500", "cut", "empty", "no-choices"):
            for _ in range(2):
                answer = await stage.chat(token, {"prompt": f"[fail:{text}] How?"})
                assert answer.status_code == 502
        for text in ("500", "cut", "empty", "error-after-token"):
            broken = question(f"[fail:{text}] How?", temperature=0)
            for _ in range(2):
                await stage.http.post(CHAT, json=broken, headers=token)

        assert asked(stage) == 16
        assert await charges(stage, token) == []

    play(tmp_path, story, CACHED)


def test_identical_calls_under_way_share_one_request_and_each_payer_is_billed(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        tokens = [await stage.fund_token() for _ in range(4)]
        answers = await asyncio.gather(*(stage.chat(token, SLOW) for token in tokens * 2))

        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["data"]["answer"] for answer in answers}) == 1
        assert asked(stage) == 1
        for token in tokens:
            assert await charges(stage, token) == [-50, -50]

    play(tmp_path, story, CACHED)


def test_a_poor_leader_does_not_lead(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        poor, rich = await stage.fund_token(10), await stage.fund_token()
        refused, answered = await asyncio.gather(stage.chat(poor, SLOW), stage.chat(rich, SLOW))

        assert (refused.status_code, answered.status_code) == (402, 200)

    play(tmp_path, story, CACHED)


def test_when_the_leader_of_a_stream_leaves_the_others_go_on(tmp_path: Path) -> None:
    slow = question("[fail:trickle 0.03] How?", temperature=0)

    async def story(stage: Stage) -> None:
        leader, follower = await stage.fund_token(), await stage.fund_token()
        async with reading(stage, leader, slow) as led:
            await until(led, '"This"')
            following = asyncio.create_task(stage.http.post(CHAT, json=slow, headers=follower))
            await held_by(stage, follower)
        found = events((await following).text)
        await at_rest(stage, leader)

        assert found[-1] == "[DONE]"
        assert said(found).startswith("This is a simulated answer.")
        assert asked(stage) == 1
        assert (await charges(stage, leader), await charges(stage, follower)) == ([-50], [-50])

    play(tmp_path, story, CACHED)


def test_a_leader_who_leaves_too_early_pays_nothing_and_the_others_get_their_answer(tmp_path: Path) -> None:
    slow = question("[fail:slow 0.6] How?", temperature=0)

    async def story(stage: Stage) -> None:
        leader, follower = await stage.fund_token(), await stage.fund_token()
        async with reading(stage, leader, slow) as led:
            await until(led, ": still")
            following = asyncio.create_task(stage.http.post(CHAT, json=slow, headers=follower))
            await held_by(stage, follower)
        answer: httpx.Response = await following
        await at_rest(stage, leader)

        assert events(answer.text)[-1] == "[DONE]"
        assert asked(stage) == 1
        assert (await charges(stage, leader), await charges(stage, follower)) == ([], [-50])

    play(tmp_path, story, {**CACHED, "[backend]": "heartbeat_seconds = 0.1"})


def test_a_shared_failure_refunds_each(tmp_path: Path) -> None:
    broken = question("[fail:stall 0.6] How?", temperature=0)

    async def story(stage: Stage) -> None:
        tokens = [await stage.fund_token() for _ in range(3)]
        answers = await asyncio.gather(
            *(stage.http.post(CHAT, json=broken, headers=token) for token in tokens)
        )
        for token, answer in zip(tokens, answers, strict=True):
            assert events(answer.text)[-1]["balance_remaining"] == 500
            assert await charges(stage, token) == []
        assert asked(stage) == 1

    play(tmp_path, story, {**CACHED, "[backend]": "idle_timeout_seconds = 0.3"})


def test_without_a_time_to_live_nothing_is_shared(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        await asyncio.gather(stage.chat(token), stage.chat(token, PROMPT))
        await stage.chat(token)

        assert asked(stage) == 3

    play(tmp_path, story, {"[[services]]": "calls_per_day = 0", "[cache]": "ttl_seconds = 0"})


def test_an_answer_that_cannot_be_sold_is_not_kept(tmp_path: Path) -> None:
    def thought_only(text: bytes) -> bytes:
        return http(COMPLETION.replace(b'"Hello."', text))

    answers = [thought_only(b'" "'), thought_only(b'"Hello."')]

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(answers.pop(0))

    async def main() -> None:
        async with serving(behave) as server:
            extra = {**CACHED, "[backend]": f'url = "{server.url}"'}
            async with staged(tmp_path, extra=extra) as stage:
                token = await stage.fund_token()
                statuses = [(await stage.chat(token)).status_code for _ in range(3)]

                assert statuses == [502, 200, 200]
                assert len(server.requests) == 2

    run(asyncio.wait_for(main(), 60))


def test_a_turn_of_a_conversation_that_the_backend_keeps_is_asked_each_time(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for _ in range(2):
            turn = {"input": "next", "temperature": 0, "conversation": "conv_1"}
            answer = await stage.http.post("/v1/responses", json=turn, headers=token)
            assert answer.status_code == 200
            assert "x-cache" not in answer.headers

        assert asked(stage) == 2

    play(tmp_path, story, CACHED)


def test_nobody_joins_a_call_whose_time_is_nearly_over(tmp_path: Path) -> None:
    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            if peer.number > 1:
                await peer.send(http())

    async def main() -> None:
        async with serving(behave) as server:
            extra = {**CACHED, "[backend]": f'url = "{server.url}"\ntotal_timeout_seconds = 4'}
            async with staged(tmp_path, extra=extra) as stage:
                one, other = await stage.fund_token(), await stage.fund_token()
                first = asyncio.create_task(stage.chat(one))
                await held_by(stage, one)
                await asyncio.sleep(3.3)
                assert (await stage.chat(other)).status_code == 200
                assert (await first).status_code == 504

    run(asyncio.wait_for(main(), 60))


def test_an_answer_that_is_being_charged_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Meter.settle

    async def slowly(self: Meter, *arguments: Any) -> Any:
        await asyncio.sleep(0.5)
        return await settle(self, *arguments)

    monkeypatch.setattr(Meter, "settle", slowly)

    async def story(stage: Stage) -> None:
        one, other = await stage.fund_token(), await stage.fund_token()
        first = asyncio.create_task(stage.chat(one))
        await asyncio.sleep(0.25)
        second = await stage.chat(other)

        assert (await first).json()["data"] == second.json()["data"]
        assert await charges(stage, other) == [-50]
        assert asked(stage) == 1

    play(tmp_path, story, CACHED)


def test_how_long_other_backends_may_take_does_not_matter_to_who_joins(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        tokens = [await stage.fund_token() for _ in range(2)]
        body = question("[fail:trickle 0.05] How?", temperature=0)
        async with reading(stage, tokens[0], body) as first:
            await until(first, "This")
            second = await stage.http.post(CHAT, json=body, headers=tokens[1])
            assert second.status_code == 200
        assert asked(stage) == 1

    other = 'name = "other"\nkind = "http"\nurl = "http://127.0.0.1:9"\ntotal_timeout_seconds = 900'
    api = 'ttl_seconds = 60\n[[services]]\nname = "other"\nkind = "http"\npath = "/other"\nprice_sats = 1\n'
    extra = {"[[backends]]": other, "[cache]": api + 'backends = ["other"]'}
    play(tmp_path, story, {**CACHED, **extra})
