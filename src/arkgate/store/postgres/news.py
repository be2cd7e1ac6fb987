"""Hears from the database what any replica credited."""

import asyncio

import asyncpg
import structlog

from arkgate.store.credits import Credits
from arkgate.store.postgres.connections import LOST, Connection, close, connect

CHANNEL = "arkgate_funded"
"""The functions notify it with the payment hash as hex."""
RETRY_SECONDS = 1.0
ALIVE_SECONDS = 5.0
log = structlog.get_logger(__name__)


class News:
    """Listens for ever on a connection of its own."""

    def __init__(self, url: str, credits_: Credits) -> None:
        self._url = url
        self._credits = credits_

    async def run(self) -> None:
        """Listens, and listens again after every break: meanwhile everybody looks for himself."""
        while True:
            try:
                connection = await connect(self._url)
                try:
                    await self._listen(connection)
                finally:
                    await close(connection)
            except (*LOST, asyncpg.PostgresError) as exc:
                log.info("news of credits stopped", reason=str(exc) or type(exc).__name__)
                self._credits.missed()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, connection: Connection) -> None:
        await connection.add_listener(CHANNEL, self._heard)
        self._credits.missed()
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            await connection.fetchval("SELECT 1")

    def _heard(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        self._credits.heard(bytes.fromhex(payload))
