"""`python -m arkgate` and the `arkgate` command."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it once; we report what fails ourselves

from arkgate.cli import main

if __name__ == "__main__":
    main()
