"""How the simulated chat backend speaks as Ollama, vLLM and llama.cpp do."""

from typing import Any

import httpx
import pytest

from arkgate.simulator.chat import SimulatedChat
from arkgate.simulator.chat_dialects import DIALECTS
from tests.simulator.simulated_chat import MODEL, ask, chunks, run

USAGE = {"include_usage": True}
COUNTED = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("asked", [{}, {"stream_options": USAGE}])
def test_every_dialect_streams_what_it_says_whole(dialect: str, asked: dict[str, Any]) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got = chunks(await ask(client, "Why?", stream=True, **asked))
        whole = (await ask(client, "Why?")).json()
        deltas = [chunk["choices"][0] for chunk in got if chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in deltas)

        assert text == whole["choices"][0]["message"]["content"]
        assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["stop"]
        assert COUNTED.items() <= whole["usage"].items()

    run(story, dialect=dialect)


@pytest.mark.parametrize("dialect", ["ollama", "vllm", "vllm-old", "llama.cpp"])
def test_others_leave_usage_out_until_the_last_chunk(dialect: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        *others, last = chunks(await ask(client, "Why?", stream=True, stream_options=USAGE))
        unasked = chunks(await ask(client, "Why?", stream=True))

        assert not any("usage" in chunk for chunk in [*others, *unasked])
        assert (last["choices"], last["usage"]) == ([], COUNTED)

    run(story, dialect=dialect)


def test_ollama_does_not_know_a_model_and_says_so_in_its_words() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = await ask(client, "Why?", model="other", keep_alive="5m")
        good = (await ask(client, "Why?", keep_alive="5m")).json()

        assert (answer.status_code, answer.json()) == (
            404,
            {
                "error": {
                    "message": "model 'other' not found",
                    "type": "not_found_error",
                    "param": None,
                    "code": None,
                }
            },
        )
        assert (good["system_fingerprint"], "logprobs" in good["choices"][0]) == ("fp_ollama", False)
        assert (await ask(client, "[fail:500] x")).json()["error"]["type"] == "api_error"

    run(story, dialect="ollama")


def test_ollama_counts_zeros_in_older_completions() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "prompt": "Why?", "stream": True, "stream_options": USAGE}
        *others, last = chunks(await client.post("/completions", json=wish))

        assert {chunk["usage"]["total_tokens"] for chunk in others} == {0}
        assert last["usage"] == COUNTED

    run(story, dialect="ollama")


def test_vllm_counts_in_every_chunk_on_request() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        options = {**USAGE, "continuous_usage_stats": True}
        got = chunks(await ask(client, "Why?", stream=True, stream_options=options))
        unsaid = chunks(await ask(client, "Why?", stream=True, stream_options={}))

        assert [chunk["usage"]["completion_tokens"] for chunk in got] == [*range(9), 8]
        assert got[-2]["choices"][0]["delta"] == {"content": " Why?"}
        assert (got[-2]["choices"][0]["finish_reason"], got[-2]["choices"][0]["stop_reason"]) == (
            "stop",
            None,
        )
        assert unsaid[-1]["usage"] == COUNTED

    run(story, dialect="vllm")


def test_vllm_refuses_in_two_forms() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        client.headers["Authorization"] = "Bearer key"
        bad = {"message": "a simulated failure", "type": "BadRequestError", "param": None, "code": 400}
        newer = (await ask(client, "[fail:400] x")).json()
        missing = (await ask(client, "x", model="other")).json()
        unknown = (await ask(client, "[fail:422] x")).json()
        chat.dialect = "vllm-old"
        older = (await ask(client, "[fail:400] x")).json()
        client.headers["Authorization"] = "Bearer other"
        keyless = await ask(client, "x")

        assert newer["error"] | {"message": bad["message"]} == bad
        assert older == {"object": "error", **newer["error"]}
        assert (missing["error"]["message"], missing["error"]["type"]) == (
            "The model `other` does not exist.",
            "NotFoundError",
        )
        assert unknown["error"]["code"] == 422
        assert (keyless.status_code, keyless.json()) == (401, {"error": "Unauthorized"})

    run(story, dialect="vllm", api_key="key")


def test_llama_cpp_measures_in_the_last_chunk() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        *others, last = chunks(await ask(client, "Why?", stream=True))
        counted = chunks(await ask(client, "Why?", stream=True, stream_options=USAGE))
        whole = (await ask(client, "Why?", model="any name")).json()

        assert last["timings"] == whole["timings"] == counted[-1]["timings"]
        assert (last["timings"]["prompt_n"], last["timings"]["predicted_n"]) == (5, 8)
        assert not any("timings" in chunk for chunk in [*others, *counted[:-1]])
        assert others[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
        assert (await ask(client, "[fail:503] x")).json()["error"] == {
            "code": 503,
            "message": "a simulated failure",
            "type": "unavailable_error",
        }

    run(story, dialect="llama.cpp")


def test_older_llama_cpp_counts_at_the_end_whether_asked_or_not() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        for asked in ({}, {"stream_options": USAGE}):
            *others, last = chunks(await ask(client, "Why?", stream=True, **asked))

            assert (last["choices"][0]["finish_reason"], last["usage"]) == ("stop", COUNTED)
            assert not any("usage" in chunk for chunk in others)

    run(story, dialect="llama.cpp-old")
