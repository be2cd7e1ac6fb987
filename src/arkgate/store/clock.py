"""The store's time: the given clock, kept from going back."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from arkgate.ports import Clock

DAY_MS = 86_400_000


def day_of(at_ms: int) -> int:
    """The UTC day of a time, counted from 1970-01-01."""
    return at_ms // DAY_MS


def next_midnight_ms(at_ms: int) -> int:
    """When the UTC day of a time ends."""
    return (day_of(at_ms) + 1) * DAY_MS


class BooksClock(Protocol):
    """`ports.Clock` of open books."""

    def now_ms(self) -> int:
        """Unix milliseconds; never goes back."""
        ...

    def certain_ms(self) -> int:
        """Unix milliseconds that have passed even if a clock stepped: what is overdue by them is overdue."""
        ...


class SystemClock:
    """`ports.Clock` of this host."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000


class ForwardClock:
    """Never gives a time before one that it gave already, whatever is done to the host's clock.

    A step back over midnight would otherwise hand out yesterday's allowance again. The floor is not
    kept over a restart, so that a clock that was once far ahead can be put right.
    """

    def __init__(self, clock: Clock, certain_ms: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self._certain_ms = certain_ms or self.now_ms
        self._floor = 0
        self._lock = Lock()  # the writer's thread and the event loop both ask

    def now_ms(self) -> int:
        """Unix milliseconds."""
        now = self._clock.now_ms()
        with self._lock:
            self._floor = max(self._floor, now)
            return self._floor

    def certain_ms(self) -> int:
        """As `BooksClock`, where the clock knows; it may go back and stay behind `now_ms`."""
        return self._certain_ms()
