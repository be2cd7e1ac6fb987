"""The formats of the simulated chat backend's APIs, as OpenAI's and Anthropic's clients expect them."""

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from arkgate.simulator.chat import SimulatedChat
from tests.simulator.simulated_chat import MODEL, TOOL_SCHEMA, ask, asking, chunks, events, run

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}]
ARGUMENTS = {"city": "simulated", "days": 1}
USAGE = {"include_usage": True}


def test_a_stream_has_no_usage_unless_it_is_asked_for() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got = chunks(await ask(client, "Why?", stream=True))

        assert got[0]["choices"][0]["delta"]["role"] == "assistant"
        assert got[-1]["choices"][0]["finish_reason"] == "stop"
        assert not any("usage" in chunk for chunk in got)

    run(story)


def test_a_stream_with_usage_says_null_until_the_last_chunk() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        *others, last = chunks(await ask(client, "Why?", stream=True, stream_options=USAGE))
        whole = (await ask(client, "Why?")).json()

        assert {chunk["usage"] for chunk in others} == {None}
        assert (last["choices"], last["usage"]) == ([], whole["usage"])

    run(story)


def test_a_tool_is_called_when_the_prompt_asks_for_it() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        [choice] = (await ask(client, "Please use a tool.", tools=TOOLS)).json()["choices"]
        [call] = choice["message"]["tool_calls"]
        unasked = (await ask(client, "Please do not.", tools=TOOLS)).json()

        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        assert json.loads(call["function"]["arguments"]) == ARGUMENTS
        assert unasked["choices"][0]["finish_reason"] == "stop"

    run(story)


@pytest.mark.parametrize(
    ("choice", "prompt", "is_called"),
    [
        ("required", "Why?", True),
        ({"type": "function", "function": {"name": "weather"}}, "Why?", True),
        ("none", "use a tool", False),
        ("auto", "use a tool", True),
    ],
)
def test_the_tool_choice_decides(choice: Any, prompt: str, is_called: bool) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = (await ask(client, prompt, tools=TOOLS, tool_choice=choice)).json()

        assert ("tool_calls" in answer["choices"][0]["message"]) is is_called

    run(story)


def test_a_tool_is_not_called_again_after_its_result() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
        messages = [*asking("use a tool"), result]
        wish = {"model": MODEL, "messages": messages, "tools": TOOLS}
        answer = (await client.post("/chat/completions", json=wish)).json()

        assert answer["choices"][0]["message"]["content"].endswith("sunny")

    run(story)


def test_a_tool_call_is_streamed_in_pieces() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        got = chunks(await ask(client, "use a tool", tools=TOOLS, stream=True))
        deltas = [chunk["choices"][0]["delta"] for chunk in got]
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]

        assert calls[0]["id"].startswith("call_")
        assert calls[0]["function"] == {"name": "weather", "arguments": ""}
        assert json.loads("".join(call["function"]["arguments"] for call in calls)) == ARGUMENTS
        assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"

    run(story)


def test_a_response_format_gets_a_json_object_of_its_schema() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        inner = {"type": "object", "properties": {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
        schema = {"type": "object", "properties": {"inner": {"$ref": "#/$defs/I"}}, "$defs": {"I": inner}}
        strict = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        first = (await ask(client, "Why?", response_format=strict)).json()
        other = (await ask(client, "Why?", response_format={"type": "json_object"})).json()

        assert json.loads(first["choices"][0]["message"]["content"]) == {"inner": {"n": 1}}
        assert isinstance(json.loads(other["choices"][0]["message"]["content"]), dict)

    run(story)


def test_images_are_counted_and_cost_tokens() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        answer = (await ask(client, [{"type": "text", "text": "What?"}, image, image])).json()

        assert "You sent 2 images" in answer["choices"][0]["message"]["content"]
        assert answer["usage"]["prompt_tokens"] == 4 + 1 + 2 * 100

    run(story)


def test_choices_are_counted_together() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        answer = (await ask(client, "Why?", n=3)).json()
        streamed = chunks(await ask(client, "Why?", n=3, stream=True))
        indices = {choice["index"] for chunk in streamed for choice in chunk["choices"]}

        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert answer["usage"]["completion_tokens"] == 3 * 8
        assert indices == {0, 1, 2}

    run(story)


def test_a_prompt_that_says_cached_was_read_before() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        usage = (await ask(client, "a cached prompt of six words")).json()["usage"]

        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] // 2 == 5

    run(story)


def test_models_are_listed_and_shown() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        listed = (await client.get("/models")).json()
        shown = await client.get("/models/meta/one")
        missing = await client.get("/models/other")
        anthropic = (await client.get("/models", headers={"anthropic-version": "2023-06-01"})).json()

        assert [model["id"] for model in listed["data"]] == ["meta/one", "two"]
        assert shown.json() == listed["data"][0]
        assert (missing.status_code, missing.json()["error"]["message"]) == (
            404,
            "The model 'other' does not exist",
        )
        assert (anthropic["data"][0]["type"], anthropic["last_id"]) == ("model", "two")

    run(story, models=("meta/one", "two"))


def test_embeddings_are_the_same_for_the_same_text_and_in_base64() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "input": ["two words", "one"]}
        plain = (await client.post("/embeddings", json=wish)).json()
        single = (await client.post("/embeddings", json={**wish, "input": "two words"})).json()
        packed = (await client.post("/embeddings", json={**wish, "encoding_format": "base64"})).json()
        numbers = base64.b64decode(packed["data"][0]["embedding"])

        assert [one["index"] for one in plain["data"]] == [0, 1]
        assert single["data"][0] == plain["data"][0]
        assert list(struct.unpack("<64f", numbers)) == plain["data"][0]["embedding"]
        assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert (await client.post("/embeddings", json={"model": MODEL})).status_code == 400

    run(story)


def test_the_older_completions_answer_whole_and_streamed() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "prompt": "Why?", "max_tokens": 5}
        whole = (await client.post("/completions", json=wish)).json()
        streamed = {**wish, "stream": True, "stream_options": USAGE}
        got = chunks(await client.post("/completions", json=streamed))
        text = "".join(choice["text"] for chunk in got for choice in chunk["choices"])

        assert whole["choices"][0]["text"] == text == "This is a simulated answer."
        assert whole["choices"][0]["finish_reason"] == "length"
        assert {chunk["object"] for chunk in got} == {whole["object"]} == {"text_completion"}
        assert got[-1]["usage"] == whole["usage"]

    run(story)


def test_a_response_is_whole_or_a_stream_of_numbered_events() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "input": "Why?", "instructions": "Be kind."}
        whole = (await client.post("/responses", json=wish)).json()
        got = events(await client.post("/responses", json={**wish, "stream": True}))
        names = [name for name, _ in got]
        text = "".join(data["delta"] for name, data in got if name == "response.output_text.delta")

        assert whole["status"] == "completed"
        assert whole["output"][0]["content"][0]["text"] == text
        assert names[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert names[-1] == "response.completed"
        assert [data["type"] for _, data in got] == names
        assert [data["sequence_number"] for _, data in got] == list(range(len(got)))
        assert got[-1][1]["response"]["usage"] == whole["usage"]
        assert whole["usage"]["total_tokens"] == (4 + 2 + 4 + 1) + 8

    run(story)


def test_a_response_calls_a_tool_or_is_cut() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        tools = [{"type": "function", "name": "weather", "parameters": TOOL_SCHEMA}]
        wish = {"model": MODEL, "input": asking("use a tool"), "tools": tools}
        [item] = (await client.post("/responses", json=wish)).json()["output"]
        got = events(await client.post("/responses", json={**wish, "stream": True}))
        pieces = [data["delta"] for name, data in got if name == "response.function_call_arguments.delta"]
        cut = {"model": MODEL, "input": "Why?", "max_output_tokens": 2}
        incomplete = (await client.post("/responses", json=cut)).json()

        assert (item["type"], item["name"], json.loads(item["arguments"])) == (
            "function_call",
            "weather",
            ARGUMENTS,
        )
        assert "".join(pieces) == item["arguments"]
        assert incomplete["status"] == "incomplete"
        assert incomplete["incomplete_details"] == {"reason": "max_output_tokens"}

    run(story)


def test_a_message_is_whole_or_a_stream_of_named_events() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "max_tokens": 50, "messages": asking("a cached question")}
        whole = (await client.post("/messages", json=wish)).json()
        got = events(await client.post("/messages", json={**wish, "stream": True}))
        text = "".join(data["delta"]["text"] for name, data in got if name == "content_block_delta")
        names = list(dict.fromkeys(name for name, _ in got))

        assert whole["content"] == [{"type": "text", "text": text}]
        assert whole["stop_reason"] == "end_turn"
        assert names == [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert (whole["usage"]["input_tokens"], whole["usage"]["cache_read_input_tokens"]) == (4, 3)
        assert got[0][1]["message"]["usage"]["input_tokens"] == 4
        assert got[-2][1]["usage"] == {"output_tokens": whole["usage"]["output_tokens"]}

    run(story)


def test_a_message_calls_a_tool_or_is_cut() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        tools = [{"name": "weather", "input_schema": TOOL_SCHEMA}]
        wish = {"model": MODEL, "max_tokens": 2, "messages": asking("use a tool")}
        called = (await client.post("/messages", json={**wish, "tools": tools})).json()
        got = events(await client.post("/messages", json={**wish, "tools": tools, "stream": True}))
        pieces = [data["delta"]["partial_json"] for name, data in got if name == "content_block_delta"]
        cut = (await client.post("/messages", json=wish)).json()

        assert (called["stop_reason"], called["content"][0]["input"]) == ("tool_use", ARGUMENTS)
        assert json.loads("".join(pieces)) == ARGUMENTS
        assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 2)

    run(story)


def test_messages_take_the_key_in_either_header_and_refuse_in_their_own_form() -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        wish = {"model": MODEL, "max_tokens": 50, "messages": asking("Why?")}
        statuses = [
            (await client.post("/messages", json=wish, headers=headers)).status_code
            for headers in ({"x-api-key": "key"}, {"Authorization": "Bearer key"}, {"x-api-key": "other"})
        ]
        elsewhere = await ask(client, "Why?")
        refused = await client.post("/messages", json=wish)
        bad = await client.post("/messages", json={"model": MODEL}, headers={"x-api-key": "key"})

        assert statuses == [200, 200, 401]
        assert elsewhere.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        assert (bad.status_code, bad.json()["type"]) == (400, "error")

    run(story, api_key="key")


@pytest.mark.parametrize("path", ["/completions", "/embeddings", "/messages", "/responses"])
def test_every_api_can_be_told_to_fail(path: str) -> None:
    async def story(chat: SimulatedChat, client: httpx.AsyncClient) -> None:
        said = "[fail:503] Why?"
        wish = {"model": MODEL, "prompt": said, "input": said, "messages": asking(said), "max_tokens": 5}
        answer = await client.post(path, json=wish)

        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["message"] == "a simulated failure"

    run(story)
