"""`arkgate doctor` as operators and scripts use it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from arkgate.cli import main
from arkgate.settings import Settings
from arkgate.simulator import credentials
from arkgate.simulator.simulation import Simulation
from tests.cli.program import arkgate, configured, serving, simulated
from tests.stage import run

VERDICTS = {"ok", "warning", "failure", "not checked"}
FIELDS = {"subject", "name", "verdict", "seen", "meaning", "remedy"}


@pytest.fixture(autouse=True)
def no_logs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in the tests' process, whose logs are not its own."""
    monkeypatch.setattr("arkgate.cli.doctor.set_up_logs", lambda *_, **__: None)


def called(*arguments: str | Path, columns: int = 80) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    with capture_logs():  # in a process of its own they go elsewhere
        return runner.invoke(main, ["doctor", *map(str, arguments)])


async def beside(*arguments: str | Path, columns: int = 80) -> Result:
    return await asyncio.to_thread(lambda: called(*arguments, columns=columns))


def play(
    tmp_path: Path,
    story: Callable[[Simulation, Settings], Awaitable[None]],
    extra: Mapping[str, str] | None = None,
) -> None:
    async def played() -> None:
        async with simulated(tmp_path) as simulation:
            await story(simulation, configured(tmp_path, simulation, extra))

    run(asyncio.wait_for(played(), 90))


def test_the_exit_status_is_0_with_warnings_and_1_with_a_failure(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: Settings) -> None:
        gate = simulation.gate
        gate.credentials.invoice_macaroon.write_bytes(gate.bake(*credentials.ADMIN))
        warned = await beside("--config", loaded.file)
        gate.habits.remote_sats = 0
        failed = await beside("--config", loaded.file)

        assert warned.exit_code == 0, warned.output
        assert "0 failures, 1 warning," in warned.output
        assert failed.exit_code == 1
        assert "FAILURE" in failed.output
        assert "1 failure, 1 warning," in failed.output

    play(tmp_path, story)


def test_json_says_the_same_as_the_table(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: Settings) -> None:
        simulation.gate.habits.synced = False
        simulation.gate.credentials.invoice_macaroon.write_bytes(simulation.gate.bake(*credentials.ADMIN))
        ended = await beside("--config", loaded.file, "--json")
        document = json.loads(ended.output)
        checks = {f"{check['subject']}: {check['name']}": check for check in document["checks"]}

        assert ended.exit_code == 1
        assert document["verdict"] == "failure"
        assert all(set(check) == FIELDS and check["verdict"] in VERDICTS for check in document["checks"])
        assert checks["node gate: chain"]["verdict"] == "failure"
        assert checks["node gate: macaroon: spending"]["verdict"] == "warning"
        assert "lncli bakemacaroon" in checks["node gate: macaroon: spending"]["remedy"]
        assert checks["public URL: gateway"]["verdict"] == "not checked"

    play(tmp_path, story)


def test_settings_that_cannot_be_used_are_a_failure_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "arkgate.toml"
    path.write_text("[gateway]\nlisten = 7\n")
    table, document = called("--config", path), called("--config", path, "--json")
    checks = json.loads(document.output)["checks"]

    assert (table.exit_code, document.exit_code) == (1, 1)
    assert "There is no [[nodes]] entry" in " ".join(table.output.split())
    assert {check["verdict"] for check in checks} == {"failure"}
    assert any("listen must be a text" in check["seen"] for check in checks)


def test_a_missing_configuration_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARKGATE_DATA", raising=False)
    ended = called()

    assert ended.exit_code == 1
    assert "`arkgate init` writes one" in ended.output


def test_the_table_fits_80_columns_and_its_commands_can_be_pasted(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: Settings) -> None:
        gate = simulation.gate
        gate.credentials.invoice_macaroon.write_bytes(gate.bake(*credentials.ADMIN))
        gate.habits.remote_sats = 300_000
        gate.habits.version = "0.18.0-beta"
        simulation.skip_seconds(3600)
        ended = await beside("--config", loaded.file)
        lines = click.unstyle(ended.output).splitlines()
        paths = (str(loaded.file.parent),)  # a path is never broken
        command = "\n".join(line for i, line in enumerate(lines) if _is_of_command(lines, i))

        assert [line for line in lines if len(line) > 80 and not any(path in line for path in paths)] == []
        assert command.replace("\\\n", " ").split() == [
            *("lncli", "bakemacaroon", "--save_to", "arkgate.macaroon", "invoices:read"),
            *("invoices:write", "info:read", "offchain:read", "onchain:read"),
        ]

    play(tmp_path, story)


def _is_of_command(lines: list[str], place: int) -> bool:
    """Whether it is the line with the command, or continues one that ends in a backslash."""
    return "lncli bakemacaroon" in lines[place] or (place > 0 and lines[place - 1].endswith("\\"))


def test_it_works_beside_a_gateway_that_holds_the_books(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: Settings) -> None:
        async with serving(loaded.file) as running:
            ended = await arkgate("doctor", "--config", loaded.file, directory=tmp_path)

            assert ended.status == 0, ended
            assert ended.errors == ""
            assert "0 failures, 0 warnings" in ended.output
            assert "whether they belong" not in ended.output
            assert running.process.poll() is None

    play(tmp_path, story)


def test_help_names_the_exit_statuses() -> None:
    ended = called("--help")

    assert ended.exit_code == 0
    assert "Exit status: 0 when nothing fails" in ended.output
