"""Duties that one replica at a time does: whoever holds the duty's advisory lock."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import structlog

from arkgate.core.errors import StoreUnavailable
from arkgate.store.postgres.connections import LOST, Connection, close, connect, unavailable

ASK_SECONDS = 1.0
"""How often a replica asks for a duty that another one has."""
WATCH_SECONDS = 1.0
ANSWER_SECONDS = 3.0
log = structlog.get_logger(__name__)


class PostgresDuties:
    """Keeps the promises of `ports.Duties`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def alone(self, duty: str, work: Callable[[], Awaitable[None]]) -> None:
        """Waits for the duty, then does the work until it ends or the duty is lost."""
        try:
            connection = await connect(self._url)
        except LOST as exc:
            raise unavailable("A duty cannot be asked for", exc) from exc
        try:
            while not await self._taken(connection, duty):  # noqa: ASYNC110 - another host gives it up
                await asyncio.sleep(ASK_SECONDS)
            log.info("duty taken", duty=duty)
            await self._while_held(connection, duty, work)
        finally:
            await asyncio.shield(close(connection))

    async def _taken(self, connection: Connection, duty: str) -> bool:
        try:
            return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_of(duty)))
        except LOST as exc:
            raise unavailable("A duty cannot be asked for", exc) from exc

    async def _while_held(
        self, connection: Connection, duty: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """The lock is the connection's: when that is lost, another replica may have the duty already."""
        working = asyncio.ensure_future(work())
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=WATCH_SECONDS)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.fetchval("SELECT 1")
        except LOST as exc:
            log.warning("duty lost", duty=duty, reason=str(exc) or type(exc).__name__)
            raise StoreUnavailable(f"The duty {duty!r} was lost with the connection to the ledger.") from exc
        finally:
            working.cancel()
            await asyncio.wait({working})
        await working


def lock_of(duty: str) -> int:
    """The advisory lock of a duty: a number of 64 bits."""
    return int.from_bytes(
        blake2b(duty.encode(), digest_size=8, person=b"arkgate duty").digest(), "big", signed=True
    )
