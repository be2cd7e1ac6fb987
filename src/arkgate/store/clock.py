"""The store's time: the given clock, kept from going back."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Protocol, runtime_checkable

from arkgate.ports import Clock
from arkgate.store.told import ToldTime, steady_ms

DAY_MS = 86_400_000
NS_PER_MS = 1_000_000
CATCH_UP_DIVISOR = 2
"""How much slower time passes while the host's clock is behind what was given already."""


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
        return time.time_ns() // NS_PER_MS

    def certain_ms(self) -> int:
        """The time as it would be without any step: no other process goes by the one that is told."""
        now_ms, at = self.now_ms(), steady_ms()
        self._time.tell(now_ms, at=at, host_ms=now_ms)
        return self._time.unstepped_ms(at)


class ForwardClock:
    """Never gives a time before one that it gave already, whatever is done to the host's clock.

    A step back over midnight would otherwise hand out yesterday's allowance again. Until the host's
    clock has caught up, time goes on at half its speed: if it stood still, no deadline would pass and
    nothing would be looked up. The lead is not kept over a restart, so that a clock that was once far
    ahead can be put right.
    """

    def __init__(self, clock: Clock, *, steady_ns: Callable[[], int] = lambda: 0) -> None:
        """`steady_ns` gives nanoseconds that nobody steps; without it there is no time but the clock's."""
        self._clock = clock
        self._steady_ns = steady_ns
        self._floor_ns = 0
        self._read_at_ns = steady_ns()
        self._lock = Lock()  # the writer's thread and the event loop both ask

    def now_ms(self) -> int:
        """Unix milliseconds."""
        with self._lock:
            now_ns, read_at_ns = self._clock.now_ms() * NS_PER_MS, self._steady_ns()
            slowly_ns = self._floor_ns + (read_at_ns - self._read_at_ns) // CATCH_UP_DIVISOR
            self._floor_ns, self._read_at_ns = max(slowly_ns, now_ns), read_at_ns
            return self._floor_ns // NS_PER_MS

    def certain_ms(self) -> int:
        """The given clock's, which may go back; a clock that does not know is believed."""
        now_ms = self.now_ms()
        if not isinstance(self._clock, BooksClock):
            return now_ms
        with self._lock:
            return min(now_ms, self._clock.certain_ms())
