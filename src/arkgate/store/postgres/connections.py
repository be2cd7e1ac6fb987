"""How connections to PostgreSQL are made, which servers are refused, and how its errors become refusals."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import asyncpg

from arkgate.core.errors import InternalError, StoreUnavailable

Row = Any
"""A row of the driver's: its columns by place and by name."""


class Reader(Protocol):
    """What is used of the driver's connection where nothing is written."""

    async def fetch(self, query: str, *values: object) -> Sequence[Row]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *values: object) -> Row | None:
        """The first row."""
        ...

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - whatever the column holds
        """The first column of the first row."""
        ...

    def terminate(self) -> None:
        """Ends it at once."""
        ...


class Pool(Protocol):
    """What is used of the driver's pool, which has no types of its own."""

    def acquire(self, *, timeout: float) -> AbstractAsyncContextManager["Connection"]:
        """A connection for the length of a block. Raises TimeoutError."""
        ...

    def terminate(self) -> None:
        """Ends all connections at once."""
        ...


class Connection(Reader, Protocol):
    """What is used of the driver's connection."""

    async def execute(self, query: str, *values: object) -> str:
        """Runs a statement."""
        ...

    async def executemany(self, query: str, values: Sequence[Sequence[object]]) -> None:
        """Runs a statement with each of the values."""
        ...

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """A transaction for the length of a block."""
        ...

    def cursor(self, query: str, *values: object, prefetch: int) -> AsyncIterator[Row]:
        """Rows that are fetched in portions, inside a transaction."""
        ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Sequence[Sequence[object]], columns: Sequence[str]
    ) -> str:
        """Adds rows to a table in one go."""
        ...

    async def add_listener(self, channel: str, callback: Callable[[object, int, str, str], None]) -> None:
        """Calls back with each notice of a channel."""
        ...

    def is_closed(self) -> bool:
        """Whether it ended."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Ends it politely."""
        ...


RETRY_AFTER_SECONDS = 5
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 5.0
"""How long a statement may take before the server gives it up."""
PATIENT_SECONDS = 3600.0
"""The same where it reads or changes the whole ledger."""
ANSWER_SECONDS = 1.0
"""How much later we give up the server, where it is stopped or its answers are lost."""
ACQUIRE_SECONDS = 2.0
"""How long a caller waits for one of a pool's connections."""
VERSION_MIN = 130_000


class NotConnectedError(ConnectionError):
    """There is no connection to be had that may be written to, whatever the reason."""


LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that the server ended while a statement was begun
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    asyncio.TimeoutError,
)
"""The server or the way to it is in trouble; whether the last statement was committed is not known."""

CROSSED = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
"""Another transaction was in the way; nothing was changed, and the same statement may be sent again."""

_SETTINGS = {
    "application_name": "arkgate",
    "lock_timeout": "3s",
    # The functions' statements are all point look-ups: to plan them anew finds the same plan.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "plpgsql.check_asserts": "on",
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    # A client host that is gone must not keep its locks for hours. While rows are being sent to it no
    # statement_timeout ends that, and the rows of a verb are sent before its commit.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
}

# The same towards the server: a connection that nothing comes through any more ends within 20 seconds,
# however long its statement may take. What a system does not have is left out.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPALIVE", 10),  # what macOS calls it
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 3),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 20_000),
)


def shown(url: str) -> str:
    """A database's URL without its password and its query."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"


def unavailable(what: str, exc: BaseException, *, code: str | None = None) -> StoreUnavailable:
    """The refusal for an error of PostgreSQL or of the connection to it."""
    reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return StoreUnavailable(f"{what}: {reason}.", retry_after_seconds=RETRY_AFTER_SECONDS, code=code)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Translates the driver's errors into StoreUnavailable, or InternalError where a rule was broken."""
    try:
        yield
    except (*LOST, *CROSSED) as exc:
        raise unavailable(what, exc) from exc
    except asyncpg.InvalidParameterValueError as exc:  # what the functions raise for a caller's mistake
        raise ValueError(str(exc)) from exc
    except asyncpg.PostgresError as exc:
        raise InternalError(f"{what}.") from exc


async def connect(url: str, *, reads_only: bool = False, seconds: float = STATEMENT_SECONDS) -> Connection:
    """A connection to the books, whose statements may take so many seconds each.

    Raises NotConnectedError.
    """
    limits = {
        "statement_timeout": f"{int(seconds * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{int(2 * seconds * 1000)}ms",
    }
    try:
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=seconds + ANSWER_SECONDS,
            server_settings=_SETTINGS | limits,
        )
        _keep_alive(connection)
        if reads_only:
            await connection.execute("SET default_transaction_read_only = on")
    except (asyncpg.PostgresError, *LOST) as exc:
        raise NotConnectedError(str(exc) or type(exc).__name__) from exc
    return cast(Connection, connection)


def _keep_alive(connection: asyncpg.Connection) -> None:
    """The driver has no setting for this, and makes its sockets itself."""
    used = connection._transport.get_extra_info("socket")
    if used.family != socket.AF_UNIX:
        for level, option, value in _SOCKET_OPTIONS:
            if hasattr(socket, option):
                used.setsockopt(level, getattr(socket, option), value)


@asynccontextmanager
async def open_pool(url: str, *, size: int, reads_only: bool = False) -> AsyncIterator[Pool]:
    """At most `size` connections, made when they are needed."""
    pool = await asyncpg.create_pool(
        min_size=0,
        max_size=size,
        connect=lambda *_, **__: connect(url, reads_only=reads_only),
        reset=_leave,  # nothing is left behind on a connection; the default asks the server each time
    )
    try:
        yield pool
    finally:
        pool.terminate()


async def _leave(_connection: object) -> None:
    """Gives a connection back to the pool as it is."""


async def close(connection: Connection) -> None:
    """Ends a connection, also one that does not answer."""
    try:
        await connection.close(timeout=1.0)
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()


async def refuse_unfit_server(url: str) -> None:
    """As `refuse_unfit`, over a connection of its own. Raises StoreUnavailable also when there is none."""
    with refusing(f"The ledger {shown(url)} cannot be opened"):
        connection = await connect(url)
        try:
            await refuse_unfit(connection, shown(url))
        finally:
            await close(connection)


async def refuse_unfit(connection: Connection, ledger: str) -> None:
    """Raises StoreUnavailable for a server on which an acknowledged change could be lost."""
    for setting, why in (
        ("fsync", "a crash of its host would lose or damage what was paid"),
        ("full_page_writes", "a crash of its host could damage the ledger"),
        ("synchronous_commit", "a crash would lose payments that were acknowledged"),
    ):
        if await connection.fetchval("SELECT current_setting($1)", setting) == "off":
            raise StoreUnavailable(
                f"The PostgreSQL server of {ledger} runs with {setting}=off: {why}. Set it to on.",
                code="store_unfit",
            )
    version = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    if version < VERSION_MIN:
        raise StoreUnavailable(
            f"The PostgreSQL server of {ledger} is version {version // 10_000}; "
            f"arkgate needs {VERSION_MIN // 10_000} or newer.",
            code="store_unfit",
        )
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise StoreUnavailable(
            f"The PostgreSQL server of {ledger} is a standby that cannot be written; name the primary.",
            code="store_unfit",
        )
