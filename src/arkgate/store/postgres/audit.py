"""The invariants of the ledger on PostgreSQL: the shared rules, and what only this engine can check."""

from collections.abc import Sequence

from arkgate.core.ledger import Finding
from arkgate.store import audit
from arkgate.store.postgres.connections import Connection

# The engine holds its CHECKs and foreign keys at every change. Charges have no foreign key, see the tables.
_SOUND = """
SELECT conrelid::regclass || ' ' || conname FROM pg_constraint
WHERE connamespace = current_schema()::regnamespace AND NOT convalidated
UNION ALL
SELECT tgrelid::regclass || ' ' || tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = current_schema()::regnamespace AND tgenabled = 'D'
"""

_MISSING_CALLS = """
SELECT c FROM unnest($1::text[]) WITH ORDINALITY AS asked (c, place)
WHERE NOT EXISTS (SELECT FROM hold WHERE call_id = c AND {}) ORDER BY place
"""


async def verify(snapshot: Connection, now_ms: int) -> Sequence[Finding]:
    """One finding per invariant, in their order."""
    findings = [audit.finding(0, "The database's own checks hold", await _ids(snapshot, _SOUND))]
    for rule in audit.RULES:
        findings.append(audit.finding(rule.invariant, rule.sentence, await _ids(snapshot, rule.postgres)))
    late = await _ids(snapshot, audit.OVERDUE.format("$1"), now_ms - audit.OVERDUE_MS)
    return [*findings, audit.finding(8, audit.OVERDUE_SENTENCE, late)]


async def verify_requests(snapshot: Connection, call_ids: Sequence[str]) -> Finding:
    """Whether every request that a backend saw belongs to a hold that was committed."""
    unknown = await missing_calls(snapshot, call_ids, charged=False)
    return audit.finding(9, audit.REQUESTS_SENTENCE, unknown)


async def missing_calls(snapshot: Connection, call_ids: Sequence[str], *, charged: bool) -> list[str]:
    """Those of the calls that have no hold, or with `charged` no settled one."""
    which = "state = 'settled'" if charged else "true"
    return await _ids(snapshot, _MISSING_CALLS.format(which), list(call_ids))


async def _ids(snapshot: Connection, statement: str, *values: object) -> list[str]:
    return [str(row[0]) for row in await snapshot.fetch(statement, *values)]
