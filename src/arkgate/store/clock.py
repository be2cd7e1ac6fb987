"""The store's time: the given clock, kept from going back."""

import time
from threading import Lock
from typing import Protocol, runtime_checkable

from arkgate.ports import Clock
from arkgate.store.told import ToldTime, steady_ms

DAY_MS = 86_400_000


def day_of(at_ms: int) -> int:
    """The UTC day of a time, counted from 1970-01-01."""
    return at_ms // DAY_MS


def next_midnight_ms(at_ms: int) -> int:
    """When the UTC day of a time ends."""
    return (day_of(at_ms) + 1) * DAY_MS


@runtime_checkable
class BooksClock(Protocol):
    """`ports.Clock` of open books."""

    def now_ms(self) -> int:
        """Unix milliseconds; never goes back."""
        ...

    def certain_ms(self) -> int:
        """Unix milliseconds that have passed even if a clock stepped: what is overdue by them is overdue."""
        ...


class SystemClock:
    """`BooksClock` of this host."""

    def __init__(self) -> None:
        self._time = ToldTime()
        self.certain_ms()

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def certain_ms(self) -> int:
        """See `ToldTime`."""
        now_ms, at = self.now_ms(), steady_ms()
        self._time.tell(now_ms, at=at, host_ms=now_ms)
        return self._time.certain_ms(at)


class ForwardClock:
    """Never gives a time before one that it gave already, whatever is done to the host's clock.

    A step back over midnight would otherwise hand out yesterday's allowance again. The floor is not
    kept over a restart, so that a clock that was once far ahead can be put right.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._floor = 0
        self._lock = Lock()  # the writer's thread and the event loop both ask

    def now_ms(self) -> int:
        """Unix milliseconds."""
        now = self._clock.now_ms()
        with self._lock:
            self._floor = max(self._floor, now)
            return self._floor

    def certain_ms(self) -> int:
        """The given clock's, which may go back; a clock that does not know is believed."""
        if not isinstance(self._clock, BooksClock):
            return self.now_ms()
        with self._lock:
            return self._clock.certain_ms()
