"""The invariants of the ledger as statements that name whatever breaks them; nothing is repaired.

Each statement answers the ids that break its rule, so an empty answer is a rule that holds. They run
in one read transaction: they see one moment of the books and make no writer wait.
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
        """
        WITH movement (account_id, amount) AS (
          SELECT credit_account_id, amount_msat FROM transfer
          UNION ALL SELECT debit_account_id, -amount_msat FROM transfer
        ), total (account_id, amount) AS (SELECT account_id, sum(amount) FROM movement GROUP BY account_id)
        SELECT a.account_id FROM account a LEFT JOIN total t ON t.account_id = a.account_id
        WHERE a.posted_msat <> CASE a.kind WHEN 'customer' THEN coalesce(t.amount, 0) ELSE 0 END
        UNION ALL SELECT account_id FROM total WHERE account_id NOT IN (SELECT account_id FROM account)
        """,
    ),
    Rule(
        2,
        "What every account has held is the sum of its open holds",
        """
        WITH total (account_id, amount) AS (
          SELECT account_id, sum(amount_msat) FROM hold WHERE state = 'open' GROUP BY account_id
        )
        SELECT a.account_id FROM account a LEFT JOIN total t ON t.account_id = a.account_id
        WHERE a.held_msat <> coalesce(t.amount, 0)
        UNION ALL SELECT account_id FROM total WHERE account_id NOT IN (SELECT account_id FROM account)
        """,
    ),
    Rule(
        3,
        "The books close: assets and expenses are customers' balances, income and equity",
        """
        WITH side (kind, amount) AS (
          SELECT a.kind, -t.amount_msat FROM transfer t JOIN account a ON a.account_id = t.credit_account_id
          UNION ALL
          SELECT a.kind, t.amount_msat FROM transfer t JOIN account a ON a.account_id = t.debit_account_id
        ), books (own, owed) AS (SELECT
          (SELECT coalesce(sum(amount), 0) FROM side WHERE kind IN ('asset', 'expense')),
          (SELECT coalesce(-sum(amount), 0) FROM side WHERE kind IN ('income', 'equity'))
          + (SELECT coalesce(sum(posted_msat), 0) FROM account WHERE kind = 'customer'))
        SELECT own || ' msat against ' || owed FROM books WHERE own <> owed
        """,
    ),
    Rule(
        4,
        "Every settled invoice has one credit of what was paid, and every credit its settled invoice",
        """
        WITH paid (transfer_id, account_id, amount) AS (
          SELECT 'credit:' || lower(hex(payment_hash)), account_id, amount_paid_msat
          FROM invoice WHERE state = 'settled'
        ), credited (transfer_id, account_id, amount) AS (
          SELECT transfer_id, credit_account_id, amount_msat FROM transfer WHERE kind = 'credit'
        )
        SELECT transfer_id FROM (SELECT * FROM paid EXCEPT SELECT * FROM credited) AS a
        UNION SELECT transfer_id FROM (SELECT * FROM credited EXCEPT SELECT * FROM paid) AS b
        """,
    ),
    Rule(
        5,
        "Every settled hold has one charge of its cost (none for a cost of zero), any other hold none",
        """
        WITH due (transfer_id, account_id, amount) AS (
          SELECT 'charge:' || call_id, account_id, cost_msat FROM hold
          WHERE state = 'settled' AND cost_msat <> 0
        ), charged (transfer_id, account_id, amount) AS (
          SELECT transfer_id, debit_account_id, amount_msat FROM transfer WHERE kind = 'charge'
        )
        SELECT transfer_id FROM (SELECT * FROM due EXCEPT SELECT * FROM charged) AS a
        UNION SELECT transfer_id FROM (SELECT * FROM charged EXCEPT SELECT * FROM due) AS b
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
        WITH counted (account_id, service, day, number, most) AS (
          SELECT account_id, service, day, count(*), max(coalesce(calls_per_day, 9223372036854775807))
          FROM hold WHERE state IN ('open', 'settled') GROUP BY account_id, service, day
        )
        SELECT u.account_id || ' ' || u.service || ' day ' || u.day
        FROM allowance u LEFT JOIN counted c
          ON c.account_id = u.account_id AND c.service = u.service AND c.day = u.day
        WHERE u.used <> coalesce(c.number, 0)
        UNION ALL SELECT c.account_id || ' ' || c.service || ' day ' || c.day
        FROM counted c LEFT JOIN allowance u
          ON u.account_id = c.account_id AND u.service = c.service AND u.day = c.day
        WHERE u.used IS NULL OR c.number > c.most
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
