"""A stream is taken for silent only when it had its chance, and opened anew at most once a minute."""

import pytest

from arkgate.gateway import silence
from arkgate.gateway.silence import MISSED_AFTER_SECONDS, REOPENED_AT_MOST_EVERY_SECONDS, Silence

ONE, TWO = b"1" * 32, b"2" * 32


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def listening() -> tuple[Silence, Time]:
    time = Time()
    watched = Silence(time)
    watched.caught_up()
    return watched, time


def test_what_only_others_found_was_missed_after_a_while() -> None:
    watched, time = listening()
    watched.found(ONE)
    assert not watched.missed()
    time.now += MISSED_AFTER_SECONDS

    assert watched.missed() == [ONE]


@pytest.mark.parametrize("stream_first", [True, False])
def test_what_the_stream_told_was_not_missed_whoever_was_first(stream_first: bool) -> None:
    watched, time = listening()
    for tell in (watched.told, watched.found) if stream_first else (watched.found, watched.told):
        tell(ONE)
    time.now += MISSED_AFTER_SECONDS

    assert not watched.missed()


def test_what_is_found_before_the_stream_has_caught_up_was_not_missed() -> None:
    time = Time()
    watched = Silence(time)
    watched.found(ONE)
    watched.caught_up()
    watched.found(TWO)
    watched.closed()
    watched.found(TWO)
    time.now += MISSED_AFTER_SECONDS

    assert not watched.missed()


def test_a_stream_that_stays_silent_is_opened_anew_once_a_minute() -> None:
    watched, time = listening()
    watched.found(ONE)
    time.now += MISSED_AFTER_SECONDS
    assert watched.missed()
    watched.closed()
    watched.caught_up()
    watched.found(TWO)
    time.now += REOPENED_AT_MOST_EVERY_SECONDS - 1
    assert not watched.missed()
    time.now += 1

    assert watched.missed() == [TWO]


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "REMEMBERED_MAX", 2)
    watched, time = listening()
    for number in range(5):
        watched.told(bytes([number]) * 32)
        watched.found(bytes([10 + number]) * 32)
    watched.found(bytes([0]) * 32)  # told, and forgotten since
    time.now += MISSED_AFTER_SECONDS

    assert len(watched.missed()) == 2
