"""`arkgate` as a program that knows the tables' first revision only."""

from arkgate.cli import main
from arkgate.store import revisions

revisions.REVISIONS = revisions.REVISIONS[:1]

if __name__ == "__main__":
    main()
