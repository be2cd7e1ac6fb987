"""The invariants of the ledger as statements that name whatever breaks them; nothing is repaired.

Each statement answers the ids that break its rule, so an empty answer is a rule that holds. Each sees
one moment of the books, makes no writer wait, and reads a table once: on millions of rows that decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from arkgate.core.ledger import Finding

OVERDUE_MS = 60_000
"""How long after its deadline an open hold may wait for the sweep."""
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One invariant: its number, what is true when it holds, and the statement that finds otherwise."""

    invariant: int
    sentence: str
    statement: str
    """In SQLite's words."""

    @property
    def postgres(self) -> str:
        """The statement in PostgreSQL's words."""
        return self.statement.replace("lower(hex(payment_hash))", "encode(payment_hash, 'hex')")


RULES = (
    Rule(
        1,
        "Every customer's balance is the credits minus the charges, and no other account keeps one",
        # Grouped by both sides first: that is the one sort of all transfers, and leaves few rows.
        """
        WITH pair (debit, credit, amount) AS (
          SELECT debit_account_id, credit_account_id, sum(amount_msat) FROM transfer
          GROUP BY debit_account_id, credit_account_id
        ), movement (account_id, amount) AS (
          SELECT credit, amount FROM pair UNION ALL SELECT debit, -amount FROM pair
        ), total (account_id, amount) AS (SELECT account_id, sum(amount) FROM movement GROUP BY account_id)
        SELECT a.account_id FROM account a LEFT JOIN total t ON t.account_id = a.account_id
        WHERE a.posted_msat <> CASE a.kind WHEN 'customer' THEN coalesce(t.amount, 0) ELSE 0 END
        UNION ALL SELECT account_id FROM total WHERE account_id NOT IN (SELECT account_id FROM account)
        """,
    ),
    Rule(
        2,
        "What every account has held is the sum of its open holds",
        # Materialised, or SQLite reads all holds in the order of the accounts to spare itself a sort.
        """
        WITH open_hold (account_id, amount) AS MATERIALIZED (
          SELECT account_id, amount_msat FROM hold WHERE state = 'open'
        ), total (account_id, amount) AS (
          SELECT account_id, sum(amount) FROM open_hold GROUP BY account_id
        )
        SELECT a.account_id FROM account a LEFT JOIN total t ON t.account_id = a.account_id
        WHERE a.held_msat <> coalesce(t.amount, 0)
        UNION ALL SELECT account_id FROM total WHERE account_id NOT IN (SELECT account_id FROM account)
        """,
    ),
    Rule(
        3,
        "The books close: assets and expenses are customers' balances, income and equity",
        # The shared accounts are a handful, so the transfers are read once and nothing is joined.
        """
        WITH ours (account_id) AS MATERIALIZED (
          SELECT account_id FROM account WHERE kind IN ('asset', 'expense')
        ), earned (account_id) AS MATERIALIZED (
          SELECT account_id FROM account WHERE kind IN ('income', 'equity')
        ), sums (own, earned) AS (
          SELECT
            coalesce(sum(amount_msat
              * ((CASE WHEN debit_account_id IN (SELECT account_id FROM ours) THEN 1 ELSE 0 END)
              - (CASE WHEN credit_account_id IN (SELECT account_id FROM ours) THEN 1 ELSE 0 END))), 0),
            coalesce(sum(amount_msat
              * ((CASE WHEN credit_account_id IN (SELECT account_id FROM earned) THEN 1 ELSE 0 END)
              - (CASE WHEN debit_account_id IN (SELECT account_id FROM earned) THEN 1 ELSE 0 END))), 0)
          FROM transfer
        ), books (own, owed) AS (
          SELECT own, earned + (SELECT coalesce(sum(posted_msat), 0) FROM account WHERE kind = 'customer')
          FROM sums
        )
        SELECT own || ' msat against ' || owed FROM books WHERE own <> owed
        """,
    ),
    Rule(
        4,
        "Every settled invoice and Ark payment has one credit of what was paid, and every credit and fee "
        "its payment",
        # Where each payment has its credit, another credit shows in their numbers; only then it is searched.
        """
        WITH paid (transfer_id, account_id, amount) AS (
          SELECT 'credit:' || lower(hex(payment_hash)), account_id, amount_paid_msat FROM invoice
          WHERE state = 'settled'
          UNION ALL
          SELECT 'credit:' || p.outpoint, a.account_id, p.amount_msat
          FROM ark_payment p JOIN ark_address a ON a.address = p.address WHERE p.state = 'credited'
        )
        SELECT transfer_id FROM paid p
        WHERE NOT EXISTS (
          SELECT 1 FROM transfer t WHERE t.transfer_id = p.transfer_id
            AND t.kind = 'credit' AND t.credit_account_id = p.account_id AND t.amount_msat = p.amount)
        UNION
        SELECT transfer_id FROM transfer
        WHERE kind = 'credit'
          AND (SELECT count(*) FROM transfer WHERE kind = 'credit') <> (SELECT count(*) FROM paid)
          AND transfer_id NOT IN (SELECT transfer_id FROM paid)
        UNION
        SELECT f.transfer_id FROM transfer f
        LEFT JOIN transfer t ON t.transfer_id = 'credit:' || substr(f.transfer_id, 5) AND t.kind = 'credit'
        WHERE f.transfer_id >= 'fee:' AND f.transfer_id < 'fee;'
          AND (t.transfer_id IS NULL OR f.kind <> 'fee' OR f.amount_msat > t.amount_msat
            OR f.credit_account_id <> t.debit_account_id)
        """,
    ),
    Rule(
        5,
        "Every settled hold has one charge of its cost (none for a cost of zero), any other hold none",
        # Both tables lie in the order of the call ids, so a hold's charge is where the last one's was.
        # Where each hold has its charge, another charge shows in their numbers.
        """
        SELECT 'charge:' || h.call_id FROM hold h
        WHERE h.state = 'settled' AND h.cost_msat <> 0 AND NOT EXISTS (
          SELECT 1 FROM transfer t WHERE t.transfer_id = 'charge:' || h.call_id AND t.kind = 'charge'
            AND t.debit_account_id = h.account_id AND t.amount_msat = h.cost_msat)
        UNION
        SELECT t.transfer_id FROM transfer t
        WHERE t.kind = 'charge'
          AND (SELECT count(*) FROM transfer WHERE kind = 'charge')
            <> (SELECT count(*) FROM hold WHERE state = 'settled' AND cost_msat <> 0)
          AND NOT EXISTS (SELECT 1 FROM hold h WHERE h.call_id = substr(t.transfer_id, 8)
            AND t.transfer_id = 'charge:' || h.call_id AND h.state = 'settled' AND h.cost_msat <> 0)
        UNION SELECT call_id FROM hold
        WHERE cost_msat > amount_msat OR (state <> 'settled' AND cost_msat <> 0)
        """,
    ),
    Rule(
        6,
        "No balance is below zero",
        """
        SELECT account_id FROM account WHERE posted_msat < 0 OR held_msat < 0 OR posted_msat - held_msat < 0
        """,
    ),
    Rule(
        7,
        "Every day's count is its open and settled holds, within the limit recorded with them",
        """
        WITH unit (account_id, service, day, taken, most, used) AS (
          SELECT account_id, service, day, 1, coalesce(calls_per_day, 9223372036854775807), 0
          FROM hold WHERE state IN ('open', 'settled')
          UNION ALL SELECT account_id, service, day, 0, 0, used FROM allowance
        )
        SELECT account_id || ' ' || service || ' day ' || day FROM unit
        GROUP BY account_id, service, day HAVING sum(taken) <> sum(used) OR sum(taken) > max(most)
        """,
    ),
)

OVERDUE = "SELECT call_id FROM hold WHERE state = 'open' AND deadline_ms < {} ORDER BY deadline_ms"
OVERDUE_SENTENCE = "No hold is open for more than a minute after its deadline"
REQUESTS_SENTENCE = "Every request to a backend belongs to a committed hold"


def finding(invariant: int, sentence: str, broken: Iterable[str]) -> Finding:
    """What a statement found, as a sentence that names the first few."""
    ids = list(broken)
    if not ids:
        return Finding(invariant, holds=True, sentence=f"{sentence}.")
    named = ", ".join(ids[:_NAMED]) + (" and more" if len(ids) > _NAMED else "")
    return Finding(invariant, holds=False, sentence=f"{sentence}: broken {len(ids)} times, at {named}.")
