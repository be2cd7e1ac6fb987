"""How often nodes are asked: a pace that work keeps to, and when what is unpaid is looked up next."""

import asyncio

DUE_HALF = 10
"""How many that became due last are asked about at a time, and how many that are due for longest."""
LOOK_UP_FIRST_MS = 2_000
LOOK_UP_PAUSE_MS_MAX = 60_000
LOOK_UP_GRACE_MS = 24 * 3600 * 1000
"""How long after its expiry something unpaid is still looked up."""


class Pace:
    """At most so many turns a second; used on one event loop, by as many tasks as like."""

    def __init__(self, per_second: float) -> None:
        self._pause = 1 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Waits until it is the caller's turn; who asks first is first."""
        now = asyncio.get_running_loop().time()
        mine = max(now, self._next)
        self._next = mine + self._pause
        if mine > now:
            await asyncio.sleep(mine - now)


AT_ONCE = Pace(float("inf"))
"""No pace at all."""


def look_up_again_ms(now_ms: int, created_at_ms: int) -> int:
    """When something unpaid is to be looked up next; the older it is, the later."""
    age = max(LOOK_UP_FIRST_MS, now_ms - created_at_ms)
    return now_ms + min(LOOK_UP_PAUSE_MS_MAX, age // 2 + LOOK_UP_FIRST_MS // 2)


def is_given_up(now_ms: int, expires_at_ms: int) -> bool:
    """Whether something unpaid is not looked up any more: a day after its expiry."""
    return now_ms > expires_at_ms + LOOK_UP_GRACE_MS
