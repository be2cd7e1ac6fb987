"""Measures how long a payment takes from the node's event to a credited balance, while sessions are open.

    python -m bench.settling [--open 1000] [--per-second 100] [--seconds 10]

The simulated nodes run in this process, on the load's core, and note when an invoice is settled; the
gateway runs alone on its own and logs when the credit is durable. Both read one clock.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx

from arkgate.cli.demo import CHAT_MODEL, write_config
from arkgate.cli.places import Ports
from arkgate.simulator.records import InvoiceRow
from arkgate.simulator.simulation import Simulation
from bench.servers import SERVER_CORE

PORT_BASE = 18500
P50_TARGET_MS, P99_TARGET_MS = 10.0, 50.0
WAITS_SECONDS = 30.0
OPENED_AT_ONCE = 16


@contextlib.contextmanager
def gateway(config: Path, log: Path) -> Iterator[None]:
    """The gateway on its core, its log in a file."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "arkgate", "serve"]
    with log.open("w") as file:
        started = subprocess.Popen(
            [*command, "--config", str(config)], stdout=subprocess.PIPE, stderr=file, text=True
        )
        try:
            assert started.stdout is not None
            if not any(line.startswith("ready") for line in started.stdout):
                raise SystemExit("the gateway ended before it was ready")
            yield
        finally:
            started.terminate()
            started.wait(30)


async def open_sessions(url: str, count: int) -> list[str]:
    """The invoices of so many new sessions."""
    slots = asyncio.Semaphore(OPENED_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def one() -> str:
            async with slots:
                answer = await http.post("/v1/sessions", json={"amount_sats": 100})
            answer.raise_for_status()
            return str(answer.json()["funding"]["lightning_invoice"])

        return list(await asyncio.gather(*(one() for _ in range(count))))


async def settle(simulation: Simulation, invoices: list[str], per_second: float) -> dict[str, float]:
    """Pays them at that pace; when the node settled each, in Unix seconds by payment hash."""
    settled: dict[str, float] = {}

    def note(row: InvoiceRow) -> None:
        if row.settled:
            settled[row.payment_hash.hex()] = time.time()

    simulation.gate.peer.listeners.insert(0, note)
    began = time.monotonic()
    for number, invoice in enumerate(invoices):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        simulation.network.pay(simulation.payer.peer, invoice)
    return settled


def credited(log: Path) -> dict[str, float]:
    """When the gateway logged each credit, in Unix seconds by payment hash."""
    found: dict[str, float] = {}
    for line in log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if event.get("event") == "payment credited":
                found[event["payment_hash"]] = datetime.fromisoformat(event["timestamp"]).timestamp()
    return found


async def all_credited(log: Path, count: int) -> dict[str, float]:
    """As `credited`, once there are so many, or after a while."""
    until = time.monotonic() + WAITS_SECONDS
    while len(found := credited(log)) < count and time.monotonic() < until:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.2)
    return found


async def measure(directory: Path, waiting: int, per_second: float, seconds: float) -> list[float]:
    """Milliseconds from settled to credited, of each payment, shortest first."""
    ports = Ports(PORT_BASE)
    async with Simulation.running(
        data_dir=directory / "simulator", chat_models=(CHAT_MODEL,), durable=False, settle_delay_seconds=0.01
    ) as simulation:
        config = write_config(directory, ports, simulation)
        text = config.read_text().replace("sessions_per_hour_and_client = 1000", "")
        config.write_text(text + "sessions_per_hour_and_client = 1000000\nsessions_per_hour = 1000000\n")
        log = directory / "gateway.log"
        with contextlib.ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, gateway(config, log))
            url = f"http://127.0.0.1:{ports.gateway}"
            await open_sessions(url, waiting)
            invoices = await open_sessions(url, round(per_second * seconds))
            settled = await settle(simulation, invoices, per_second)
            found = await all_credited(log, len(invoices))
            await asyncio.to_thread(stack.close)
    missing = set(settled) - set(found)
    if missing or len(settled) != len(invoices):
        raise SystemExit(f"the measurement is void: {len(missing)} payments were not credited")
    return sorted((found[payment] - at) * 1000 for payment, at in settled.items())


def main() -> None:
    """Measures and prints. Ends with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.settling")
    parser.add_argument("--open", type=int, default=1000, help="sessions that nobody pays meanwhile")
    parser.add_argument("--per-second", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arkgate-bench-") as name:
        took = asyncio.run(measure(Path(name), asked.open, asked.per_second, asked.seconds))
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    print(f"settled to credited: {len(took)} payments, {asked.per_second:.0f} a second")
    print(f"beside {asked.open} sessions that wait: p50 {p50:.1f} ms, p99 {p99:.1f}, longest {took[-1]:.1f}")
    missed = p50 >= P50_TARGET_MS or p99 >= P99_TARGET_MS
    word = "MISSED" if missed else "met   "
    print(f"{word} p50 below {P50_TARGET_MS:.0f} ms and p99 below {P99_TARGET_MS:.0f} ms")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
