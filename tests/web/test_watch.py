"""A session's events: what becomes of it is pushed, to a bounded number of watchers, until it is paid."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stage import Stage, eventually, play

from arkgate.web.watch import STREAMS_CLIENT_MAX, SessionWatch


async def opened(stage: Stage) -> dict[str, Any]:
    answer: dict[str, Any] = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
    return answer


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Names and data; a comment is an event without either."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield "", {}


def test_a_payment_is_pushed_and_ends_the_stream(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = await opened(stage)
        told = []
        async with stage.http.stream("GET", session["events_url"]) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            async for name, body in events(answer):
                told.append((name, body["status"]))
                if name == "awaiting_payment":
                    assert "token" not in body
                    await stage.simulation.pay(session["funding"]["lightning_invoice"])
        assert told == [("awaiting_payment", "awaiting_payment"), ("paid", "active")]
        assert body == (await stage.http.get(session["status_url"])).json()

    play(tmp_path, story)


def test_what_was_cancelled_is_pushed(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = await opened(stage)
        async with stage.http.stream("GET", session["events_url"]) as answer:
            found = events(answer)
            assert (await anext(found))[0] == "awaiting_payment"
            stage.simulation.gate.cancel(bytes.fromhex(session["funding"]["payment_hash"]))
            await stage.http.get(session["status_url"])
            while (name := (await anext(found))[0]) == "":
                pass
            assert name in ("cancelled", "expired")

    play(tmp_path, story)


def test_a_watcher_hears_that_the_stream_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(SessionWatch, heartbeat_seconds=0.1)
    monkeypatch.setattr("arkgate.app.SessionWatch", quick)

    async def story(stage: Stage) -> None:
        session = await opened(stage)
        async with stage.http.stream("GET", session["events_url"]) as answer:
            found = events(answer)
            names = [(await anext(found))[0] for _ in range(4)]
        assert names == ["awaiting_payment", "", "", ""]

    play(tmp_path, story)


def test_nobody_watches_more_than_his_share_and_who_leaves_makes_room(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = await opened(stage)
        async with contextlib.AsyncExitStack() as stack:
            watching = []
            for _ in range(STREAMS_CLIENT_MAX):
                answer = await stack.enter_async_context(stage.http.stream("GET", session["events_url"]))
                watching.append(events(answer))  # one that nobody holds would end its stream
                assert (await anext(watching[-1]))[0] == "awaiting_payment"
            refused = await stage.http.get(session["events_url"])
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert refused.headers["retry-after"] == "5"

        async def is_room() -> bool:
            async with stage.http.stream("GET", session["events_url"]) as again:
                return again.status_code == 200

        await eventually(is_room)

    play(tmp_path, story)


def test_there_is_nothing_to_watch_of_a_session_that_is_not(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        answer = await stage.http.get("/v1/sessions/0123/events")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    play(tmp_path, story)


def test_a_paid_session_says_so_at_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        session = await opened(stage)
        await stage.simulation.pay(session["funding"]["lightning_invoice"])

        async def is_active() -> bool:
            return bool((await stage.http.get(session["status_url"])).json()["status"] == "active")

        await eventually(is_active)
        async with asyncio.timeout(2), stage.http.stream("GET", session["events_url"]) as answer:
            assert [name async for name, _ in events(answer)] == ["paid"]

    play(tmp_path, story)
