"""Streams through the gateway beside streams through the same server without it, in one run.

    python -m bench.streams

Held open: memory for each. At full speed: streams a second and CPU for each event. In steps: how much later
the first token and the others arrive, and the CPU for each event. And calls that take 50 ms.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.__main__ import JSON_TYPE, PORT_BASE, gateway_before, tokens
from bench.load import LOAD_CORE, load
from bench.servers import SERVER_CORE, process, wait_for
from bench.stream_backend import EVENTS

BACKEND_PORT, PASS_PORT = PORT_BASE + 50, PORT_BASE + 60
CHAT = "/v1/chat/completions"
RATE_TARGET, ADDED_50_MS_TARGET, FIRST_TOKEN_TARGET_MS, MEMORY_TARGET_KIB = 0.5, 3.0, 2.0, 64
STEP_MS = 100
BEGUN_A_SECOND = 100
HELD = 1000


@dataclass(frozen=True, slots=True)
class Server:
    """A server under measurement."""

    name: str
    url: str
    pid: int
    headers: Sequence[Mapping[str, str]]

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        """The memory that it has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


def question(text: str, *, stream: bool = True) -> str:
    """A body that tells the backend what is wanted."""
    return json.dumps({"messages": [{"role": "user", "content": text}], "stream": stream})


def main() -> None:
    """Measures and prints; exits 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        backend = stack.enter_context(_backend())
        stack.enter_context(_pass_through())
        url = stack.enter_context(gateway_before(directory, backend))
        through = Server(
            "pass-through", f"http://127.0.0.1:{PASS_PORT}", _pid("bench.passthrough"), [JSON_TYPE]
        )
        metered = Server("metered", url, _pid("arkgate serve --config"), tokens(url, directory))
        met = [
            *_held(metered),
            *_at_full_speed(directory, through, metered, seconds, "flow"),
            *_at_full_speed(directory, through, metered, seconds, "burst"),
            *_in_steps(through, metered),
            *_slow_backend(directory, backend, metered, seconds),
        ]
    raise SystemExit(0 if all(met) else 1)


@contextlib.contextmanager
def _backend() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.stream_backend", str(BACKEND_PORT)]
    with process(command, core=LOAD_CORE, until="serving"):
        yield f"http://127.0.0.1:{BACKEND_PORT}/v1"


@contextlib.contextmanager
def _pass_through() -> Iterator[None]:
    options = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "error"]
    command = [sys.executable, "-m", "uvicorn", "bench.passthrough:app", "--port", str(PASS_PORT), *options]
    with process(command, core=SERVER_CORE, env={"BENCH_BACKEND": f"http://127.0.0.1:{BACKEND_PORT}"}):
        wait_for(PASS_PORT)
        yield


def _pid(words: str) -> int:
    found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def _at_full_speed(
    directory: Path, through: Server, metered: Server, seconds: float, how: str
) -> Iterator[bool]:
    """`flow`: the backend writes each event on its own; `burst`: all of a stream at once."""
    head = f"at full speed: {how}"
    print(f"\n{head:20}{'streams':>8}{'per s':>9}{'us CPU an event':>17}{'of pass-through':>17}")
    for clients in (1, 64, 1000):
        rates = []
        for server in (through, metered):
            before = server.cpu_seconds()
            measured = load(
                server.url + CHAT,
                directory / "load.lua",
                clients=clients,
                seconds=seconds,
                headers=server.headers,
                body=question(f"{how} please"),
            )
            cpu = (server.cpu_seconds() - before) / max(1, measured.requests * EVENTS) * 1e6
            rates.append(measured.per_second)
            ratio = rates[-1] / rates[0]
            print(f"{server.name:20}{clients:8}{rates[-1]:9.0f}{cpu:17.2f}{ratio:17.2f}")
            if measured.not_2xx:
                raise SystemExit(f"the measurement is void: {measured.not_2xx} streams were refused")
        yield _said(
            f"{clients} streams at full speed, {how}: {ratio:.2f} of pass-through", ratio, RATE_TARGET
        )


def _in_steps(through: Server, metered: Server) -> Iterator[bool]:
    columns = f"{'us CPU an event':>17}{'first p50':>11}{'first p99':>11}{'p50 ms':>9}"
    print(f"\n{'in steps':16}{'streams':>8}{columns}")
    for streams in (1, 64, 1000):
        firsts = []
        for server in (through, metered):
            before = server.cpu_seconds()
            first, others = uvloop.run(_stepped(server, streams))
            cpu = (server.cpu_seconds() - before) / (streams * EVENTS) * 1e6
            firsts.append(statistics.median(first))
            print(
                f"{server.name:16}{streams:8}{cpu:17.1f}{firsts[-1]:11.2f}{_percentile(first, 0.99):11.2f}"
                f"{statistics.median(others):9.2f}"
            )
        added = firsts[1] - firsts[0]
        yield _said(
            f"{streams} streams: the first token comes {added:.2f} ms later", -added, -FIRST_TOKEN_TARGET_MS
        )


async def _stepped(server: Server, streams: int) -> tuple[list[float], list[float]]:
    """How many milliseconds after it was sent each first token came, and each other one."""
    first: list[float] = []
    others: list[float] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number / BEGUN_A_SECOND)  # or the first tokens would wait for each other's calls
        reader, writer = await _opened(server, number, question(f"steps {STEP_MS} please"))
        is_first = True
        while line := await reader.readline():
            now = time.monotonic_ns()
            if b'"at": ' in line:
                took = (now - int(line.split(b'"at": ')[1].split(b"}")[0])) / 1e6
                (first if is_first else others).append(took)
                is_first = False
            elif b"[DONE]" in line:
                break
        writer.close()

    await asyncio.gather(*(one(number) for number in range(streams)))
    return first, others


async def _opened(
    server: Server, number: int, body: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {**server.headers[number % len(server.headers)], "Host": host, "Content-Length": str(len(body))}
    lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body.encode())
    return reader, writer


def _held(metered: Server) -> Iterator[bool]:
    before = metered.resident_kib()
    after = uvloop.run(_holding(metered))
    each = (after - before) / HELD
    print(f"\n{HELD} streams held open: {before} KiB before, {after} KiB with them")
    yield _said(f"memory of an open stream: {each:.0f} KiB", -each, -MEMORY_TARGET_KIB)


async def _holding(server: Server) -> int:
    opened = await asyncio.gather(
        *(_opened(server, number, question("hold please")) for number in range(HELD))
    )
    for reader, _ in opened:
        await reader.readuntil(b"word0002")
    resident = server.resident_kib()
    for _, writer in opened:
        writer.close()
    return resident


def _slow_backend(directory: Path, backend: str, metered: Server, seconds: float) -> Iterator[bool]:
    print(f"\n{'a backend of 50 ms':24}{'clients':>8}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}")
    direct = Server("directly", backend.removesuffix("/v1"), 0, [JSON_TYPE])
    for clients in (64, 256):
        p50s = []
        for server in (direct, metered):
            measured = load(
                server.url + CHAT,
                directory / "load.lua",
                clients=clients,
                seconds=seconds,
                headers=server.headers,
                body=question("wait 50 please", stream=False),
            )
            p50s.append(measured.p50_ms)
            print(
                f"{server.name:24}{clients:8}{measured.per_second:9.0f}{measured.p50_ms:9.2f}{measured.p99_ms:9.2f}"
            )
        added = p50s[1] - p50s[0]
        if clients == 64:
            yield _said(f"50 ms at 64 clients: p50 is {added:.2f} ms later", -added, -ADDED_50_MS_TARGET)


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _said(sentence: str, reached: float, target: float) -> bool:
    met = reached >= target
    print(f"{'met   ' if met else 'MISSED'} {sentence} (target {abs(target)})")
    return met


if __name__ == "__main__":
    main()
