"""A client that a tool generates from `/openapi.json` makes a paid call with nothing else to go by."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.stage import PROMPT, Stage, play

PYTHON = Path(__file__).parents[2] / ".venv-clients" / "bin" / "python"
PROGRAM = Path(__file__).parent / "programs" / "generated.py"
SETTINGS = "post_hooks: []\nproject_name_override: bought\npackage_name_override: bought\n"


async def generate(stage: Stage, directory: Path) -> None:
    document, settings = directory / "openapi.json", directory / "settings.yml"
    document.write_bytes((await stage.http.get("/openapi.json")).content)
    settings.write_text(SETTINGS)
    arguments = ["--path", f"{document}", "--output-path", f"{directory}/client", "--config", f"{settings}"]
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "openapi_python_client", "generate", *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def test_a_generated_client_buys_a_call(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("the clients are not installed: `make test` does it")

    async def story(stage: Stage) -> None:
        await generate(stage, tmp_path)
        pipe = asyncio.subprocess.PIPE
        environment = {
            "PATH": os.environ["PATH"],
            "GENERATED": str(tmp_path / "client"),
            "CLIENT_URL": stage.url,
            "CLIENT_QUESTION": PROMPT["prompt"],
        }
        process = await asyncio.create_subprocess_exec(
            PYTHON, PROGRAM, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        assert process.stderr is not None
        invoice = (await process.stdout.readline()).decode().strip()
        assert invoice, (await process.stderr.read()).decode()[-2000:]
        await stage.simulation.pay(invoice)
        out, err = await process.communicate(b"paid\n")
        assert process.returncode == 0, err.decode()[-2000:]

        answer, cost, again, left, calls_left = json.loads(out)
        assert PROMPT["prompt"] in answer
        assert (cost, again, left, calls_left) == (50, answer, 450, 4)

    play(tmp_path, story)
