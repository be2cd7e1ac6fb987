"""The clients that people use, unmodified: which there are, and runs them beside each other."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.facts import COMPLETE, Refusal
from tests.stage import PROMPT

CHECKOUT = Path(__file__).parents[2]
CURRENT = CHECKOUT / ".venv-clients/bin/python"
OLDER = CHECKOUT / ".venv-clients/older/bin/python"
NODE = CHECKOUT / "tests/clients/node"
TOGETHER = 3
SECONDS_MAX = 50
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """A program that buys with one client library."""

    name: str
    command: tuple[str | Path, ...]
    facts: Sequence[str]
    """What it can show of an API."""
    retries: int = 2
    """How often it repeats a request that may succeed later."""
    has_kinds: bool = True
    """Raises its own type of exception for each kind of error."""
    has_codes: bool = True
    """Shows the error's code and the answer's `X-Request-Id`."""
    shows_headers: bool = True
    """Lets its user read an answer's headers and its whole usage."""
    retries_again: bool = False
    """Retries what OpenAI's SDK has given up, whatever the answer said, and takes a minute for it."""

    def is_installed(self) -> bool:
        """Whether it can run here."""
        in_node = self.command[0] == "node"
        packages = NODE / "node_modules/openai" if in_node else self.command[0]
        return shutil.which(self.command[0]) is not None and Path(packages).exists()


def _python(interpreter: str | Path, program: str) -> tuple[str | Path, ...]:
    return (interpreter, Path(__file__).parent / f"programs/with_{program}.py")


CLIENTS = (
    Client("openai", _python(CURRENT, "openai"), COMPLETE),
    Client("openai-2", _python(OLDER, "openai"), COMPLETE),
    Client(
        "openai-node",
        ("node", NODE / "with_openai.mjs"),
        [fact for fact in COMPLETE if fact not in ("tool_answered", "responses_tool")],
    ),
    Client(
        "langchain",
        _python(CURRENT, "langchain"),
        [
            *("buffered", "streamed", "streamed_without_usage", "tool", "json", "parsed"),
            *("image", "embeddings", "responses"),
        ],
        shows_headers=False,
    ),
    Client(
        "llama-index",
        _python(OLDER, "llama_index"),
        ["buffered", "streamed", "tool", "parsed", "image", "embeddings"],
        shows_headers=False,
        retries_again=True,
    ),
    Client(
        "anthropic",
        _python(CURRENT, "anthropic"),
        ["models", "buffered", "bearer", "streamed", "tool", "streamed_tool", "image"],
        has_codes=False,
    ),
    Client(
        "anthropic-0",
        _python(OLDER, "anthropic"),
        ["models", "buffered", "bearer", "streamed", "tool", "streamed_tool", "image"],
        has_codes=False,
    ),
    Client(
        "curl",
        _python(sys.executable, "curl"),
        ["models", "buffered", "streamed", "streamed_without_usage"],
        retries=0,
        has_kinds=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw: facts by the key's name and the fact's, and the ends of calls that had to fail."""

    sdk: str
    facts: Mapping[str, Json]
    refused: Mapping[str, Json]


async def see_all(
    directory: Path, *, url: str, model: str, keys: Mapping[str, str], refusals: Mapping[str, Refusal]
) -> dict[str, Seen]:
    """What every installed client sees of the API at `url`, a few of them at a time."""
    places = asyncio.Semaphore(TOGETHER)
    shared = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "CLIENT_URL": url,
        "CLIENT_KEYS": json.dumps(keys),
        "CLIENT_MODEL": model,
        "CLIENT_QUESTION": PROMPT["prompt"],
    }
    installed = [client for client in CLIENTS if client.is_installed()]

    async def see(client: Client) -> Seen:
        wanted = {
            name: one.call(client.name) for name, one in refusals.items() if can_be_refused(client, one)
        }
        async with places, asyncio.timeout(SECONDS_MAX):
            return await _run(client, {**shared, "CLIENT_REFUSED": json.dumps(wanted)})

    async with asyncio.TaskGroup() as group:
        tasks = {client.name: group.create_task(see(client)) for client in installed}
    return {name: task.result() for name, task in tasks.items()}


def can_be_refused(client: Client, refusal: Refusal) -> bool:
    """Whether the client gives up in time."""
    return not (client.retries_again and refusal.may_heal)


async def _run(client: Client, environment: Mapping[str, str]) -> Seen:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *client.command, env=environment, stdout=pipe, stderr=pipe, limit=1 << 24
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{client.name}: {err.decode()[-3000:]}"
    return Seen(**json.loads(out))


def of(client: str, seen: Mapping[str, Seen]) -> Seen:
    """What one client saw. Skips the test where it is not installed."""
    if client not in seen:
        pytest.skip(f"{client} is not installed: `make test` does it, with Node when there is npm")
    return seen[client]
