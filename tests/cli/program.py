"""`arkgate` as a process of its own, the way its operators run it."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from arkgate import settings
from arkgate.simulator.simulation import Simulation
from tests.ports import free_port_base
from tests.stage import write_settings

PROGRAM = Path(sys.executable).with_name("arkgate")
READY_SECONDS = 30.0
COMMAND_SECONDS = 60.0
DEMO_OFFSETS = (2, 3, 10, 11, 12, 20)
"""The demo's six ports above ARKGATE_PORT_BASE."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has come to its end."""

    status: int
    output: str
    errors: str


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what steers the program, and with what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARKGATE_")}
    return {**kept, **more}


def execute(
    command: Iterable[str | Path],
    *,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    given: str = "",
) -> Ended:
    """Runs a command in a directory to its end; `given` is what it finds on standard input."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env=environment(**(variables or {})),
        input=given,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


async def arkgate(*arguments: str | Path, directory: Path, given: str = "", **variables: str) -> Ended:
    """Runs `arkgate` with arguments to its end, beside whatever the event loop does."""
    command = (PROGRAM, *arguments)
    return await asyncio.to_thread(execute, command, directory=directory, variables=variables, given=given)


@dataclass(slots=True)
class Running:
    """A program that was started; what it prints goes to two files."""

    process: subprocess.Popen[bytes]
    output_file: Path
    errors_file: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.output_file.read_text()

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self.errors_file.read_text()

    async def ready(self) -> None:
        """Waits until it says that it is ready. Raises AssertionError when it ends before."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while "ready: " not in self.output:
            assert self.process.poll() is None, f"it ended: {self.output}{self.errors}"
            assert asyncio.get_running_loop().time() < deadline, f"not ready: {self.output}{self.errors}"
            await asyncio.sleep(0.01)

    async def ended(self, seconds: float = 20) -> int:
        """Waits for its end; gives the exit status. Raises subprocess.TimeoutExpired."""
        return await asyncio.to_thread(self.process.wait, seconds)

    async def killed(self) -> None:
        """Kills it, with no chance to clean up."""
        self.process.kill()
        await self.ended()


@contextlib.asynccontextmanager
async def started(
    *arguments: str | Path,
    directory: Path,
    program: Iterable[str | Path] = (PROGRAM,),
    **variables: str,
) -> AsyncIterator[Running]:
    """Starts a long-lived command; kills it at the end of the block if it still runs."""
    number = len(list(directory.glob("program-*.out")))
    files = directory / f"program-{number}.out", directory / f"program-{number}.err"
    with files[0].open("wb") as output, files[1].open("wb") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220  returns at once, and is killable without the loop
            [str(part) for part in (*program, *arguments)],
            cwd=directory,
            env=environment(**variables),
            stdout=output,
            stderr=errors,
        )
    running = Running(process, *files)
    try:
        yield running
    finally:
        if process.poll() is None:
            await running.killed()


@contextlib.asynccontextmanager
async def serving(config: Path, program: Iterable[str | Path] = (PROGRAM,)) -> AsyncIterator[Running]:
    """`arkgate serve` with a configuration, from when it is ready."""
    async with started("serve", "--config", config, directory=config.parent, program=program) as running:
        await running.ready()
        yield running


def configured(
    directory: Path, simulation: Simulation, extra: Mapping[str, str] | None = None
) -> settings.Settings:
    """Settings in a file of the directory, for a gateway beside the simulation on two free ports."""
    base = free_port_base()
    path = write_settings(
        directory / "arkgate.toml", simulation, port=base, operator_port=base + 1, extra=extra
    )
    return settings.load(path)


@contextlib.asynccontextmanager
async def simulated(directory: Path, **options: str) -> AsyncIterator[Simulation]:
    """The simulation that these gateways run beside."""
    async with Simulation.running(
        data_dir=directory / "simulator",
        durable=False,
        chat_models=("simulated-chat",),
        settle_delay_seconds=0.01,
        chat_log=directory / "backend-requests.jsonl",
        chat_api_key=options.get("chat_api_key"),
    ) as simulation:
        yield simulation
