"""The client programs at the real gateway: their key is a funded token, or a paid L402 credential."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from arkgate.core.ledger import Finding
from tests.clients.facts import FACTS, LABEL, Json, Refusal, asking, check_refusal
from tests.clients.running import CLIENTS, Client, Seen, can_be_refused, of, see_all
from tests.stage import Stage, run, staged

PRICE_SATS = 50
KEYS = ("token", "credential")
UNCAPPED = {
    "[[services]]": "calls_per_day = 0",
    "[l402]": "challenge_calls = 200",
    "[backend]": "first_byte_timeout_seconds = 2\nidle_timeout_seconds = 2",
}
CAPPED = {"[[services]]": "calls_per_day = 1"}

REFUSALS = {
    "bad_body": Refusal("BadRequestError", 400, {"messages": []}),
    "wrong_key": Refusal("AuthenticationError", 401, {"key": "ak_" + "0" * 32}, code="invalid_token"),
    "no_money": Refusal("APIError", 402, code="insufficient_balance"),
    "unknown_model": Refusal("NotFoundError", 404, {"model": "no-such-model"}, code="model_not_found"),
    "daily_limit": Refusal("RateLimitError", 429, may_heal=True, code="daily_limit_reached"),
    "backend_failed": Refusal(
        "InternalServerError",
        502,
        prompt="[fail:500]",
        may_heal=True,
        is_retried=True,
        code="upstream_error",
    ),
    "backend_silent": Refusal(
        "InternalServerError",
        504,
        prompt="[fail:hang]",
        may_heal=True,
        is_retried=True,
        code="upstream_timeout",
    ),
    "broken_at_once": Refusal(
        "InternalServerError",
        502,
        {"stream": True},
        prompt="[fail:error-event]",
        may_heal=True,
        is_retried=True,
        code="upstream_error",
    ),
    "broken_stream": Refusal("APIError", None, {"stream": True}, prompt="[fail:stall]"),
}
SHOWN = [(client, key, fact) for client in CLIENTS for key in KEYS for fact in client.facts]
REFUSED = [
    (client, name) for client in CLIENTS for name, one in REFUSALS.items() if can_be_refused(client, one)
]
TELLING = [client for client in CLIENTS if client.shows_headers]
COUNTING = [client for client in TELLING if client.has_codes]


@dataclass(frozen=True, slots=True)
class Shopping:
    """What the clients saw, and what is in the books after it."""

    seen: Mapping[str, Seen]
    findings: list[Finding]
    left_sats: Mapping[str, int]
    """The balances of the tokens whose calls were refused."""


@pytest.fixture(scope="module")
def shopping(tmp_path_factory: pytest.TempPathFactory) -> Shopping:
    async def story() -> Shopping:
        uncapped, capped = (tmp_path_factory.mktemp(name) for name in ("uncapped", "capped"))
        async with staged(uncapped, extra=UNCAPPED) as stage, staged(capped, extra=CAPPED) as strict:
            return await shop(tmp_path_factory.mktemp("clients"), stage, strict)

    return run(story())


async def shop(directory: Path, stage: Stage, strict: Stage) -> Shopping:
    """Funds accounts, lets the clients buy and fail, and looks at the books."""
    failing, poor = await funded(stage, 500), await funded(stage, 10)
    used_up = await funded(strict, 500)
    first = {"model": LABEL, "messages": asking("The only call of the day.")}
    assert (await strict.http.post("/v1/chat/completions", json=first, headers=bearer(used_up))).is_success
    differing: dict[str, Json] = {
        "no_money": {"key": poor},
        "daily_limit": {"key": used_up, "url": f"{strict.url}/v1"},
    }
    refusals = {
        name: replace(one, differs={"key": failing, **one.differs, **differing.get(name, {})})
        for name, one in REFUSALS.items()
    }
    keys = {"token": await funded(stage, 20_000), "credential": await bought(stage)}
    seen = await see_all(directory, url=f"{stage.url}/v1", model=LABEL, keys=keys, refusals=refusals)
    left = {
        "failing": (await stage.balance(bearer(failing)))["balance_sats"],
        "poor": (await stage.balance(bearer(poor)))["balance_sats"],
        "used_up": (await strict.balance(bearer(used_up)))["balance_sats"],
    }
    return Shopping(seen, [*await stage.verify(), *await strict.verify()], left)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def funded(stage: Stage, amount_sats: int) -> str:
    """A token with so much money."""
    return (await stage.fund_token(amount_sats))["Authorization"].removeprefix("Bearer ")


async def bought(stage: Stage) -> str:
    """What a buyer without an account pays for at the chat endpoint, in the form of an `api_key`."""
    wish = {"model": LABEL, "messages": asking("What does it cost?")}
    challenge = await stage.http.post("/v1/chat/completions", json=wish)
    assert challenge.status_code == 402
    told = challenge.json()
    paid = await stage.simulation.pay(told["invoice"])
    return f"{told['macaroon']}:{paid.preimage.hex()}"


@pytest.mark.parametrize(
    ("client", "key", "fact"), SHOWN, ids=[f"{client.name}-{key}-{fact}" for client, key, fact in SHOWN]
)
def test_a_client_is_served(shopping: Shopping, client: Client, key: str, fact: str) -> None:
    FACTS[fact](of(client.name, shopping.seen).facts[key])


@pytest.mark.parametrize(
    ("client", "name"), REFUSED, ids=[f"{client.name}-{name}" for client, name in REFUSED]
)
def test_a_client_understands_a_refusal(shopping: Shopping, client: Client, name: str) -> None:
    refused, expected = of(client.name, shopping.seen).refused[name], REFUSALS[name]

    check_refusal(refused, expected, retries=client.retries, has_kinds=client.has_kinds)
    if client.has_codes and expected.status is not None:
        assert refused["code"] == (expected.code or refused["code"])
        assert refused["request_id"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("client", TELLING, ids=[client.name for client in TELLING])
def test_an_answer_says_what_it_cost_and_what_is_left(shopping: Shopping, client: Client, key: str) -> None:
    facts = of(client.name, shopping.seen).facts[key]

    told = facts["buffered"]["headers"]
    assert told["x-cost-sats"] == str(PRICE_SATS)
    assert int(told["x-balance-sats"]) >= 0
    assert told["x-credit-balance"] == told["x-balance-sats"]
    assert told["x-request-id"]
    assert facts["streamed"]["headers"]["x-request-id"] != told["x-request-id"]


@pytest.mark.parametrize("client", COUNTING, ids=[client.name for client in COUNTING])
def test_usage_carries_the_cost_in_sats(shopping: Shopping, client: Client) -> None:
    facts = of(client.name, shopping.seen).facts["token"]

    assert facts["buffered"]["usage"]["cost"] == PRICE_SATS


def test_refused_calls_cost_nothing(shopping: Shopping) -> None:
    assert shopping.left_sats == {"failing": 500, "poor": 10, "used_up": 500 - PRICE_SATS}


def test_the_books_are_sound_after_all_of_them(shopping: Shopping) -> None:
    assert shopping.findings == []
