"""Who waits for which payment, in this process."""

import asyncio
from collections import defaultdict


class Credits:
    """Wakes those who wait for a payment when somebody says that it was credited."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = defaultdict(set)

    async def wait(self, payment_hash: bytes, seconds: float) -> None:
        """Returns when the payment is credited, or after that time, or when news may have been missed."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[payment_hash].add(future)
        try:
            await asyncio.wait({future}, timeout=seconds)
        finally:
            self._waiting[payment_hash].discard(future)
            if not self._waiting[payment_hash]:
                del self._waiting[payment_hash]

    def heard(self, payment_hash: bytes) -> None:
        """The payment was credited, by whichever process."""
        _wake(self._waiting.get(payment_hash, set()))

    def missed(self) -> None:
        """Nobody knows what was credited meanwhile: everybody looks again."""
        for waiting in self._waiting.values():
            _wake(waiting)


def _wake(waiting: set[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
