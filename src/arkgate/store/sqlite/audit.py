"""The invariants of the ledger on SQLite: the shared rules, and the soundness of the file."""

import sqlite3
from collections.abc import Sequence

from arkgate.core.ledger import Finding
from arkgate.store import audit

_CHUNK = 500
_SOUND = """
SELECT "quick_check" FROM pragma_quick_check(5) WHERE "quick_check" <> 'ok'
UNION ALL SELECT "table" || ' refers to a missing row of ' || parent FROM pragma_foreign_key_check
"""


def verify(database: sqlite3.Connection, now_ms: int) -> Sequence[Finding]:
    """One finding per invariant, in their order. The caller has begun a read transaction."""
    findings = [
        audit.finding(0, "The database file is sound and its own checks hold", _ids(database, _SOUND))
    ]
    for rule in audit.RULES:
        findings.append(audit.finding(rule.invariant, rule.sentence, _ids(database, rule.statement)))
    return [*findings, _overdue(database, now_ms)]


def _overdue(database: sqlite3.Connection, now_ms: int) -> Finding:
    late = database.execute(audit.OVERDUE.format("?"), (now_ms - audit.OVERDUE_MS,))
    return audit.finding(8, audit.OVERDUE_SENTENCE, [str(row[0]) for row in late])


def verify_requests(database: sqlite3.Connection, call_ids: Sequence[str]) -> Finding:
    """Whether every request that a backend saw belongs to a hold that was committed."""
    unknown: list[str] = []
    for start in range(0, len(call_ids), _CHUNK):
        chunk = call_ids[start : start + _CHUNK]
        places = ", ".join("?" * len(chunk))
        statement = f"SELECT call_id FROM hold WHERE call_id IN ({places})"  # noqa: S608 - places only
        known = {row[0] for row in database.execute(statement, chunk)}
        unknown += [call_id for call_id in chunk if call_id not in known]
    return audit.finding(9, audit.REQUESTS_SENTENCE, unknown)


def _ids(database: sqlite3.Connection, statement: str) -> list[str]:
    return [str(row[0]) for row in database.execute(statement)]
