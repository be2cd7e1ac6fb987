"""One moment of the books for whoever reads all of it: the statements are the same on every engine.

They carry their values inside, and only whole numbers and customers' ids that were checked: engines
differ in how they mark a place for a value. Sums are cast, because an engine may widen them.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from arkgate.core.ledger import AccountRecord, Balance, StatementLine
from arkgate.core.money import Msat
from arkgate.core.reports import (
    AccountAge,
    AccountState,
    AccountTotal,
    Column,
    JournalEntry,
    Liabilities,
    Owed,
    OwedGroup,
    Table,
)
from arkgate.store.clock import DAY_MS
from arkgate.store.revisions import REVISION_TABLE

Row = Sequence[Any]
BATCH_ROWS = 1000
"""Rows that a reader gives at once, at most."""
_CUSTOMER = re.compile(r"[0-9a-f]{32}\Z")
_AGES = (AccountAge.DAYS_30, AccountAge.DAYS_90, AccountAge.DAYS_365, AccountAge.OLDER)
_AGE_DAYS = (30, 90, 365)
_STATES = (AccountState.ACTIVE, AccountState.EMPTY, AccountState.AWAITING_PAYMENT, AccountState.EXPIRED)

_FACTS = "SELECT name, value FROM meta"

_ACCOUNT = """
SELECT account_id, posted_msat, held_msat,
  EXISTS (SELECT 1 FROM transfer t WHERE t.credit_account_id = a.account_id AND t.kind = 'credit'),
  token_key_version, created_at_ms
FROM account a WHERE account_id = '{account}' AND kind = 'customer'
"""

# Credits come before what they may have paid for in the same millisecond.
_STATEMENT = """
WITH line (at_ms, place, id, kind, amount, reference, detail) AS (
  SELECT at_ms, 0, transfer_id, 'credit', amount_msat, substr(transfer_id, 8), detail
  FROM transfer WHERE credit_account_id = '{account}' AND kind = 'credit'
  UNION ALL
  SELECT resolved_at_ms, 1, call_id, 'charge', -cost_msat, request_id, service
  FROM hold WHERE account_id = '{account}' AND state = 'settled'
  UNION ALL
  SELECT resolved_at_ms, 1, call_id, 'refund', 0, request_id, reason
  FROM hold WHERE account_id = '{account}' AND state = 'released'
)
SELECT at_ms, kind, amount,
  CAST(sum(amount) OVER (ORDER BY at_ms, place, id ROWS UNBOUNDED PRECEDING) AS BIGINT), reference, detail
FROM line ORDER BY at_ms, place, id
"""

_JOURNAL = """
SELECT transfer_id, at_ms, kind, debit_account_id, credit_account_id, amount_msat, detail
FROM transfer WHERE at_ms >= {since:d} AND at_ms < {until:d} ORDER BY at_ms, transfer_id
"""

_TOTALS_BEFORE = """
WITH movement (account_id, amount) AS (
  SELECT credit_account_id, amount_msat FROM transfer WHERE at_ms < {at:d}
  UNION ALL SELECT debit_account_id, -amount_msat FROM transfer WHERE at_ms < {at:d}
)
SELECT account_id, CAST(sum(amount) AS BIGINT) FROM movement
GROUP BY account_id HAVING sum(amount) <> 0 ORDER BY account_id
"""

_SHARED_TOTALS = """
WITH movement (account_id, amount) AS (
  SELECT credit_account_id, amount_msat FROM transfer
  UNION ALL SELECT debit_account_id, -amount_msat FROM transfer
), total (account_id, amount) AS (SELECT account_id, sum(amount) FROM movement GROUP BY account_id)
SELECT a.account_id, CAST(coalesce(t.amount, 0) AS BIGINT)
FROM account a LEFT JOIN total t ON t.account_id = a.account_id
WHERE a.kind <> 'customer' ORDER BY a.account_id
"""

# A customer's id has no colon, a shared account's has one.
_OWED = """
WITH movement (account_id, at_ms, credited) AS (
  SELECT credit_account_id, at_ms, CASE kind WHEN 'credit' THEN 1 ELSE 0 END FROM transfer
  WHERE credit_account_id NOT LIKE '%:%'
  UNION ALL SELECT debit_account_id, at_ms, 0 FROM transfer WHERE debit_account_id NOT LIKE '%:%'
), moved (account_id, at_ms, credited) AS (
  SELECT account_id, max(at_ms), max(credited) FROM movement GROUP BY account_id
), payable (account_id) AS (
  SELECT DISTINCT account_id FROM invoice WHERE state = 'open' AND expires_at_ms > {now:d}
), customer (age_ms, state, posted, held) AS (
  SELECT {now:d} - coalesce(m.at_ms, a.created_at_ms),
    CASE WHEN a.posted_msat > 0 THEN 0 WHEN m.credited = 1 THEN 1
      WHEN p.account_id IS NOT NULL THEN 2 ELSE 3 END,
    a.posted_msat, a.held_msat
  FROM account a LEFT JOIN moved m ON m.account_id = a.account_id
    LEFT JOIN payable p ON p.account_id = a.account_id
  WHERE a.kind = 'customer'
), placed (age, state, posted, held) AS (
  SELECT CASE WHEN age_ms < {ages[0]:d} THEN 0 WHEN age_ms < {ages[1]:d} THEN 1
    WHEN age_ms < {ages[2]:d} THEN 2 ELSE 3 END, state, posted, held FROM customer
)
SELECT age, state, count(*), CAST(sum(posted) AS BIGINT), CAST(sum(held) AS BIGINT)
FROM placed GROUP BY age, state ORDER BY age, state
"""

_INVOICES_OPEN = """
SELECT count(*), CAST(coalesce(sum(amount_msat), 0) AS BIGINT) FROM invoice
WHERE state = 'open' AND expires_at_ms > {now:d}
"""


class Reader(Protocol):
    """What an engine gives to a snapshot: reads inside one transaction that sees one moment."""

    def batches(self, statement: str) -> AsyncIterator[Sequence[Row]]:
        """The rows of a statement, at most `BATCH_ROWS` at once. Raises StoreUnavailable."""
        ...


class BooksSnapshot:
    """Keeps the promises of `ports.Snapshot` on any engine's reader."""

    def __init__(self, reader: Reader, *, taken_at_ms: int, revision: str) -> None:
        self._reader = reader
        self.taken_at_ms = taken_at_ms
        self.revision = revision

    async def facts(self) -> Mapping[str, int]:
        """See `ports.Snapshot`."""
        return {str(name): int(value) for name, value in await self._all(_FACTS)}

    async def account(self, account_id: str) -> AccountRecord | None:
        """See `ports.Snapshot`."""
        if not _CUSTOMER.match(account_id):
            return None
        rows = await self._all(_ACCOUNT.format(account=account_id))
        if not rows:
            return None
        owner, posted, held, funded, key_version, created_at_ms = rows[0]
        return AccountRecord(owner, Balance(posted, held), bool(funded), key_version, created_at_ms)

    async def statement(self, account_id: str) -> AsyncIterator[Sequence[StatementLine]]:
        """See `ports.Snapshot`."""
        if not _CUSTOMER.match(account_id):
            return
        async for batch in self._reader.batches(_STATEMENT.format(account=account_id)):
            yield [StatementLine(*row) for row in batch]

    async def journal(self, since_ms: int, until_ms: int) -> AsyncIterator[Sequence[JournalEntry]]:
        """See `ports.Snapshot`."""
        async for batch in self._reader.batches(_JOURNAL.format(since=since_ms, until=until_ms)):
            yield [JournalEntry(*row) for row in batch]

    async def totals_before(self, at_ms: int) -> AsyncIterator[Sequence[AccountTotal]]:
        """See `ports.Snapshot`."""
        async for batch in self._reader.batches(_TOTALS_BEFORE.format(at=at_ms)):
            yield [AccountTotal(*row) for row in batch]

    async def liabilities(self) -> Liabilities:
        """See `ports.Snapshot`."""
        now = self.taken_at_ms
        ages = [days * DAY_MS for days in _AGE_DAYS]
        owed = await self._all(_OWED.format(now=now, ages=ages))
        ((number, amount),) = await self._all(_INVOICES_OPEN.format(now=now))
        shared = await self._all(_SHARED_TOTALS)
        return Liabilities(
            taken_at_ms=now,
            groups=[
                OwedGroup(_AGES[age], _STATES[state], Owed(accounts, Msat(posted), Msat(held)))
                for age, state, accounts, posted, held in owed
            ],
            invoices_open=number,
            invoices_open_amount=Msat(amount),
            shared=[AccountTotal(*row) for row in shared],
        )

    @property
    def tables(self) -> Sequence[Table]:
        """See `ports.Snapshot`."""
        return list(_tables())

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """See `ports.Snapshot`."""
        if table not in self.tables:
            raise ValueError(f"these books have no table {table.name!r} with those columns")
        columns = ", ".join(column.name for column in table.columns)
        async for batch in self._reader.batches(f"SELECT {columns} FROM {table.name}"):  # noqa: S608
            yield batch

    async def _all(self, statement: str) -> Sequence[Row]:
        return [row async for batch in self._reader.batches(statement) for row in batch]


def _tables() -> Iterator[Table]:
    """The tables of the newest revision, each after those that it refers to."""
    # Describing the tables takes longer to import than most commands run.
    from sqlalchemy import LargeBinary, Text  # noqa: PLC0415

    from arkgate.store.tables import metadata  # noqa: PLC0415

    for table in metadata.sorted_tables:
        if table.name == REVISION_TABLE:
            continue
        kinds = (
            "bytes"
            if isinstance(column.type, LargeBinary)
            else "text"
            if isinstance(column.type, Text)
            else ""
            for column in table.columns
        )
        columns = zip((str(column.name) for column in table.columns), kinds, strict=True)
        yield Table(str(table.name), tuple(Column(name, kind or "integer") for name, kind in columns))
