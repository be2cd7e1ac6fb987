"""OpenAI's routes and Anthropic's: every API goes through whole, is paid once, and fails in its own words."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_streams import CHAT, at_rest, events, spent
from tests.stage import MODEL, Stage, play

ANY_NUMBER = {"[[services]]": "calls_per_day = 0"}
LABEL = "arkgate-chat-v1"
HELLO = [{"role": "user", "content": "Hello there"}]
ROUTES: Mapping[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    "/v1/completions": {"prompt": "Hello there"},
    "/v1/embeddings": {"input": ["Hello there", "again"]},
    "/v1/responses": {"input": "Hello there"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100},
}
STREAMED = [path for path in ROUTES if path != "/v1/embeddings"]
LAST = {
    CHAT: "[DONE]",
    "/v1/completions": "[DONE]",
    "/v1/responses": "response.completed",
    "/v1/messages": "message_stop",
}


@pytest.mark.parametrize("path", ROUTES)
def test_a_buffered_answer_is_the_backends_with_its_cost(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(path, json=ROUTES[path], headers=token)
        body = answer.json()

        assert answer.status_code == 200, answer.text
        assert body["model"] == LABEL
        assert (body["usage"]["cost"], body["usage"]["cost_sats"]) == (50, 50)
        assert answer.headers["x-cost-sats"] == "50"
        assert answer.headers["x-balance-sats"] == "450"
        (received,) = [one for one in stage.simulation.chat.received if one.method == "POST"]
        assert received.model == MODEL
        assert received.target == path

    play(tmp_path, story, ANY_NUMBER)


@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_ends_as_its_clients_expect_and_tells_its_cost(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        more = {"stream_options": {"include_usage": True}} if LAST[path] == "[DONE]" else {}
        body = {**ROUTES[path], "stream": True, **more}
        headers = {**token, "Idempotency-Key": "once"}
        answer = await stage.http.post(path, json=body, headers=headers)
        found = events(answer.text)
        last = found[-1] if found[-1] == "[DONE]" else found[-1]["type"]

        assert last == LAST[path]
        assert '"cost_sats":50' in answer.text
        assert MODEL not in answer.text
        await at_rest(stage, token)
        assert (await stage.balance(token))["balance_sats"] == 450
        again = await stage.http.post(path, json=body, headers=headers)
        assert events(again.text)[:-2] == found[:-2]
        assert (await stage.balance(token))["balance_sats"] == 450

    play(tmp_path, story, ANY_NUMBER)


@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_that_breaks_says_so_in_its_own_way_and_costs_nothing(tmp_path: Path, path: str) -> None:
    broken: dict[str, Any] = {**ROUTES[path], "stream": True}
    text = "[fail:trickle 0.2] Hello"
    broken.update({"messages": [{"role": "user", "content": text}]} if "messages" in broken else {})
    broken.update({name: text for name in ("prompt", "input") if name in broken})

    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        found = events((await stage.http.post(path, json=broken, headers=token)).text)

        error = found[-1]
        kind = error["error"]["code"] if path in (CHAT, "/v1/completions") else error["type"]
        assert kind in ("upstream_timeout", "error")
        await at_rest(stage, token)
        assert (await stage.balance(token))["balance_sats"] == 500

    play(tmp_path, story, {**ANY_NUMBER, "[backend]": "total_timeout_seconds = 1"})


@pytest.mark.parametrize("path", ROUTES)
def test_a_refusal_is_written_as_its_clients_read_it(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        wrong = {
            402: await stage.http.post(path, json=ROUTES[path]),
            401: await stage.http.post(path, json=ROUTES[path], headers={"X-Api-Key": "ak_" + "0" * 32}),
            404: await stage.http.post(path, json={**ROUTES[path], "model": "gpt-17"}, headers=token),
            400: await stage.http.post(path, json={"model": LABEL}, headers=token),
        }
        for status, answer in wrong.items():
            body = answer.json()
            assert answer.status_code == status, answer.text
            assert body["error"]["message"]
            if path == "/v1/messages":
                assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
            else:
                assert set(body["error"]) == {"message", "type", "param", "code"}
                assert body["error"]["code"] == body["code"]
        assert wrong[402].json()["invoice"].startswith("ln")
        assert wrong[404].json()["code"] == "model_not_found"
        assert (await stage.balance(token))["balance_sats"] == 500

    play(tmp_path, story, ANY_NUMBER)


def test_an_api_key_in_anthropics_header_pays_like_a_bearer_token(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = (await stage.fund_token())["Authorization"].removeprefix("Bearer ")
        credential = (await stage.buy_credential()).header["Authorization"].removeprefix("L402 ")
        for key in (token, credential):
            headers = {"X-Api-Key": key, "Anthropic-Version": "2023-06-01", "Anthropic-Beta": "tools"}
            answer = await stage.http.post("/v1/messages", json=ROUTES["/v1/messages"], headers=headers)
            assert answer.status_code == 200, answer.text
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        received = dict(stage.simulation.chat.received[-1].headers)
        assert received["anthropic-version"] == "2023-06-01"
        assert "x-api-key" not in received

    play(tmp_path, story, ANY_NUMBER)


def test_fields_that_nobody_here_knows_pass_both_ways(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        extra = {"top_k": 5, "reasoning": {"effort": "low"}, "seed": 2**53, "logit_bias": {"1": -1.5}}
        tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
        asked = {"messages": [{"role": "user", "content": "use a tool"}], "tools": tools, **extra}
        answer = await stage.http.post(CHAT, json=asked, headers=token)

        choice = answer.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "now"
        sent = stage.simulation.chat.received[-1].body
        for part in (b'"top_k":5', b'"effort":"low"', b'"seed":9007199254740992', b'"1":-1.5'):
            assert part in sent

    play(tmp_path, story, ANY_NUMBER)


def test_the_models_are_listed_for_both_kinds_of_clients(tmp_path: Path) -> None:
    models = {
        "[[models]]": 'name = "small"\nprice_sats = 10\n\n[[models]]\nname = "vendor/large"\n'
        "output_sats_per_million = 1500\ncontext_tokens = 131072",
        "[[services]]": "calls_per_day = 0",
        "[backend]": 'models = {"small" = "simulated-chat", "vendor/large" = "simulated-chat"}',
    }

    async def story(stage: Stage) -> None:
        listed = (await stage.http.get("/v1/models")).json()
        one = await stage.http.get("/v1/models/vendor/large")
        unknown = await stage.http.get("/v1/models/none")
        anthropic = (await stage.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})).json()

        assert [model["id"] for model in listed["data"]] == ["small", "vendor/large"]
        assert listed["data"][0]["pricing"] == {"call_sats": 10}
        assert one.json()["pricing"] == {"output_sats_per_million_tokens": 1500}
        assert one.json()["context_length"] == 131072
        assert unknown.json()["error"]["code"] == "model_not_found"
        assert (anthropic["first_id"], anthropic["has_more"]) == ("small", False)
        token = await stage.fund_token()
        small = await stage.http.post(CHAT, json={"messages": HELLO, "model": "small"}, headers=token)
        assert small.json()["usage"]["cost"] == 10

    play(tmp_path, story, models)


def test_without_openai_there_are_no_such_routes(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=ROUTES[CHAT], headers=token)

        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story, {"[[services]]": "calls_per_day = 0\nopenai = false"})


def test_a_client_that_says_that_it_retries_is_not_sold_the_same_call_twice(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        first = await stage.http.post(CHAT, json=ROUTES[CHAT], headers=token)
        retried = {**token, "X-Stainless-Retry-Count": "1"}
        again = await stage.http.post(CHAT, json=ROUTES[CHAT], headers=retried)
        other = await stage.http.post(CHAT, json={**ROUTES[CHAT], "seed": 1}, headers=retried)

        assert again.content == first.content
        assert (again.headers["idempotent-replayed"], again.headers["x-cost-sats"]) == ("true", "0")
        assert other.headers["x-cost-sats"] == "50"
        assert (await stage.balance(token))["balance_sats"] == 400

    play(tmp_path, story, ANY_NUMBER)


def test_what_the_backend_does_not_offer_is_the_callers_to_change(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        asked = {"messages": [{"role": "user", "content": "[fail:501] Hello"}]}
        answer = await stage.http.post(CHAT, json=asked, headers=token)

        assert (answer.status_code, answer.json()["code"]) == (400, "not_supported")
        assert answer.json()["refunded"] is True
        assert (await stage.balance(token))["balance_sats"] == 500

    play(tmp_path, story, ANY_NUMBER)


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_that_is_nested_too_deeply_is_refused(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for levels, status in ((63, 200), (64, 400), (254, 400), (400, 400), (2000, 400)):
            deep = "[" * levels + "]" * levels
            body = json.dumps({**ROUTES[path], "temperature": 0, "y": []}).replace("[]}", deep + "}")
            answer = await stage.http.post(path, content=body, headers=token)
            assert answer.status_code == status, answer.text
        hidden = '["]",' * 300 + "1" + ',"["]' * 300
        body = json.dumps({**ROUTES[path], "y": []}).replace("[]}", hidden + "}")
        assert (await stage.http.post(path, content=body, headers=token)).status_code == 400

        assert await spent(stage, token) == 50

    play(tmp_path, story, {**ANY_NUMBER, "[cache]": "ttl_seconds = 60"})


AN_HOUR = {"type": "ephemeral", "ttl": "1h"}
ABOVE_THE_PRICE: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"service_tier": "priority"}, "service_tier"),
    (CHAT, {"web_search_options": {}}, "web_search_options"),
    (CHAT, {"plugins": {"mode": "off"}}, "plugins"),
    (CHAT, {"search_parameters": {"mode": "on"}}, "search_parameters"),
    (CHAT, {"enable_search": True}, "enable_search"),
    (CHAT, {"tools": [{"type": "web_search"}]}, "web_search"),
    (CHAT, {"max_tokens": 10, "n_predict": 100_000}, "n_predict"),
    (CHAT, {"max_tokens": 2**63}, "max_tokens"),
    ("/v1/responses", {"max_tokens": 10}, "max_output_tokens"),
    ("/v1/responses", {"tools": [{"type": "code_interpreter"}]}, "code_interpreter"),
    ("/v1/messages", {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
    ("/v1/messages", {"tools": [{"type": "web_fetch_20250910", "name": "web"}]}, "web_fetch_20250910"),
    ("/v1/messages", {"speed": "fast"}, "speed"),
    ("/v1/messages", {"inference_geo": "us"}, "inference_geo"),
    ("/v1/messages", {"compaction": {"type": "enabled"}}, "compaction"),
    ("/v1/messages", {"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
    ("/v1/responses", {"context_management": [{"type": "compaction"}]}, "context_management"),
    ("/v1/responses", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "shell"),
    ("/v1/responses", {"tools": [{"type": "tool_search"}]}, "tool_search"),
    ("/v1/responses", {"tools": [{"type": "namespace", "tools": [{"type": "web_search"}]}]}, "web_search"),
    (CHAT, {"models": ["dear"]}, "models"),
    (CHAT, {"plugins": [{"id": "web"}]}, "plugins"),
    (CHAT, {"provider": {"order": ["dear"]}}, "provider"),
    (CHAT, {"preset": "dear"}, "preset"),
    (CHAT, {"prediction": {"type": "content", "content": "long"}}, "prediction"),
    (CHAT, {"mm_processor_kwargs": {"max_pixels": 10**9}}, "mm_processor_kwargs"),
    (CHAT, {"extra_body": {"max_tokens": 10**5}}, "extra_body"),
    (CHAT, {"additional_drop_params": ["max_tokens"]}, "additional_drop_params"),
    (CHAT, {"cached_content": "cachedContents/abc"}, "cached_content"),
    (CHAT, {"chat_template_kwargs": {"chat_template": "{{ 'x' * 9999 }}"}}, "chat_template_kwargs"),
    (CHAT, {"tools": [{"googleSearch": {}}]}, "googleSearch"),
    (CHAT, {"tools": [{"type": "function", "google_search": {}}]}, "google_search"),
    (CHAT, {"tools": {"type": "web_search"}}, "tools"),
    (CHAT, {"n_cmpl": 16}, "n_cmpl"),
    ("/v1/completions", {"n_cmpl": 1}, "n_cmpl"),
    (CHAT, {"tools": ["f"]}, "tools"),
    (
        "/v1/responses",
        {"input": [{"type": "tool_search_output", "tools": [{"type": "web_search"}]}]},
        "web_search",
    ),
    (
        "/v1/responses",
        {
            "input": [
                {"type": "additional_tools", "tools": [{"type": "namespace", "tools": [{"type": "mcp"}]}]}
            ]
        },
        "mcp",
    ),
    ("/v1/messages", {"cache_control": AN_HOUR}, "cache_control"),
    ("/v1/messages", {"system": [{"type": "text", "text": "x", "cache_control": AN_HOUR}]}, "cache_control"),
    ("/v1/messages", {"tools": [{"name": "f", "cache_control": AN_HOUR}]}, "cache_control"),
    (
        "/v1/messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "content": [{"type": "text", "text": "x", "cache_control": AN_HOUR}],
                        }
                    ],
                }
            ]
        },
        "cache_control",
    ),
]


@pytest.mark.parametrize(("path", "more", "named"), ABOVE_THE_PRICE)
def test_what_costs_the_operator_more_than_the_price_is_refused(
    tmp_path: Path, path: str, more: dict[str, Any], named: str
) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for headers in (token, {}):
            answer = await stage.http.post(path, json={**ROUTES[path], **more}, headers=headers)
            assert answer.status_code == 400, answer.text
            assert named in answer.json()["error"]["message"]
        assert [one for one in stage.simulation.chat.received if one.method == "POST"] == []
        assert await spent(stage, token) == 0

    play(tmp_path, story, ANY_NUMBER)


def test_tools_that_the_operator_allows_and_those_of_callers_pass(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        tools: list[dict[str, Any]] = [
            {"type": "web_search_preview"},
            {"type": "function", "name": "f"},
            {"type": "custom"},
            {"type": "computer"},
            {"type": "shell"},
            {"type": "shell", "environment": {"type": "local"}},
            {"type": "tool_search", "execution": "client"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
        ]
        for tool in tools:
            body = {"input": "Hello", "tools": [tool], "service_tier": "auto"}
            answer = await stage.http.post("/v1/responses", json=body, headers=token)
            assert answer.status_code == 200, answer.text

    play(tmp_path, story, {**ANY_NUMBER, "[backend]": 'server_tools = ["web_search"]'})


ELSEWHERE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("/v1/responses", {"input": [{"id": "msg_1"}]}),
    ("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1", "role": "user"}]}),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "https://x"}}]}]},
    ),
    (CHAT, {"messages": [{"role": "user", "content": [{"video_url": {"url": "https://x"}}]}]}),
    ("/v1/responses", {"input": HELLO, "previous_response_id": "resp_1"}),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "audio": {"id": "a"}}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}),
    (
        "/v1/messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "url", "url": "https://x.example"}}],
                }
            ]
        },
    ),
]
BY_TOKENS = 'name = "small"\nprice_sats = 0\ninput_sats_per_million = 1000\nmax_tokens = 1'


@pytest.mark.parametrize(("path", "body"), ELSEWHERE)
def test_what_cannot_be_counted_is_held_for_as_the_models_whole_context(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async def unknown(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(path, json={**ROUTES[path], **body}, headers=token)
        assert (answer.status_code, answer.json()["code"]) == (400, "not_supported")
        assert await spent(stage, token) == 0

    async def known(stage: Stage) -> None:
        answer = await stage.http.post("/v1/quote", params={"path": path}, json={**ROUTES[path], **body})
        assert answer.status_code == 200, answer.text
        assert 100_000 <= answer.json()["hold_msat"] < 101_000

    play(tmp_path / "unknown", unknown, {**ANY_NUMBER, "[[models]]": BY_TOKENS})
    with_context = BY_TOKENS + "\ncontext_tokens = 100000"
    play(tmp_path / "known", known, {**ANY_NUMBER, "[[models]]": with_context})


def test_a_length_goes_where_the_model_takes_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        await stage.http.post(CHAT, json=ROUTES[CHAT], headers=token)
        (received,) = [one for one in stage.simulation.chat.received if one.method == "POST"]

        sent = json.loads(received.body)
        assert sent["max_completion_tokens"] == 77
        assert "max_tokens" not in sent

    model = 'name = "small"\nprice_sats = 50\nmax_tokens = 77\nlength_field = "max_completion_tokens"'
    play(tmp_path, story, {**ANY_NUMBER, "[[models]]": model})


def test_no_limit_is_no_length_and_no_tier_is_the_usual_one(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = {**ROUTES[CHAT], "max_tokens": -1, "service_tier": "auto"}
        answer = await stage.http.post(CHAT, json=body, headers=token)

        assert answer.status_code == 200, answer.text
        (received,) = [one for one in stage.simulation.chat.received if one.method == "POST"]
        assert json.loads(received.body).keys() == {"model", "messages"}

    play(tmp_path, story, ANY_NUMBER)


def test_a_body_of_too_many_parts_is_refused(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        parts: list[object] = [{}, []]
        for part in parts:
            content = [part] * 30_000
            body = {"messages": [{"role": "user", "content": content}]}
            answer = await stage.http.post(CHAT, json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
            assert "20,000" in answer.text
        brackets = {"messages": [{"role": "user", "content": "{}[" * 100_000}]}
        assert (await stage.http.post(CHAT, json=brackets)).status_code == 402

    play(tmp_path, story, ANY_NUMBER)


def test_other_headers_of_the_same_api_make_it_another_request(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = {**ROUTES["/v1/messages"], "temperature": 0}
        first = await stage.http.post("/v1/messages", json=body, headers={**token, "Idempotency-Key": "k"})
        beta = {**token, "anthropic-beta": "x"}
        other = await stage.http.post("/v1/messages", json=body, headers={**beta, "Idempotency-Key": "k"})
        shared = await stage.http.post("/v1/messages", json=body, headers=beta)

        assert (first.status_code, other.status_code) == (200, 422)
        assert "x-cache" not in shared.headers

    play(tmp_path, story, {**ANY_NUMBER, "[cache]": "ttl_seconds = 60"})


def test_a_retry_meets_the_call_under_way_and_not_an_older_answer(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        await stage.http.post(CHAT, json=ROUTES[CHAT], headers=token)
        stage.simulation.chat.first_token_seconds = 1.0
        second = asyncio.create_task(stage.http.post(CHAT, json=ROUTES[CHAT], headers=token))
        await asyncio.sleep(0.3)
        retry = {**token, "X-Stainless-Retry-Count": "1"}
        under_way = await stage.http.post(CHAT, json=ROUTES[CHAT], headers=retry)
        answer = await second
        again = await stage.http.post(CHAT, json=ROUTES[CHAT], headers=retry)

        assert under_way.status_code == 409
        assert again.json()["id"] == answer.json()["id"]
        assert await spent(stage, token) == 100

    play(tmp_path, story, ANY_NUMBER)


def test_fields_that_are_null_are_fields_that_are_not_there(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        nothing = {"max_output_tokens": None, "n_predict": None, "service_tier": None}
        chat = await stage.http.post(CHAT, json={**ROUTES[CHAT], **nothing}, headers=token)
        tools = [{"type": None, "name": "now", "input_schema": {"type": "object"}}]
        body = {**ROUTES["/v1/messages"], "tools": tools}
        messages = await stage.http.post("/v1/messages", json=body, headers=token)

        assert (chat.status_code, messages.status_code) == (200, 200), (chat.text, messages.text)
        asked = [one for one in stage.simulation.chat.received if one.method == "POST"]
        assert b"n_predict" not in asked[0].body

    play(tmp_path, story, ANY_NUMBER)
