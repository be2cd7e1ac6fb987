"""`python -m tests.storm --seconds 1800 --seed 7`: runs a storm and audits what it left."""

import argparse
import asyncio
import contextlib
import random
import signal
import tempfile
import time
from pathlib import Path

import httpx

from tests import postgres
from tests.stage import run
from tests.storm.audit import differences
from tests.storm.fleet import HOLD_SECONDS, Fleet, fleet, small_disk
from tests.storm.shoppers import Journal, Shopper
from tests.storm.weather import Weather

REPLICAS = 3
SHOPPERS = 8
FINISH_SECONDS = 180
SETTLE_SECONDS = 90
"""How long the gateways have to put everything right after the storm."""


def main() -> None:
    """Prints what happened; the last line counts, and the exit status says whether all agreed."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="arkgate-storm-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        disks = {engine: directory / f"{engine}-disk" for engine in ("sqlite", "postgres")}
        mounted = [stack.enter_context(small_disk(disk)) for disk in disks.values()]
        if not all(mounted):
            print("storm: no disk is filled, because none can be mounted here")
        server = postgres.new_server(parent=disks["postgres"])
        stack.callback(server.remove)
        print(f"storm: seed {seed}, {arguments.seconds} seconds", flush=True)
        weather = Weather([], server, random.Random(seed), fill_disks=all(mounted))
        found = run(_storm(directory, disks, weather, seconds=arguments.seconds, seed=seed))
    raise SystemExit(1 if found else 0)


async def _storm(
    directory: Path, disks: dict[str, Path], weather: Weather, *, seconds: int, seed: int
) -> list[str]:
    async with contextlib.AsyncExitStack() as stack:
        url = weather.server.url
        fleets = weather.fleets = [
            await stack.enter_async_context(fleet(directory, "postgres", url, REPLICAS, disks["postgres"])),
            await stack.enter_async_context(
                fleet(directory, "sqlite", f"sqlite:///{disks['sqlite']}/ledger.db", 1, disks["sqlite"])
            ),
        ]
        for one in fleets:
            await _ready(one)
        journals = [Journal() for _ in fleets]
        shoppers = await _shop(fleets, journals, weather, seconds=seconds, seed=seed)
        found = await _settled(fleets, journals, shoppers)
    for sentence in found:
        print(sentence)
    for name, number in sorted(weather.events.items()):
        print(f"  {number:5} {name.replace('_', ' ')}")
    operations = sum(journal.operations for journal in journals)
    print(f"storm: {operations} operations, {weather.kills} kills, {len(found)} differences", flush=True)
    return found


async def _shop(
    fleets: list[Fleet], journals: list[Journal], weather: Weather, *, seconds: int, seed: int
) -> list[Shopper]:
    """Shops in the storm, then finishes in fair weather."""
    over, calm = asyncio.Event(), asyncio.Event()
    shoppers = [
        Shopper(one, journal, seed * 1000 + number)
        for one, journal in zip(fleets, journals, strict=True)
        for number in range(SHOPPERS)
    ]
    shopping = [asyncio.create_task(shopper.run(over)) for shopper in shoppers]
    storming = asyncio.create_task(weather.run(calm))
    until = time.monotonic() + seconds
    while time.monotonic() < until and not storming.done():
        await asyncio.sleep(min(60.0, max(0.1, until - time.monotonic())))
        operations = sum(journal.operations for journal in journals)
        print(
            f"  {int(until - time.monotonic()):5} s left, {operations} operations, {weather.kills} kills",
            flush=True,
        )
    calm.set()
    await storming
    await weather.clear_up()
    over.set()
    async with asyncio.timeout(FINISH_SECONDS):
        await asyncio.gather(*shopping)
    return shoppers


async def _settled(fleets: list[Fleet], journals: list[Journal], shoppers: list[Shopper]) -> list[str]:
    """The differences that stay once holds have ended and look-ups have caught up."""
    for one in fleets:
        await _ready(one)
    await asyncio.sleep(2 * HOLD_SECONDS)
    for number, _ in enumerate(fleets):
        await shoppers[number * SHOPPERS].learn()
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = [
            sentence
            for one, journal in zip(fleets, journals, strict=True)
            for sentence in await differences(one, journal)
        ]
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(3)


async def _ready(one: Fleet) -> None:
    """Waits until every gateway of a fleet is."""
    async with httpx.AsyncClient(timeout=5) as http, asyncio.timeout(60):
        for gate in one.gates:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"{gate.url}/health/ready")).status_code == 200:
                        break
                if gate.running is None or gate.running.process.poll() is not None:
                    await gate.stop(signal.SIGKILL)
                    await gate.start()
                await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
