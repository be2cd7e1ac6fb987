"""`python -m tests.storm --seconds 1800 --seed 7`: runs a storm and audits what it left."""

import argparse
import asyncio
import contextlib
import random
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from arkgate.core.errors import StoreUnavailable
from tests import postgres
from tests.stage import run
from tests.storm import report
from tests.storm.audit import differences
from tests.storm.fleet import HOLD_SECONDS, Fleet, clocks_can_be_stepped, fleet, small_disk
from tests.storm.shoppers import Journal, Shopper
from tests.storm.weather import Weather

REPLICAS = 3
SHOPPERS = 8
READY_SECONDS = 60
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
        impossible = {}
        if not all(mounted):
            impossible["fill_a_disk"] = "no file system can be mounted here (it needs root)"
        if not clocks_can_be_stepped(directory):
            impossible["step_a_clock"] = "libfaketime is not here (apt-get install faketime)"
        server = postgres.new_server(parent=disks["postgres"])
        stack.callback(server.remove)
        print(f"storm: seed {seed}, {arguments.seconds} seconds, commit {_commit()}", flush=True)
        for kind, why in impossible.items():
            print(f"storm: the weather will not {kind.replace('_', ' ')}: {why}", flush=True)
        weather = Weather([], server, random.Random(seed), impossible)
        found = run(_storm(directory, disks, weather, seconds=arguments.seconds, seed=seed))
    raise SystemExit(1 if found else 0)


def _commit() -> str:
    """The commit of the code that is tested, and whether it was changed since."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(describe, check=False, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


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
        journals = [Journal() for _ in fleets]
        shoppers = [
            Shopper(one, journal, seed * 1000 + number)
            for one, journal in zip(fleets, journals, strict=True)
            for number in range(SHOPPERS)
        ]
        found = [sentence for one in fleets for sentence in await _ready(one)]
        supervising = asyncio.create_task(weather.supervise())
        try:
            found += await _shop(shoppers, journals, weather, seconds=seconds)
            found += await _settled(fleets, journals, shoppers)
        finally:
            supervising.cancel()
            await asyncio.wait({supervising})
        found += [sentence for one in fleets for sentence in report.misbehaviour(one)]
    for line in (*report.counts(weather, fleets, journals), *found):
        print(line)
    operations = sum(journal.operations for journal in journals)
    print(f"storm: {operations} operations, {weather.kills} kills, {len(found)} differences", flush=True)
    return found


async def _shop(
    shoppers: list[Shopper], journals: list[Journal], weather: Weather, *, seconds: int
) -> list[str]:
    """Shops in the storm, then finishes in fair weather; one sentence for each client that does not."""
    over, calm = asyncio.Event(), asyncio.Event()
    shopping = [asyncio.create_task(shopper.run(over)) for shopper in shoppers]
    storming = asyncio.create_task(weather.run(calm))
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not storming.done():
        await asyncio.wait({storming}, timeout=min(60.0, left))
        operations = sum(journal.operations for journal in journals)
        left = until - time.monotonic()
        print(f"  {left:5.0f} s left, {operations} operations, {weather.kills} kills", flush=True)
    calm.set()
    await storming
    await weather.clear_up()
    over.set()
    waiting = await report.unfinished(shoppers, shopping, within_seconds=FINISH_SECONDS)
    if waiting:
        print("storm: an unfinished run. What is there is audited all the same.", flush=True)
        for one in weather.fleets:
            for sentence in await report.states(one):
                print(sentence, flush=True)
    return waiting


async def _settled(fleets: list[Fleet], journals: list[Journal], shoppers: list[Shopper]) -> list[str]:
    """The differences that stay once holds have ended and look-ups have caught up."""
    unready = [sentence for one in fleets for sentence in await _ready(one)]
    await asyncio.sleep(2 * HOLD_SECONDS)
    for number, _ in enumerate(fleets):
        await shoppers[number * SHOPPERS].learn()
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = []
        for one, journal in zip(fleets, journals, strict=True):
            try:
                found += await differences(one, journal)
            except StoreUnavailable as refusal:
                found.append(f"{one.name}: the books cannot be read: {refusal.message}")
        if not found or time.monotonic() > deadline:
            return unready + found
        await asyncio.sleep(3)


async def _ready(one: Fleet) -> list[str]:
    """Waits until every gateway of a fleet is; afterwards one sentence for each that is not."""
    until = time.monotonic() + READY_SECONDS
    waiting = list(one.gates)
    async with httpx.AsyncClient(timeout=5) as http:
        while waiting and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{waiting[0].url}/health/ready")).status_code == 200:
                    waiting.pop(0)
                    continue
            await waiting[0].supervise()
            await asyncio.sleep(0.1)
    if not waiting:
        return []
    return [f"not ready after {READY_SECONDS} s: {sentence}" for sentence in await report.states(one)]


if __name__ == "__main__":
    main()
