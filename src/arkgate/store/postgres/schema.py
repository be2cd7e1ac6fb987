"""Brings a PostgreSQL database to this version's tables, or refuses one that this version does not know."""

from functools import partial

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from arkgate.core.errors import StoreUnavailable
from arkgate.store import revisions
from arkgate.store.postgres.connections import PATIENT_SECONDS, Connection, connect

UPGRADE_LOCK = 0x61726B67_00000001
"""The advisory lock of whoever upgrades the tables."""


async def revision_of(connection: Connection) -> str | None:
    """The revision of a database's tables; None when it has none yet."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


async def refuse_unknown(connection: Connection) -> str | None:
    """The revision of the tables. Raises StoreUnavailable when this version cannot work on them."""
    revision = await revision_of(connection)
    if revision is not None:
        floor = await connection.fetchval("SELECT value FROM meta WHERE name = $1", revisions.FLOOR_FACT)
        revisions.refuse_unknown(revision, floor)
    return revision


async def prepare(url: str, connection: Connection, now_ms: int) -> None:
    """Upgrades the tables and opens the books; one replica at a time, the others wait and find it done."""
    if revisions.is_behind(await refuse_unknown(connection)):
        await upgrade(url)
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = 0")  # whoever holds it is upgrading: wait
        await connection.execute("SELECT pg_advisory_xact_lock($1)", UPGRADE_LOCK)
        if await connection.fetchval("SELECT value FROM meta WHERE name = 'opened_at_ms'") is None:
            await connection.execute("INSERT INTO meta (name, value) VALUES ('opened_at_ms', $1)", now_ms)
            await connection.executemany(
                "SELECT open_account_v1($1, $2, $3)",
                [(account_id, kind, now_ms) for account_id, kind in revisions.SHARED_ACCOUNTS],
            )


async def upgrade(url: str, *, up_to: str | None = None) -> None:
    """All revisions that are missing, in one transaction, or none. Raises StoreUnavailable."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, seconds=PATIENT_SECONDS),
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = 0"))
            await connection.execute(
                sqlalchemy.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK}
            )
            await connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '3s'"))
            await connection.run_sync(partial(revisions.apply_missing, up_to=up_to))
    except SQLAlchemyError as exc:
        raise StoreUnavailable(f"The ledger's tables cannot be upgraded: {exc}.") from exc
    finally:
        await engine.dispose()
