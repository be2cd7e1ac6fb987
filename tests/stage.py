"""A stage for tests: the real gateway on real sockets and a real database, beside the simulation."""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvloop

from arkgate import app, settings
from arkgate.core.ledger import Finding
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.cln import SimulatedCln
from arkgate.simulator.daemon import SimulatedDaemon
from arkgate.simulator.fulmine import SimulatedFulmine
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.waved import SimulatedWaved
from arkgate.store import is_postgres, read_store
from arkgate.web.protocol import ProtocolLimits, protocol_with
from arkgate.web.server import Listener, bind, serve
from tests import postgres

_Result = TypeVar("_Result")
ENGINE = os.environ.get("ARKGATE_TEST_ENGINE", "sqlite")
"""The engine of the books of every stage, `sqlite` or `postgres`."""
PROMPT = {"prompt": "How is Ark different from Lightning?"}
MODEL = "simulated-chat"


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs a test's coroutine on the event loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def write_settings(
    path: Path,
    simulation: Simulation,
    *,
    port: int,
    operator_port: int,
    extra: Mapping[str, str] | None = None,
    nodes: Sequence[SimulatedDaemon] = (),
) -> Path:
    """Writes a configuration for the simulation; `extra` adds lines to tables, by the table's header.

    What it adds to the nodes' table concerns the first. Names all nodes of the gate's owner, or `nodes`.
    """
    first, *others = nodes or [
        simulation.gate,
        *simulation.spares,
        *simulation.clns,
        *simulation.barkds,
        *simulation.waveds,
        *simulation.fulmines,
    ]
    tables = {
        "[gateway]": f'listen = "127.0.0.1:{port}"\noperator_listen = "127.0.0.1:{operator_port}"',
        "[store]": "log_megabytes = 1",
        "[[nodes]]": _node(first, 0),
        "[backend]": f'url = "{simulation.chat.url}"\nmodel = "{MODEL}"',
        "[[services]]": "",
        "[l402]": "",
        "[cache]": "ttl_seconds = 0",
        "[sessions]": "",
        "[limits]": "sessions_per_hour_and_client = 10000\nchallenges_per_minute_and_client = 10000\n"
        "challenges_per_minute = 10000\nsessions_per_hour = 10000",
    }
    for header, lines in (extra or {}).items():
        tables[header] = _overridden(tables.get(header, ""), lines)
    spares = [("[[nodes]]", _node(node, number)) for number, node in enumerate(others, start=1)]
    path.write_text("".join(f"{header}\n{lines}\n\n" for header, lines in [*tables.items(), *spares]))
    return path


def _node(node: SimulatedDaemon, number: int) -> str:
    return (
        f'name = "{node.name}"\nnumber = {number}\naddress = "{node.address}"\nnetwork = "regtest"\n'
        + _files(node)
    )


def _files(node: SimulatedDaemon) -> str:
    """The lines that say what a node is and what opens it."""
    if isinstance(node, SimulatedCln):
        return (
            f'kind = "cln"\nca_cert_file = "{node.credentials.ca}"\n'
            f'client_cert_file = "{node.credentials.client}"\n'
            f'client_key_file = "{node.credentials.client_key}"'
        )
    if isinstance(node, SimulatedBarkd):
        return f'kind = "barkd"\ntoken_file = "{node.token_file}"'
    if isinstance(node, SimulatedWaved):
        return (
            f'kind = "waved"\ntls_cert_file = "{node.credentials.tls_cert}"\n'
            f'macaroon_file = "{node.credentials.admin_macaroon}"'
        )
    if isinstance(node, SimulatedFulmine):
        return f'kind = "fulmine"\nmacaroon_file = "{node.admin_macaroon}"\nboltz_url = "{node.boltz.url}"'
    assert isinstance(node, SimulatedNode)
    return (
        f'tls_cert_file = "{node.credentials.tls_cert}"\n'
        f'macaroon_file = "{node.credentials.invoice_macaroon}"'
    )


def _overridden(lines: str, extra: str) -> str:
    """The lines of a table with those of `extra` in place of the same names."""
    names = {line.partition("=")[0].strip() for line in extra.splitlines()}
    kept = [line for line in lines.splitlines() if line.partition("=")[0].strip() not in names]
    return "\n".join([*kept, *extra.splitlines()])


@dataclass(slots=True)
class Credential:
    """A paid L402 credential."""

    macaroon: str
    preimage: str
    invoice: str

    @property
    def header(self) -> dict[str, str]:
        """Its Authorization header."""
        return {"Authorization": f"L402 {self.macaroon}:{self.preimage}"}


@dataclass(slots=True)
class Stage:
    """A running gateway with everything around it."""

    directory: Path
    simulation: Simulation
    settings: settings.Settings
    http: httpx.AsyncClient
    app: app.App

    @property
    def url(self) -> str:
        """The public address."""
        return self.settings.public_url

    @property
    def operator_url(self) -> str:
        """The operator's address."""
        return f"http://127.0.0.1:{self.settings.operator_listen.port}"

    @property
    def database(self) -> Path:
        """The books' file. Skips the test where they are in no file."""
        if is_postgres(self.settings.store_url):
            pytest.skip("reads or changes the file of the books itself")
        return app.sqlite_path(self.settings)

    async def chat(
        self, headers: Mapping[str, str] | None = None, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        """`POST /api/ai-chat`."""
        return await self.http.post("/api/ai-chat", json=body or PROMPT, headers=headers)

    async def buy_credential(self, headers: Mapping[str, str] | None = None) -> Credential:
        """Asks without paying (or with a used-up credential), pays the invoice, and gives the credential."""
        challenge = (await self.chat(headers)).json()
        paid = await self.simulation.pay(challenge["invoice"])
        return Credential(challenge["macaroon"], paid.preimage.hex(), challenge["invoice"])

    async def fund_token(self, amount_sats: int = 500) -> dict[str, str]:
        """Opens a session, pays it, waits until it counts; gives the token's Authorization header."""
        session = (await self.http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
        await self.simulation.pay(session["funding"]["lightning_invoice"])
        header = {"Authorization": f"Bearer {session['token']}"}

        async def paid() -> bool:
            return bool((await self.balance(header))["status"] == "active")

        await eventually(paid)
        return header

    async def balance(self, header: Mapping[str, str]) -> dict[str, Any]:
        """`GET /v1/balance`."""
        body: dict[str, Any] = (await self.http.get("/v1/balance", headers=header)).json()
        return body

    async def verify(self) -> Sequence[Finding]:
        """The invariants that fail, the ninth included; none when all is well."""
        async with read_store(self.settings.store_url) as statements:
            findings = [*await statements.verify()]
            findings.append(await statements.verify_requests(self.simulation.chat.request_ids))
        return [finding for finding in findings if not finding.holds]

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples on the operator listener, over all its labels."""
        text = (await self.http.get(f"{self.operator_url}/metrics")).text
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)


Story = Callable[[Stage], Awaitable[None]]


@contextlib.asynccontextmanager
async def staged(
    directory: Path,
    *,
    extra: Mapping[str, str] | None = None,
    simulation: Simulation | None = None,
    limits: ProtocolLimits | None = None,
    nodes: Sequence[SimulatedDaemon] = (),
    before: Callable[[Simulation], Awaitable[None]] | None = None,
    around: Callable[[Any], Any] | None = None,
) -> AsyncIterator[Stage]:
    """Runs a gateway in `directory`; a second one there goes on with the first one's books.

    `simulation` lets it outlive the gateway; `nodes` are those of its settings, instead of all; `before`
    runs when the simulation is up and the gateway is not; `around` is put around the public application.
    """
    async with contextlib.AsyncExitStack() as stack:
        if simulation is None:
            simulation = await stack.enter_async_context(
                Simulation.running(
                    data_dir=directory / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01
                )
            )
        if before is not None:
            await before(simulation)
        public, operator = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        if ENGINE == "postgres":
            url = await postgres.books_of(directory)
            extra = {**(extra or {}), "[store]": f'url = "{url}"'}
        file = write_settings(
            directory / "arkgate.toml",
            simulation,
            port=public.getsockname()[1],
            operator_port=operator.getsockname()[1],
            extra=extra,
            nodes=nodes,
        )
        loaded = settings.load(file)
        stop = asyncio.Event()
        running = await stack.enter_async_context(app.running(loaded))
        protocol = protocol_with(limits or ProtocolLimits())
        outermost = around(running.public) if around else running.public
        serving = asyncio.create_task(
            serve(
                [
                    Listener(outermost, public, protocol, running.leaving),
                    Listener(running.operator, operator),
                ],
                stop=stop,
                grace_seconds=5,
            )
        )
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=loaded.public_url, timeout=30))
        try:
            yield Stage(directory, simulation, loaded, http, running)
        finally:
            stop.set()
            await serving


def play(tmp_path: Path, story: Story, extra: Mapping[str, str] | None = None) -> None:
    """Runs a story on a fresh stage, and looks whether the books are sound after it."""

    async def played() -> None:
        async with staged(tmp_path, extra=extra) as stage:
            await story(stage)
            assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def eventually(fact: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Waits until a fact is true. Raises AssertionError after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await fact():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
