"""The client programs at the simulated backend: what they see of an API that is as they expect it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from arkgate.simulator.chat import SimulatedChat
from tests.clients.facts import FACTS, Refusal, check_refusal
from tests.clients.running import CLIENTS, Client, Seen, can_be_refused, of, see_all
from tests.stage import MODEL, run

KEY = "sk-simulated"


def failing(kind: str, fault: int | str, *, is_retried: bool = False) -> Refusal:
    """A refusal for which the prompt asks."""
    status = fault if isinstance(fault, int) else None
    stream = {"stream": status is None}
    return Refusal(kind, status, stream, f"[fail:{fault}]", may_heal=is_retried, is_retried=is_retried)


REFUSALS = {
    "bad_body": Refusal("BadRequestError", 400, {"messages": []}),
    "wrong_key": Refusal("AuthenticationError", 401, {"key": "ak_" + "0" * 32}),
    "no_money": failing("APIError", 402),
    "unknown_model": failing("NotFoundError", 404),
    "too_many_calls": failing("RateLimitError", 429, is_retried=True),
    "bad_gateway": failing("InternalServerError", 502, is_retried=True),
    "unavailable": failing("InternalServerError", 503, is_retried=True),
    "timeout": failing("InternalServerError", 504, is_retried=True),
    "broken_stream": failing("APIError", "error-event"),
}
SHOWN = [(client, fact) for client in CLIENTS for fact in client.facts]
REFUSED = [
    (client, name) for client in CLIENTS for name, one in REFUSALS.items() if can_be_refused(client, one)
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Seen]:
    async def story() -> Mapping[str, Seen]:
        async with SimulatedChat(api_key=KEY).running() as chat:
            directory = tmp_path_factory.mktemp("clients")
            return await see_all(directory, url=chat.url, model=MODEL, keys={"key": KEY}, refusals=REFUSALS)

    return run(story())


@pytest.mark.parametrize(("client", "fact"), SHOWN, ids=[f"{client.name}-{fact}" for client, fact in SHOWN])
def test_a_client_is_served(seen: Mapping[str, Seen], client: Client, fact: str) -> None:
    FACTS[fact](of(client.name, seen).facts["key"])


@pytest.mark.parametrize(
    ("client", "name"), REFUSED, ids=[f"{client.name}-{name}" for client, name in REFUSED]
)
def test_a_client_understands_a_refusal(seen: Mapping[str, Seen], client: Client, name: str) -> None:
    refused = of(client.name, seen).refused[name]

    check_refusal(refused, REFUSALS[name], retries=client.retries, has_kinds=client.has_kinds)


@pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS])
def test_every_fact_that_a_program_shows_is_checked(seen: Mapping[str, Seen], client: Client) -> None:
    assert sorted(of(client.name, seen).facts["key"]) == sorted(client.facts)


def test_every_program_is_run(project: Path) -> None:
    folder = project / "tests/clients"
    programs = {path.name for path in [*folder.glob("programs/with_*.py"), *folder.glob("node/*.mjs")]}

    assert {Path(client.command[1]).name for client in CLIENTS} == programs
