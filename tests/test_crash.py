"""Kills under load: whatever step a kill meets, nothing is lost, credited twice or charged twice.

ARKGATE_CRASHES sets how many, ARKGATE_CRASH_SEED repeats a run.
"""

import asyncio
import contextlib
import os
import random
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from arkgate import app
from arkgate.settings import Settings
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store
from tests.cli.program import Running, configured, serving, simulated
from tests.stage import eventually, run

CRASHES_DEFAULT = 20
TOKEN_CLIENTS = 10
L402_CLIENTS = 10
TOKEN_CALLS = 3
PRICE_MSAT = 50_000
PAUSE_SECONDS = 0.05
HOLD_SECONDS = 6
"""The shortest that settings allow: a total timeout of one second and a margin of five."""
SWEEP_SECONDS = 5
EXTRA = {
    "[backend]": "total_timeout_seconds = 1\nhold_margin_seconds = 5",
    "[[services]]": "calls_per_day = 0",
}
CONNECTION_LOST = (httpx.TransportError, AttributeError)
"""The second: what anyio raises of a connection that was reset before httpx first looked at it."""
RETRIED = (402, 409, 500, 502, 503, 504)
"""402: the call that was killed still holds the balance. All of them are answered by asking again."""


@dataclass(slots=True)
class Tally:
    """What the clients know of their own dealings."""

    bought: dict[str, str] = field(default_factory=dict)
    """The id of the charged call by the client's own name for it."""
    paid_msat: int = 0
    refused: list[str] = field(default_factory=list)
    """Answers that no client may get here."""


class Client:
    """Buys calls one after another, and asks again until it has each answer, over all restarts."""

    def __init__(self, load: "Load", number: int) -> None:
        self.load = load
        self.name = f"{type(self).__name__}{number}"
        self.calls = 0

    async def run(self) -> None:
        """Buys until the load is over; what was begun is finished."""
        while not self.load.over.is_set():
            await self.visit()

    async def visit(self) -> None:
        """Funds an account and spends it."""
        raise NotImplementedError

    async def post(self, path: str, body: object, headers: dict[str, str], *, wanted: int) -> dict[str, Any]:
        """Asks until the answer is there."""
        while True:
            with contextlib.suppress(*CONNECTION_LOST):
                answer = await self.load.http.post(path, json=body, headers=headers)
                if answer.status_code == wanted:
                    found: dict[str, Any] = answer.json()
                    return found
                if answer.status_code not in RETRIED:
                    self.load.tally.refused.append(f"{path} {answer.status_code} {answer.text}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def pay(self, invoice: str) -> str:
        """Pays, and gives the preimage."""
        paid = await self.load.simulation.pay(invoice)
        self.load.tally.paid_msat += paid.amount_msat
        return paid.preimage.hex()

    async def buy(self, headers: dict[str, str]) -> None:
        """One call, whatever it takes."""
        self.calls += 1
        name = f"{self.name} call {self.calls}"
        answer = await self.post("/api/ai-chat", {"prompt": name}, headers, wanted=200)
        self.load.tally.bought[name] = answer["request_id"]


class TokenClient(Client):
    """Funds a token and spends it with idempotency keys."""

    async def visit(self) -> None:
        session = await self.post(
            "/v1/sessions", {"amount_sats": TOKEN_CALLS * PRICE_MSAT // 1000}, {}, wanted=201
        )
        await self.pay(session["funding"]["lightning_invoice"])
        for _ in range(TOKEN_CALLS):
            headers = {"Authorization": f"Bearer {session['token']}", "Idempotency-Key": secrets.token_hex(8)}
            await self.buy(headers)


class L402Client(Client):
    """Pays for each call and repeats it with the same credential: its balance buys one call only."""

    async def visit(self) -> None:
        challenge = await self.post("/api/ai-chat", {}, {}, wanted=402)
        preimage = await self.pay(challenge["invoice"])
        await self.buy({"Authorization": f"L402 {challenge['macaroon']}:{preimage}"})


class Load:
    """The clients, from when the gateway first runs until it has run for the last time."""

    def __init__(self, simulation: Simulation, http: httpx.AsyncClient) -> None:
        self.simulation = simulation
        self.http = http
        self.tally = Tally()
        self.over = asyncio.Event()
        self.clients: list[Client] = [
            *(TokenClient(self, number) for number in range(TOKEN_CLIENTS)),
            *(L402Client(self, number) for number in range(L402_CLIENTS)),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The load runs until the block ends, and a little longer: open calls are finished."""
        async with asyncio.TaskGroup() as group:
            for client in self.clients:
                group.create_task(client.run())
            yield
            self.over.set()


Moment = Callable[[Simulation, random.Random], Awaitable[None]]


async def at_any_time(simulation: Simulation, dice: random.Random) -> None:
    """Whatever is going on."""
    await asyncio.sleep(dice.uniform(0.0, 0.3))


async def while_the_backend_works(simulation: Simulation, dice: random.Random) -> None:
    """The hold is committed, the request forwarded, no answer there."""
    simulation.chat.faults.always = "slow 0.3"
    seen = len(simulation.chat.received)
    await _until(lambda: len(simulation.chat.received) > seen + 2)
    await asyncio.sleep(dice.uniform(0.0, 0.2))


async def when_the_backend_has_answered(simulation: Simulation, dice: random.Random) -> None:
    """Between the backend's answer, the charge, and the reply to the client."""
    simulation.chat.faults.always = "slow 0.05"
    seen = len(simulation.chat.received)
    await _until(lambda: len(simulation.chat.received) > seen + 2)
    await asyncio.sleep(0.05 + dice.uniform(0.0, 0.01))


async def when_a_payment_settles(simulation: Simulation, dice: random.Random) -> None:
    """Between the payment, its credit, and the first use of it."""
    settled = simulation.gate.peer.settle_index
    await _until(lambda: simulation.gate.peer.settle_index > settled)
    await asyncio.sleep(dice.uniform(0.0, 0.01))


MOMENTS: tuple[Moment, ...] = (
    at_any_time,
    while_the_backend_works,
    when_the_backend_has_answered,
    when_a_payment_settles,
)


async def _until(fact: Callable[[], bool], seconds: float = 3.0) -> None:
    """Waits for a moment that the load brings about; goes on without it after a while."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not fact() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  seen from outside
        await asyncio.sleep(0.001)


async def broken_rules(loaded: Settings, simulation: Simulation) -> list[str]:
    """The invariants that fail, the ninth by the chat's own list of requests."""
    requests = simulation.chat.request_ids
    async with read_store(loaded.store_url) as statements:
        findings = [*await statements.verify(), await statements.verify_requests(requests)]
    return [finding.sentence for finding in findings if not finding.holds]


def read(loaded: Settings, query: str) -> list[Any]:
    """One column of the books."""
    with contextlib.closing(sqlite3.connect(app.sqlite_path(loaded))) as database:
        return [row[0] for row in database.execute(query)]


async def killed_under_load(
    loaded: Settings, load: Load, simulation: Simulation, dice: random.Random, crashes: int
) -> None:
    """Starts and kills the gateway, checks the books after each start, and lets the last one finish."""
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(crashes)]
    dice.shuffle(moments)
    async with contextlib.AsyncExitStack() as last:
        async with load.running():
            for number, moment in enumerate(moments):
                async with serving(loaded.file) as gateway:
                    await asyncio.sleep(dice.uniform(0.0, 0.1))
                    await moment(simulation, dice)
                    await gateway.killed()
                simulation.chat.faults.always = None
                assert await broken_rules(loaded, simulation) == [], f"after kill {number}, {moment.__name__}"
            gateway = await last.enter_async_context(serving(loaded.file))
        await all_is_resolved(loaded, simulation, gateway)


async def all_is_resolved(loaded: Settings, simulation: Simulation, gateway: Running) -> None:
    """Every hold is resolved by its deadline and the next sweep, and every payment is credited."""

    async def resolved() -> bool:
        return read(loaded, "SELECT call_id FROM hold WHERE state = 'open'") == []

    async def credited() -> bool:
        return credited_msat(loaded) == settled_msat(simulation)

    await eventually(resolved, HOLD_SECONDS + SWEEP_SECONDS + 2)
    await eventually(credited, 5)
    assert gateway.process.poll() is None


CHARGES = "SELECT transfer_id FROM transfer WHERE kind = 'charge'"
RELEASED = "SELECT call_id FROM hold WHERE state = 'released'"
CHARGED_CALLS = "SELECT request_id FROM hold WHERE state = 'settled'"
WITHOUT_ANSWER = (
    "SELECT call_id FROM hold WHERE state = 'settled' AND call_id NOT IN (SELECT call_id FROM answer)"
)


def credited_msat(loaded: Settings) -> int:
    """What has entered the customers' accounts."""
    return sum(map(int, read(loaded, "SELECT amount_msat FROM transfer WHERE kind = 'credit'")))


def settled_msat(simulation: Simulation) -> int:
    """What the gate's node has been paid."""
    return sum(invoice.paid_msat for invoice in simulation.gate.peer.invoices.values())


def test_kills_at_every_step_lose_nothing_and_charge_nothing_twice(tmp_path: Path) -> None:
    crashes = int(os.environ.get("ARKGATE_CRASHES", CRASHES_DEFAULT))
    seed = int(os.environ.get("ARKGATE_CRASH_SEED", secrets.randbelow(2**32)))
    print(f"ARKGATE_CRASH_SEED={seed} repeats this run")

    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation, EXTRA)
            async with httpx.AsyncClient(base_url=loaded.public_url, timeout=5) as http:
                load = Load(simulation, http)
                await killed_under_load(loaded, load, simulation, random.Random(seed), crashes)

            bought = load.tally.bought
            charged = read(loaded, CHARGED_CALLS)
            released = read(loaded, RELEASED)
            print(f"{crashes} kills, {len(bought)} calls bought, {len(released)} holds released")
            assert load.tally.refused == []
            assert await broken_rules(loaded, simulation) == []
            assert credited_msat(loaded) == settled_msat(simulation) == load.tally.paid_msat
            assert len(set(bought.values())) == len(bought)
            assert sorted(charged) == sorted(bought.values())
            assert len(read(loaded, CHARGES)) == len(bought)
            assert read(loaded, WITHOUT_ANSWER) == []
            assert released, "no kill met an open call: the load is too light to say anything"

    run(story())
