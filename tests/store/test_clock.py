"""The books' time never goes back and never stands still, whatever is done to the host's clock."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from arkgate.store import open_store
from arkgate.store.clock import NS_PER_MS, ForwardClock, SystemClock
from arkgate.store.sqlite.connections import LOG_BYTES
from tests.store.books import NOON, ManualClock, run

HOUR_MS = 3_600_000


@dataclass(slots=True)
class Host:
    """A host whose wall clock can be stepped, while its other clock just goes on."""

    wall: ManualClock
    steady_ms: int = 0

    def lives_ms(self, milliseconds: int) -> None:
        """Time passes."""
        self.wall.pass_ms(milliseconds)
        self.steady_ms += milliseconds

    def steady_ns(self) -> int:
        """What nobody steps."""
        return self.steady_ms * NS_PER_MS


def _host() -> tuple[Host, ForwardClock]:
    host = Host(ManualClock())
    return host, ForwardClock(host.wall, steady_ns=host.steady_ns)


def test_time_is_the_hosts_also_after_a_step_forward() -> None:
    host, clock = _host()
    told = [clock.now_ms()]
    host.lives_ms(5000)
    told.append(clock.now_ms())
    host.wall.pass_ms(HOUR_MS)
    told.append(clock.now_ms())

    assert told == [NOON, NOON + 5000, NOON + 5000 + HOUR_MS]


def test_time_goes_on_after_a_step_back_so_that_deadlines_pass() -> None:
    host, clock = _host()
    before = clock.now_ms()
    host.wall.pass_ms(-HOUR_MS)

    told = [clock.now_ms()]
    for _ in range(3):
        host.lives_ms(2000)
        told.append(clock.now_ms())

    assert told == [before, before + 1000, before + 2000, before + 3000]


def test_time_is_the_hosts_again_once_that_has_caught_up() -> None:
    host, clock = _host()
    clock.now_ms()
    host.wall.pass_ms(-HOUR_MS)
    host.lives_ms(2 * HOUR_MS - 1000)
    just_ahead = clock.now_ms() - host.wall.now_ms()
    host.lives_ms(1000)
    together = clock.now_ms() - host.wall.now_ms()
    host.lives_ms(1000)

    assert (just_ahead, together) == (500, 0)
    assert clock.now_ms() == host.wall.now_ms()


def test_asking_often_makes_time_pass_no_faster_and_no_slower() -> None:
    host, clock = _host()
    before = clock.now_ms()
    host.wall.pass_ms(-HOUR_MS)
    for _ in range(1001):
        host.lives_ms(1)
        clock.now_ms()

    assert clock.now_ms() == before + 500


def test_the_books_in_a_file_go_on_when_the_host_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'ledger.db'}", None, log_bytes=LOG_BYTES) as store:
            before = store.clock.now_ms()
            hour_ago_ns = time.time_ns() - HOUR_MS * NS_PER_MS
            monkeypatch.setattr(time, "time_ns", lambda: hour_ago_ns)
            time.sleep(0.05)  # noqa: ASYNC251 - there is nothing else to do

            assert before + 20 <= store.clock.now_ms() < before + HOUR_MS

    run(story())


def test_time_is_a_whole_number_of_milliseconds() -> None:
    now_ms = SystemClock().now_ms()

    assert isinstance(now_ms, int)
    assert abs(now_ms - time.time() * 1000) < 60_000
