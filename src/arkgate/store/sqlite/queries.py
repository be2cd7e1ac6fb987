"""The named statements of the verbs. Each guard is in a WHERE; a verb checks how many rows it met.

A verb reads first and changes then, in one transaction of the only writer, so nothing changes in
between. RETURNING is not used: SQLite keeps its rows in a table of their own, which costs more than
the read.
"""

from arkgate.store.rows import ADDRESS_COLUMNS, INVOICE_COLUMNS

# -- Accounts -------------------------------------------------------------------------------------

OPEN_ACCOUNT = """
INSERT INTO account (account_id, kind, posted_msat, held_msat, created_at_ms) VALUES (?, ?, 0, 0, ?)
ON CONFLICT (account_id) DO NOTHING
"""

GIVE_TOKEN = """
UPDATE account SET token_digest = ?, token_key_version = ?
WHERE account_id = ? AND kind = 'customer' AND token_digest IS NULL
"""  # noqa: S105

TOKEN_VERSION = "SELECT token_key_version FROM account WHERE account_id = ? AND kind = 'customer'"  # noqa: S105

BALANCE = "SELECT posted_msat, held_msat FROM account WHERE account_id = ? AND kind = 'customer'"

BALANCE_AND_USED = """
SELECT a.posted_msat, a.held_msat, coalesce(u.used, 0)
FROM account a LEFT JOIN allowance u ON u.account_id = a.account_id AND u.service = ? AND u.day = ?
WHERE a.account_id = ? AND a.kind = 'customer'
"""

CREDIT_ACCOUNT = """
UPDATE account SET posted_msat = posted_msat + ?
WHERE account_id = ? AND kind = 'customer'
"""

HOLD_FROM_ACCOUNT = """
UPDATE account SET held_msat = held_msat + ?
WHERE account_id = ? AND kind = 'customer' AND posted_msat - held_msat >= ?
"""

RESOLVE_IN_ACCOUNT = """
UPDATE account SET posted_msat = posted_msat - ?, held_msat = held_msat - ?
WHERE account_id = ? AND kind = 'customer' AND held_msat >= ?
"""

EVER_FUNDED = "SELECT 1 FROM transfer WHERE credit_account_id = ? AND kind = 'credit' LIMIT 1"

# -- Transfers ------------------------------------------------------------------------------------

ADD_TRANSFER = """
INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

CREDITED_TO = "SELECT credit_account_id FROM transfer WHERE transfer_id = ?"

# -- Holds ----------------------------------------------------------------------------------------

# All that `reserve` decides on, in one statement: balance, the day's calls, and whether the call id
# or the request id is taken. No row: no such customer.
STANDING = """
SELECT a.posted_msat, a.held_msat, coalesce(u.used, 0),
  (SELECT account_id FROM hold WHERE call_id = ?),
  (SELECT call_id FROM hold WHERE account_id = a.account_id AND claimed_request_id = ?)
FROM account a LEFT JOIN allowance u ON u.account_id = a.account_id AND u.service = ? AND u.day = ?
WHERE a.account_id = ? AND a.kind = 'customer'
"""

ADD_HOLD = """
INSERT INTO hold (call_id, account_id, service, state, amount_msat, cost_msat, day, calls_per_day,
  taken_at_ms, deadline_ms, reason, request_id, claimed_request_id, request_hash, idempotency_key)
VALUES (?, ?, ?, 'open', ?, 0, ?, ?, ?, ?, '', ?, ?, ?, ?)
"""

SETTLE_HOLD = """
UPDATE hold SET state = 'settled', cost_msat = ?, resolved_at_ms = ?
WHERE call_id = ? AND state = 'open' AND amount_msat >= ?
"""

RELEASE_HOLD = """
UPDATE hold SET state = 'released', resolved_at_ms = ?, reason = ?, claimed_request_id = NULL,
  idempotency_key = NULL
WHERE call_id = ? AND state = 'open'
"""

# A hold, its account's balance, and the account's calls of the day that it is now.
HOLD = """
SELECT h.account_id, h.service, h.state, h.day, h.calls_per_day, h.amount_msat, a.posted_msat, a.held_msat,
  coalesce((SELECT used FROM allowance
    WHERE account_id = h.account_id AND service = h.service AND day = ?), 0)
FROM hold h JOIN account a ON a.account_id = h.account_id WHERE h.call_id = ?
"""

OVERDUE_HOLDS = """
SELECT call_id, account_id, amount_msat FROM hold
WHERE state = 'open' AND deadline_ms < ? ORDER BY deadline_ms LIMIT ?
"""

# The holds of a process that has ended: the sweep takes them next, whatever its clock was.
BRING_DEADLINES_FORWARD = "UPDATE hold SET deadline_ms = ? WHERE state = 'open' AND deadline_ms > ?"

# -- The day's allowance --------------------------------------------------------------------------

# Guarded twice: the WHERE of the SELECT for a day's first call, that of the UPDATE for the others.
TAKE_ALLOWANCE = """
INSERT INTO allowance (account_id, service, day, used) SELECT ?, ?, ?, 1 WHERE ? > 0
ON CONFLICT (account_id, service, day) DO UPDATE SET used = used + 1 WHERE used < ?
"""

GIVE_BACK_ALLOWANCE = """
UPDATE allowance SET used = used - 1 WHERE account_id = ? AND service = ? AND day = ? AND used > 0
"""

# The row of the day it is now, which need not be the day of the hold.
NOTE_LAST_SETTLED = """
INSERT INTO allowance (account_id, service, day, used, last_settled_call_id) VALUES (?, ?, ?, 0, ?)
ON CONFLICT (account_id, service, day) DO UPDATE SET last_settled_call_id = excluded.last_settled_call_id
"""

# Open holds are few, so their own index is read through.
UNDER_WAY = """
SELECT 1 FROM hold INDEXED BY hold_open
WHERE state = 'open' AND account_id = ? AND service = ? AND request_hash = ?
LIMIT 1
"""

USED = "SELECT used FROM allowance WHERE account_id = ? AND service = ? AND day = ?"

# -- Answers --------------------------------------------------------------------------------------

ADD_ANSWER = "INSERT INTO answer (call_id, status, content_type, expires_at_ms, body) VALUES (?, ?, ?, ?, ?)"

STORED_ANSWER = """
SELECT h.call_id, h.request_id, a.status, a.content_type, a.body, h.cost_msat, a.expires_at_ms
FROM hold h JOIN answer a ON a.call_id = h.call_id WHERE h.call_id = ? AND a.expires_at_ms > ?
"""

CALL_BY_KEY = """
SELECT call_id, service, request_hash, state, calls_per_day FROM hold
WHERE account_id = ? AND idempotency_key = ?
"""

LAST_SETTLED = """
SELECT h.call_id, h.service, h.request_hash, h.state, h.calls_per_day
FROM allowance u JOIN hold h ON h.call_id = u.last_settled_call_id
WHERE u.account_id = ? AND u.service = ? ORDER BY u.day DESC LIMIT 1
"""

PRUNE_ANSWERS = """
DELETE FROM answer WHERE call_id IN
  (SELECT call_id FROM answer WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)
"""

# -- Invoices and sessions ------------------------------------------------------------------------

INVOICE_OWNER = "SELECT account_id, purpose FROM invoice WHERE payment_hash = ?"

# A payment that was reported before its invoice was recorded left a row without the invoice's text.
ADD_INVOICE = """
INSERT INTO invoice (payment_hash, account_id, node, purpose, payment_request, amount_msat,
  amount_paid_msat, state, created_at_ms, expires_at_ms, next_lookup_ms)
VALUES (?, ?, ?, ?, ?, ?, 0, 'open', ?, ?, ?)
ON CONFLICT (payment_hash) DO UPDATE SET payment_request = excluded.payment_request,
  amount_msat = excluded.amount_msat, created_at_ms = excluded.created_at_ms,
  expires_at_ms = excluded.expires_at_ms
WHERE payment_request = ''
"""

SETTLE_INVOICE = """
INSERT INTO invoice (payment_hash, account_id, node, purpose, payment_request, amount_msat,
  amount_paid_msat, state, created_at_ms, expires_at_ms, settled_at_ms)
VALUES (?, ?, ?, ?, '', ?, ?, 'settled', ?, ?, ?)
ON CONFLICT (payment_hash) DO UPDATE SET state = 'settled', amount_paid_msat = excluded.amount_paid_msat,
  settled_at_ms = excluded.settled_at_ms, next_lookup_ms = NULL
WHERE state <> 'settled' AND account_id = excluded.account_id
"""

MARK_INVOICE = """
UPDATE invoice SET state = ?, next_lookup_ms = NULL
WHERE payment_hash = ? AND state IN ('open', 'expired')
"""

MARK_LOOKED_UP = """
UPDATE invoice SET next_lookup_ms = ? WHERE payment_hash = ? AND state IN ('open', 'expired')
"""

# Only what the node said cannot be paid any more, and what is not looked up any more.
ENDED_INVOICES = """
SELECT payment_hash FROM invoice
WHERE state IN ('expired', 'cancelled') AND expires_at_ms < ? AND next_lookup_ms IS NULL
ORDER BY expires_at_ms LIMIT ?
"""

FORGET_SESSION = "DELETE FROM session WHERE payment_hash = ?"

FORGET_INVOICE = "DELETE FROM invoice WHERE payment_hash = ? AND state IN ('expired', 'cancelled')"

ADD_SESSION = """
INSERT INTO session (session_id, account_id, payment_hash, ark_address) VALUES (?, ?, ?, ?)
ON CONFLICT (session_id) DO NOTHING
"""

SESSION_OF = "SELECT account_id, payment_hash, ark_address FROM session WHERE session_id = ?"

# -- Ark addresses and the coins that come in at them ----------------------------------------------

ADDRESS_OWNER = "SELECT account_id, purpose FROM ark_address WHERE address = ?"

ADD_ADDRESS = """
INSERT INTO ark_address (address, account_id, node, purpose, amount_msat, created_at_ms, expires_at_ms,
  next_lookup_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (address) DO NOTHING
"""

ADD_COIN = """
INSERT INTO ark_payment (outpoint, address, amount_msat, state, received_at_ms) VALUES (?, ?, ?, 'waiting', ?)
ON CONFLICT (outpoint) DO NOTHING
"""

COIN = "SELECT address, amount_msat FROM ark_payment WHERE outpoint = ?"

CREDITED_AT_ADDRESS = """
SELECT coalesce(sum(amount_msat), 0) FROM ark_payment WHERE address = ? AND state = 'credited'
"""

CREDIT_COIN = """
UPDATE ark_payment SET state = 'credited', credited_at_ms = ? WHERE outpoint = ? AND state = 'waiting'
"""

MARK_ADDRESS_LOOKED_UP = "UPDATE ark_address SET next_lookup_ms = ? WHERE address = ?"

# -- Cursors --------------------------------------------------------------------------------------

ADVANCE = """
INSERT INTO cursor (node, add_index, settle_index) VALUES (?, ?, ?)
ON CONFLICT (node) DO UPDATE SET add_index = max(add_index, excluded.add_index),
  settle_index = max(settle_index, excluded.settle_index)
"""

# -- Facts about these books -----------------------------------------------------------------------

NOTE_FACT = """
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

FACT = "SELECT value FROM meta WHERE name = ?"

FACTS = "SELECT name, value FROM meta"


# -- Reads for admission, pages and APIs ----------------------------------------------------------

ACCOUNT = """
SELECT account_id, posted_msat, held_msat,
  EXISTS (SELECT 1 FROM transfer t WHERE t.credit_account_id = a.account_id AND t.kind = 'credit'),
  token_key_version, created_at_ms
FROM account a WHERE account_id = ? AND kind = 'customer'
"""

ACCOUNT_BY_TOKEN = "SELECT account_id FROM account WHERE token_digest = ?"  # noqa: S105

INVOICE = f"SELECT {INVOICE_COLUMNS} FROM invoice WHERE payment_hash = ?"  # noqa: S608

INVOICES_DUE = f"""
SELECT {INVOICE_COLUMNS} FROM invoice
WHERE node = ? AND next_lookup_ms <= ? ORDER BY next_lookup_ms LIMIT ?
"""  # noqa: S608

INVOICES_DUE_LAST = INVOICES_DUE.replace("ORDER BY next_lookup_ms", "ORDER BY next_lookup_ms DESC")

# Few of all invoices are awaited, so their own index is read through.
INVOICES_AWAITED = f"""
SELECT {INVOICE_COLUMNS} FROM invoice INDEXED BY invoice_lookup
WHERE node = ? AND next_lookup_ms IS NOT NULL AND payment_hash > ? ORDER BY payment_hash LIMIT ?
"""  # noqa: S608

ADDRESS = f"SELECT {ADDRESS_COLUMNS} FROM ark_address WHERE address = ?"  # noqa: S608

ADDRESSES_DUE = f"""
SELECT {ADDRESS_COLUMNS} FROM ark_address
WHERE node = ? AND next_lookup_ms <= ? ORDER BY next_lookup_ms LIMIT ?
"""  # noqa: S608

ADDRESSES_DUE_LAST = ADDRESSES_DUE.replace("ORDER BY next_lookup_ms", "ORDER BY next_lookup_ms DESC")

_CALL_COLUMNS = "call_id, request_id, service, state, cost_msat, reason"

CALL_THAT_CLAIMS = f"SELECT {_CALL_COLUMNS} FROM hold WHERE account_id = ? AND claimed_request_id = ?"  # noqa: S608

RELEASED_CALL = f"""
SELECT {_CALL_COLUMNS} FROM hold WHERE account_id = ? AND claimed_request_id IS NULL AND request_id = ?
ORDER BY taken_at_ms DESC, call_id DESC LIMIT 1
"""  # noqa: S608

# Credits come before what they may have paid for in the same millisecond.
STATEMENT = """
WITH line (at_ms, rank, id, kind, amount, reference, detail) AS (
  SELECT at_ms, 0, transfer_id, 'credit', amount_msat, substr(transfer_id, 8), detail
  FROM transfer WHERE credit_account_id = :account AND kind = 'credit'
  UNION ALL
  SELECT resolved_at_ms, 1, call_id, CASE state WHEN 'settled' THEN 'charge' ELSE 'refund' END, -cost_msat,
    request_id, CASE state WHEN 'settled' THEN service ELSE reason END
  FROM hold WHERE account_id = :account AND state <> 'open'
)
SELECT at_ms, kind, amount,
  sum(amount) OVER (ORDER BY at_ms, rank, id ROWS UNBOUNDED PRECEDING), reference, detail
FROM line ORDER BY at_ms, rank, id LIMIT :limit OFFSET :offset
"""
STATEMENT_NEWEST_FIRST = STATEMENT.replace(
    "line ORDER BY at_ms, rank, id LIMIT", "line ORDER BY at_ms DESC, rank DESC, id DESC LIMIT"
)

CURSOR = "SELECT add_index, settle_index FROM cursor WHERE node = ?"

# What was charged is what was credited and is not there any more: a sum over every charge ever made
# would read the whole ledger for each scrape. `verify` checks that both say the same.
# Credits lie together by their ids; the index of credits would look each of them up.
TOTALS = """
SELECT coalesce(sum(posted_msat), 0), coalesce(sum(held_msat), 0),
  (SELECT coalesce(sum(amount_msat), 0) FROM transfer
    WHERE transfer_id >= 'credit:' AND transfer_id < 'credit;'),
  (SELECT count(*) FROM hold WHERE state = 'open')
FROM account WHERE kind = 'customer'
"""
