"""Where mutants are tested: in copies of the tree, or in the program that is loaded already.

To load the program takes longer than most tests. A statement can be changed afterwards: the engines
read it when it is run.
"""

import asyncio
import atexit
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import asyncpg

from tests.mutants.mutation import Mutant
from tests.mutants.running import run_tests, silent

_LIBRARIES = (
    "hypothesis hypothesis.stateful sqlmodel sqlalchemy.ext.asyncio alembic.command asyncpg structlog"
)
_TABLES = "account, transfer, hold, allowance, answer, invoice, session, cursor"
_EMPTIED = (
    "SET session_replication_role = replica",  # the trigger that keeps transfers
    f"TRUNCATE {_TABLES}",
    "DELETE FROM meta WHERE name <> 'revision_floor'",  # which a revision notes
)


class Copies:
    """Copies of the tree, for what is read as the program is loaded; only libraries are loaded before."""

    def __init__(self, tree: Path, directory: Path, width: int) -> None:
        self._tree = tree
        self._copies = [directory / f"tree-{slot}" for slot in range(width)]

    def prepare(self, _arguments: Sequence[str]) -> None:
        """See `Ground`."""
        for name in _LIBRARIES.split():
            import_module(name)
        for copy in self._copies:
            shutil.copytree(self._tree, copy, ignore=_left_out(self._tree))

    def enter(self, slot: int, mutant: Mutant | None) -> None:
        """See `Ground`."""
        copy = self._copies[slot]
        if mutant is not None:
            self._write(slot, mutant, mutant.applied((self._tree / mutant.path).read_text()))
        os.chdir(copy)
        sys.dont_write_bytecode = mutant is not None
        own = {str(self._tree), str(self._tree / "src"), ""}
        sys.path[:] = [str(copy), str(copy / "src"), *(path for path in sys.path if path not in own)]
        for name in [name for name in sys.modules if re.match(r"(arkgate|tests)\b", name)]:
            del sys.modules[name]

    def asked(self) -> set[str]:
        """See `Ground`."""
        return set()

    def leave(self, slot: int, mutant: Mutant) -> None:
        """See `Ground`."""
        self._write(slot, mutant, (self._tree / mutant.path).read_text())

    def _write(self, slot: int, mutant: Mutant, text: str) -> None:
        path = self._copies[slot] / mutant.path
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


class _Statements(ModuleType):
    """A module of statements that notes which of them are asked for."""

    noted: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        _Statements.noted.add(name)
        return super().__getattribute__(name)


class Loaded:
    """The program with its tests, loaded once; a mutant is one statement of it that is replaced."""

    def __init__(self, tree: Path, directory: Path, databases: int) -> None:
        self._tree = tree
        self._directory = directory
        self._databases = databases
        """How many of PostgreSQL's are needed: one for each slot, which its tests share one after another."""

    def prepare(self, arguments: Sequence[str]) -> None:
        """See `Ground`."""
        os.chdir(self._tree)
        before = os.dup(1), os.dup(2)
        silent(self._directory / "loading")
        run_tests(["--collect-only", *arguments])
        for number, kept in enumerate(before, start=1):
            os.dup2(kept, number)
        if self._databases:
            postgres = _postgres()
            postgres.prepare()
            for slot in range(self._databases):
                command = f"CREATE DATABASE {_name(slot)} TEMPLATE {postgres._template()}"
                asyncio.run(_execute(postgres.server_url(), command))
                atexit.register(_drop, slot)

    def enter(self, slot: int, mutant: Mutant | None) -> None:
        """See `Ground`."""
        if self._databases:
            _share_database(_name(slot))
        text = "" if mutant is None else mutant.applied((self._tree / mutant.path).read_text())
        if mutant is not None and mutant.path.endswith(".sql"):
            asyncio.run(_execute(_postgres().at(_name(slot)), _definition(mutant, text, mutated=True)))
            return
        module = import_module(f"arkgate.store.{'postgres' if self._databases else 'sqlite'}.queries")
        if mutant is None:
            module.__class__ = _Statements
        else:
            exec(compile(text, mutant.path, "exec"), module.__dict__)
        for name, test in list(sys.modules.items()):  # a test that named a statement when it was loaded
            if ".test_" in name and any(value is module for value in vars(test).values()):
                del sys.modules[name]

    def asked(self) -> set[str]:
        """See `Ground`."""
        names = set(_Statements.noted)
        _Statements.noted.clear()
        return names

    def leave(self, slot: int, mutant: Mutant) -> None:
        """See `Ground`."""
        if mutant.path.endswith(".sql"):
            text = (self._tree / mutant.path).read_text()
            left = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            others = f"{left} AND pid <> pg_backend_pid()"
            restored = _definition(mutant, text, mutated=False)
            asyncio.run(_execute(_postgres().at(_name(slot)), others, restored))


def _drop(slot: int) -> None:
    asyncio.run(_postgres()._dropped(_name(slot)))


def _name(slot: int) -> str:
    return f"arkgate_mutants_{slot}"


def _definition(mutant: Mutant, text: str, *, mutated: bool) -> str:
    """What puts the mutant, or what it was made of, in the place of the other one."""
    if mutant.change == "without the trigger":
        dropped = f"DROP TRIGGER IF EXISTS {mutant.place} ON transfer"
        return dropped if mutated else f"{dropped}; {text[mutant.start : mutant.end]}"
    start = text.rindex("CREATE FUNCTION", 0, mutant.start)
    return text[start : text.index("$$;", mutant.start) + 3].replace("CREATE", "CREATE OR REPLACE", 1)


def _share_database(name: str) -> None:
    """Gives every test the same database, emptied: to make one takes as long as a test."""
    postgres = _postgres()
    make_one = postgres.database

    @asynccontextmanager
    async def database(*, empty: bool = False) -> AsyncIterator[str]:
        if empty:
            async with make_one(empty=True) as url:
                yield url
        else:
            await _execute(postgres.at(name), *_EMPTIED)
            yield postgres.at(name)

    async def books_of(_directory: Path) -> str:
        await _execute(postgres.at(name), *_EMPTIED)
        return str(postgres.at(name))

    vars(postgres).update(database=database, books_of=books_of)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _postgres() -> ModuleType:
    return import_module("tests.postgres")


def _left_out(tree: Path) -> Callable[[str, list[str]], set[str]]:
    """What a copy of the tree does not need: virtual environments, caches, and what mutmut left."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        top = {"mutants"} if Path(directory) == tree else set[str]()
        return {name for name in names if name[0] == "." or name in top | {"__pycache__"}}

    return ignored


@contextmanager
def postgres_of_its_own(tree: Path) -> Iterator[str]:
    """The URL of a PostgreSQL for the tests, kept by a process that loads the program; this one does not."""
    script = (
        "import sys; from tests import postgres; print(postgres.server_url(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        yield keeper.stdout.readline().strip()
        keeper.communicate()
