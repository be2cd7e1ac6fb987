"""The gateways of a storm: processes on one set of books, beside a simulated network of their own."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from arkgate.simulator.simulation import Simulation
from tests.cli.program import Running, free_port_base, started
from tests.stage import write_settings

PRICE_MSAT = 50_000
HOLD_SECONDS = 6
"""The shortest that settings allow: a total timeout of one second and a margin of five."""
DISK_BYTES = 700 * 1024 * 1024
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(slots=True)
class Gate:
    """One gateway process, again and again."""

    home: Path
    port: int
    running: Running | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        """Its public address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it; does not wait until it is ready."""
        for old in self.home.glob("program-*"):
            old.unlink()
        self.running = await self._stack.enter_async_context(
            started("serve", "--config", self.home / "arkgate.toml", directory=self.home, **self._variables())
        )

    def _variables(self) -> dict[str, str]:
        """What puts its clock under our hand, where that is possible."""
        if not FAKETIME.exists():
            return {}
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.home / "clock"),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def set_clock(self, offset_seconds: int) -> None:
        """Steps its wall clock."""
        (self.home / "clock").write_text(f"{offset_seconds:+d}\n")

    async def stop(self, number: signal.Signals) -> None:
        """Ends it and waits for the end."""
        if self.running is not None and self.running.process.poll() is None:
            self.running.process.send_signal(number)
            try:
                await self.running.ended(30)
            except subprocess.TimeoutExpired:
                await self.running.killed()
        await self._stack.aclose()
        self.running = None


@dataclass(slots=True)
class Fleet:
    """Gateways that share their books."""

    name: str
    store_url: str
    simulation: Simulation
    gates: list[Gate]
    disk: Path
    """Where its database lives."""
    backend_log: Path
    """What its backend saw."""

    def fill_disk(self) -> None:
        """Takes all that is left of the database's disk."""
        left = shutil.disk_usage(self.disk).free
        with contextlib.suppress(OSError), (self.disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, left)

    def free_disk(self) -> None:
        """Gives it back."""
        (self.disk / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """A file system of its own at that path, small enough to be filled; False where none can be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    mounted = subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode == 0
    path.chmod(0o755)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", path], check=False)


@contextlib.asynccontextmanager
async def fleet(directory: Path, name: str, store_url: str, number: int, disk: Path) -> AsyncIterator[Fleet]:
    """So many gateways on the books at that URL, started."""
    home = directory / name
    home.mkdir()
    log = home / "backend-requests.jsonl"
    async with Simulation.running(
        data_dir=home / "simulator",
        durable=False,
        chat_models=("simulated-chat",),
        settle_delay_seconds=0.01,
        chat_log=log,
    ) as simulation:
        gates = [_gate(home, store_url, simulation, one) for one in range(number)]
        for gate in gates:
            await gate.start()
        try:
            yield Fleet(name, store_url, simulation, gates, disk, log)
        finally:
            await asyncio.gather(*(gate.stop(signal.SIGTERM) for gate in gates))


def _gate(home: Path, store_url: str, simulation: Simulation, number: int) -> Gate:
    place = home / f"gate-{number}"
    place.mkdir()
    port = free_port_base()
    write_settings(
        place / "arkgate.toml",
        simulation,
        port=port,
        operator_port=port + 1,
        extra={
            "[store]": f'url = "{store_url}"\nkeys_file = "{home / "keys.json"}"\nlog_megabytes = 16',
            "[backend]": "total_timeout_seconds = 1\nhold_margin_seconds = 5",
            "[[services]]": "calls_per_day = 0",
        },
    )
    gate = Gate(place, port)
    gate.set_clock(0)
    return gate
