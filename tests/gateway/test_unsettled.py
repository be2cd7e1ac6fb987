"""A charge that cannot be made, whatever the fault: the payer gets the sats back and an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.gateway.test_streams import ANY_NUMBER, CHAT, events, question
from tests.stage import Stage, play

from arkgate.core.errors import InternalError, StoreUnavailable
from arkgate.store.postgres.ledger import PostgresLedger
from arkgate.store.sqlite.ledger import SqliteLedger

LEDGERS = (SqliteLedger, PostgresLedger)
FAULTS = [AssertionError("a fault"), LookupError("no such call"), InternalError("The rules refused.")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_charge_that_fails_is_given_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, stream: bool
) -> None:
    async def fails(*_: object) -> NoReturn:
        raise fault

    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for ledger in LEDGERS:
            monkeypatch.setattr(ledger, "settle", fails)
        async with asyncio.timeout(5):
            answer = await stage.http.post(CHAT, json=question(stream=stream), headers=token)

        error = events(answer.text)[-1]["error"] if stream else answer.json()["error"]
        assert answer.status_code == (200 if stream else 500)
        assert error["code"] == "internal_error"
        balance = await stage.balance(token)
        assert (balance["balance_sats"], balance["held_sats"]) == (500, 0)
        assert await stage.verify() == []

    play(tmp_path, story, extra=ANY_NUMBER)


def _deaf(settle: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[NoReturn]]:
    async def settled(*arguments: object) -> NoReturn:
        await settle(*arguments)
        raise InternalError("The answer was lost.")

    return settled


def test_a_charge_that_could_not_be_confirmed_but_was_made_is_not_called_refunded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for ledger in LEDGERS:
            monkeypatch.setattr(ledger, "settle", _deaf(ledger.settle))
        answer = await stage.http.post("/api/ai-chat", json={"prompt": "How?"}, headers=token)

        assert answer.status_code == 500
        assert answer.json()["refunded"] is False
        assert (await stage.balance(token))["balance_sats"] == 450
        assert await stage.verify() == []

    play(tmp_path, story, extra=ANY_NUMBER)


def test_a_stream_whose_ledger_stays_away_ends_with_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> NoReturn:
        raise StoreUnavailable("The books cannot be written.")

    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        for ledger in LEDGERS:
            monkeypatch.setattr(ledger, "settle", away)
        async with asyncio.timeout(30):
            answer = await stage.http.post(CHAT, json=question(), headers=token)

        assert events(answer.text)[-1]["error"]["code"] == StoreUnavailable.code
        assert (await stage.balance(token))["held_sats"] == 0
        assert await stage.verify() == []

    settings = {
        **ANY_NUMBER,
        "[backend]": "total_timeout_seconds = 1\nhold_margin_seconds = 5\nfirst_byte_timeout_seconds = 1",
    }
    play(tmp_path, story, extra=settings)
