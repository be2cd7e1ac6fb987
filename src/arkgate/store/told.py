"""Time that a clock tells and that may step, and what is certain to have passed all the same."""

import time
from dataclasses import dataclass

import structlog

STEP_MS_MAX = 2_000.0
"""What measuring and drifting explain; more is a step. A hold outlives its call by five seconds at least."""
DISPUTE_MS = 7_260_000.0
"""The longest that the settings let a hold live, and a minute in which every replica notices the step."""
STEPPED = "the ledger's clock stepped"
BEHIND = "this host's clock is behind the ledger's"
log = structlog.get_logger(__name__)


def steady_ms() -> float:
    """Milliseconds of a clock that nobody sets, and that goes on while the host sleeps where it can."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
    return time.monotonic() * 1000


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the clock that every replica goes by; zero milliseconds say that it was taken back."""

    milliseconds: int
    at_ms: int
    """When it was noticed, by the time after it."""


class ToldTime:
    """The time that a clock tells now and then, and beside it the time as it would be without any step.

    A step is believed at once: replicas share their days and deadlines, and a new one knows no other
    time. But it makes nothing overdue. Until every hold from before it has ended, a hold is only swept
    that is late by both times; so it is also while a replica that has just started finds its host behind
    the database, because then it cannot know which of the two stepped. What it cannot see at all, a step
    from before it started that its host took part in, it has to be told by who did: see `heed`.

    All arguments are milliseconds; `at` is of the clock that never steps.
    """

    def __init__(self) -> None:
        self._told: float | None = None
        self._steady = 0.0
        self._by_host = False
        """Nothing else than the host's clock is known to compare with."""
        self._disputed: float | None = None
        self._disputed_at = 0.0
        self.noticed: Step | None = None
        """The latest step, for those that start after it; it stays when nothing is disputed any more."""

    def tell(self, told_ms: float, *, at: float, host_ms: float) -> None:
        """What the clock and the host's own showed at a moment."""
        told, first = told_ms - at, self._told is None
        if first or self._by_host:
            behind = told_ms - host_ms
            self._by_host = behind > STEP_MS_MAX
            self._steady = told - behind if self._by_host else told
        self._told = told
        step = told - self._steady
        if abs(step) <= STEP_MS_MAX:
            if self._disputed is not None and self.noticed is not None:
                self.noticed = Step(0, int(told_ms))
            self._agree("the clocks agree again")
        elif self._disputed is None or abs(told - self._disputed) > STEP_MS_MAX:
            self._disputed, self._disputed_at = told, at
            if not first:  # the host's clock alone is no witness: it may be wrong for ever
                self.noticed = Step(round(step), int(told_ms))
            log.error(BEHIND if self._by_host else STEPPED, milliseconds=round(step))
        elif at - self._disputed_at > DISPUTE_MS:
            self._agree("no hold is left from before the clock stepped")

    def heed(self, step: Step, *, at: float) -> None:
        """Disputes, for as long as is left, a step that others noticed before this one knew the time.

        They know which clock stepped, so the host's is not asked any more. Only who ran before the step
        has calls under way from then, so what nobody noted makes nothing overdue.
        """
        assert self._told is not None, "told before"
        passed = self.now_ms(at) - step.at_ms
        if not step.milliseconds or not -STEP_MS_MAX <= passed <= DISPUTE_MS:
            return
        self._steady, self._by_host = self._told - step.milliseconds, False
        self._disputed, self._disputed_at = self._told, at - passed
        self.noticed = step
        log.error(STEPPED, milliseconds=step.milliseconds)

    def _agree(self, why: str) -> None:
        assert self._told is not None, "told before"
        if self._disputed is not None:
            log.warning(why)
        self._steady, self._disputed, self._by_host = self._told, None, False

    def now_ms(self, at: float) -> int:
        """The time that was told."""
        return int(at + (self._told or 0.0))

    def certain_ms(self, at: float) -> int:
        """The earlier of the two times."""
        return int(at + min(self._told or 0.0, self._steady))

    def unstepped_ms(self, at: float) -> int:
        """The time as it would be without the step, while that is disputed."""
        return int(at + self._steady)
