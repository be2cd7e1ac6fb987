"""A pace that work keeps to, however much of it there is."""

import asyncio


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
