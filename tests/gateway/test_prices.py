"""Prices by tokens, and what a request costs before it is made."""

from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_streams import CHAT
from tests.stage import Stage, play

from arkgate.core.money import Msat
from arkgate.core.pricing import Tariff, Used

MODELS = {
    "[[services]]": "calls_per_day = 0",
    "[[models]]": 'name = "small"\ninput_sats_per_million = 2000\ncached_sats_per_million = 500\n'
    "output_sats_per_million = 1000000\ndefault_max_tokens = 100\nmax_tokens = 200",
}
HELLO = {"messages": [{"role": "user", "content": "Hello there, how are you?"}]}


async def quoted(stage: Stage, **more: object) -> dict[str, Any]:
    answer = await stage.http.post(f"/v1/quote?path={CHAT}", json={**HELLO, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_cost_is_floored_once_and_cached_tokens_have_their_own_price() -> None:
    tariff = Tariff(
        call=Msat(5), input_tokens=Msat(1_500_000), cached_tokens=Msat(100_000), output_tokens=Msat(2_900_000)
    )

    assert tariff.cost(Used(input_tokens=10, cached_tokens=4, output_tokens=3)) == 5 + 18  # 9 + 0.4 + 8.7
    assert tariff.cost(Used(input_tokens=1)) == 6
    assert tariff.cost(Used()) == 5
    assert (
        tariff.cost(Used(input_tokens=1, cached_tokens=9)) == 5
    )  # 0.1: more cached than asked is not possible


def test_seconds_and_bytes_have_prices() -> None:
    assert Tariff(second=Msat(1000)).cost(Used(microseconds=1_500_400)) == 1500
    assert Tariff(kilobyte=Msat(1024)).cost(Used(answer_bytes=1500)) == 1500
    assert Tariff(call=Msat(7), kilobyte=Msat(1)).cost(Used(answer_bytes=1023)) == 7


def test_a_quote_is_free_and_says_the_hold_and_what_is_expected(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        short, long = await quoted(stage, max_tokens=10), await quoted(stage)

        assert 10_000 < short["expected_msat"] <= short["hold_msat"] < 11_000
        assert 100_000 < long["hold_msat"] < 101_000
        assert long["model"] == "small"
        assert long["pricing"]["output_sats_per_million_tokens"] == 1_000_000
        assert stage.simulation.chat.request_ids == []
        token = await stage.fund_token()
        answer = await stage.http.post(f"/v1/quote?path={CHAT}", json=HELLO, headers=token)
        assert answer.json()["available_sats"] == 500

    play(tmp_path, story, MODELS)


def test_a_quote_is_what_is_held(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        slow = {"messages": [{"role": "user", "content": "[fail:trickle 0.1] Hello"}], "stream": True}
        quote = (await stage.http.post(f"/v1/quote?path={CHAT}", json=slow)).json()
        async with stage.http.stream("POST", CHAT, json=slow, headers=token) as answer:
            await anext(answer.aiter_bytes())
            held = (await stage.balance(token))["held_sats"]

        assert held == quote["hold_sats"]

    play(tmp_path, story, MODELS)


def test_a_question_is_not_held_for_beyond_what_the_model_reads(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        long = [{"role": "user", "content": "word " * 50_000}]
        quote = await quoted(stage, messages=long, max_tokens=1)

        assert 1000 * 2 <= quote["hold_msat"] - 1000 < 1000 * 2 + 10

    play(tmp_path, story, {**MODELS, "[[models]]": MODELS["[[models]]"] + "\ncontext_tokens = 1000"})


def test_a_picture_is_held_for_as_the_operator_says(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

    async def story(stage: Stage) -> None:
        shown = [{"role": "user", "content": [picture, picture]}]
        quote = await quoted(stage, messages=shown, max_tokens=1)

        assert quote["hold_msat"] > 2 * 48_000 * 2

    play(tmp_path, story, {**MODELS, "[[models]]": MODELS["[[models]]"] + "\npicture_tokens = 48000"})


def test_what_goes_into_the_backends_cache_has_a_price_of_its_own(tmp_path: Path) -> None:
    tariff = Tariff(input_tokens=Msat(1_000_000), cached_tokens=Msat(100_000), written_tokens=Msat(1_250_000))
    usual = Tariff(input_tokens=Msat(1_000_000), cached_tokens=Msat(100_000))
    used = Used(input_tokens=100, cached_tokens=10, written_tokens=40)

    assert tariff.cost(used) == 50 + 1 + 50
    assert usual.cost(used) == 50 + 1 + 40
    assert tariff.most(100, 0) == 125
    assert usual.most(100, 0) == 100

    async def story(stage: Stage) -> None:
        dear = await quoted(stage, max_tokens=1)
        assert dear["pricing"]["cache_write_sats_per_million_tokens"] == 200_000
        assert dear["hold_msat"] > 200 * 10

    models = MODELS["[[models]]"] + "\ncache_write_sats_per_million = 200000"
    play(tmp_path, story, {**MODELS, "[[models]]": models})


@pytest.mark.parametrize("headers", [{}, None])
def test_a_call_that_nobody_could_pay_is_refused_before_it_has_a_price(
    tmp_path: Path, headers: dict[str, str] | None
) -> None:
    async def story(stage: Stage) -> None:
        paying = await stage.fund_token() if headers is None else headers
        body = {**HELLO, "max_tokens": 2_000_000_000, "n": 16}
        for path in (CHAT, f"/v1/quote?path={CHAT}"):
            answer = await stage.http.post(path, json=body, headers=paying)

            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
            assert "shorter answer" in answer.text

    dear = 'name = "small"\noutput_sats_per_million = 1000000000'
    play(tmp_path, story, {**MODELS, "[[models]]": dear})


def test_what_cannot_be_served_has_no_quote(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for path, body, status in (
            (CHAT, {"messages": []}, 400),
            (CHAT, {**HELLO, "model": "unknown"}, 404),
            (CHAT, {**HELLO, "max_tokens": "many"}, 400),
            ("/nowhere", HELLO, 404),
            ("", HELLO, 400),
        ):
            answer = await stage.http.post(f"/v1/quote?path={path}", json=body)
            assert answer.status_code == status, answer.text

    play(tmp_path, story, MODELS)


def test_a_longer_answer_than_the_ceiling_is_cut_to_it_and_the_default_is_named(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for more in ({"max_tokens": 5}, {}, {"max_completion_tokens": 9999}):
            await stage.http.post(CHAT, json={**HELLO, **more}, headers=token)

        bodies = [received.body for received in stage.simulation.chat.received]
        assert b'"max_tokens":5' in bodies[0]
        assert b'"max_tokens":100' in bodies[1]
        assert b'"max_completion_tokens":200' in bodies[2]

    play(tmp_path, story, MODELS)


def test_what_a_payment_leaves_over_stays_and_the_next_challenge_asks_for_the_rest(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        challenge = (await stage.http.post(CHAT, json=HELLO)).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        answer = await stage.http.post(CHAT, json=HELLO, headers=header)
        left = float((await stage.http.get("/v1/usage", headers=header)).json()["balance_sats"])
        further = await stage.http.post(CHAT, json={**HELLO, "seed": 2}, headers=header)

        assert challenge["price_sats"] == 101
        assert answer.status_code == 200
        assert left > 80
        assert further.status_code == 402
        assert further.json()["code"] == "insufficient_balance"
        assert 101 - left - 1 <= further.json()["price_sats"] <= 101 - left  # shown sats are rounded down
        await stage.simulation.pay(further.json()["invoice"])
        again = await stage.http.post(CHAT, json={**HELLO, "seed": 2}, headers=header)
        assert again.status_code == 200

    play(tmp_path, story, MODELS)


def test_where_the_backend_tells_no_usage_we_count(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        silent = {"messages": [{"role": "user", "content": "[fail:no-usage] Hello there"}]}
        usage = (await stage.http.post(CHAT, json=silent, headers=token)).json()["usage"]

        assert usage["completion_tokens"] > 5
        assert usage["prompt_tokens"] > 5
        assert usage["cost"] > 5

    play(tmp_path, story, MODELS)


LARGE = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10}
MORE_TOKENS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a", "max_tokens": 1000}, {"prompt": ["a"] * 100, "max_tokens": 1000}),
    (CHAT, LARGE, {**LARGE, "tools": [{"type": "function", "function": {"name": "word " * 5000}}]}),
    (CHAT, LARGE, {**LARGE, "tools": [{"type": "function", "parameters": {"word " * 5000: {}}}]}),
    (CHAT, LARGE, {**LARGE, "documents": [{"text": "word " * 5000}]}),
    (
        CHAT,
        LARGE,
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "eCB5" * 9000}}]}]},
    ),
]


@pytest.mark.parametrize(("path", "small", "large"), MORE_TOKENS)
def test_all_that_a_model_reads_and_writes_is_held_for(
    tmp_path: Path, path: str, small: dict[str, Any], large: dict[str, Any]
) -> None:
    async def story(stage: Stage) -> None:
        holds = []
        for body in (small, large):
            quote = await stage.http.post(f"/v1/quote?path={path}", json={"max_tokens": 10, **body})
            holds.append(quote.json()["hold_msat"])
        assert holds[1] > 20 * holds[0]

    model = 'name = "small"\ninput_sats_per_million = 1000000\noutput_sats_per_million = 1000000'
    play(tmp_path, story, {"[[services]]": "calls_per_day = 0", "[[models]]": model})


def test_a_call_that_costs_less_than_a_msat_is_sold(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        challenge = await stage.http.post("/v1/embeddings", json={"input": "hi"})
        answer = await stage.http.post("/v1/embeddings", json={"input": "hi"}, headers=token)

        assert (challenge.status_code, challenge.json()["price_sats"]) == (402, 1)
        assert answer.status_code == 200
        assert (await stage.balance(token))["held_sats"] == 0
        assert await stage.verify() == []

    model = 'name = "small"\ninput_sats_per_million = 1'
    play(tmp_path, story, {"[[services]]": "calls_per_day = 0", "[[models]]": model})


def test_earlier_turns_that_are_not_in_the_request_are_held_for_or_refused(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        body = {"input": "and then?", "previous_response_id": "resp_1", "max_output_tokens": 10}
        large = await stage.http.post("/v1/quote?path=/v1/responses", json={**body, "model": "large"})
        small = await stage.http.post("/v1/responses", json={**body, "model": "small"})

        assert large.json()["hold_sats"] >= 10_000
        assert small.status_code == 400
        assert "previous_response_id" in small.json()["error"]["message"]

    priced = "input_sats_per_million = 1000000\n"
    models = f'name = "small"\n{priced}[[models]]\nname = "large"\ncontext_tokens = 10000\n{priced}'
    names = 'models = {"small" = "simulated-chat", "large" = "simulated-chat"}'
    service = {"[[services]]": "calls_per_day = 0", "[backend]": names}
    play(tmp_path, story, {**service, "[[models]]": models})


def test_a_kept_answer_at_no_price_is_for_those_who_have_paid(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
        unpaid = (await stage.http.post("/v1/sessions", json={"amount_sats": 100})).json()["token"]
        await stage.http.post(CHAT, json=body, headers=token)
        kept = await stage.http.post(CHAT, json=body, headers=token)
        refused = await stage.http.post(CHAT, json=body, headers={"Authorization": f"Bearer {unpaid}"})

        assert kept.headers["x-cache"] == "HIT"
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "awaiting_payment")

    free = "ttl_seconds = 60\nhit_percent = 0"
    play(tmp_path, story, {"[[services]]": "calls_per_day = 0", "[cache]": free})


def test_large_questions_of_strangers_are_counted_before_they_are_read(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        body = {"messages": [{"role": "user", "content": "word " * 10_000}]}
        quotes = [await stage.http.post("/v1/quote?path=" + CHAT, json=body) for _ in range(4)]
        unknown = {"Authorization": "Bearer ak_" + "0" * 32}

        assert [quote.status_code for quote in quotes] == [200, 200, 200, 429]
        assert (await stage.http.post(CHAT, json=body, headers=unknown)).status_code == 401

    limits = "challenges_per_minute_and_client = 3"
    model = 'name = "small"\ninput_sats_per_million = 1000'
    play(tmp_path, story, {"[[models]]": model, "[limits]": limits})


def test_a_large_question_is_one_challenge(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        body = {"messages": [{"role": "user", "content": "word " * 10_000}]}
        answers = [await stage.http.post(CHAT, json=body) for _ in range(4)]

        assert [answer.status_code for answer in answers] == [402, 402, 402, 429]

    limits = "challenges_per_minute_and_client = 3"
    model = 'name = "small"\ninput_sats_per_million = 1000'
    play(tmp_path, story, {"[[models]]": model, "[limits]": limits})


def test_a_probe_of_a_price_by_tokens_asks_for_what_a_short_question_may_cost(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        endpoints = (await stage.http.get("/v1/catalog")).json()["endpoints"]
        told = next(one["cost_sats"] for one in endpoints if one["path"] == CHAT)
        challenge = (await stage.http.get(CHAT)).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}

        assert challenge["price_sats"] == told == 101
        assert (await stage.http.post(CHAT, json=HELLO, headers=header)).status_code == 200

    play(tmp_path, story, MODELS)
