"""Ids that nobody else has given, whatever a process was forked from."""

import subprocess
import sys

FORKED = """
import os, sys
from arkgate.gateway.serve import new_call_id
from arkgate.web.guard import _arrival

for _ in range(2):
    if os.fork() == 0:
        print(new_call_id(0), _arrival({"headers": []}).request_id, flush=True)
        os._exit(0)
    os.wait()
"""


def test_two_children_of_one_process_give_different_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    ids = done.stdout.split()

    assert len(ids) == len(set(ids)) == 4
