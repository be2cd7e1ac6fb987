"""Whether a node's stream of settlements leaves payments out: a look-up found them and it never told."""

from collections.abc import Callable, Sequence

MISSED_AFTER_SECONDS = 5.0
"""How much later than a look-up a stream may tell of the same payment."""
REOPENED_AT_MOST_EVERY_SECONDS = 60.0
REMEMBERED_MAX = 10_000


class Silence:
    """What a stream told and what others found, of one node.

    A payment counts as missed when it was found while the stream was open, after everything that was
    settled before the stream began had been looked up, and the stream has not told of it since. All
    times are the process's own: a node's clock may be off. Used on one event loop, by one stream at a time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._listening = False
        self._reopened_at: float | None = None
        self._told: dict[bytes, None] = {}
        self._found: dict[bytes, float] = {}

    def closed(self) -> None:
        """The stream ended; what others find from now on it could not tell."""
        self._listening = False
        self._told.clear()
        self._found.clear()

    def caught_up(self) -> None:
        """The stream is open, and all that was settled before it was open is credited."""
        self._listening = True

    def told(self, payment_hash: bytes) -> None:
        """The stream told of a payment, in time or late."""
        self._found.pop(payment_hash, None)
        self._told[payment_hash] = None
        if len(self._told) > REMEMBERED_MAX:
            del self._told[next(iter(self._told))]

    def found(self, payment_hash: bytes) -> None:
        """A payment was credited by somebody else than the stream."""
        if self._listening and payment_hash not in self._told and len(self._found) < REMEMBERED_MAX:
            self._found[payment_hash] = self._now()

    def missed(self) -> Sequence[bytes]:
        """What the stream has left out, when it is time to open another one; else nothing.

        Answers something at most once a minute, because a new stream may be as silent as the old one.
        """
        now = self._now()
        if self._reopened_at is not None and now - self._reopened_at < REOPENED_AT_MOST_EVERY_SECONDS:
            return ()
        missed = [one for one, at in self._found.items() if now - at >= MISSED_AFTER_SECONDS]
        if missed:
            self._reopened_at = now
        return missed
