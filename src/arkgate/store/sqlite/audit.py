"""The invariants of the ledger on SQLite: the shared rules, and the soundness of the file.

Each rule stands on its own and is read from a snapshot of its own. As long as a snapshot is open,
SQLite's log cannot begin anew: one snapshot for everything would let it grow by all that is written
in minutes.
"""

import sqlite3
import time
from collections.abc import Sequence

from arkgate.core.ledger import Finding
from arkgate.store import audit

_CHUNK = 500
_LONG_SECONDS = 0.5
_CHECKPOINTS_MAX = 20
_FRAMES_LEFT = 256
"""What a busy writer adds while the rest is written back; it writes that back itself."""
_PAUSE_SECONDS = 0.1
_CACHE = "PRAGMA cache_size = -65536"

_TABLES = ("account", "transfer", "hold", "allowance", "answer", "invoice", "session", "cursor", "meta")
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
        for table in ("answer", "invoice", "session")
    ),
)
_SOUND = (*_CHECKED, *_REFERENCES)


def verify(database: sqlite3.Connection, now_ms: int) -> Sequence[Finding]:
    """One finding per invariant, in their order. The caller has begun no transaction."""
    database.execute(_CACHE)
    unsound = [broken for statement in _SOUND for broken in _ids_apart(database, statement)]
    findings = [audit.finding(0, "The database file is sound and its own checks hold", unsound)]
    for rule in audit.RULES:
        findings.append(audit.finding(rule.invariant, rule.sentence, _ids_apart(database, rule.statement)))
    return [*findings, _overdue(database, now_ms)]


def _ids_apart(database: sqlite3.Connection, statement: str) -> list[str]:
    """What a statement finds in a snapshot of its own; after a long one the log may begin anew."""
    started = time.monotonic()
    ids = [str(row[0]) for row in database.execute(statement)]
    if time.monotonic() - started > _LONG_SECONDS:
        _write_log_back(database)
    return ids


def _write_log_back(database: sqlite3.Connection) -> None:
    """Does for the writer what it could not while the snapshot was open, and gives it time for a commit.

    A passive checkpoint makes nobody wait. Only when all of the log is written back and nobody reads
    does the next commit begin it anew; a longer log would also make every page dearer to find.
    """
    for _ in range(_CHECKPOINTS_MAX):
        busy, logged, written_back = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        time.sleep(_PAUSE_SECONDS)
        if not busy and logged - written_back <= _FRAMES_LEFT:
            return


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
