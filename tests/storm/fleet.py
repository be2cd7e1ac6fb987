"""The gateways of a storm: processes on one set of books, beside a simulated network of their own."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation
from tests.cli.program import Running, started
from tests.ports import free_port_base
from tests.stage import write_settings

PRICE_MSAT = 50_000
HOLD_SECONDS = 6
"""The shortest that settings allow: a total timeout of one second and a margin of five."""
DISK_BYTES = 700 * 1024 * 1024
FILL_TRIES = 20
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(slots=True)
class Gate:
    """One gateway process, again and again."""

    home: Path
    port: int
    running: Running | None = None
    ended_alone: list[str] = field(default_factory=list)
    """What it said each time it ended after it had been ready and nobody had ended it: it never may."""
    refused_to_start: Counter[str] = field(default_factory=Counter)
    """Why it ended before it was ready, which its supervisor answers with another start."""
    errors: Counter[str] = field(default_factory=Counter)
    """The errors in its logs, by event."""
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        """Its public address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it; does not wait until it is ready."""
        async with self._one_at_a_time:
            await self._start()

    async def _start(self) -> None:
        for old in self.home.glob("program-*"):
            old.unlink()
        variables = under_our_clock(self.home / "clock") if FAKETIME.exists() else {}
        self.running = await self._stack.enter_async_context(
            started("serve", "--config", self.home / "arkgate.toml", directory=self.home, **variables)
        )

    def set_clock(self, offset_seconds: int) -> None:
        """Steps its wall clock."""
        new = self.home / "new-clock"
        new.write_text(f"{offset_seconds:+d}\n")
        new.replace(self.home / "clock")

    async def stop(self, number: signal.Signals) -> None:
        """Ends it and waits for the end."""
        async with self._one_at_a_time:
            await self._stop(number)

    async def _stop(self, number: signal.Signals) -> None:
        if self.running is not None and self.running.process.poll() is None:
            self.running.process.send_signal(number)
            try:
                await self.running.ended(30)
            except subprocess.TimeoutExpired:
                await self.running.killed()
        if self.running is not None:
            self._read_log(self.running)
        await self._stack.aclose()
        self.running = None

    async def restart(self, number: signal.Signals, pause_seconds: float = 0.0) -> None:
        """Ends it and starts it again a moment later."""
        async with self._one_at_a_time:
            await self._stop(number)
            await asyncio.sleep(pause_seconds)
            await self._start()

    async def supervise(self) -> None:
        """Starts it again when it ended by itself, as an operator's supervisor does."""
        async with self._one_at_a_time:
            ended = self.running
            if ended is None or ended.process.poll() is None:
                return
            words = self.last_words()
            if "ready: " in ended.output:
                self.ended_alone.append(f"status {ended.process.returncode}: {words}")
            else:
                self.refused_to_start[words] += 1
            await self._stop(signal.SIGKILL)
            await self._start()

    def last_words(self, lines: int = 1) -> str:
        """The end of what it wrote to standard error."""
        written = self.running.errors.strip().splitlines() if self.running is not None else []
        return "\n".join(written[-lines:])[:2000]

    def _read_log(self, ended: Running) -> None:
        for line in ended.errors.splitlines():
            if '"level":"error"' in line:
                with contextlib.suppress(ValueError):  # a kill may have cut the last line
                    self.errors[json.loads(line)["event"]] += 1


def under_our_clock(file: Path) -> dict[str, str]:
    """What makes a process's wall clock go wrong by the seconds in a file."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }


def clocks_can_be_stepped(directory: Path) -> bool:
    """Whether libfaketime is here and steps a process's wall clock, and not the one that nobody sets."""
    file = directory / "clock"
    file.write_text("+3600\n")
    program = "import time; from arkgate.store.told import steady_ms; print(time.time(), steady_ms() / 1000)"
    command = [sys.executable, "-c", program]
    if not FAKETIME.exists():
        return False
    (wall, steady), (real_wall, real_steady) = (
        map(float, subprocess.run(command, env=variables, check=True, capture_output=True).stdout.split())
        for variables in ({**os.environ, **under_our_clock(file)}, dict(os.environ))
    )
    return abs(wall - real_wall - 3600) < 300 and abs(steady - real_steady) < 300


ROUND_SECONDS = 2.0
"""How soon the Ark server's next round is."""


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

    @property
    def barkd(self) -> SimulatedBarkd:
        """The wallet that gives out its Ark addresses."""
        (barkd,) = self.simulation.barkds
        return barkd

    def fill_disk(self) -> bool:
        """Takes all that is left of the database's disk, also beside others who write; whether it could."""
        with (self.disk / "filler").open("wb") as filler:
            for _ in range(FILL_TRIES):
                left = shutil.disk_usage(self.disk).free
                if not left:
                    return True
                with contextlib.suppress(OSError):  # somebody was faster: try with what there is now
                    os.posix_fallocate(filler.fileno(), filler.tell(), left)
                    filler.seek(left, os.SEEK_CUR)
        return False

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
        gate_port=free_port_base(),  # out of reach of outgoing connections, while the node is down
        durable=False,
        chat_models=("simulated-chat",),
        settle_delay_seconds=0.01,
        chat_log=log,
        barkds=("ark",),
    ) as simulation:
        for barkd in simulation.barkds:
            barkd.ark.round_seconds = ROUND_SECONDS
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
