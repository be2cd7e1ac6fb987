"""The statements that are sent to PostgreSQL. What moves money is in the functions of the revisions."""

from collections.abc import Mapping
from typing import Any

from arkgate.core.ledger import Answer
from arkgate.core.money import Msat
from arkgate.store.rows import ADDRESS_COLUMNS, INVOICE_COLUMNS

# -- Verbs ----------------------------------------------------------------------------------------

OPEN_SESSION = """
SELECT open_session_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""
ADD_ADDRESS = "SELECT add_address_v1($1, $2, $3, $4, $5, $6, $7, $8)"
FUND_ARK = "SELECT * FROM fund_ark_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
ADD_INVOICE = "SELECT add_invoice_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)"
GIVE_TOKEN = "SELECT give_token_v1($1, $2, $3)"  # noqa: S105
FUND = "SELECT * FROM fund_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
ADVANCE = "SELECT advance_v1($1, $2, $3)"

MARK_INVOICE = """
UPDATE invoice SET state = $2, next_lookup_ms = NULL
WHERE payment_hash = $1 AND state IN ('open', 'expired')
"""

MARK_LOOKED_UP = """
UPDATE invoice SET next_lookup_ms = $2 WHERE payment_hash = $1 AND state IN ('open', 'expired')
"""

MARK_ADDRESS_LOOKED_UP = "UPDATE ark_address SET next_lookup_ms = $2 WHERE address = $1"

NOTE_FACT = """
INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

# Both or neither: the moment of one step with the width of another would be a step that never was.
NOTE_STEP = """
INSERT INTO meta (name, value) VALUES ('clock_step_ms', $1), ('clock_stepped_at_ms', $2)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

# The update changes nothing and answers the row of whoever was quicker.
NOTE_ONCE = """
INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = meta.value
RETURNING value
"""

OVERDUE_HOLDS = """
SELECT call_id, account_id, amount_msat FROM hold
WHERE state = 'open' AND deadline_ms < $1 ORDER BY deadline_ms LIMIT $2
"""

# Deadlines that no call can have, the earliest first: where a gateway still goes by such a time, its new
# calls come last and do not hide a dead one's.
FAR_HOLDS = """
SELECT call_id, account_id, amount_msat FROM hold
WHERE state = 'open' AND deadline_ms > $1 ORDER BY deadline_ms LIMIT $2
"""

# Two replicas that prune at once take different rows.
PRUNE_ANSWERS = """
WITH past AS (
  SELECT call_id FROM answer WHERE expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2
  FOR UPDATE SKIP LOCKED
), forgotten AS (DELETE FROM answer a USING past p WHERE a.call_id = p.call_id RETURNING 1)
SELECT count(*) FROM forgotten
"""

# A payment that settles one of them meanwhile has its row locked, or finds it gone and writes it anew.
PRUNE_INVOICES = """
WITH ended AS (
  SELECT payment_hash FROM invoice
  WHERE state IN ('expired', 'cancelled') AND expires_at_ms < $1 AND next_lookup_ms IS NULL
  ORDER BY expires_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED
), waiting AS (DELETE FROM session s USING ended e WHERE s.payment_hash = e.payment_hash),
forgotten AS (DELETE FROM invoice i USING ended e WHERE i.payment_hash = e.payment_hash RETURNING 1)
SELECT count(*) FROM forgotten
"""

# -- Reads for admission, pages and APIs ----------------------------------------------------------

REPLAY = "SELECT * FROM replay_v1($1, $2, $3, $4, $5, $6, $7)"

ACCOUNT = """
SELECT account_id, posted_msat, held_msat,
  EXISTS (SELECT FROM transfer t WHERE t.credit_account_id = a.account_id AND t.kind = 'credit'),
  token_key_version, created_at_ms
FROM account a WHERE account_id = $1 AND kind = 'customer'
"""

ACCOUNT_BY_TOKEN = "SELECT account_id FROM account WHERE token_digest = $1"  # noqa: S105

CREDITED_TO = "SELECT credit_account_id FROM transfer WHERE transfer_id = $1"

USED = "SELECT used_v1($1, $2, $3)"

SESSION_OF = "SELECT account_id, payment_hash, ark_address FROM session WHERE session_id = $1"

INVOICE = f"SELECT {INVOICE_COLUMNS} FROM invoice WHERE payment_hash = $1"  # noqa: S608

INVOICES_DUE = f"""
SELECT {INVOICE_COLUMNS} FROM invoice
WHERE node = $1 AND next_lookup_ms <= $2 ORDER BY next_lookup_ms LIMIT $3
"""  # noqa: S608

INVOICES_DUE_LAST = INVOICES_DUE.replace("ORDER BY next_lookup_ms", "ORDER BY next_lookup_ms DESC")

INVOICES_AWAITED = f"""
SELECT {INVOICE_COLUMNS} FROM invoice
WHERE node = $1 AND next_lookup_ms IS NOT NULL AND payment_hash > $2 ORDER BY payment_hash LIMIT $3
"""  # noqa: S608

ADDRESS = f"SELECT {ADDRESS_COLUMNS} FROM ark_address WHERE address = $1"  # noqa: S608

ADDRESSES_DUE = f"""
SELECT {ADDRESS_COLUMNS} FROM ark_address
WHERE node = $1 AND next_lookup_ms <= $2 ORDER BY next_lookup_ms LIMIT $3
"""  # noqa: S608

ADDRESSES_DUE_LAST = ADDRESSES_DUE.replace("ORDER BY next_lookup_ms", "ORDER BY next_lookup_ms DESC")

_CALL = """
SELECT h.call_id, h.request_id, h.service, h.state, h.cost_msat, h.reason,
  a.status, a.content_type, a.body, a.expires_at_ms
FROM hold h LEFT JOIN answer a ON a.call_id = h.call_id AND a.expires_at_ms > $3
WHERE h.account_id = $1 AND {which} ORDER BY h.taken_at_ms DESC, h.call_id DESC LIMIT 1
"""

# A request id is taken anew only after a release, so a call that claims it is the newest.
CALL_THAT_CLAIMS = _CALL.format(which="h.claimed_request_id = $2")
RELEASED_CALL = _CALL.format(which="h.claimed_request_id IS NULL AND h.request_id = $2")

# Credits come before what they may have paid for in the same millisecond.
STATEMENT = """
WITH line (at_ms, rank, id, kind, amount, reference, detail) AS (
  SELECT at_ms, 0, transfer_id, 'credit', amount_msat, substr(transfer_id, 8), detail
  FROM transfer WHERE credit_account_id = $1 AND kind = 'credit'
  UNION ALL
  SELECT resolved_at_ms, 1, call_id, 'charge', -cost_msat, request_id, service
  FROM hold WHERE account_id = $1 AND state = 'settled'
  UNION ALL
  SELECT resolved_at_ms, 1, call_id, 'refund', 0, request_id, reason
  FROM hold WHERE account_id = $1 AND state = 'released'
)
SELECT at_ms, kind, amount,
  (sum(amount) OVER (ORDER BY at_ms, rank, id ROWS UNBOUNDED PRECEDING))::bigint, reference, detail
FROM line ORDER BY at_ms, rank, id LIMIT $3 OFFSET $2
"""
STATEMENT_NEWEST_FIRST = STATEMENT.replace(
    "line ORDER BY at_ms, rank, id LIMIT", "line ORDER BY at_ms DESC, rank DESC, id DESC LIMIT"
)

CURSOR = "SELECT add_index, settle_index FROM cursor WHERE node = $1"

FACTS = "SELECT name, value FROM meta"

TOTALS = """
SELECT coalesce(sum(posted_msat), 0)::bigint, coalesce(sum(held_msat), 0)::bigint,
  (SELECT coalesce(sum(amount_msat), 0)::bigint FROM transfer WHERE kind = 'credit'),
  (SELECT count(*) FROM hold WHERE state = 'open')
FROM account WHERE kind = 'customer'
"""


def answer_of(row: Mapping[str, Any]) -> Answer | None:
    """The stored answer that a row of `calls_v1` or `replay_v1` carries, if any."""
    if row["answered_call"] is None:
        return None
    return Answer(
        row["answered_call"],
        row["request_id"],
        row["status"],
        row["content_type"],
        row["body"],
        Msat(row["cost"]),
        row["expires_at_ms"],
    )
