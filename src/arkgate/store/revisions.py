"""The revisions of the tables: which this version of the program knows, and how missing ones are applied."""

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

from arkgate.core.errors import StoreUnavailable
from arkgate.core.ledger import EQUITY_ACCOUNT, EXPENSE_ACCOUNT, INCOME_ACCOUNT

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

REVISIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every revision that this version can read or upgrade, oldest first."""

REVISION_TABLE = "alembic_version"
"""Where a database says which revision its tables are of."""

FLOOR_FACT = "revision_floor"
"""The fact that names the oldest revision whose programs still work on these tables.

A revision that only adds what older programs do not mind leaves it alone: then old and new replicas
run side by side while they are replaced one by one.
"""

SHARED_ACCOUNTS = ((INCOME_ACCOUNT, "income"), (EXPENSE_ACCOUNT, "expense"), (EQUITY_ACCOUNT, "equity"))
"""The accounts that every ledger has from the start, with their kinds."""


def refuse_unknown(revision: str | None, floor: int | None) -> None:
    """Raises StoreUnavailable for tables that this version of the program cannot work on."""
    if revision is None or revision in REVISIONS:
        return
    if floor is not None and int(revision) > int(REVISIONS[-1]) >= floor:
        return
    raise StoreUnavailable(
        f"The ledger's tables are of revision {revision}, which this version of arkgate does not know"
        f" (it knows up to {REVISIONS[-1]}). Start the version that wrote them, or a newer one.",
        code="store_schema",
    )


def is_behind(revision: str | None) -> bool:
    """Whether tables of that revision lack something that this version needs."""
    return revision is None or int(revision) < int(REVISIONS[-1])


def refuse_behind(revision: str | None, ledger: str) -> None:
    """Raises StoreUnavailable for tables that only a start of the gateway may upgrade."""
    if is_behind(revision):
        raise StoreUnavailable(
            f"The ledger {ledger} has tables of revision {revision or 'none'};"
            f" start the gateway once to bring them to {REVISIONS[-1]}.",
            code="store_schema",
        )


def apply_missing(connection: "Connection", *, up_to: str | None = None) -> None:
    """Applies every revision that is missing inside the connection's transaction: all, or those up to one."""
    # Alembic takes a third of a second to import, and most starts have nothing to upgrade.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with as_file(files("arkgate.store") / "migrations") as scripts:
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, up_to or REVISIONS[-1])


def run_script(connection: "Connection", script: str) -> None:
    """Runs many statements at once, which no prepared statement can."""
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda asyncpg_connection: asyncpg_connection.execute(script))
