"""Streams over real sockets: who gets what, and who pays what, as the table of charges says."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stage import Stage, eventually, play

CHAT = "/v1/chat/completions"
PRICE = 50
ANY_NUMBER = {"[[services]]": "calls_per_day = 0"}
IMPATIENT = {
    "[[services]]": "calls_per_day = 0",
    "[backend]": "idle_timeout_seconds = 0.4\nfirst_byte_timeout_seconds = 2\ntotal_timeout_seconds = 3\n"
    "heartbeat_seconds = 0.1\ndrain_seconds = 1\nstream_bytes_max = 2000000",
}
BY_TOKENS = {
    **IMPATIENT,
    "[[models]]": 'name = "small"\ninput_sats_per_million = 1000\noutput_sats_per_million = 2000000\n'
    "default_max_tokens = 100",
}


def question(text: str = "How is Ark different?", **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "stream": True, **more}


def events(text: str) -> list[Any]:
    """The data of every event, read; `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def said(found: list[Any]) -> str:
    """The words of a stream."""
    choices = [choice for event in found if isinstance(event, dict) for choice in event.get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def spent(stage: Stage, token: Mapping[str, str]) -> int:
    """What is neither there nor held any more of the 500 sats."""
    return 500 - int((await stage.balance(token))["balance_sats"])


async def at_rest(stage: Stage, token: Mapping[str, str]) -> None:
    async def rests() -> bool:
        return (await stage.balance(token))["held_sats"] == 0 and len(stage.app.calls) == 0

    await eventually(rests)


@contextlib.asynccontextmanager
async def reading(stage: Stage, token: Mapping[str, str], body: object) -> AsyncIterator[httpx.Response]:
    """A reader with a connection of its own, which is cut when the block ends."""
    async with (
        httpx.AsyncClient(base_url=stage.url, timeout=30) as client,
        client.stream("POST", CHAT, json=body, headers=token) as answer,
    ):
        yield answer


async def until(answer: httpx.Response, word: str) -> str:
    """Reads until a word was among what came."""
    read = ""
    async for piece in answer.aiter_text():
        read += piece
        if word in read:
            break
    return read


@pytest.mark.parametrize("path", [CHAT, "/api/ai-chat"])
def test_a_whole_stream_costs_the_price_and_ends_with_done(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = question() if path == CHAT else {"prompt": "How is Ark different?", "stream": True}
        answer = await stage.http.post(path, json=body, headers=token)
        found = events(answer.text)

        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-cost-sats"] == str(PRICE)
        assert found[-1] == "[DONE]"
        assert said(found).startswith("This is a simulated answer.")
        await at_rest(stage, token)
        assert await spent(stage, token) == PRICE

    play(tmp_path, story, ANY_NUMBER)


def test_usage_and_cost_come_last_and_only_to_whoever_asked_for_usage(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        asked = question(stream_options={"include_usage": True})
        with_usage = events((await stage.http.post(CHAT, json=asked, headers=token)).text)
        without = events((await stage.http.post(CHAT, json=question(), headers=token)).text)

        last = with_usage[-2]
        assert last["choices"] == []
        assert last["usage"]["prompt_tokens"] > 0
        assert (last["usage"]["cost_sats"], last["usage"]["cost"]) == (PRICE, PRICE)
        assert last["usage"]["balance_sats"] == 450
        assert all(event["choices"] for event in without[:-1])
        assert not any(event.get("usage") for event in without[:-1])

    play(tmp_path, story, ANY_NUMBER)


def test_a_stream_is_in_the_statement_and_is_replayed_as_it_was(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        headers = {**token, "Idempotency-Key": "question-1", "X-Request-Id": "mine-1"}
        first = await stage.http.post(CHAT, json=question(), headers=headers)
        again = await stage.http.post(CHAT, json=question(), headers={**headers, "X-Request-Id": "mine-2"})
        fetched = await stage.http.get("/v1/calls/mine-1", headers=token)

        assert again.text == fetched.text == first.text
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["x-cost-sats"] == "0"
        assert again.headers["content-type"] == first.headers["content-type"]
        lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
        assert [(line["kind"], line["reference"]) for line in lines[1:]] == [("charge", "mine-1")]
        assert len(stage.simulation.chat.request_ids) == 1

    play(tmp_path, story, ANY_NUMBER)


def test_a_reader_who_leaves_before_the_first_token_pays_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        async with reading(stage, token, question("[fail:slow 1.5] How?")) as answer:
            await until(answer, ": still working")
        await at_rest(stage, token)

        assert await spent(stage, token) == 0
        lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
        assert (lines[-1]["kind"], lines[-1]["detail"]) == ("refund", "reader_left")

    play(tmp_path, story, IMPATIENT)


def test_a_reader_who_leaves_after_the_first_token_pays_and_can_fetch_the_rest(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        named = {**token, "X-Request-Id": "left-1"}
        async with reading(stage, named, question("[fail:trickle 0.05] How?")) as answer:
            await until(answer, '"This"')
        await at_rest(stage, token)

        assert await spent(stage, token) == PRICE
        fetched = events((await stage.http.get("/v1/calls/left-1", headers=token)).text)
        assert fetched[-1] == "[DONE]"
        assert said(fetched).startswith("This is a simulated answer.")

    play(tmp_path, story, IMPATIENT)


BROKEN = {
    "breaks off": ("[fail:cut] How?", "upstream_error"),
    "stalls": ("[fail:stall] How?", "upstream_timeout"),
    "tells of an error": ("[fail:error-event] How?", "upstream_error"),
    "never ends": ("[fail:trickle 0.3] How?", "upstream_timeout"),
}


@pytest.mark.parametrize(("text", "code"), BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_costs_nothing_and_says_so_in_an_event(
    tmp_path: Path, text: str, code: str
) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question(text), headers=token)
        last = events(answer.text)[-1] if answer.status_code == 200 else answer.json()

        assert answer.status_code == 200 or "error-event" in text  # which comes together with the head
        assert last["error"]["code"] == code
        assert last["refunded"] is True
        assert "[DONE]" not in answer.text
        await at_rest(stage, token)
        assert await spent(stage, token) == 0

    play(tmp_path, story, IMPATIENT)


REFUSED = {
    "garbage": ("[fail:garbage] How?", 502),
    "huge": ("[fail:huge] How?", 200),
    "html": ("[fail:html] How?", 502),
    "500": ("[fail:500] How?", 502),
    "400": ("[fail:400] How?", 400),
    "empty": ("[fail:empty] How?", 502),
    "reset": ("[fail:reset] How?", 502),
}


@pytest.mark.parametrize(("text", "status"), REFUSED.values(), ids=REFUSED)
def test_a_stream_that_cannot_be_read_costs_nothing(tmp_path: Path, text: str, status: int) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question(text), headers=token)

        assert answer.status_code == status
        assert "error" in answer.text
        await at_rest(stage, token)
        assert await spent(stage, token) == 0

    play(tmp_path, story, IMPATIENT)


def test_a_stream_whose_last_choice_ended_is_whole_also_without_done(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question("[fail:no-done] How?"), headers=token)

        assert events(answer.text)[-1] == "[DONE]"
        await at_rest(stage, token)
        assert await spent(stage, token) == PRICE

    play(tmp_path, story, ANY_NUMBER)


def test_who_waits_long_for_the_first_token_hears_a_heartbeat(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question("[fail:slow 0.5] How?"), headers=token)

        assert 2 <= answer.text.count(": still working\n\n") <= 6
        assert answer.text.rindex(": still working") < answer.text.index("data: ")
        assert events(answer.text)[-1] == "[DONE]"

    play(tmp_path, story, IMPATIENT)


def test_a_failure_after_heartbeats_is_an_event(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question("[fail:hang 9] How?"), headers=token)

        assert answer.status_code == 200
        assert events(answer.text)[-1]["error"]["code"] == "upstream_timeout"
        await at_rest(stage, token)
        assert await spent(stage, token) == 0

    play(tmp_path, story, IMPATIENT)


def test_tokens_are_charged_as_the_backend_counts_them_floored_to_the_msat(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        asked = question(stream_options={"include_usage": True})
        *_, last, _ = events((await stage.http.post(CHAT, json=asked, headers=token)).text)
        usage = last["usage"]
        await at_rest(stage, token)

        cost_msat = usage["prompt_tokens"] * 1 + usage["completion_tokens"] * 2000
        assert usage["cost"] == cost_msat / 1000
        charge = (await stage.http.get("/v1/usage", headers=token)).json()["lines"][-1]
        assert charge["amount_sats"] == -cost_msat / 1000

    play(tmp_path, story, BY_TOKENS)


def test_of_tokens_a_reader_who_left_pays_what_the_rest_of_the_stream_tells(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        async with reading(stage, token, question("[fail:trickle 0.02] How?")) as answer:
            await until(answer, '"This"')
        await at_rest(stage, token)

        (refund, charge) = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
        assert refund["kind"] == "credit"
        assert charge["amount_sats"] < -10  # all of the words, not the one that was read

    play(tmp_path, story, BY_TOKENS)


def test_of_tokens_a_stream_that_is_not_drained_in_time_costs_what_came_of_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        slow = question("[fail:trickle 0.35] How?")
        async with reading(stage, {**token, "Idempotency-Key": "k"}, slow) as answer:
            await until(answer, '"This"')
        await at_rest(stage, token)

        charge = (await stage.http.get("/v1/usage", headers=token)).json()["lines"][-1]
        assert charge["kind"] == "charge"
        assert -12 < charge["amount_sats"] < 0
        again = await stage.http.post(CHAT, json=slow, headers={**token, "Idempotency-Key": "k"})
        assert (again.status_code, again.json()["code"]) == (410, "answer_gone")

    play(tmp_path, story, BY_TOKENS)


def test_of_messages_a_stream_that_is_not_drained_in_time_costs_what_came_of_it(tmp_path: Path) -> None:
    """Their usage is told at the start too, where the answer has one token."""

    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        stage.simulation.chat.token_seconds, stage.simulation.chat.words = 0.05, 200
        body = {"messages": [{"role": "user", "content": "How?"}], "stream": True, "max_tokens": 100}
        async with (
            httpx.AsyncClient(base_url=stage.url, timeout=30) as client,
            client.stream("POST", "/v1/messages", json=body, headers=token) as answer,
        ):
            await until(answer, "word7")
        await at_rest(stage, token)

        charge = (await stage.http.get("/v1/usage", headers=token)).json()["lines"][-1]
        assert charge["kind"] == "charge"
        assert charge["amount_sats"] < -15

    play(tmp_path, story, BY_TOKENS)


def test_a_backend_is_slowed_down_to_a_reader_who_is_slow(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = json.dumps(question("[fail:huge 60000000] How?")).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port, limit=1024)
        lines = [f"POST {CHAT} HTTP/1.1", "Host: x", f"Authorization: {token['Authorization']}"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        writer.write(head + body)
        await reader.readline()  # and no more
        await asyncio.sleep(0.5)
        writer.close()
        await at_rest(stage, token)

        assert await spent(stage, token) == 0

    play(tmp_path, story, IMPATIENT)
