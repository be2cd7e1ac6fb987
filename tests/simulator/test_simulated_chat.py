"""The simulated chat backend: honest answers, faults on demand, and a log without prompts."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from arkgate.simulator.chat import SimulatedChat, logged_request_ids
from arkgate.simulator.chat_faults import FAULTS


def _run(story: Callable[[SimulatedChat, httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def play() -> None:
        chat = SimulatedChat(**options)
        async with chat.running(), httpx.AsyncClient(base_url=chat.url, timeout=2) as client:
            await story(chat, client)

    asyncio.run(asyncio.wait_for(play(), 20))


async def _ask(client: httpx.AsyncClient, prompt: str, **fields: Any) -> httpx.Response:
    wish = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
    return await client.post("/chat/completions", json=wish, headers={"X-Request-Id": "req-1"})


def test_an_answer_says_at_once_that_it_is_simulated() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = (await _ask(client, "Why is the sky blue?")).json()
        usage = answer["usage"]

        assert answer["choices"][0]["message"]["content"] == (
            "This is a simulated answer. You asked: Why is the sky blue?"
        )
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0

    _run(story)


def test_max_tokens_cuts_the_answer() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = (await _ask(client, "Why?", max_tokens=3)).json()

        assert answer["choices"][0]["message"]["content"] == "This is a"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3

    _run(story)


def test_a_stream_says_the_same_and_ends_with_usage() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await _ask(client, "Why?", stream=True, stream_options={"include_usage": True})
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        chunks = [json.loads(line) for line in lines[:-1]]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])

        assert answer.headers["content-type"].startswith("text/event-stream")
        assert lines[-1] == "[DONE]"
        assert text == "This is a simulated answer. You asked: Why?"
        assert chunks[-1]["usage"]["completion_tokens"] == 8

    _run(story)


def test_requests_are_logged_by_their_id_and_without_prompts(tmp_path: Path) -> None:
    log = tmp_path / "chat.jsonl"

    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        await _ask(client, "a secret question")
        await _ask(client, "[fail:500] a secret question")
        await client.get("/models")

        assert chat.request_ids == ["req-1", "req-1"]
        assert logged_request_ids(log) == ["req-1", "req-1"]
        assert "secret" not in log.read_text()

    _run(story, log_path=log)


@pytest.mark.parametrize("status", [400, 401, 413, 429, 500, 503])
def test_a_prompt_chooses_the_status(status: int) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await _ask(client, f"[fail:{status}] Why?")

        assert answer.status_code == status
        assert answer.json()["error"]["message"]

    _run(story)


@pytest.mark.parametrize("prompt", ["[fail:cut]", "[fail:wrong-length]", "[fail:reset]"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_connection_is_seen_as_one(prompt: str, stream: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await _ask(client, prompt, stream=stream)

    _run(story)


@pytest.mark.parametrize("prompt", ["[fail:hang]", "[fail:stall]", "[fail:slow 2.5]"])
def test_a_hang_outlasts_the_caller(prompt: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        client.timeout = httpx.Timeout(0.2)
        with pytest.raises(httpx.ReadTimeout):
            await _ask(client, prompt)

    _run(story)


def test_answers_can_be_empty_garbage_or_huge() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        empty = await _ask(client, "[fail:empty]")
        garbage = await _ask(client, "[fail:garbage]")
        huge = await _ask(client, "[fail:huge 1000000]")
        redirect = await _ask(client, "[fail:redirect]")

        assert (empty.status_code, empty.content) == (200, b"")
        with pytest.raises(UnicodeDecodeError):
            json.loads(garbage.content)
        assert len(huge.content) > 1_000_000
        assert redirect.status_code == 302

    _run(story)


def test_a_stream_can_end_without_its_last_event_or_in_an_error() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        assert "[DONE]" not in (await _ask(client, "[fail:no-done]", stream=True)).text
        assert '{"error"' in (await _ask(client, "[fail:error-event]", stream=True)).text

    _run(story)


def test_tests_set_faults_for_one_request_or_for_all() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        chat.faults.once.append("500")
        chat.faults.always = "503"
        statuses = [(await _ask(client, "[fail:400]")).status_code for _ in range(2)]
        chat.faults.always = "none"
        statuses.append((await _ask(client, "[fail:400]")).status_code)

        assert statuses == [500, 503, 200]

    _run(story)


def test_every_fault_has_a_name_that_a_prompt_can_say() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        for name in FAULTS:
            wish = {"model": "m", "messages": [{"role": "user", "content": f"[fail:{name}]"}]}
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(0.1), client.stream("POST", "/chat/completions", json=wish):
                    pass
        assert [received.fault for received in chat.received] == list(FAULTS)

    _run(story)


def test_a_bad_request_and_a_wrong_key_are_refused() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        assert (await client.post("/chat/completions", content=b"{")).status_code == 401
        client.headers["Authorization"] = "Bearer key"
        assert (await client.post("/chat/completions", content=b"{")).status_code == 400
        assert (await client.get("/models")).json()["data"][0]["id"] == "simulated-chat"

    _run(story, api_key="key")
