"""`lnget`, the command-line client of LND's authors, buys calls and pays over LND's gRPC."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.node.real import Pair, RealNode, staged_with
from tests.stage import Stage, run, staged

LNGET = os.environ.get("ARKGATE_TEST_LNGET") or shutil.which("lnget")

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(LNGET is None, reason="lnget is not on the PATH: set ARKGATE_TEST_LNGET"),
]


def write_config(directory: Path, payer: RealNode) -> Path:
    """lnget's configuration: which node pays, and that it keeps its tokens here."""
    path = directory / "lnget.yaml"
    path.write_text(f"""\
ln:
  mode: lnd
  lnd:
    host: {payer.address}
    tls_cert: {payer.tls_cert}
    macaroon: {payer.macaroon}
    network: regtest
tokens:
  dir: {directory / "tokens"}
events:
  enabled: false
""")
    return path


async def lnget(stage: Stage, payer: RealNode, prompt: str) -> dict[str, Any]:
    """A call as a script would make it; the answer's JSON."""
    command = (
        *(str(LNGET), "--config", str(write_config(stage.directory, payer))),
        *("--logfile", str(stage.directory / "lnget.log"), "--quiet", "--max-cost", "50"),
        *("--request", "POST", "--data", json.dumps({"prompt": prompt})),
        *("--content-type", "application/json", f"{stage.url}/api/ai-chat"),
    )
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, "HOME": str(stage.directory)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def buys_two_calls(stage: Stage, payer: RealNode) -> None:
    """The second call finds the token of the first used up, and pays again."""
    answers = [await lnget(stage, payer, f"Question {number}") for number in range(2)]

    assert all(answer["success"] for answer in answers)
    assert [answer["balance_remaining"] for answer in answers] == [0, 0]
    assert len(stage.simulation.chat.request_ids) == 2
    assert await stage.verify() == []


def test_lnget_pays_from_a_simulated_node(tmp_path: Path) -> None:
    async def story() -> None:
        async with staged(tmp_path) as stage:
            node = stage.simulation.payer
            payer = RealNode(node.address, node.credentials.tls_cert, node.credentials.admin_macaroon)
            await buys_two_calls(stage, payer)

    run(story())


def test_lnget_pays_from_a_real_node(tmp_path: Path, pair: Pair) -> None:
    async def story() -> None:
        async with staged_with(pair, tmp_path) as stage:
            await buys_two_calls(stage, pair.payer)

    run(story())
