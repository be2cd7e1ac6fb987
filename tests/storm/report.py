"""What a storm says at its end: who did not finish and why, and everything that was counted."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Sequence

import httpx

from tests.storm.fleet import Fleet, Gate
from tests.storm.shoppers import Journal, Shopper
from tests.storm.weather import Weather

LOG_LINES = 5


async def unfinished(
    shoppers: Sequence[Shopper], shopping: Sequence[asyncio.Task[None]], *, within_seconds: float
) -> list[str]:
    """One sentence for each client that did not finish in that time, or that failed; ends them all."""
    await asyncio.wait(shopping, timeout=within_seconds)
    found = []
    for shopper, task in zip(shoppers, shopping, strict=True):
        if not task.done():
            asked = shopper.asking or "for nothing: it waits for a payment"
            found.append(f"{shopper.name} did not finish within {within_seconds:.0f} s. It asks {asked}")
            task.cancel()
    for shopper, ended in zip(shoppers, await asyncio.gather(*shopping, return_exceptions=True), strict=True):
        if isinstance(ended, Exception):
            found.append(f"{shopper.name} failed: {ended!r}")
    return found


async def states(fleet: Fleet) -> list[str]:
    """What each gateway says of itself, and the end of its log."""
    async with httpx.AsyncClient(timeout=10) as http:
        return [f"{fleet.name} {gate.home.name}: {await _state(http, gate)}" for gate in fleet.gates]


async def _state(http: httpx.AsyncClient, gate: Gate) -> str:
    log = f"its log ends:\n{gate.last_words(LOG_LINES)}"
    running = gate.running
    if running is None:
        return "it is not running"
    if running.process.poll() is not None:
        return f"it ended with status {running.process.returncode}; {log}"
    try:
        answer = await http.get(f"{gate.url}/health/ready")
    except httpx.HTTPError as error:
        return f"it does not say whether it is ready ({error!r}); {log}"
    readiness = answer.text
    with contextlib.suppress(ValueError, KeyError):
        found = json.loads(answer.text)
        named = (f"{name} {one['state']}" for name, one in found["dependencies"].items())
        readiness = f"{found['status']}: {', '.join(named)}"
    return f"{answer.status_code} {readiness}; {log}"


def misbehaviour(fleet: Fleet) -> list[str]:
    """One sentence for each time that a gateway ended although nobody had ended it."""
    return [
        f"{fleet.name}: {gate.home.name} ended by itself: {words}"
        for gate in fleet.gates
        for words in gate.ended_alone
    ]


def counts(weather: Weather, fleets: Sequence[Fleet], journals: Sequence[Journal]) -> list[str]:
    """Everything that was counted, a line each."""
    lines = ["weather:", *_lines(weather.events)]
    lines += [f"      0 {name.replace('_', ' ')}: {why}" for name, why in weather.impossible.items()]
    for fleet, journal in zip(fleets, journals, strict=True):
        lines += [f"{fleet.name}, its clients:", *_lines(journal.deeds)]
        lines += [f"{fleet.name}, what they were told:", *_lines(journal.answers)]
        refused, errors = Counter[str](), Counter[str]()
        for gate in fleet.gates:
            refused += gate.refused_to_start
            errors += gate.errors
        if refused:
            lines += [f"{fleet.name}, starts that were refused:", *_lines(refused)]
        if errors:
            lines += [f"{fleet.name}, errors in the gateways' logs:", *_lines(errors)]
    return lines


def _lines(counted: Counter[str]) -> list[str]:
    return [f"  {number:5} {name}" for name, number in sorted(counted.items()) if number]
