"""`arkgate` as a program that knows the tables' first revision only, and its functions."""

from arkgate.cli import main
from arkgate.store import revisions
from arkgate.store.postgres import lanes, queries

revisions.REVISIONS = revisions.REVISIONS[:1]
lanes.CALLS = lanes.statement_of("calls_v1")
queries.FUND = "SELECT * FROM fund_v1($1, $2, $3, $4, $5, $6, $7, $8, $9) WHERE $10::bigint = 0"
queries.OPEN_SESSION = (
    "SELECT open_session_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
    "WHERE $13::text IS NULL AND $14::text IS NULL AND "
    "coalesce($15::bigint, $16::bigint, $17::bigint) IS NULL"
)
queries.SESSION_OF = (
    "SELECT account_id, payment_hash, NULL::text AS ark_address FROM session WHERE session_id = $1"
)

if __name__ == "__main__":
    main()
