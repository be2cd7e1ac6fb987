"""Several backends: who is asked, who is asked next, and when nobody else may be."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from arkgate.backend.pool import Pool
from arkgate.backend.upstream import BackendSettings, Upstream
from arkgate.core.errors import BackendRejected, BackendUnavailable, Overloaded, Refusal, UpstreamError
from arkgate.ports import ChatMessage, Dialect, Outgoing
from tests.backend.backend_server import BackendServer, Behaviour, Peer, always, http, serving

HELLO = Outgoing(Dialect.CHAT, {"messages": [{"role": "user", "content": "Hello?"}]}, "small")
Story = Callable[[Pool, list[BackendServer]], Awaitable[None]]


def play(story: Story, *behaviours: Behaviour, settings: tuple[dict[str, object], ...] = ()) -> None:
    async def played() -> None:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving(behave)) for behave in behaviours]
            given = [*settings, *[{}] * len(servers)]
            upstreams = [
                Upstream(BackendSettings(**{"url": server.url, "name": f"b{number}", **given[number]}))  # type: ignore[arg-type]
                for number, server in enumerate(servers)
            ]
            pool = Pool(upstreams)
            try:
                await story(pool, servers)
                assert all(upstream.connections_busy_count == 0 for upstream in upstreams)
                assert all(upstream.under_way_count == 0 for upstream in upstreams)
            finally:
                await pool.close()

    asyncio.run(asyncio.wait_for(played(), 30))


async def ask(pool: Pool, outgoing: Outgoing = HELLO, call_id: str = "call") -> bytes:
    async with pool.forward(outgoing, call_id=call_id) as incoming:
        return b"".join([piece async for piece in incoming])


def refusing(status: str) -> Behaviour:
    return always(http(b'{"error": {"message": "no"}}', status=status))


async def silent(peer: Peer) -> None:
    """Takes the request and closes without a word."""
    await peer.request()


def waiting_for(event: asyncio.Event) -> Behaviour:
    """Answers when that has happened."""

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            await event.wait()
            await peer.send(http())

    return behave


def asked(servers: list[BackendServer]) -> list[int]:
    return [len(server.requests) for server in servers]


NOT_BEGUN = ["503 Busy", "429 Slow down", "401 No", "403 No", "404 No model"]


@pytest.mark.parametrize("status", NOT_BEGUN)
def test_one_that_has_not_begun_leaves_the_call_to_the_next(status: str) -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        assert b"Hello." in await ask(pool)
        assert asked(servers) == [1, 1]

    play(story, refusing(status), always(http()), settings=({"priority": 0}, {"priority": 1}))


@pytest.mark.parametrize("behave", [refusing("500 Oops"), refusing("502 Oops"), silent])
def test_a_call_that_may_have_begun_is_not_made_twice(behave: Behaviour) -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        with pytest.raises(UpstreamError):
            await ask(pool)
        assert asked(servers) == [1, 0]

    play(story, behave, always(http()), settings=({"priority": 0}, {"priority": 1}))


def test_the_callers_mistake_is_not_tried_elsewhere() -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        with pytest.raises(BackendRejected):
            await ask(pool)
        assert asked(servers) == [1, 0]

    play(story, refusing("400 Bad"), always(http()), settings=({"priority": 0}, {"priority": 1}))


def test_one_that_cannot_be_reached_is_left_out_until_it_answers_again() -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        gone = Upstream(BackendSettings("http://127.0.0.1:9/v1", name="gone", priority=0))
        both = Pool([gone, *pool.upstreams])
        for _ in range(5):
            assert b"Hello." in await ask(both)
        assert gone.is_resting
        both.check()
        await gone.close()

    play(story, always(http()), settings=({"priority": 1},))


def test_when_all_are_away_nothing_is_sold() -> None:
    async def main() -> None:
        pool = Pool([Upstream(BackendSettings("http://127.0.0.1:9/v1", name=name)) for name in "ab"])
        for _ in range(3):
            with pytest.raises(Refusal):
                await ask(pool)
        with pytest.raises(BackendUnavailable):
            pool.check()
        with pytest.raises(BackendUnavailable):
            pool.admit()
        await pool.close()

    asyncio.run(main())


def test_weights_share_the_calls_among_idle_ones() -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        for _ in range(200):
            await ask(pool)
        light, heavy = asked(servers)
        assert light + heavy == 200
        assert 25 <= light <= 80  # 50 of 200

    play(story, always(http()), always(http()), settings=({"weight": 1}, {"weight": 3}))


def test_the_least_busy_for_its_weight_is_asked() -> None:
    opened = asyncio.Event()
    slow = waiting_for(opened)

    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        calls = [asyncio.create_task(ask(pool)) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert asked(servers) == [2, 6]
        opened.set()
        await asyncio.gather(*calls)

    play(story, slow, slow, settings=({"weight": 1}, {"weight": 3}))


def test_a_full_one_leaves_calls_to_the_next_and_all_full_is_overloaded() -> None:
    opened = asyncio.Event()
    slow = waiting_for(opened)

    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        calls = [asyncio.create_task(ask(pool)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert asked(servers) == [1, 1]
        with pytest.raises(Overloaded):
            pool.check()
        with pytest.raises(Overloaded):
            await ask(pool)
        opened.set()
        await asyncio.gather(*calls)

    one = {"concurrency_max": 1}
    play(story, slow, slow, settings=({**one, "priority": 0}, {**one, "priority": 1}))


def test_a_model_goes_to_those_that_have_it_by_their_own_names() -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        for _ in range(4):
            await ask(pool)
        with pytest.raises(BackendUnavailable):
            await ask(pool, Outgoing(Dialect.CHAT, HELLO.document, "unknown"))
        with pytest.raises(BackendUnavailable):
            pool.check("unknown")
        assert asked(servers) == [0, 4]
        assert Counter(body.count(b'"own-small"') for _, body in servers[1].requests) == {1: 4}

    play(
        story, always(http()), always(http()),
        settings=({"models": {"large": "own-large"}}, {"models": {"small": "own-small"}}),
    )  # fmt: skip


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def hanging(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(30)

    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        calls = [asyncio.create_task(ask(pool)) for _ in range(20)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.05)

    play(story, hanging, hanging)


def test_the_doctors_question_goes_to_the_first() -> None:
    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        completion = await pool.chat([ChatMessage("user", "Hello?")], call_id="doctor")
        assert completion.text == "Hello."
        assert (await pool.health()).ready

    play(story, always(http()), settings=({"model": "small-1"},))


def test_a_call_waits_in_a_queue_only_where_none_has_room() -> None:
    held = asyncio.Event()
    slow = waiting_for(held)

    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        calls = [asyncio.create_task(ask(pool, call_id=str(number))) for number in range(2)]
        await asyncio.sleep(0.1)
        assert asked(servers) == [1, 1]
        waiting = asyncio.create_task(ask(pool, call_id="waits"))
        await asyncio.sleep(0.1)
        held.set()
        assert all(await asyncio.gather(*calls, waiting))

    one: dict[str, object] = {"concurrency_max": 1, "queue_max": 1, "queue_timeout_seconds": 5.0}
    play(story, slow, slow, settings=(one, {**one, "priority": 1}))


def test_where_one_is_full_and_another_is_away_the_call_may_be_repeated_soon() -> None:
    held = asyncio.Event()
    slow = waiting_for(held)

    async def story(pool: Pool, servers: list[BackendServer]) -> None:
        first = asyncio.create_task(ask(pool))
        await asyncio.sleep(0.1)
        for _ in range(4):
            with pytest.raises(Overloaded):
                await ask(pool)
        with pytest.raises(Overloaded):
            pool.check()
        held.set()
        await first

    full: dict[str, object] = {"concurrency_max": 1, "queue_max": 0, "queue_timeout_seconds": 0.1}
    play(story, slow, slow, settings=(full, {"url": "http://127.0.0.1:9/v1", "priority": 1}))
