"""The tools of MCP by the official client, over both transports: the same prices, limits and money rules."""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from tests.backend.backend_server import always, http, serving
from tests.cli.program import PROGRAM, arkgate
from tests.stage import Stage, eventually, play, run, staged
from tests.web.test_discovery import models
from tests.web.test_services import service

from arkgate.web.guard import BODY_BYTES_MAX
from arkgate.web.llms import REFUNDS, RETRY
from arkgate.web.mcp.contract import Answer
from arkgate.web.mcp.door import STRUCTURE_MAX
from arkgate.web.mcp.outcome import refusal

TOOLS = {
    "list_services", "quote", "chat", "call_service", "create_funding_invoice", "funding_status", "balance",
}  # fmt: skip
WAYS = ("auto", "legacy", "stdio")
"""Today's protocol and the one before it over HTTP, and a program that a host starts."""
TODAY = "2026-07-28"
POSTED = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def connected(url: str, way: str = "auto", token: str = "", **headers: str) -> AsyncIterator[Client]:
    """The official client at a gateway, configured with a token as its hosts are."""
    if way == "stdio":
        program = StdioServerParameters(
            command=str(PROGRAM), args=["mcp", "--url", url], env={"ARKGATE_TOKEN": token} if token else {}
        )
        async with Client(program) as client:
            yield client
        return
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as web,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=web),
            mode="legacy" if way == "legacy" else "auto",
        ) as client,
    ):
        yield client


async def called(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """What a tool answers when all is well."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    structured: dict[str, Any] = result.structured_content
    return structured


async def refused(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """What a tool answers when it refuses; the sentence is the text, too."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    structured: dict[str, Any] = result.structured_content
    assert str(structured["error"]).endswith(".")
    assert result.content[0].text.startswith(structured["error"])  # type: ignore[union-attr]
    return structured


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_finds_asks_pays_repeats_and_funds(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: list[str] = []

    async def story(stage: Stage) -> None:
        async with connected(stage.url, way) as client:
            found = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(found) == TOOLS
            assert "50 sats a call, 5 calls a day" in str(found["chat"].description)
            assert RETRY in str(found["chat"].description)
            assert REFUNDS in str(found["call_service"].description)
            assert (await called(client, "list_services"))["models"]
            quoted = await called(client, "quote", path="/v1/chat/completions", body={"messages": [USER]})
            assert (quoted["hold_sats"], quoted["expected_sats"]) == (50, 50)

            credential = await bought(stage, client)
            answer = await called(client, "chat", prompt="One?", credential=credential, idempotency_key="1")
            assert (answer["cost_sats"], answer["balance_sats"], answer["replayed"]) == (50, 0, False)
            assert "One?" in answer["answer"]
            again = await called(client, "chat", prompt="One?", credential=credential, idempotency_key="1")
            assert (again["cost_sats"], again["replayed"]) == (0, True)
            assert again["answer"] == answer["answer"]

            token = await funded(stage, client)
            body = {"messages": [USER]}
            call = await called(client, "call_service", path="/v1/chat/completions", body=body, token=token)
            assert (call["status"], call["cost_sats"], call["balance_sats"]) == (200, 50, 450)
            assert call["body"]["choices"][0]["message"]["content"]
            left = await called(client, "balance", token=token)
            assert (left["available_sats"], left["calls_left_today"]) == (450, 4)
            assert "token" not in left
            secrets.extend([credential, credential.split(":")[1], token])

    play(tmp_path, story)
    written = caplog.text + "".join(capfd.readouterr())
    assert [secret for secret in secrets if secret in written] == []


USER = {"role": "user", "content": "How is Ark different from Lightning?"}


async def bought(stage: Stage, client: Client) -> str:
    """Asks without paying, pays, and gives the credential."""
    asked = await refused(client, "chat", prompt="One?")
    assert (asked["payment_required"], asked["amount_sats"], asked["status"]) == (True, 50, 402)
    assert asked["expires_at"]
    assert [step["do"] for step in asked["next"]] == ["pay_invoice_then_call_again", "fund_token"]
    paid = await stage.simulation.pay(asked["invoice"])
    assert paid.payment_hash.hex() == asked["payment_hash"]
    return f"{asked['macaroon']}:{paid.preimage.hex()}"


async def funded(stage: Stage, client: Client) -> str:
    """Funds a token, and looks until it is paid."""
    opened = await called(client, "create_funding_invoice", amount_sats=500)
    assert opened["bip321"].startswith("bitcoin:?")
    session = opened["session_id"]
    assert (await called(client, "funding_status", session_id=session))["status"] == "awaiting_payment"
    await stage.simulation.pay(opened["invoice"])

    async def paid() -> bool:
        return bool((await called(client, "funding_status", session_id=session))["status"] == "active")

    await eventually(paid)
    return str(opened["token"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["output_sats_per_million = 1000000"],
            "up to 4096 sats for a short question, by what it uses (1000000",
        ),
        (["price_sats = 7", "price_sats = 8"], "Price: 7 sats a call, 5 calls a day; each model has its own"),
    ],
)
def test_a_description_tells_the_models_price(tmp_path: Path, lines: list[str], words: str) -> None:
    async def story(stage: Stage) -> None:
        async with connected(stage.url) as client:
            found = {tool.name: str(tool.description) for tool in (await client.list_tools()).tools}

        assert words in found["chat"]
        assert "POST /api/ai-chat 50 sats a call" in found["call_service"]
        assert "POST /v1/chat/completions 50 sats" not in found["call_service"]

    play(tmp_path, story, {**models(*lines), "[[services]]": ""})


@pytest.mark.parametrize("way", WAYS)
def test_a_host_that_has_a_token_pays_from_it_and_can_top_it_up(tmp_path: Path, way: str) -> None:
    async def story(stage: Stage) -> None:
        header = await stage.fund_token(60)
        async with connected(stage.url, way, header["Authorization"].removeprefix("Bearer ")) as client:
            answer = await called(client, "chat", messages=[USER], model="arkgate-chat-v1", max_tokens=99)
            assert (answer["cost_sats"], answer["balance_sats"]) == (50, 10)
            poor = await refused(client, "chat", prompt="Two?")
            assert (poor["code"], poor["payment_required"], poor["available_sats"]) == (
                "insufficient_balance",
                False,
                10,
            )
            assert "Top it up with create_funding_invoice and top_up." in poor["error"]
            step = poor["next"][0]
            assert step["do"] == "top_up"
            invoice = await called(client, step["tool"], **step["arguments"])
            assert "token" not in invoice
            await stage.simulation.pay(invoice["invoice"])

            async def is_there() -> bool:
                return bool((await called(client, "balance"))["available_sats"] == 60)

            await eventually(is_there)
            assert (await called(client, "chat", prompt="Two?"))["cost_sats"] == 50

    play(tmp_path, story)


@pytest.mark.parametrize("way", ["auto", "stdio"])
def test_what_cannot_be_says_why_and_charges_nothing(tmp_path: Path, way: str) -> None:
    async def story(stage: Stage) -> None:
        token = (await stage.fund_token(500))["Authorization"].removeprefix("Bearer ")
        async with connected(stage.url, way, token) as client:
            for amount, code in ((0, "invalid_request"), (10**7, "amount_out_of_range")):
                assert (await refused(client, "create_funding_invoice", amount_sats=amount))["code"] == code
            wrong = await refused(client, "create_funding_invoice", amount_sats=token)
            assert token not in str(wrong)
            assert "amount_sats: " in wrong["error"]
            for path in ("/v1/balance", "/mcp", "/api/../v1/balance", "//api/ai-chat", "@host/", "x"):
                assert (await refused(client, "call_service", path=path))["code"] == "not_found", path
            assert (await refused(client, "chat"))["code"] == "invalid_request"
            assert (await refused(client, "chat", prompt="x", model="none"))["code"] == "model_not_found"
            forged = await refused(client, "chat", prompt="x", credential="AgEE:00")
            assert (forged["status"], forged["code"]) == (401, "invalid_credential")
            failed = await refused(client, "chat", prompt="[fail:500] x", idempotency_key="k")
            assert (failed["status"], failed["refunded"]) == (502, True)
            stream = {"messages": [USER], "stream": True}
            whole = await refused(client, "call_service", path="/v1/chat/completions", body=stream)
            assert whole["code"] == "not_supported"
            assert (await called(client, "balance"))["available_sats"] == 500

    play(tmp_path, story)


def test_another_api_is_called_with_its_method_query_and_body(tmp_path: Path) -> None:
    async def story() -> None:
        reply = http(b'{"degrees": 21}', headers=("Content-Type: application/json",))
        async with (
            serving(always(reply)) as server,
            staged(tmp_path, extra=service(server.port)) as stage,
        ):
            token = (await stage.fund_token(100))["Authorization"].removeprefix("Bearer ")
            async with connected(stage.url, token=token) as client:
                told = str((await client.list_tools()).tools[3].description)
                assert "GET or PUT /weather/ 2.5 sats a call" in told
                query = {"city": "München", "days": 2}
                answer = await called(client, "call_service", path="/weather/now?x=1", query=query)
                await called(client, "call_service", path="/weather/now", method="put", body="warm")

            assert (answer["status"], answer["body"], answer["cost_sats"]) == (200, {"degrees": 21}, 3)
            heads = [request[0].split(b"\r\n")[0] for request in server.requests]
            assert heads == [
                b"GET /base/weather/now?x=1&city=M%C3%BCnchen&days=2 HTTP/1.1",
                b"PUT /base/weather/now HTTP/1.1",
            ]
            assert token.encode() not in b"".join(request[0] for request in server.requests)
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize("way", ["auto", "stdio"])
def test_an_answer_that_breaks_off_is_none_and_costs_nothing(tmp_path: Path, way: str) -> None:
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

    async def story() -> None:
        async with serving(always(broken)) as server, staged(tmp_path, extra=service(server.port)) as stage:
            token = (await stage.fund_token(100))["Authorization"].removeprefix("Bearer ")
            async with connected(stage.url, way, token) as client:
                cut = await refused(client, "call_service", path="/weather/now")

                async def is_back() -> bool:
                    return bool((await called(client, "balance"))["available_sats"] == 100)

                await eventually(is_back)
            assert cut["code"] in ("no_answer", "upstream_error")
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


def test_limits_count_the_real_client(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        first, second = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
        async with connected(stage.url, **first) as client:
            for _ in range(2):
                assert (await refused(client, "chat", prompt="x"))["code"] == "payment_required"
            limited = await refused(client, "chat", prompt="x")
        assert (limited["code"], limited["status"]) == ("rate_limited", 429)
        assert limited["retry_after_seconds"] > 0
        assert (await stage.chat(first)).status_code == 429
        async with connected(stage.url, **second) as client:
            assert (await refused(client, "chat", prompt="x"))["code"] == "payment_required"
        async with connected(stage.url) as client:
            assert (await refused(client, "chat", prompt="x"))["code"] == "payment_required"

    extra = {
        "[gateway]": 'trusted_proxies = ["127.0.0.1"]',
        "[limits]": "challenges_per_minute_and_client = 2",
    }
    play(tmp_path, story, extra)


def test_the_door_bounds_what_it_takes_and_has_no_streams_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage) -> None:
        listing = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"%b}'

        async def post(body: bytes, **headers: str) -> int:
            sent = {**POSTED, **headers}
            return (await stage.http.post("/mcp", content=body, headers=sent)).status_code

        assert await post(listing % b"") == 200
        assert await post(listing % b"" + b" " * BODY_BYTES_MAX) == 413
        assert await post(listing % b"" + b"," * STRUCTURE_MAX) == 400
        assert await post(b"{") == 400
        assert await post(listing % b"", Origin="https://chat.example.com") == 200
        assert await post(listing % b"", Host="arkgate.internal:80") == 200
        for method in ("GET", "DELETE"):
            answer = await stage.http.request(method, "/mcp", headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        preflight = await stage.http.options("/mcp", headers={"Origin": "https://chat.example.com"})
        monkeypatch.setattr("arkgate.web.mcp.door.REQUESTS_MAX", 0)
        assert await post(listing % b"") == 503
        assert "mcp-protocol-version" in preflight.headers["access-control-allow-headers"].lower()

    play(tmp_path, story)


@pytest.mark.parametrize("way", ["auto", "legacy"])
def test_a_call_under_way_is_answered_before_the_gateway_stops(tmp_path: Path, way: str) -> None:
    async def asked(url: str, token: str) -> dict[str, Any]:
        async with connected(url, way, token) as client:
            await client.list_tools()  # or the client would ask for them after the call
            return await called(client, "chat", prompt="[fail:slow 1] x")

    async def story() -> None:
        async with staged(tmp_path) as stage:
            token = (await stage.fund_token(100))["Authorization"].removeprefix("Bearer ")
            asking = asyncio.create_task(asked(stage.url, token))
            await eventually(lambda: _is_under_way(stage))
            began = time.monotonic()

        assert (await asking)["cost_sats"] == 50
        assert time.monotonic() - began < 4

    run(asyncio.wait_for(story(), 60))


async def _is_under_way(stage: Stage) -> bool:
    return len(stage.app.calls) > 0


@pytest.mark.parametrize("body", ['"\\ud800"', '{"a": "\\udfff"}', "[" * 300 + "]" * 300])
def test_arguments_that_no_body_can_hold_are_the_callers_fault(tmp_path: Path, body: str) -> None:
    about = {
        "io.modelcontextprotocol/protocolVersion": TODAY,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP-Protocol-Version": TODAY, "Mcp-Method": "tools/call", "Mcp-Name": "quote"}

    async def story(stage: Stage) -> None:
        params = f'{{"_meta": {json.dumps(about)}, "name": "quote", "arguments": {{"body": {body}}}}}'
        called = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'
        answer = await stage.http.post("/mcp", content=called, headers={**POSTED, **headers})
        result = answer.json()["result"]
        assert (result["isError"], result["structuredContent"]["code"]) == (True, "invalid_request")

    play(tmp_path, story)


def test_a_map_says_where_the_tools_are(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.http.get("/.well-known/mcp.json")
        where = answer.json()["transport"]["url"]
        assert (answer.json()["name"], answer.json()["transport"]["type"]) == ("arkgate", "streamable-http")
        assert f"{where}\n" in (await stage.http.get("/llms.txt")).text
        async with Client(where) as client:
            assert (await client.list_tools()).tools

    play(tmp_path, story)


def test_a_program_without_its_gateway_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with connected("http://127.0.0.1:9", "stdio") as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            away = await refused(client, "chat", prompt="x")
            assert away["code"] == "no_answer"
        for url, sentence in (("ftp://x", "public URL"), ("https://a:b@x", "no password")):
            ended = await arkgate("mcp", "--url", url, directory=tmp_path)
            assert (ended.status, sentence in ended.errors) == (1, True), ended.errors

    run(asyncio.wait_for(story(), 60))


def test_nobody_pays_for_the_sdk_who_does_not_use_it() -> None:
    code = "import sys, arkgate.app; sys.exit('mcp' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_gateway_that_makes_no_invoices_is_paid_in_words_of_tools() -> None:
    body = {
        "success": False,
        "error": "Open a session with POST /v1/sessions.",
        "code": "funded_token_required",
    }
    told = refusal(Answer(402, {}, json.dumps({**body, "price_sats": 50}).encode()), "chat").structured

    assert told["error"] == "Open a session with create_funding_invoice."
    assert told["payment_required"] is False
    assert told["next"][0] == {
        "do": "fund_token",
        "tool": "create_funding_invoice",
        "arguments": {"amount_sats": 50},
    }
