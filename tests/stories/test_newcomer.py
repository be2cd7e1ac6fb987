"""A newcomer starts the demo and copies what it prints into a shell."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.program import DEMO_OFFSETS, PROGRAM, Running, execute, started
from tests.ports import free_port_base
from tests.stage import run

FIRST_LINE, LAST_WORD = "# 1.", "Ctrl-C"


@contextlib.asynccontextmanager
async def demo(
    directory: Path, base: int, program: Iterable[str | Path] = (PROGRAM,), **variables: str
) -> AsyncIterator[Running]:
    async with started(
        "demo", directory=directory, program=program, ARKGATE_PORT_BASE=str(base), **variables
    ) as running:
        yield running


def printed_commands(running: Running) -> str:
    """What stands between the first comment and the words about Ctrl-C, as a newcomer copies it."""
    return running.output[running.output.index(FIRST_LINE) : running.output.index(LAST_WORD)]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


async def stopped(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)
    assert await running.ended(5) == 0
    assert "Traceback" not in running.errors


@pytest.mark.parametrize(
    ("program", "variables"),
    [
        pytest.param((PROGRAM,), {"ARKGATE_DATA": "the data"}, id="the installed command, data elsewhere"),
        pytest.param((sys.executable, "-m", "arkgate"), {}, id="the module, data where it is by default"),
    ],
)
def test_what_the_demo_prints_works_as_printed(
    tmp_path: Path, program: tuple[str | Path, ...], variables: dict[str, str]
) -> None:
    async def story() -> None:
        async with demo(tmp_path, free_port_base(DEMO_OFFSETS), program, **variables) as running:
            await running.ready()
            script = printed_commands(running)
            done = await asyncio.to_thread(execute, ("bash", "-c", script), directory=tmp_path)

            assert done.status == 0, done
            assert done.errors == ""
            challenge, paid, answer, session, funded, spent, balance = json_lines(done.output)
            assert challenge["code"] == "payment_required"
            assert paid["payment_hash"] == challenge["payment_hash"]
            assert answer["success"]
            assert answer["balance_remaining"] == 0
            assert session["token"].startswith("ak_")
            assert funded["payment_hash"] == session["funding"]["payment_hash"]
            assert spent["balance_remaining"] == 450
            assert (balance["balance_sats"], balance["status"]) == (450, "active")
            assert "data: [DONE]" in done.output.splitlines()
            findings = [line for line in done.output.splitlines() if line.startswith(("ok", "FAIL"))]
            assert len(findings) == 9
            assert all(line.startswith("ok") for line in findings)
            await stopped(running)

    run(story())


def test_the_next_start_goes_on_with_the_same_tokens(tmp_path: Path) -> None:
    async def story() -> None:
        base = free_port_base(DEMO_OFFSETS)
        url = f"http://127.0.0.1:{base + 2}"
        async with demo(tmp_path, base) as running:
            await running.ready()
            done = await asyncio.to_thread(
                execute, ("bash", "-c", printed_commands(running)), directory=tmp_path
            )
            token = json_lines(done.output)[3]["token"]
            await stopped(running)

        async with demo(tmp_path, base) as running, httpx.AsyncClient(base_url=url) as http:
            await running.ready()
            header = {"Authorization": f"Bearer {token}"}
            balance = (await http.get("/v1/balance", headers=header)).json()
            answer = await http.post("/api/ai-chat", json={"prompt": "And now?"}, headers=header)

            assert balance["balance_sats"] == 400
            assert answer.json()["balance_remaining"] == 350
            assert (tmp_path / ".arkgate" / "arkgate.toml").exists()

    run(story())


def test_a_taken_port_is_named_whichever_it_is(tmp_path: Path) -> None:
    async def refused(offset: int) -> None:
        base, directory = free_port_base(DEMO_OFFSETS), tmp_path / str(offset)
        directory.mkdir()
        with socket.create_server(("127.0.0.1", base + offset)):
            async with demo(directory, base) as running:
                assert await running.ended() == 1
        assert f"port {base + offset}" in running.errors
        assert len(running.errors.splitlines()) == 1

    async def story() -> None:
        await asyncio.gather(*map(refused, DEMO_OFFSETS))

    run(story())


def test_a_second_demo_in_one_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        first_base, second_base = free_port_base(DEMO_OFFSETS), free_port_base(DEMO_OFFSETS)
        async with demo(tmp_path, first_base) as first:
            await first.ready()
            config = (tmp_path / ".arkgate" / "arkgate.toml").read_text()
            async with demo(tmp_path, second_base) as second:
                status = await second.ended()

            assert status == 1
            assert f"(pid {first.process.pid}) runs in .arkgate" in second.errors
            assert len(second.errors.splitlines()) == 1
            assert (tmp_path / ".arkgate" / "arkgate.toml").read_text() == config
            await stopped(first)

    run(story())


def test_a_port_base_that_is_no_number_is_refused(tmp_path: Path) -> None:
    ended = execute((PROGRAM, "demo"), directory=tmp_path, variables={"ARKGATE_PORT_BASE": "http"})

    assert ended.status == 1
    assert "ARKGATE_PORT_BASE=http must be a number" in ended.errors
