"""A client that leaves at whatever await leaves no open hold, no double charge and no leaked connection.

Nor does a call that a shutdown gives up at whatever await.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from tests.gateway.suspensions import Asked, Left, Watch, Watched, cancelled_at, hung_up_at, tasks_counted
from tests.stage import PROMPT, Stage, eventually, run, staged

from arkgate import app
from arkgate.backend.upstream import BackendSettings, Upstream
from arkgate.store import read_store
from arkgate.web.guard import Guard

PRICE_MSAT = 50_000
RICH_SATS = 100_000
AWAITS_MAX = 100
FAILING = {"prompt": "[fail:500] How is Ark different?"}
LIMITS = {"[[services]]": "calls_per_day = 0"}
TIMES = 4
"""How often a free request is left at each await: more than 8 lost slots would show."""


class KeptBackend(Upstream):
    """The backend, and the one that was made last."""

    latest: ClassVar[Upstream]

    def __init__(self, settings: BackendSettings) -> None:
        super().__init__(settings)
        type(self).latest = self


Leave = Callable[[Asked, int], Awaitable[Left]]
"""Asks and leaves at the n-th await."""


@dataclass(slots=True)
class Scene:
    """A stage, and one of the ways to leave."""

    stage: Stage
    leave: Leave

    async def charged(self) -> int:
        """What was charged so far."""
        async with read_store(self.stage.settings.store_url) as statements:
            return (await statements.totals()).charged

    async def at_rest(self, watch: Watch) -> None:
        """Nothing is held, nothing is connected, no task of the request runs any more."""

        async def rests() -> bool:
            async with read_store(self.stage.settings.store_url) as statements:
                held = (await statements.totals()).open_holds
            backend = KeptBackend.latest
            busy = backend.connections_busy_count + backend.under_way_count + len(self.stage.app.calls)
            return held == busy == 0 and watch.is_over

        await eventually(rests)

    async def at_every_await(self, asked: Callable[[], Awaitable[Asked]], check: "Check") -> int:
        """Leaves at the first await, at the second, and so on to the end; answers how many there are."""
        for number in range(1, AWAITS_MAX):
            request = await asked()
            before = await self.charged()
            left = await self.leave(request, number)
            await self.at_rest(left.watch)
            await check(request, await self.charged() - before, before)
            if left.status is not None:
                return number - 1
        raise AssertionError("the request never came to its end")

    async def ask(self, asked: Asked) -> tuple[int, Mapping[str, object]]:
        """The same request from a client that stays."""
        answer = await self.stage.http.post(asked.path, content=asked.content, headers=asked.headers)
        return answer.status_code, answer.json()


Check = Callable[[Asked, int, int], Awaitable[None]]
"""What must be so after a client left: what it asked, what it was charged, what all were before."""
Story = Callable[[Scene], Awaitable[None]]


@contextlib.asynccontextmanager
async def scene(directory: Path, way: str) -> AsyncIterator[Scene]:
    watched: list[Watched] = []

    def around(application: Guard) -> Watched:
        watched.append(Watched(application))
        return watched[0]

    async with staged(directory, extra=LIMITS, around=around) as stage:
        with tasks_counted():
            stage.simulation.payer.habits.settle_delay_seconds = 0.0

            async def cancel(asked: Asked, number: int) -> Left:
                return await cancelled_at(stage.app.public, asked, number)

            async def hang_up(asked: Asked, number: int) -> Left:
                return await hung_up_at(watched[0], stage.settings.listen.port, asked, number)

            async def give_up(asked: Asked, number: int) -> Left:
                def end() -> None:
                    for call in stage.app.calls._tasks:
                        call.cancel()

                return await cancelled_at(stage.app.public, asked, number, cancel=end)

            ways = {"cancelled": cancel, "hung up": hang_up, "given up": give_up}
            leave = ways[way]
            yield Scene(stage, leave)
        assert await stage.verify() == []


@pytest.fixture(params=["cancelled", "hung up", "given up"])
def play(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Story], None]:
    """Plays a story for each way to leave."""
    monkeypatch.setattr(app, "Upstream", KeptBackend)

    async def played(story: Story) -> None:
        async with scene(tmp_path, request.param) as now:
            await story(now)

    return lambda story: run(asyncio.wait_for(played(story), 100))


def keyed(header: Mapping[str, str]) -> dict[str, str]:
    return {**header, "Idempotency-Key": secrets.token_hex(8)}


def chat(header: Mapping[str, str], body: Mapping[str, object] = PROMPT) -> Asked:
    return Asked("/api/ai-chat", header, body)


def bought_once(now: Scene) -> Check:
    """Who comes back gets the one answer: it is charged now unless it was charged already."""

    async def check(asked: Asked, charged: int, before: int) -> None:
        assert charged in (0, PRICE_MSAT)
        status, body = await now.ask(asked)
        assert status == 200, body
        assert body.get("replayed", False) is (charged > 0)
        assert await now.charged() - before == PRICE_MSAT

    return check


def test_a_token_is_charged_once_whenever_its_holder_leaves(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        header = await now.stage.fund_token(RICH_SATS)

        async def asked() -> Asked:
            return chat(keyed(header))

        assert await now.at_every_await(asked, bought_once(now)) >= 4

    play(story)


def test_a_new_token_is_charged_once_whenever_its_holder_leaves(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        async def asked() -> Asked:
            body = (await now.stage.http.post("/v1/sessions", json={"amount_sats": 50})).json()
            await now.stage.simulation.pay(body["funding"]["lightning_invoice"])

            async def paid() -> bool:
                session = await now.stage.http.get(f"/v1/sessions/{body['session_id']}")
                return bool(session.json()["status"] == "active")

            await eventually(paid)  # asked without the token, which the gateway would remember
            return chat(keyed({"Authorization": f"Bearer {body['token']}"}))

        assert await now.at_every_await(asked, bought_once(now)) >= 4

    play(story)


def test_a_fresh_credential_is_credited_and_charged_once_whenever_its_holder_leaves(
    play: Callable[[Story], None],
) -> None:
    async def story(now: Scene) -> None:
        now.stage.simulation.gate.habits.streams_silent = True  # the proof is what credits

        async def asked() -> Asked:
            return chat((await now.stage.buy_credential()).header)

        assert await now.at_every_await(asked, bought_once(now)) >= 6

    play(story)


def test_a_used_credential_is_charged_once_whenever_its_holder_leaves(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        async def asked() -> Asked:
            header = (await now.stage.buy_credential()).header
            await now.stage.balance(header)
            return chat(header)

        assert await now.at_every_await(asked, bought_once(now)) >= 4

    play(story)


def test_a_call_without_a_key_is_charged_at_most_once_whenever_its_holder_leaves(
    play: Callable[[Story], None],
) -> None:
    async def story(now: Scene) -> None:
        header = await now.stage.fund_token(RICH_SATS)

        async def asked() -> Asked:
            return chat(header)

        async def check(asked: Asked, charged: int, before: int) -> None:
            assert charged in (0, PRICE_MSAT)

        await now.at_every_await(asked, check)

    play(story)


def test_a_failing_backend_costs_nothing_whenever_the_client_leaves(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        header = await now.stage.fund_token(RICH_SATS)

        async def asked() -> Asked:
            return chat(keyed(header), FAILING)

        async def check(asked: Asked, charged: int, before: int) -> None:
            assert charged == 0
            status, body = await now.ask(asked)
            assert (status, body["refunded"]) == (502, True)
            assert await now.charged() == before
            assert (await now.stage.balance(header))["available_sats"] == RICH_SATS

        await now.at_every_await(asked, check)

    play(story)


def test_a_challenge_is_to_be_had_whenever_others_left(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        async def asked() -> Asked:
            return chat({})

        async def check(asked: Asked, charged: int, before: int) -> None:
            assert charged == 0
            assert (await now.ask(asked))[0] == 402

        for _ in range(TIMES):
            await now.at_every_await(asked, check)

    play(story)


def test_a_session_is_opened_whenever_others_left(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        async def asked() -> Asked:
            return Asked("/v1/sessions", {}, {"amount_sats": 50})

        async def check(asked: Asked, charged: int, before: int) -> None:
            assert (await now.ask(asked))[0] == 201

        for _ in range(TIMES):
            await now.at_every_await(asked, check)
        header = await now.stage.fund_token(50)
        assert (await now.ask(chat(keyed(header))))[0] == 200

    play(story)


def test_a_top_up_is_made_whenever_its_owner_left_before(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        header = await now.stage.fund_token(50)
        topped_up = 50

        async def asked() -> Asked:
            return Asked("/v1/topups", header, {"amount_sats": 1})

        async def check(asked: Asked, charged: int, before: int) -> None:
            nonlocal topped_up
            status, body = await now.ask(asked)
            assert status == 201
            funding = body["funding"]
            assert isinstance(funding, dict)
            await now.stage.simulation.pay(funding["lightning_invoice"])
            topped_up += 1

        await now.at_every_await(asked, check)

        async def credited() -> bool:
            return bool((await now.stage.balance(header))["balance_sats"] == topped_up)

        await eventually(credited)

    play(story)


def test_a_credential_has_one_token_whenever_its_holder_left(play: Callable[[Story], None]) -> None:
    async def story(now: Scene) -> None:
        header: dict[str, str] = {}

        async def asked() -> Asked:
            header.update((await now.stage.buy_credential()).header)
            return Asked("/v1/tokens", header, {})

        async def check(asked: Asked, charged: int, before: int) -> None:
            first, again = (await now.ask(asked)), (await now.ask(asked))
            assert first[0] == 200
            assert first[1]["token"] == again[1]["token"]
            assert first[1]["balance_sats"] == 50

        await now.at_every_await(asked, check)

    play(story)
