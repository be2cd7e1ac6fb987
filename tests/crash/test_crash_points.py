"""A kill before and after every durable step, on every engine: nothing is lost, nothing is charged twice.

ARKGATE_CRASH_POINT runs the points whose name contains it.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from arkgate.store import read_store
from arkgate.store.postgres import connections
from tests import postgres
from tests.crash import points, scenarios
from tests.crash.child import Blow
from tests.crash.gateways import (
    HOLD_SECONDS,
    PRICE_SATS,
    Client,
    Engine,
    Gateway,
    beside_simulation,
    broken_rules,
    configure,
)
from tests.crash.points import Step
from tests.crash.scenarios import Scenario
from tests.stage import eventually, run

AT_ONCE = 12
REACHED_SECONDS = 10.0
CASE_SECONDS = 60.0


async def _file(directory: Path, books: str) -> str:
    return f"sqlite:///{directory}/{books}.db"


@contextlib.asynccontextmanager
async def _locked_file(url: str) -> AsyncIterator[None]:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def _database(directory: Path, books: str) -> str:
    return await postgres.books_of(directory / books)


@contextlib.asynccontextmanager
async def _locked_tables(url: str) -> AsyncIterator[None]:
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE account, meta IN EXCLUSIVE MODE")
            yield
    finally:
        await other.close()


@contextlib.asynccontextmanager
async def _readonly_database(url: str) -> AsyncIterator[None]:
    name = url.rpartition("/")[2]
    reconnect = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    administrator = await asyncpg.connect(postgres.at("postgres"))
    try:
        await administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await administrator.execute(reconnect)
        yield
    finally:
        await administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await administrator.execute(reconnect)
        await administrator.close()


@dataclass(frozen=True, slots=True)
class Engined:
    """An engine with the steps that are its own, and what reaches them."""

    engine: Engine
    steps: Sequence[Step]
    table: Mapping[str, Sequence[Scenario]]


IMPATIENT_POSTGRES = {
    "arkgate.store.postgres.ledger.CROSSED_SECONDS": 0.1,
    "arkgate.store.postgres.connections._SETTINGS": {**connections._SETTINGS, "lock_timeout": "100ms"},
}
ENGINES = {
    "sqlite": Engined(
        Engine(
            "sqlite",
            _file,
            _locked_file,
            _locked_file,
            {"arkgate.store.sqlite.connections.BUSY_SECONDS": 0.2},
        ),
        points.sqlite_steps(),
        scenarios.SQLITE,
    ),
    "postgres": Engined(
        Engine("postgres", _database, _locked_tables, _readonly_database, IMPATIENT_POSTGRES),
        points.postgres_steps(),
        scenarios.POSTGRES,
    ),
}


def problems_of(steps: Sequence[Step], table: Mapping[str, Sequence[Scenario]]) -> list[str]:
    """Steps that no story leads to, and stories that lead to no step."""
    names = {step.name for step in steps}
    return [
        *(
            f"{name} is a durable step without a crash test: say in tests/crash/scenarios.py which story "
            "reaches it, or write one."
            for name in sorted(names - set(table))
        ),
        *(
            f"{name} in tests/crash/scenarios.py is no step of the code any more: rename it or take it out."
            for name in sorted(set(table) - names)
        ),
    ]


def test_every_step_of_the_gateway_has_a_story_that_reaches_it() -> None:
    assert problems_of(points.gateway_steps(), scenarios.GATEWAY) == []
    assert problems_of(points.key_file_steps(), scenarios.KEY_FILE) == []


@pytest.mark.parametrize("name", ENGINES)
def test_every_step_of_an_engine_has_a_story_that_reaches_it(name: str) -> None:
    assert problems_of(ENGINES[name].steps, ENGINES[name].table) == []


@dataclass(frozen=True, slots=True)
class Case:
    """One kill."""

    step: Step
    after: bool
    scenario: Scenario

    @property
    def name(self) -> str:
        return f"{'after' if self.after else 'before'} {self.step.name} when {self.scenario.name}"


def cases_of(engined: Engined) -> list[Case]:
    """Every kill of an engine, those that take longest not last."""
    table = {**scenarios.GATEWAY, **scenarios.KEY_FILE, **engined.table}
    steps = [*points.gateway_steps(), *points.key_file_steps(), *engined.steps]
    wanted = os.environ.get("ARKGATE_CRASH_POINT", "")
    cases = [
        Case(step, after, scenario)
        for step in steps
        for scenario in table[step.name]
        for after in (False, True)
    ]
    return [case for case in cases if wanted in case.name]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ENGINES)
def test_a_kill_at_every_point_loses_nothing_and_charges_nothing_twice(name: str, tmp_path: Path) -> None:
    if name == "postgres":
        postgres.prepare()

    async def story() -> list[str]:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, case: Case) -> str | None:
            async with turns:
                directory = tmp_path / str(number)
                directory.mkdir()
                try:
                    async with asyncio.timeout(CASE_SECONDS):
                        await survived(case, ENGINES[name].engine, directory)
                except (AssertionError, TimeoutError) as fault:
                    return f"{directory} {case.name}: {fault!r}"
                return None

        cases = cases_of(ENGINES[name])
        assert cases, "no point has such a name"
        ends = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))
        print(f"{len(cases)} kills at {len({case.step.name for case in cases})} steps")
        return [fault for fault in ends if fault is not None]

    faults = run(story())

    assert not faults, "\n".join(faults)


async def survived(case: Case, engine: Engine, directory: Path) -> None:
    """Plays the story around the blow. Raises AssertionError when anything is not as promised."""
    async with contextlib.AsyncExitStack() as stack:
        simulation = await stack.enter_async_context(beside_simulation(directory))
        gateway = Gateway(
            directory,
            simulation,
            engine,
            await configure(directory, simulation, engine),
            {**case.scenario.pauses, **(engine.impatient if case.scenario.impatient else {})},
            case.scenario.settings,
            Blow(case.step, case.after, directory / "armed", case.scenario.time),
        )
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.loaded.public_url, timeout=5, verify=False)
        )
        client = Client(gateway, http)
        if case.scenario.at_start:
            client.arm()
        await stack.enter_async_context(gateway.running())
        await told(case, client)
        await settled(client)


async def told(case: Case, client: Client) -> None:
    """The story has come to its end, the blow has fallen meanwhile, and the books were sound then."""
    story = asyncio.ensure_future(case.scenario.story(client))
    struck = asyncio.create_task(client.gateway.struck.wait())
    try:
        await asyncio.wait({story}, timeout=REACHED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({struck}, timeout=REACHED_SECONDS)
        if not struck.done():
            await asyncio.wait({story}, timeout=0)
            if story.done():
                story.result()
            raise AssertionError(
                f"{case.name} was not reached: the story in tests/crash/scenarios.py must lead there"
            )
        await story
    finally:
        story.cancel()
        struck.cancel()


async def settled(client: Client) -> None:
    """What is promised after any kill, as soon as the last hold's deadline has passed."""
    url = client.gateway.loaded.store_url

    async def resolved() -> bool:
        async with read_store(url) as statements:
            totals = await statements.totals()
        return totals.open_holds == 0 and totals.credited == client.paid_msat

    await eventually(resolved, HOLD_SECONDS + 5)
    async with read_store(url) as statements:
        totals = await statements.totals()
    assert len(set(client.bought)) == len(client.bought)
    assert totals.charged == len(client.bought) * PRICE_SATS * 1000
    assert await broken_rules(client.gateway) == []
