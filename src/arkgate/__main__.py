"""`python -m arkgate` and the `arkgate` command."""

from arkgate.cli import main

if __name__ == "__main__":
    main()
