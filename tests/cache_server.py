"""A throw-away Redis for the tests: Debian's, on a free port of loopback, without anything on disk."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.ports import free_port_base

START_SECONDS = 10.0


@dataclass(slots=True)
class CacheServer:
    """A server of our own."""

    port: int
    password: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it is, with its password."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if self.password:
            command += ["--requirepass", self.password]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError("the cache server did not start")

    def kill(self) -> None:
        """Kills it without a word."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Lets it hang, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a `stop`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(*, password: str = "") -> Iterator[CacheServer]:
    """Runs a server until the block ends. Skips the test where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    server = CacheServer(free_port_base((0,)), password)
    server.start()
    try:
        yield server
    finally:
        server.kill()
