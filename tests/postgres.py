"""A throw-away PostgreSQL for the tests: Debian's, on a free port of loopback, or the one that is named.

ARKGATE_TEST_POSTGRES names a server whose user may create databases, as a URL.
"""

import asyncio
import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from arkgate.store.postgres.schema import upgrade
from tests.ports import free_port_base

SUPERUSER = "postgres"
START_SECONDS = 30.0
_databases = itertools.count(1)
_books: dict[Path, str] = {}


@dataclass(slots=True)
class Server:
    """A PostgreSQL server of our own, whose directory goes when the tests end."""

    programs: Path
    directory: Path
    port: int
    options: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Its database for administration."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            **self.options,
        }
        command = [str(self.programs / "postgres"), "-D", str(self.directory / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.process = subprocess.Popen(
            _as_its_user(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.directory
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def _answers(self) -> bool:
        ready = [str(self.programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT politely and fast, SIGQUIT as a crash, SIGKILL for what holds no lock of ours."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_SECONDS)
            self.process = None

    def remove(self) -> None:
        """Ends it and forgets its directory."""
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)


def _as_its_user(words: Sequence[str]) -> list[str]:
    """PostgreSQL refuses to run as root: as root, its commands run as the user of Debian's package."""
    if os.geteuid():
        return list(words)
    return ["setpriv", f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--clear-groups", *words]


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


def new_server(*, parent: Path | None = None, **options: str) -> Server:
    """A server of one's own, started; `options` are settings of PostgreSQL. Skips where there is none.

    Its directory is made in `parent`.
    """
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    directory = Path(tempfile.mkdtemp(prefix="arkgate-postgres-", dir=parent))
    directory.chmod(0o755)
    if not os.geteuid():
        shutil.chown(directory, SUPERUSER)
    initdb = [str(programs / "initdb"), "-U", SUPERUSER, "-A", "trust", "-N", "-E", "UTF8", "-D"]
    command = _as_its_user([*initdb, str(directory / "data")])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    server = Server(programs, directory, free_port_base(), options)
    atexit.register(server.remove)
    server.start()
    return server


@functools.cache
def server_url() -> str:
    """The server that all tests share, started when the first one asks."""
    return os.environ.get("ARKGATE_TEST_POSTGRES") or new_server().url


@functools.cache
def _template() -> str:
    """The tables of a ledger that nobody has opened, for new databases to be copied from."""
    name = f"arkgate_template_{os.getpid()}"

    async def make() -> None:
        await _command(f"CREATE DATABASE {name}")
        await upgrade(at(name))

    asyncio.run(make())
    atexit.register(lambda: asyncio.run(_dropped(name)))
    return name


async def _dropped(name: str) -> None:
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        await _command(f"DROP DATABASE {name} WITH (FORCE)")


def at(name: str) -> str:
    """The URL of a database of the shared server."""
    return urlunsplit(urlsplit(server_url())._replace(path=f"/{name}"))


async def _command(statement: str) -> None:
    connection = await asyncpg.connect(server_url())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def books_of(directory: Path) -> str:
    """The URL of the database that belongs to a directory; made when it is asked for first."""
    if directory not in _books:
        await asyncio.to_thread(prepare)
        _books[directory] = await asyncio.to_thread(_kept)
    return _books[directory]


def _kept() -> str:
    """A new database that stays until the tests end."""
    name = f"arkgate_test_{os.getpid()}_{next(_databases)}"
    template = _template()
    asyncio.run(_command(f"CREATE DATABASE {name} TEMPLATE {template}"))
    atexit.register(lambda: asyncio.run(_dropped(name)))
    return at(name)


def prepare() -> None:
    """Starts the server and makes the template; outside of any event loop."""
    _template()


@contextlib.asynccontextmanager
async def database(*, empty: bool = False) -> AsyncIterator[str]:
    """The URL of a new database with the ledger's tables, or with nothing in it."""
    name = f"arkgate_test_{os.getpid()}_{next(_databases)}"
    await _command(f"CREATE DATABASE {name}" + ("" if empty else f" TEMPLATE {_template()}"))
    try:
        yield at(name)
    finally:
        await _dropped(name)
