"""Stops selling calls while the backend cannot be reached at all."""

import math
from collections.abc import Callable

from arkgate.core.errors import BackendUnavailable


class Breaker:
    """Refuses for a while after several connections in a row could not be made.

    Only failures to connect count: a backend that answers anything is reachable, and what it answers is
    another matter. The pause doubles up to its maximum; after each pause one probe is let through. A
    probe that is never used (its caller was refused later on) costs one more pause and nothing else.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        failures_max: int = 3,
        pause_seconds_min: float = 1.0,
        pause_seconds_max: float = 30.0,
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._clock = clock
        self._failures_max = failures_max
        self._pause_seconds_min = pause_seconds_min
        self._pause_seconds_max = pause_seconds_max
        self._failures_count = 0
        self._pause_seconds = pause_seconds_min
        self._closed_until = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether the backend could not be reached lately."""
        return self._failures_count >= self._failures_max

    def check(self) -> None:
        """Raises BackendUnavailable until the backend was reached again; uses up no probe."""
        if self.is_open:
            raise self._unavailable(self._closed_until - self._clock())

    def admit(self) -> None:
        """Raises BackendUnavailable during a pause; after it, lets exactly one caller through."""
        if not self.is_open:
            return
        remaining_seconds = self._closed_until - self._clock()
        if remaining_seconds > 0:
            raise self._unavailable(remaining_seconds)
        self._is_probing = True
        self._closed_until = self._clock() + self._pause_seconds

    def _unavailable(self, seconds: float) -> BackendUnavailable:
        return BackendUnavailable(
            "The backend cannot be reached; nothing was charged.",
            retry_after_seconds=max(1, math.ceil(seconds)),
        )

    def failed(self) -> None:
        """A connection could not be made. Calls that fail together lengthen the pause once."""
        self._failures_count += 1
        if self._failures_count == self._failures_max:
            self._pause_seconds = self._pause_seconds_min
        elif self._failures_count > self._failures_max and self._is_probing:
            self._pause_seconds = min(self._pause_seconds * 2, self._pause_seconds_max)
        else:
            return
        self._is_probing = False
        self._closed_until = self._clock() + self._pause_seconds

    def succeeded(self) -> None:
        """The backend was reached."""
        self._failures_count = 0
        self._is_probing = False
