"""No wait for PostgreSQL is endless: not for a statement, and not for a network that swallows everything."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from arkgate.core.errors import StoreUnavailable
from arkgate.store.postgres import connections, statements
from arkgate.store.postgres.connections import PATIENT_SECONDS, STATEMENT_SECONDS, close, connect
from arkgate.store.postgres.opening import open_postgres
from tests import postgres
from tests.store.books import PRICE, pay, run

pytestmark = pytest.mark.usefixtures("postgres_server")


class Way:
    """The way to a server, which can come to swallow everything as a broken network does."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._pumps: set[asyncio.Task[None]] = set()
        self.swallows = False
        self.url = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Way"]:
        """Lets clients through while the block runs."""
        listener = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        place = f"{self._server.username}@127.0.0.1:{port}"
        self.url = urlunsplit(self._server._replace(netloc=place))
        try:
            yield self
        finally:
            listener.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.wait(self._pumps)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
        for source, target in ((reader, to_server[1]), (to_server[0], writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if not self.swallows:
                    target.write(data)
        target.close()


@pytest.mark.parametrize("seconds", [STATEMENT_SECONDS, PATIENT_SECONDS])
def test_both_ends_of_a_connection_find_out_that_the_other_one_is_gone(seconds: float) -> None:
    async def story() -> None:
        connection = await connect(postgres.server_url(), seconds=seconds)
        assert isinstance(connection, asyncpg.Connection)
        ours: socket.socket = connection._transport.get_extra_info("socket")

        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (
            ours.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 20
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        theirs = dict(
            await connection.fetch("SELECT name, setting::int FROM pg_settings WHERE setting ~ '^\\d+$'")
        )
        keepalive = theirs["tcp_keepalives_idle"] + (
            theirs["tcp_keepalives_interval"] * theirs["tcp_keepalives_count"]
        )
        assert 0 < keepalive <= 20
        assert 0 < theirs["tcp_user_timeout"] <= 20_000
        assert theirs["statement_timeout"] == seconds * 1000
        assert 0 < theirs["lock_timeout"] <= 3000
        assert 0 < theirs["idle_in_transaction_session_timeout"] <= 2 * seconds * 1000
        await close(connection)

    run(story())


def test_a_statement_whose_answer_is_lost_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.2)

    async def story() -> None:
        async with Way(postgres.server_url()).opened() as way:
            connection = await connect(way.url, seconds=0.1)
            way.swallows = True
            async with asyncio.timeout(5):
                with pytest.raises(connections.LOST):
                    await connection.fetchval("SELECT 1")
                await close(connection)

    run(story())


def test_a_scrape_of_the_metrics_waits_for_sums_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "SUMS_SECONDS", 0.2)

    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            await pay(store, PRICE)
            assert (await store.statements.totals()).customers == PRICE

            other = await asyncpg.connect(url)
            async with other.transaction():
                await other.execute("LOCK TABLE transfer IN ACCESS EXCLUSIVE MODE")
                async with asyncio.timeout(2.5):  # before the wait for the lock itself ends
                    with pytest.raises(StoreUnavailable):
                        await store.statements.totals()
            await other.close()

    run(story())
