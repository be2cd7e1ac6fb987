"""What the simulated chat backend keeps of requests, and how fast it answers them."""

import json
import time
from pathlib import Path

import httpx

from arkgate.simulator.chat import SimulatedChat, logged_request_ids
from tests.simulator.simulated_chat import ask, chunks, run


def test_a_request_is_kept_as_it_came_but_not_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "chat.jsonl"

    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        headers = [("X-Twice", "one"), ("X-Request-Id", "req-1"), ("x-twice", "two")]
        body = b'{"model": "m",  "messages": [{"role": "user", "content": "a secret"}]}'
        await client.post("/chat/completions?a=%20b&c", content=body, headers=headers)
        [received] = chat.received

        assert (received.method, received.target) == ("POST", "/v1/chat/completions?a=%20b&c")
        assert [pair for pair in received.headers if pair[0] == "x-twice"] == [
            ("x-twice", "one"),
            ("x-twice", "two"),
        ]
        assert received.body == body
        assert list(json.loads(log.read_text())) == ["request_id", "at_ms", "path", "model", "fault"]

    run(story, log_path=log)


def test_of_older_requests_only_the_line_is_kept_and_of_long_bodies_the_beginning() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        chat.contents_max = 2
        for _ in range(3):
            await ask(client, "x" * 100_000)

        assert [len(received.body) for received in chat.received] == [0, 65536, 65536]
        assert not chat.received[0].headers
        assert len(chat.request_ids) == 3

    run(story)


def test_requests_to_other_paths_are_seen_but_are_no_work_of_a_model(tmp_path: Path) -> None:
    log = tmp_path / "chat.jsonl"

    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        statuses = [
            (await client.request(method, path, headers={"X-Request-Id": "no"})).status_code
            for method, path in (("GET", "/chat/completions"), ("POST", "/audio/speech"), ("DELETE", "/x"))
        ]
        wish = {"model": "m", "input": "Why?"}
        await client.post("/embeddings", json=wish, headers={"X-Request-Id": "yes"})

        assert statuses == [404, 404, 404]
        assert [received.method for received in chat.received] == ["GET", "POST", "DELETE", "POST"]
        assert chat.request_ids == logged_request_ids(log) == ["yes"]

    run(story, log_path=log)


def test_a_stream_takes_the_pace_of_a_model() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        chat.first_token_seconds, chat.token_seconds, chat.words = 0.15, 0.02, 5
        started = time.monotonic()
        times = []
        wish = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "stream": True}
        async with client.stream("POST", "/chat/completions", json=wish) as answer:
            head = time.monotonic() - started
            async for line in answer.aiter_lines():
                if line:
                    times.append(time.monotonic() - started)
        started = time.monotonic()
        await ask(client, "Why?")
        whole = time.monotonic() - started

        assert head < 0.15 <= times[0]
        assert times[-1] >= 0.15 + 7 * 0.02
        assert whole >= 0.15 + 5 * 0.02

    run(story)


def test_an_answer_has_as_many_different_words_as_a_test_or_a_prompt_wants() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        prompted = (await ask(client, "[words 200] Why?")).json()
        both = await ask(client, "[fail:slow 0.01] [words 7] Why?", stream=True)
        chat.words = 50
        told = (await ask(client, "[words 200] Why?")).json()
        words = prompted["choices"][0]["message"]["content"].split()

        assert len(words) == len(set(words)) == 200 == prompted["usage"]["completion_tokens"]
        assert len(chunks(both)) == 1 + 7 + 1
        assert told["usage"]["completion_tokens"] == 50

    run(story)
