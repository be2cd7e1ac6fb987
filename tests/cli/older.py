"""`arkgate` as a program that knows the tables' first revision only, and its functions."""

from arkgate.cli import main
from arkgate.store import revisions
from arkgate.store.postgres import lanes

revisions.REVISIONS = revisions.REVISIONS[:1]
lanes.CALLS = lanes.statement_of("calls_v1")

if __name__ == "__main__":
    main()
