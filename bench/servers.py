"""The processes of a benchmark: each pinned to its core, each gone when the block ends."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.load import LOAD_CORE

SERVER_CORE = 0
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "model": "instant",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Ark uses rounds and virtual outputs. " * 12},
        }
    ],
    "usage": {"prompt_tokens": 18, "completion_tokens": 96, "total_tokens": 114},
}


@contextlib.contextmanager
def process(
    command: Sequence[str],
    *,
    core: int,
    until: str | None = None,
    env: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Iterator[None]:
    """Runs a command on one core; waits until it prints a line that begins with `until`.

    `quiet` throws its log away: it is written and not kept.
    """
    started = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE if until else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        if until and started.stdout:
            for line in started.stdout:
                if line.startswith(until):
                    break
            else:
                raise RuntimeError(f"{command[0]} ended before it was ready")
        yield
    finally:
        started.terminate()
        started.wait(30)


@contextlib.contextmanager
def hello(port: int) -> Iterator[str]:
    """The floor: uvicorn with httptools and uvloop, no access log, around two words."""
    options = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "error"]
    with process(
        [sys.executable, "-m", "uvicorn", "bench.hello:app", "--port", str(port), *options], core=SERVER_CORE
    ):
        wait_for(port)
        yield f"http://127.0.0.1:{port}/"


@contextlib.contextmanager
def instant_backend(directory: Path, port: int) -> Iterator[str]:
    """nginx, which answers every completion at once with the same answer."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        raise SystemExit("make bench needs nginx and wrk: apt-get install nginx-light wrk")
    config = directory / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""\
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; {temporary}
  server {{
    listen 127.0.0.1:{port}; default_type application/json;
    location / {{ return 200 '{json.dumps(ANSWER)}'; }}
  }}
}}
""")
    with process([nginx, "-c", str(config), "-p", str(directory)], core=LOAD_CORE):
        wait_for(port)
        yield f"http://127.0.0.1:{port}/v1"


def wait_for(port: int) -> None:
    """Waits until something listens on a port of loopback."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")
