"""What must never be written down: a whole story, the worst of it included, at the loudest log level."""

import asyncio
import base64
import contextlib
import json
import re
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from arkgate import app
from arkgate.settings import Settings
from arkgate.simulator.simulation import Simulation
from tests.cli.program import Running, configured, serving, simulated
from tests.stage import eventually, run

API_KEY = "sk-secret-of-the-operator"
PROMPT = "the prompt that is nobody's business"
IDEMPOTENCY_KEY = "a-key-that-only-its-owner-knows"
ANSWER = "This is a simulated answer"
MCP_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}
FORGED = "f0" * 32
HOSTILE_BODIES = (
    b"{",
    f'{{"prompt": "{PROMPT}", "prompt": "{PROMPT}"}}'.encode(),
    f'{{"prompt": ["{PROMPT}"]}}'.encode(),
    f'{{"prompt": "{PROMPT}\\ud800"}}'.encode(),
    f'{{"prompt": "{PROMPT}", "system_prompt": "{PROMPT}"}}'.encode(),
    f'{{"messages": [{{"role": "{PROMPT}", "content": "{PROMPT}"}}]}}'.encode(),
    f'{{"prompt": "{PROMPT * 200}"}}'.encode(),
    b"[" * 100_000,
    PROMPT.encode() + b"\xff\x00",
)
FAULTS = (
    "500",
    "400",
    "401",
    "429",
    "cut",
    "garbage",
    "html",
    "no-choices",
    "empty",
    "reset",
    "wrong-length",
    "hang",
)


@dataclass
class Secrets:
    """What is searched for, by what it is."""

    found: dict[str, str] = field(
        default_factory=lambda: {
            "the operator's key": API_KEY,
            "a prompt": PROMPT,
            "an answer": ANSWER,
            "an idempotency key": IDEMPOTENCY_KEY,
            "a forged preimage": FORGED,
        }
    )

    def add_macaroon(self, name: str, macaroon: str) -> None:
        """Both ways in which macaroons travel, and the signature alone."""
        raw = base64.b64decode(macaroon)
        self.found[name] = macaroon.rstrip("=")
        self.found[f"{name}, URL-safe"] = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        self.found[f"{name} in hex"] = raw.hex()
        self.found[f"the signature of {name}"] = raw[-32:].hex()

    def in_text(self, text: str) -> list[str]:
        """The names of those that the text holds."""
        lowered = text.lower()
        return [name for name, secret in self.found.items() if secret.lower() in lowered]


class Story:
    """One gateway and what is done to it."""

    def __init__(self, simulation: Simulation, http: httpx.AsyncClient, loaded: Settings) -> None:
        self.simulation = simulation
        self.http = http
        self.loaded = loaded
        self.secrets = Secrets()
        self.tokens: list[str] = []
        self.bought = ""
        for number, key in json.loads(loaded.keys_file.read_text()).items():
            self.secrets.found[f"key {number}"] = key

    async def ask(self, authorization: str, prompt: str = PROMPT, **headers: str) -> httpx.Response:
        """A paid call."""
        return await self.http.post(
            "/api/ai-chat", json={"prompt": prompt}, headers={"Authorization": authorization, **headers}
        )

    async def credential(self) -> str:
        """Challenge, payment and credential."""
        challenge = (await self.http.post("/api/ai-chat", json={"prompt": PROMPT})).json()
        number = len(self.secrets.found)
        self.secrets.add_macaroon(f"macaroon {number}", challenge["macaroon"])
        preimage = (await self.simulation.pay(challenge["invoice"])).preimage
        self.secrets.found[f"preimage {number}"] = preimage.hex()
        self.secrets.found[f"preimage {number} in base64"] = base64.b64encode(preimage).decode().rstrip("=")
        return f"{challenge['macaroon']}:{preimage.hex()}"

    async def token(self) -> str:
        """A session that is paid."""
        session = (await self.http.post("/v1/sessions", json={"amount_sats": 5000})).json()
        self.tokens.append(session["token"].removeprefix("ak_"))
        self.secrets.found[f"token {len(self.tokens)}"] = self.tokens[-1]
        await self.simulation.pay(session["funding"]["lightning_invoice"])
        header = {"Authorization": f"Bearer {session['token']}"}

        async def paid() -> bool:
            return bool((await self.http.get("/v1/balance", headers=header)).json()["status"] == "active")

        await eventually(paid)
        return str(session["token"])

    async def buy(self) -> None:
        """Everything that works: both kinds of credential in every form, replay, exchange, statement."""
        credential, token = await self.credential(), await self.token()
        macaroon, preimage = credential.split(":")
        assert (await self.ask(f"L402 {credential}")).status_code == 200
        assert (await self.ask(f"LSAT {credential}")).status_code == 200
        twice = base64.b64decode(preimage).hex()
        assert (await self.ask(f"L402 {macaroon}:{twice}")).status_code == 200
        assert (await self.ask(f"Bearer {credential}", "another question")).status_code == 402
        keyed = {"Idempotency-Key": IDEMPOTENCY_KEY}
        answers = [await self.ask(f"Bearer {token}", **keyed) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        self.bought = answers[0].json()["request_id"]
        exchanged = await self.http.post("/v1/tokens", headers={"Authorization": f"L402 {credential}"})
        self.secrets.found["an exchanged token"] = exchanged.json()["token"].removeprefix("ak_")
        for path in ("/v1/balance", "/v1/usage", f"/v1/calls/{self.bought}"):
            answer = await self.http.get(path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200

    async def use_tools(self) -> None:
        """MCP's tools with every secret in their arguments, where they belong and where they do not."""
        credential, token = await self.credential(), await self.token()
        good = {"prompt": PROMPT, "credential": credential, "idempotency_key": IDEMPOTENCY_KEY}
        assert not (await self.tool("chat", good))["isError"]
        for arguments in (
            {"prompt": PROMPT, "token": credential[:-2] + "00"},
            {"prompt": PROMPT, "token": token, "messages": credential},
            {credential: token},
            {"prompt": f"[fail:500] {PROMPT}", "token": token},
        ):
            assert (await self.tool("chat", arguments))["isError"], arguments
        for body in (f'{{"{token}', f'{{"jsonrpc": "2.0", "id": 1, "method": "{token}", "params": 1}}'):
            refused = await self.http.post("/mcp", content=body, headers=MCP_HEADERS)
            assert refused.status_code == 400
        opened = await self.tool("create_funding_invoice", {"amount_sats": 10, "token": token})
        self.secrets.found["a tool's token"] = opened["structuredContent"]["token"].removeprefix("ak_")

    async def use_pages(self) -> None:
        """The forms of the pages: a token that a page shows, or that is pasted, also in a wrong place."""
        shown = (await self.http.post("/fund", data={"other": "700"})).text
        token = re.findall(r"ak_[0-9a-f]+", shown)[0]
        self.secrets.found["a page's token"] = token.removeprefix("ak_")
        forms = (("/dashboard", {"token": token}), ("/fund", {"other": token}), ("/fund", {token: token}))
        for path, form in forms:
            await self.http.post(path, data=form)
        claimed = {"macaroon": token, "claim": token}
        assert (await self.http.post("/v1/claims", json=claimed)).status_code == 401

    async def tool(self, name: str, arguments: object) -> dict[str, Any]:
        """What a tool answers to arguments."""
        params = {"name": name, "arguments": arguments}
        called = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer: dict[str, Any] = (await self.http.post("/mcp", json=called, headers=MCP_HEADERS)).json()
        result: dict[str, Any] = answer["result"]
        return result

    async def fail(self) -> None:
        """Backends that fail in every way, with the caller's words in their errors."""
        token = await self.token()
        for fault in FAULTS:
            failed = await self.ask(f"Bearer {token}", f"[fail:{fault}] {PROMPT}")
            assert failed.status_code >= 400, fault
        for status in (500, 418):
            assert (await self.ask(f"Bearer {token}", f"[fail:{status}] {PROMPT}")).status_code >= 400

    async def attack(self) -> None:
        """Wrong credentials, bodies and requests."""
        credential = await self.credential()
        macaroon, preimage = credential.split(":")
        token = self.tokens[0]
        wrong = (
            f"L402 {macaroon}:{FORGED}",
            f"L402 {macaroon[:-8]}AAAAAAA=:{preimage}",
            f"L402 {macaroon}:{preimage}00",
            f"L402 {macaroon},{macaroon[:40]}:{preimage}",
            f"L402 {preimage}:{macaroon}",
            f"Bearer ak_{token}0",
            f"Bearer {token}",
            f"Bearer ak_{'0' * 31}{token[-1]}",
            f"Basic {macaroon}",
        )
        for authorization in wrong:
            assert (await self.ask(authorization)).status_code in (401, 402), authorization
        good = {"Authorization": f"Bearer ak_{token}", "Content-Type": "application/json"}
        for body in HOSTILE_BODIES:
            refused = await self.http.post("/api/ai-chat", content=body, headers=good)
            assert refused.status_code in (400, 413), body[:60]
        for path in (
            f"/v1/calls/{preimage}",
            f"/{token}",
            f"/v1/sessions/{token}",
            f"/v1/usage?limit={token}",
        ):
            assert (await self.http.get(path, headers=good)).status_code in (400, 404)
        await asyncio.to_thread(
            self.break_off, f"POST /api/ai-chat HTTP/1.1\r\nAuthorization: L402 {credential}\r\n\x00"
        )
        await asyncio.to_thread(self.break_off, f"GET /{preimage} HTTP/9.9\r\nX: {token}\r\n\r\n")
        await asyncio.to_thread(self.break_off, f"{preimage} {token}\r\n\r\n")

    def break_off(self, text: str) -> None:
        """Bytes that are no request."""
        with socket.create_connection((self.loaded.listen.host, self.loaded.listen.port), 5) as connection:
            connection.sendall(text.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    async def break_the_books(self) -> None:
        """Writes into the books what they cannot hold, so that requests fail inside the gateway."""
        with contextlib.closing(sqlite3.connect(app.sqlite_path(self.loaded))) as database:
            database.execute("PRAGMA ignore_check_constraints = ON")
            database.execute("UPDATE hold SET state = 'unheard-of'")
            database.commit()
        token = {"Authorization": f"Bearer ak_{self.tokens[0]}"}
        failed = await self.http.get(f"/v1/calls/{self.bought}", headers=token)
        assert failed.status_code == 500


async def everything(story: Story) -> str:
    """The whole story; gives the metrics' text."""
    await story.buy()
    await story.use_tools()
    await story.use_pages()
    await story.fail()
    await story.attack()
    operator = story.loaded.operator_listen
    metrics = (await story.http.get(f"http://{operator.host}:{operator.port}/metrics")).text
    await story.break_the_books()
    return metrics


def written(running: Running) -> str:
    return running.output + running.errors


def test_no_secret_is_in_any_log_or_metric(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path, chat_api_key=API_KEY) as simulation:
            extra = {
                "[gateway]": 'log_level = "debug"',
                "[backend]": f'api_key = "{API_KEY}"\ntotal_timeout_seconds = 1\nhold_margin_seconds = 5',
                "[[services]]": "calls_per_day = 0",
            }
            loaded = configured(tmp_path, simulation, extra)
            async with serving(loaded.file) as running:
                async with httpx.AsyncClient(base_url=loaded.public_url, timeout=30) as http:
                    told = Story(simulation, http, loaded)
                    metrics = await everything(told)
                log = written(running)

            assert told.secrets.in_text(log) == []
            assert told.secrets.in_text(metrics) == []
            events = {json.loads(line)["event"] for line in running.errors.splitlines() if line[:1] == "{"}
            assert {"payment credited", "call finished", "challenge issued", "session opened"} <= events
            assert "a request failed" in events
            assert "Traceback" in log
            assert "arkgate_" in metrics

    run(story())
