"""How far a node's clock is from ours, told to the operator once and not with every invoice."""

import structlog

from arkgate.ports import Clock

log = structlog.get_logger()
TOLERANCE_MS = 60_000
"""What an answer that took its time and a little drift may come to."""


class ClockOffset:
    """Compares what the node dates now with our clock. BOLT11 dates invoices by the node's clock."""

    def __init__(self, node: str, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._told_ms = 0

    def check(self, dated_ms: int) -> bool:
        """Whether the node's clock agrees with ours, by something that it dated just now.

        Warns when it is off, and again only when it has moved by more than the tolerance.
        """
        off_ms = dated_ms - self._clock.now_ms()
        if abs(off_ms) <= TOLERANCE_MS:
            if self._told_ms:
                self._told_ms = 0
                log.info("the node's clock is right again", node=self._node)
            return True
        if abs(off_ms - self._told_ms) > TOLERANCE_MS:
            self._told_ms = off_ms
            log.warning(
                "the node's clock is off", node=self._node, off_seconds=_seconds(off_ms), **self._advice
            )
        return False

    @property
    def _advice(self) -> dict[str, str]:
        """What it means for payers, where it means anything."""
        if self._told_ms > 0:
            return {"means": "payers see more time to pay than the node gives them: set its clock"}
        return {"means": "payers' wallets may take its invoices for expired: set its clock"}

    @property
    def sentence(self) -> str:
        """The offset as the end of a sentence on the node's health; empty while the clocks agree."""
        if not self._told_ms:
            return ""
        direction = "ahead of" if self._told_ms > 0 else "behind"
        return f"; its clock is {abs(_seconds(self._told_ms))} s {direction} ours"


def _seconds(milliseconds: int) -> int:
    return round(milliseconds / 1000)
