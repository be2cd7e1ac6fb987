"""Ports for servers of the tests that go down and come back on the same one."""

import contextlib
import random
import socket
from collections.abc import Iterable


def free_port_base(offsets: Iterable[int] = (0, 1)) -> int:
    """A number above which the ports at these offsets are free, out of reach of outgoing connections."""
    choices = list(offsets)
    for _ in range(100):
        base = random.randrange(12_000, 31_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for offset in choices:
                stack.enter_context(socket.create_server(("127.0.0.1", base + offset)))
            return base
    raise AssertionError("there are no free ports")
