"""The invariants of the ledger on SQLite: the shared rules, and the soundness of the file.

Each rule stands on its own and is read from a snapshot of its own. As long as a snapshot is open,
SQLite's log cannot begin anew: one snapshot for everything would let it grow by all that is written
in minutes.
"""

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from arkgate.core.ledger import Finding
from arkgate.store import audit
from arkgate.store.sqlite.connections import connect_reader

_CHUNK = 500
_CACHE = "PRAGMA cache_size = -65536"

_FUNDING_TABLES = ("invoice", "ark_address", "ark_payment", "session")
_TABLES = ("account", "transfer", "hold", "allowance", "answer", *_FUNDING_TABLES, "cursor", "meta")
_CHECKED = tuple(
    f"SELECT quick_check FROM pragma_quick_check('{table}') WHERE quick_check <> 'ok'"  # noqa: S608
    for table in _TABLES
)
# What SQLite's own check of foreign keys looks up row by row, ten million times, is looked up here once
# for each account. A charge's sides are seen by rules 1 and 5.
_REFERENCES = (
    """
    SELECT 'hold refers to a missing row of account' FROM (SELECT DISTINCT account_id FROM hold)
    WHERE account_id NOT IN (SELECT account_id FROM account)
    """,
    """
    SELECT 'allowance refers to a missing row of account' FROM (SELECT DISTINCT account_id FROM allowance)
    WHERE account_id NOT IN (SELECT account_id FROM account)
    """,
    """
    SELECT 'transfer ' || transfer_id || ' refers to a missing row of account' FROM transfer
    WHERE transfer_id >= 'credit:' AND transfer_id < 'credit;' AND (
      debit_account_id NOT IN (SELECT account_id FROM account)
      OR credit_account_id NOT IN (SELECT account_id FROM account))
    """,
    *(
        f"SELECT '{table} refers to a missing row of ' || parent FROM pragma_foreign_key_check('{table}')"  # noqa: S608
        for table in ("answer", *_FUNDING_TABLES)
    ),
)
_SOUND = (*_CHECKED, *_REFERENCES)


class Verification:
    """One look at all invariants, by so many threads at once; it can be given up at any moment."""

    def __init__(self, path: Path, now_ms: int, *, at_once: int) -> None:
        self._path = path
        self._now_ms = now_ms
        self._at_once = at_once
        self._given_up = False
        self._reading: set[sqlite3.Connection] = set()

    def findings(self) -> Sequence[Finding]:
        """One finding per invariant, in their order. Raises sqlite3.OperationalError when given up."""
        statements = [*_SOUND, *(rule.statement for rule in audit.RULES)]
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="arkgate-verify") as threads:
            # What takes longest first, so that no thread ends long after the others.
            broken = list(threads.map(self._ids, reversed(statements)))[::-1]
        unsound = [what for ids in broken[: len(_SOUND)] for what in ids]
        findings = [audit.finding(0, "The database file is sound and its own checks hold", unsound)]
        for rule, ids in zip(audit.RULES, broken[len(_SOUND) :], strict=True):
            findings.append(audit.finding(rule.invariant, rule.sentence, ids))
        with closing(connect_reader(self._path)) as database:
            return [*findings, _overdue(database, self._now_ms)]

    def give_up(self) -> None:
        """Ends the statements under way; from any thread. A gateway that stops does not wait for minutes."""
        self._given_up = True
        for database in tuple(self._reading):
            database.interrupt()

    def _ids(self, statement: str) -> list[str]:
        """What a statement finds, on a connection and in a snapshot of its own."""
        with closing(connect_reader(self._path, with_checks=True)) as database:
            database.execute(_CACHE)
            self._reading.add(database)
            try:
                if self._given_up:
                    raise sqlite3.OperationalError("given up")
                return [str(row[0]) for row in database.execute(statement)]
            finally:
                self._reading.discard(database)


def _overdue(database: sqlite3.Connection, now_ms: int) -> Finding:
    late = database.execute(audit.OVERDUE.format("?"), (now_ms - audit.OVERDUE_MS,))
    return audit.finding(8, audit.OVERDUE_SENTENCE, [str(row[0]) for row in late])


def verify_requests(database: sqlite3.Connection, call_ids: Sequence[str]) -> Finding:
    """Whether every request that a backend saw belongs to a hold that was committed."""
    return audit.finding(9, audit.REQUESTS_SENTENCE, missing_calls(database, call_ids, charged=False))


def missing_calls(database: sqlite3.Connection, call_ids: Sequence[str], *, charged: bool) -> list[str]:
    """Those of the calls that have no hold, or with `charged` no settled one."""
    which = "state = 'settled'" if charged else "1 = 1"
    missing: list[str] = []
    for start in range(0, len(call_ids), _CHUNK):
        chunk = call_ids[start : start + _CHUNK]
        places = ", ".join("?" * len(chunk))
        statement = f"SELECT call_id FROM hold WHERE call_id IN ({places}) AND {which}"  # noqa: S608 - no values
        found = {row[0] for row in database.execute(statement, chunk)}
        missing += [call_id for call_id in chunk if call_id not in found]
    return missing
