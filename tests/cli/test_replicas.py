"""Several gateways as processes of their own on one PostgreSQL: any of them may die."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from arkgate.core.ledger import Finding
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store, revisions
from tests import postgres
from tests.cli.program import PROGRAM, Running, configured, serving, simulated
from tests.stage import PROMPT, eventually, run

OLDER = (sys.executable, Path(__file__).with_name("older.py"))
pytestmark = pytest.mark.usefixtures("postgres_server")


class Replica:
    """One gateway process of several."""

    def __init__(self, process: Running, http: httpx.AsyncClient) -> None:
        self.process = process
        self.http = http

    async def session(self, amount_sats: int) -> dict[str, Any]:
        """`POST /v1/sessions`."""
        body: dict[str, Any] = (
            await self.http.post("/v1/sessions", json={"amount_sats": amount_sats})
        ).json()
        return body

    async def chat(self, authorization: str | None = None) -> httpx.Response:
        """`POST /api/ai-chat`."""
        headers = {"Authorization": authorization} if authorization else {}
        return await self.http.post("/api/ai-chat", json=PROMPT, headers=headers)

    async def balance(self, token: str) -> int:
        """What a token has, in sats."""
        answer = await self.http.get("/v1/balance", headers={"Authorization": f"Bearer {token}"})
        return int(answer.json()["balance_sats"])

    @property
    def watches(self) -> bool:
        """Whether it has taken the duty to follow the node's stream."""
        return '"duty": "watch gate"' in self.process.errors or '"duty":"watch gate"' in self.process.errors


@contextlib.asynccontextmanager
async def replica(
    directory: Path,
    simulation: Simulation,
    url: str,
    number: int,
    program: tuple[str | Path, ...] = (PROGRAM,),
) -> AsyncIterator[Replica]:
    """A gateway on the shared books, with the shared keys."""
    home = directory / f"replica-{number}"
    home.mkdir()
    store = f'url = "{url}"\nkeys_file = "{directory / "keys.json"}"'
    loaded = configured(home, simulation, {"[store]": store, "[[services]]": "calls_per_day = 0"})
    async with (
        serving(loaded.file, program) as process,
        httpx.AsyncClient(base_url=loaded.public_url, timeout=30) as http,
    ):
        yield Replica(process, http)


async def broken(url: str, simulation: Simulation) -> list[Finding]:
    """The invariants that fail, the ninth included."""
    async with read_store(url) as statements:
        requests = simulation.chat.request_ids
        findings = [*await statements.verify(), await statements.verify_requests(requests)]
    return [finding for finding in findings if not finding.holds]


def test_what_is_bought_at_one_gateway_is_spent_at_another_also_after_a_kill(tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            simulation = await stack.enter_async_context(simulated(tmp_path))
            url = await stack.enter_async_context(postgres.database())
            gates = [
                await stack.enter_async_context(replica(tmp_path, simulation, url, number))
                for number in range(3)
            ]
            first, second, third = gates

            session = await first.session(500)
            await simulation.pay(session["funding"]["lightning_invoice"])
            challenge = (await second.chat()).json()
            paid = await simulation.pay(challenge["invoice"])
            credential = f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"
            bought = await asyncio.gather(third.chat(credential), first.chat(credential))

            async def is_funded() -> bool:
                return await third.balance(session["token"]) == 500

            await eventually(is_funded)
            assert sorted(answer.status_code for answer in bought)[0] == 200
            assert (await second.chat(f"Bearer {session['token']}")).status_code == 200

            (watcher,) = [gate for gate in gates if gate.watches]
            await watcher.process.killed()
            others = [gate for gate in gates if gate is not watcher]
            later = await others[0].session(100)
            await simulation.pay(later["funding"]["lightning_invoice"])

            async def is_taken_over() -> bool:
                return any(gate.watches for gate in others)

            async def is_funded_too() -> bool:
                return await others[1].balance(later["token"]) == 100

            await eventually(is_taken_over, 8)
            await eventually(is_funded_too)
            assert (await others[0].chat(f"Bearer {later['token']}")).status_code == 200
            assert await broken(url, simulation) == []

    run(asyncio.wait_for(story(), 100))


def test_a_replica_with_other_keys_does_not_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            simulation = await stack.enter_async_context(simulated(tmp_path))
            url = await stack.enter_async_context(postgres.database())
            await stack.enter_async_context(replica(tmp_path, simulation, url, 1))
            (tmp_path / "keys.json").unlink()
            with pytest.raises(AssertionError, match="is missing although"):
                await stack.enter_async_context(replica(tmp_path, simulation, url, 2))

    run(asyncio.wait_for(story(), 60))


def test_gateways_are_replaced_one_by_one_across_a_revision_while_they_sell(tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            simulation = await stack.enter_async_context(simulated(tmp_path))
            url = await stack.enter_async_context(postgres.database(empty=True))
            old = await stack.enter_async_context(replica(tmp_path, simulation, url, 0, OLDER))
            assert await revision(url) == revisions.REVISIONS[0]
            session = await old.session(1_000_000)
            await simulation.pay(session["funding"]["lightning_invoice"])
            token = f"Bearer {session['token']}"

            async def is_funded() -> bool:
                return await old.balance(session["token"]) > 0

            await eventually(is_funded)
            sold: dict[Replica, int] = {}
            over = asyncio.Event()

            async def sell(gate: Replica) -> None:
                while not over.is_set():
                    answer = await gate.chat(token)
                    assert answer.status_code == 200, answer.text
                    sold[gate] = sold.get(gate, 0) + 1

            selling = [asyncio.create_task(sell(old)) for _ in range(4)]
            new = await stack.enter_async_context(replica(tmp_path, simulation, url, 1))
            assert await revision(url) == revisions.REVISIONS[-1]
            selling += [asyncio.create_task(sell(new)) for _ in range(4)]
            restarted = await stack.enter_async_context(replica(tmp_path, simulation, url, 2, OLDER))
            selling.append(asyncio.create_task(sell(restarted)))
            await asyncio.sleep(1)
            over.set()
            await asyncio.gather(*selling)

            assert min(sold[gate] for gate in (old, new, restarted)) > 0
            assert await new.balance(session["token"]) == 1_000_000 - 50 * sum(sold.values())
            assert await broken(url, simulation) == []

    run(asyncio.wait_for(story(), 100))


async def revision(url: str) -> str:
    """The revision of the tables."""
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT version_num FROM alembic_version"))
    finally:
        await connection.close()


def test_two_that_start_first_at_once_with_keys_of_their_own_do_not_both_run(tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            simulation = await stack.enter_async_context(simulated(tmp_path))
            url = await stack.enter_async_context(postgres.database(empty=True))

            async def start(number: int) -> Replica:
                home = tmp_path / f"host-{number}"
                home.mkdir()
                return await stack.enter_async_context(replica(home, simulation, url, number))

            started = await asyncio.gather(start(1), start(2), return_exceptions=True)
            refused = [str(one) for one in started if isinstance(one, AssertionError)]
            assert len(refused) == 1, started
            assert "another key version 1" in refused[0] or "is missing although" in refused[0]

    run(asyncio.wait_for(story(), 60))
