"""Measures the floor, the metered call by token and by L402 credential, and the 402, in one run."""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from arkgate.cli.demo import CHAT_MODEL
from bench.load import LOAD_CORE, Load, load
from bench.servers import SERVER_CORE, hello, instant_backend, process

PORT_BASE = 18400
BODY = '{"prompt":"How is Ark different from Lightning? Answer in one paragraph, please."}'
JSON_TYPE = {"Content-Type": "application/json"}
CALLS_A_CREDENTIAL = 20_000
CREDENTIALS = 8
FLOOR_SECONDS = 2.0
METERED_TARGET, CHALLENGE_TARGET, ADDED_P50_TARGET_MS = 0.15, 0.03, 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """One measured line, and the floor as it was just before and just after."""

    name: str
    clients: int
    load: Load
    floor_per_second: float

    @property
    def ratio(self) -> float:
        """What share of the floor's rate this reaches."""
        return self.load.per_second / self.floor_per_second


class Bench:
    """Measures loads, each between two measurements of the floor: the machine's speed drifts."""

    def __init__(self, script: Path, floor_url: str, seconds: float) -> None:
        self._script = script
        self._floor_url = floor_url
        self._seconds = seconds
        self.rows: list[Row] = []

    def floor(self, clients: int) -> Load:
        """The plain ASGI server's rate now."""
        return load(self._floor_url, self._script, clients=clients, seconds=FLOOR_SECONDS)

    def measure(self, name: str, url: str, clients: int, headers: Sequence[Mapping[str, str]]) -> Load:
        """Measures one line and keeps it."""
        before = self.floor(clients)
        measured = load(url, self._script, clients=clients, seconds=self._seconds, headers=headers, body=BODY)
        floor = (before.per_second + self.floor(clients).per_second) / 2
        self.rows.append(Row(name, clients, measured, floor))
        return measured


def main() -> None:
    """Runs everything and prints figures and ratios; exits 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("make bench needs nginx and wrk: apt-get install nginx-light wrk")
    missed = [_round(arguments.seconds) for _ in range(arguments.rounds)]
    raise SystemExit(1 if any(missed) else 0)


def _round(seconds: float) -> bool:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        backend = stack.enter_context(instant_backend(directory, PORT_BASE + 50))
        floor_url = stack.enter_context(hello(PORT_BASE + 60))
        bench = Bench(directory / "load.lua", floor_url, seconds)
        for clients in (1, 32):
            floor = bench.floor(clients)
            bench.rows.append(Row("floor: plain ASGI hello", clients, floor, floor.per_second))
        bench.measure("the backend alone", f"{backend}/chat/completions", 1, [JSON_TYPE])
        url = stack.enter_context(gateway_before(directory, backend))
        paid = {"ak_ token": tokens(url, directory), "L402 credential": _credentials(url, directory)}
        for kind, headers in paid.items():
            for clients in (1, 32):
                measured = bench.measure(f"metered call, {kind}", f"{url}/api/ai-chat", clients, headers)
                _expect(measured.not_2xx == 0, f"{measured.not_2xx} calls by {kind} were refused")
        for clients in (1, 32):
            measured = bench.measure("402 with invoice", f"{url}/api/ai-chat", clients, [JSON_TYPE])
            _expect(measured.not_2xx == measured.requests, "an unpaid call was not refused")
        _expect(_books_are_sound(directory), "the ledger does not verify")
        return _report(bench.rows)


@contextlib.contextmanager
def gateway_before(directory: Path, backend: str) -> Iterator[str]:
    """The simulated node on the load's core, and the gateway alone on its own."""
    environment = {"ARKGATE_DATA": str(directory), "ARKGATE_PORT_BASE": str(PORT_BASE)}
    program = [sys.executable, "-m", "arkgate"]
    with process([*program, "simulator", "--batched"], core=LOAD_CORE, until="simulating", env=environment):
        config = directory / "arkgate.toml"
        config.write_text(
            config.read_text()
            .replace(f"http://127.0.0.1:{PORT_BASE + 20}/v1", backend)
            .replace(f'model = "{CHAT_MODEL}"', 'model = "instant"\nconcurrency_max = 2048')
            + "challenges_per_minute_and_client = 100000000\nchallenges_per_minute = 100000000\n"
            + "calls_per_minute_and_account = 100000000\ncalls_per_minute_and_client = 100000000\n"
            + "calls_at_once_and_account = 4096\ncalls_at_once_and_client = 4096\ncalls_at_once = 4096\n"
            + "[cache]\nttl_seconds = 0\n[[services]]\ncalls_per_day = 0\n"
        )
        command = [*program, "serve", "--config", str(config)]
        with process(command, core=SERVER_CORE, until="ready", env=environment, quiet=True):
            yield f"http://127.0.0.1:{PORT_BASE + 2}"


def tokens(url: str, directory: Path) -> list[dict[str, str]]:
    """The headers of funded tokens."""
    headers = []
    for _ in range(CREDENTIALS):
        session = httpx.post(f"{url}/v1/sessions", json={"amount_sats": 1_000_000}).json()
        _pay(session["funding"]["lightning_invoice"], directory)
        headers.append({"Authorization": f"Bearer {session['token']}", **JSON_TYPE})
    return headers


def _credentials(url: str, directory: Path) -> list[dict[str, str]]:
    """L402 credentials, topped up so that their balance outlasts the run."""
    headers = []
    for _ in range(CREDENTIALS):
        challenge = httpx.post(f"{url}/api/ai-chat", content=BODY, headers=JSON_TYPE).json()
        preimage = _pay(challenge["invoice"], directory)
        header = {"Authorization": f"L402 {challenge['macaroon']}:{preimage}", **JSON_TYPE}
        topup = httpx.post(f"{url}/v1/topups", json={"amount_sats": 1_000_000}, headers=header).json()
        _pay(topup["funding"]["lightning_invoice"], directory)
        headers.append(header)
    return headers


def _pay(invoice: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "arkgate", "wallet", "pay", invoice],
        env={"ARKGATE_DATA": str(directory), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    preimage: str = httpx.Response(200, text=done.stdout).json()["payment_preimage"]
    return preimage


def _books_are_sound(directory: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "arkgate",
        "ledger",
        "verify",
        "--config",
        str(directory / "arkgate.toml"),
    ]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def _report(rows: list[Row]) -> bool:
    """Prints the table and the targets; answers whether one was missed."""
    print(f"{'':32} {'clients':>7} {'req/s':>9} {'of floor':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for row in rows:
        print(
            f"{row.name:32} {row.clients:7} {row.load.per_second:9.0f} {row.ratio:9.3f} "
            f"{row.load.p50_ms:8.3f} {row.load.p99_ms:8.3f}"
        )
    missed = False
    for sentence, met in _targets(rows):
        print(f"{'met   ' if met else 'MISSED'} {sentence}")
        missed |= not met
    return missed


def _targets(rows: list[Row]) -> Iterator[tuple[str, bool]]:
    direct = next(row.load.p50_ms for row in rows if row.name == "the backend alone")
    for row in rows:
        if row.name.startswith("metered") and row.clients == 32:
            yield (
                f"{row.name}: {row.ratio:.3f} of the floor (target {METERED_TARGET})",
                row.ratio >= METERED_TARGET,
            )
        if row.name.startswith("402") and row.clients == 32:
            yield (
                f"{row.name}: {row.ratio:.3f} of the floor (target {CHALLENGE_TARGET})",
                row.ratio >= CHALLENGE_TARGET,
            )
        if row.name.startswith("metered") and row.clients == 1:
            added = row.load.p50_ms - direct
            yield (
                f"{row.name}: adds {added:.2f} ms at p50 (target {ADDED_P50_TARGET_MS})",
                added < ADDED_P50_TARGET_MS,
            )


def _expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise SystemExit(f"the measurement is void: {otherwise}")


if __name__ == "__main__":
    main()
