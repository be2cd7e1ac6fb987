"""Clocks that step: the books go by the new time, and no hold is swept early because of it."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from arkgate import settings
from arkgate.core.ledger import Reservation, SettleOutcome
from arkgate.store import Store
from arkgate.store.clock import DAY_MS, ForwardClock, SystemClock
from arkgate.store.postgres import clock, ledger, opening
from arkgate.store.postgres.opening import open_postgres
from arkgate.store.sqlite.opening import open_sqlite
from arkgate.store.told import BEHIND, DISPUTE_MS, STEP_MS_MAX, STEPPED, Step, ToldTime, steady_ms
from tests import postgres
from tests.store.books import NOON, PRICE, ManualClock, answer_to, broken, call, charge, pay, run
from tests.test_settings import GOOD

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


class Clocks:
    """The three clocks that a replica sees, each set by hand; all show the same at first."""

    def __init__(self, *, database_ms: int = NOON, host_ms: int = NOON) -> None:
        self.at = 5_000.0
        self.database_ms = database_ms
        self.host_ms = host_ms
        self.time = ToldTime()
        self.tell()

    def tell(self) -> None:
        """Measures the database's time."""
        self.time.tell(self.database_ms, at=self.at, host_ms=self.host_ms)

    def pass_ms(self, milliseconds: int) -> None:
        """Lets time pass and measures."""
        self.at += milliseconds
        self.database_ms += milliseconds
        self.host_ms += milliseconds
        self.tell()

    @property
    def now_ms(self) -> int:
        """The replica's time."""
        return self.time.now_ms(self.at)

    @property
    def certain_ms(self) -> int:
        """What is overdue by this is overdue."""
        return self.time.certain_ms(self.at)


def test_the_time_goes_on_between_two_looks_at_the_database() -> None:
    clocks = Clocks()

    clocks.at += 7_000

    assert clocks.now_ms == clocks.certain_ms == NOON + 7_000


def test_what_drift_explains_is_no_step() -> None:
    clocks = Clocks()

    with capture_logs() as logged:
        for _ in range(100):
            clocks.database_ms += 100
            clocks.pass_ms(10_000)

    assert clocks.now_ms == clocks.certain_ms == clocks.database_ms
    assert logged == []


@pytest.mark.parametrize("step_ms", [HOUR_MS, 400 * DAY_MS])
def test_a_step_forward_is_the_new_time_and_makes_nothing_overdue(step_ms: int) -> None:
    clocks = Clocks()
    clocks.database_ms += step_ms

    with capture_logs() as logged:
        clocks.pass_ms(10_000)
        clocks.pass_ms(10_000)

    assert clocks.now_ms == NOON + 20_000 + step_ms
    assert clocks.certain_ms == NOON + 20_000
    assert [(line["event"], line["milliseconds"]) for line in logged] == [(STEPPED, step_ms)]


def test_a_step_forward_is_believed_when_every_hold_from_before_it_has_ended() -> None:
    clocks = Clocks()
    clocks.database_ms += HOUR_MS
    clocks.pass_ms(10_000)

    clocks.pass_ms(int(DISPUTE_MS))
    before = clocks.certain_ms
    clocks.pass_ms(1)

    assert before == clocks.host_ms - 1
    assert clocks.certain_ms == clocks.now_ms == clocks.database_ms


def test_a_second_step_begins_the_wait_anew() -> None:
    clocks = Clocks()
    clocks.database_ms += HOUR_MS
    clocks.pass_ms(10_000)
    clocks.pass_ms(int(DISPUTE_MS))
    clocks.database_ms += HOUR_MS

    clocks.pass_ms(10_000)

    assert clocks.now_ms == clocks.certain_ms + 2 * HOUR_MS


def test_a_step_that_is_taken_back_leaves_nothing_behind() -> None:
    clocks = Clocks()
    clocks.database_ms += HOUR_MS
    clocks.pass_ms(10_000)
    clocks.database_ms -= HOUR_MS

    clocks.pass_ms(10_000)

    assert clocks.certain_ms == clocks.now_ms == NOON + 20_000


def test_after_a_step_back_nothing_is_overdue_by_the_later_time() -> None:
    clocks = Clocks()
    clocks.database_ms -= HOUR_MS

    clocks.pass_ms(10_000)

    assert clocks.certain_ms == clocks.database_ms
    clocks.pass_ms(int(DISPUTE_MS) + 1)
    clocks.pass_ms(10_000)
    assert clocks.certain_ms == clocks.now_ms == clocks.database_ms


def test_the_days_never_go_back_and_what_is_overdue_still_goes_by_the_database() -> None:
    clocks = Clocks()
    forward = ForwardClock(ByHand(clocks))
    first = forward.now_ms()
    clocks.database_ms -= HOUR_MS

    clocks.pass_ms(10_000)

    assert forward.now_ms() == first
    assert forward.certain_ms() == clocks.database_ms


def test_a_replica_that_starts_behind_the_database_sweeps_by_its_host() -> None:
    with capture_logs() as logged:
        clocks = Clocks(database_ms=NOON + HOUR_MS)
    clocks.pass_ms(10_000)

    assert clocks.now_ms == NOON + HOUR_MS + 10_000
    assert clocks.certain_ms == NOON + 10_000
    assert [line["event"] for line in logged] == [BEHIND]
    clocks.host_ms += HOUR_MS  # somebody sets it right
    clocks.pass_ms(10_000)
    assert clocks.certain_ms == clocks.now_ms


def test_a_host_whose_clock_is_ahead_makes_nothing_overdue() -> None:
    clocks = Clocks(host_ms=NOON + HOUR_MS)

    assert clocks.now_ms == clocks.certain_ms == NOON


def test_a_host_whose_clock_steps_later_changes_nothing() -> None:
    clocks = Clocks()
    clocks.host_ms -= HOUR_MS

    clocks.pass_ms(10_000)

    assert clocks.now_ms == clocks.certain_ms == NOON + 10_000


def test_who_starts_after_a_step_disputes_it_for_as_long_as_those_who_saw_it() -> None:
    witness = Clocks()
    witness.database_ms += HOUR_MS
    witness.pass_ms(10_000)
    witness.pass_ms(MINUTE_MS)
    newcomer = Clocks(database_ms=witness.database_ms, host_ms=witness.database_ms)
    assert witness.time.noticed == Step(HOUR_MS, NOON + HOUR_MS + 10_000)

    newcomer.time.heed(witness.time.noticed, at=newcomer.at)

    for clocks in (witness, newcomer):
        clocks.pass_ms(int(DISPUTE_MS) - MINUTE_MS)
        assert clocks.certain_ms == clocks.now_ms - HOUR_MS
        clocks.pass_ms(1)
        assert clocks.certain_ms == clocks.now_ms == clocks.database_ms


def test_who_heeds_a_step_does_not_ask_its_host_any_more() -> None:
    newcomer = Clocks(database_ms=NOON + HOUR_MS)
    newcomer.time.heed(Step(HOUR_MS, NOON + HOUR_MS), at=newcomer.at)

    newcomer.host_ms += HOUR_MS
    newcomer.pass_ms(10_000)

    assert newcomer.certain_ms == newcomer.now_ms - HOUR_MS


@pytest.mark.parametrize(
    ("step_ms", "noticed_ms_ago"),
    [(HOUR_MS, DISPUTE_MS + 1), (HOUR_MS, -STEP_MS_MAX - 1), (0, MINUTE_MS)],
    ids=["too old", "of a time that was not to stay", "taken back"],
)
def test_a_step_that_is_over_is_not_heeded(step_ms: int, noticed_ms_ago: float) -> None:
    newcomer = Clocks()

    newcomer.time.heed(Step(step_ms, NOON - int(noticed_ms_ago)), at=newcomer.at)

    assert newcomer.certain_ms == newcomer.now_ms == NOON
    assert newcomer.time.noticed is None


@pytest.mark.parametrize("noticed_ms_ago", [DISPUTE_MS, -STEP_MS_MAX])
def test_a_step_that_lasts_is_heeded(noticed_ms_ago: float) -> None:
    newcomer = Clocks()

    newcomer.time.heed(Step(HOUR_MS, NOON - int(noticed_ms_ago)), at=newcomer.at)

    assert newcomer.certain_ms == NOON - HOUR_MS


def test_a_step_that_is_taken_back_is_taken_back_for_those_who_start_later() -> None:
    clocks = Clocks()
    clocks.database_ms += HOUR_MS
    clocks.pass_ms(10_000)
    clocks.database_ms -= HOUR_MS

    clocks.pass_ms(10_000)

    assert clocks.time.noticed == Step(0, NOON + 20_000)


def test_a_step_is_no_news_when_its_dispute_ends_by_itself() -> None:
    clocks = Clocks()
    clocks.database_ms += HOUR_MS
    clocks.pass_ms(10_000)
    noticed = clocks.time.noticed

    clocks.pass_ms(int(DISPUTE_MS) + 1)
    clocks.pass_ms(10_000)

    assert clocks.time.noticed is noticed is not None


def test_a_host_that_is_behind_tells_nobody_of_a_step() -> None:
    clocks = Clocks(database_ms=NOON + HOUR_MS)

    clocks.pass_ms(10_000)
    clocks.host_ms += HOUR_MS
    clocks.pass_ms(10_000)

    assert clocks.time.noticed is None


def test_a_dispute_lasts_longer_than_any_hold_that_the_settings_allow(tmp_path: Path) -> None:
    longest = "[backend]\ntotal_timeout_seconds = 3600\nhold_margin_seconds = 3600"
    for secret in ("tls.cert", "invoice.macaroon"):
        (tmp_path / secret).write_bytes(b"here")
    file = tmp_path / "arkgate.toml"
    file.write_text(GOOD.replace("[backend]", longest))
    assert settings.load(file).call_deadline_seconds * 1000 + MINUTE_MS <= DISPUTE_MS
    file.write_text(GOOD.replace("[backend]", longest.replace("3600", "3601")))
    with pytest.raises(settings.SettingsError) as refused:
        settings.load(file)
    assert len(refused.value.problems) == 2


@pytest.mark.usefixtures("postgres_server")
def test_no_replica_sweeps_a_call_under_way_when_the_database_comes_back_with_another_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "MEASURE_SECONDS", 0.02)

    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            await pay(store, 2 * PRICE)
            under_way, dead = await held(store, 180_000), await held(store, 500)
            before = store.clock.now_ms()
            monkeypatch.setattr(clock, "_NOW", clock._NOW.replace("* 1000", f"* 1000 + {HOUR_MS}"))
            async with asyncio.timeout(5):
                while store.clock.now_ms() < before + HOUR_MS:  # noqa: ASYNC110 - the clock is the store's own
                    await asyncio.sleep(0.01)

            async with open_postgres(url) as newcomer:
                for replica in (store, newcomer):
                    assert under_way.call_id not in [one.call_id for one in await replica.ledger.sweep(10)]
                    assert broken(await replica.statements.verify()) == []
            async with asyncio.timeout(5):
                while (await store.statements.totals()).open_holds > 1:
                    swept = await store.ledger.sweep(10)
                    assert [one.call_id for one in swept] in ([], [dead.call_id])
            settled = await store.ledger.settle(under_way.call_id, PRICE, answer_to(under_way))
            assert settled.outcome is SettleOutcome.SETTLED

    run(story())


@pytest.mark.usefixtures("postgres_server")
def test_a_replica_that_starts_after_a_step_on_a_host_that_took_part_in_it_sweeps_no_call_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "MEASURE_SECONDS", 0.02)
    right = clock._NOW

    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            await pay(store, 2 * PRICE)
            under_way, dead = await held(store, 180_000), await held(store, 500)
            monkeypatch.setattr(clock, "_NOW", right.replace("* 1000", f"* 1000 + {HOUR_MS}"))
            monkeypatch.setattr(SteppedHost, "step_ms", HOUR_MS)
            monkeypatch.setattr(opening, "SystemClock", SteppedHost)
            await noted(store, HOUR_MS)

            async with open_postgres(url) as newcomer, opening.open_postgres_readonly(url) as reader:
                assert under_way.call_id not in [one.call_id for one in await newcomer.ledger.sweep(10)]
                assert broken(await reader.verify()) == []
                async with asyncio.timeout(5):
                    while (await store.statements.totals()).open_holds > 1:
                        swept = await newcomer.ledger.sweep(10)
                        assert [one.call_id for one in swept] in ([], [dead.call_id])
                        await asyncio.sleep(0.01)
            monkeypatch.setattr(clock, "_NOW", right)
            await noted(store, 0)
            settled = await store.ledger.settle(under_way.call_id, PRICE, answer_to(under_way))
            assert settled.outcome is SettleOutcome.SETTLED

    run(story())


@pytest.mark.usefixtures("postgres_server")
def test_a_dead_call_whose_deadline_a_short_error_put_far_away_is_swept_when_no_call_can_live_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with postgres.database() as url:
            async with open_postgres(url) as store:
                await pay(store, 4 * PRICE)
                far = [await held(store, 400 * DAY_MS + number) for number in range(3)]
                longest = await held(store, int(DISPUTE_MS) - MINUTE_MS)
            async with open_postgres(url) as store:
                later = 0.0
                monkeypatch.setattr(ledger, "steady_ms", lambda: steady_ms() + later)
                assert await store.ledger.sweep(1) == []
                later = DISPUTE_MS - MINUTE_MS
                assert await store.ledger.sweep(1) == []

                later = DISPUTE_MS + 1
                swept = [*await store.ledger.sweep(1), *await store.ledger.sweep(10)]

                assert [one.call_id for one in swept] == [one.call_id for one in far]
                assert broken(await store.statements.verify()) == []
                settled = await store.ledger.settle(longest.call_id, PRICE, answer_to(longest))
                assert settled.outcome is SettleOutcome.SETTLED

    run(story())


@pytest.mark.usefixtures("postgres_server")
def test_a_call_that_ended_hides_no_dead_one_whose_deadline_is_far_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "FAR_MAX", 1)

    async def story() -> None:
        async with postgres.database() as url, open_postgres(url, ManualClock()) as store:
            await pay(store, 2 * PRICE)
            ended, dead = [call(deadline_ms=NOON + days * DAY_MS) for days in (400, 401)]
            await charge(store, ended)
            await store.ledger.reserve(dead)
            assert await store.ledger.sweep(10) == []

            monkeypatch.setattr(ledger, "steady_ms", lambda: steady_ms() + DISPUTE_MS + 1)
            assert [one.call_id for one in await store.ledger.sweep(10)] == [dead.call_id]

    run(story())


@pytest.mark.usefixtures("postgres_server")
def test_a_call_may_live_for_as_long_as_a_dispute_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url, ManualClock()) as store:
            await pay(store, 2 * PRICE)
            longest, dead = [call(deadline_ms=NOON + int(DISPUTE_MS) + more) for more in (0, 1)]
            await store.ledger.reserve(longest)
            await store.ledger.reserve(dead)
            assert await store.ledger.sweep(10) == []

            monkeypatch.setattr(ledger, "steady_ms", lambda: steady_ms() + DISPUTE_MS + 1)
            assert [one.call_id for one in await store.ledger.sweep(10)] == [dead.call_id]

    run(story())


def test_books_in_a_file_sweep_no_call_under_way_when_the_hosts_clock_steps(tmp_path: Path) -> None:
    async def story() -> None:
        host = SteppedHost()
        async with open_sqlite(tmp_path / "ledger.db", host) as store:
            await pay(store, 2 * PRICE)
            under_way, dead = await held(store, 180_000), await held(store, 500)
            host.step_ms = HOUR_MS

            assert await store.ledger.sweep(10) == []
            assert broken(await store.statements.verify()) == []
            async with asyncio.timeout(5):
                while not (swept := await store.ledger.sweep(10)):  # noqa: ASYNC110 - time has to pass
                    await asyncio.sleep(0.05)
            assert [one.call_id for one in swept] == [dead.call_id]
            settled = await store.ledger.settle(under_way.call_id, PRICE, answer_to(under_way))
            assert settled.outcome is SettleOutcome.SETTLED

    run(story())


async def held(store: Store, lives_ms: int) -> Reservation:
    """A call that is under way."""
    asked = call(deadline_ms=store.clock.now_ms() + lives_ms)
    await store.ledger.reserve(asked)
    return asked


async def noted(store: Store, step_ms: int) -> None:
    """Waits until the books say that the clock stepped so far, to the measurement's exactness."""
    async with asyncio.timeout(5):
        while True:
            fact = (await store.statements.facts()).get(clock.STEP_FACT)
            if fact is not None and abs(fact - step_ms) < STEP_MS_MAX:
                return
            await asyncio.sleep(0.01)


class ByHand:
    """`ports.Clock` of the clocks above."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._clocks.now_ms

    def certain_ms(self) -> int:
        """What is overdue by this is overdue."""
        return self._clocks.certain_ms


class SteppedHost(SystemClock):
    """This host's clock, somebody's hand on it."""

    step_ms = 0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return super().now_ms() + self.step_ms
