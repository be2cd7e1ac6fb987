"""Runs tests on mutants: one fork for each, until the first test that fails.

The tests that have killed most come first, those that killed in the same place before all others. A test
that does not ask for the statement cannot see the mistake in it and is left out.
"""

import atexit
import json
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from tests.mutants.mutation import Mutant

# What an engine says of a statement that it cannot even read: such a mutant shows nothing.
_UNREADABLE = re.compile(
    r"syntax error|number of bindings|no such column|Postgres\w*SyntaxError|Undefined(Function|Column)|"
    r"DatatypeMismatch|IndeterminateDatatype|AmbiguousColumn|GroupingError|CannotCoerce|AmbiguousFunction"
)

_NO_TEST = "before any test"
_LOADING = "while the tests were loaded"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: `killed` (by a test), `timed out`, `unreadable` or `survived`."""

    mutant: Mutant
    fate: str
    test: str = ""


class _Watch:
    """Orders the tests and writes down which one failed, how long each took, and what it asked for."""

    def __init__(
        self, report: Path, first: Sequence[str], left_out: set[str], asked: Callable[[], set[str]]
    ) -> None:
        self._report = report
        self._left_out = left_out
        self._asked = asked
        self._asks: dict[str, list[str]] = {}
        self._rank = {name: number for number, name in enumerate(first)}
        self._seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._left_out]
        items.sort(key=lambda item: self._rank.get(item.nodeid, len(self._rank)))

    def pytest_collection_finish(self) -> None:
        self._asks[_LOADING] = sorted(self._asked())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        self._asks.setdefault(report.nodeid, []).extend(sorted(self._asked()))
        if report.failed:
            self.write(report.nodeid, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(f"{report.nodeid} (loading)", report.longreprtext)

    def pytest_sessionfinish(self) -> None:
        if not self._report.exists():
            self.write("", "")

    def write(self, test: str, text: str) -> None:
        """Notes the first test that failed, and what it said."""
        unreadable = bool(_UNREADABLE.search(text))
        self._report.write_text(
            json.dumps(
                [test, unreadable, self._seconds, self._asks, text[-2000:] if test == _NO_TEST else ""]
            )
        )


class Ground(Protocol):
    """Where mutants are tested."""

    def prepare(self, arguments: Sequence[str]) -> None:
        """Does once what every fork would have to do."""

    def enter(self, slot: int, mutant: Mutant | None) -> None:
        """Makes the mutant what the tests will see, in the fork; with None the program as it is."""

    def asked(self) -> set[str]:
        """The places that were asked for since the last call, in the fork without a mutant."""

    def leave(self, slot: int, mutant: Mutant) -> None:
        """Takes back what the fork left behind."""


@dataclass
class Runner:
    """Tests mutants on their ground, `width` at a time."""

    tree: Path
    directory: Path
    ground: Ground
    arguments: Sequence[str]
    width: int
    seconds: dict[str, float] = field(default_factory=dict)
    asks: dict[str, list[str]] = field(default_factory=dict)
    limit: float = 600.0
    _kills: Counter[str] = field(default_factory=Counter)
    _kills_there: dict[str, Counter[str]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Runs the tests without a mutant: they pass, and say how long they take."""
        self.ground.prepare(self.arguments)
        began = time.monotonic()
        os.waitpid(self._forked(0, None), 0)
        report = self.directory / "report-0"
        if not report.exists():
            raise SystemExit((self.directory / "output-0").read_text())
        test, _, self.seconds, self.asks, _ = json.loads(report.read_text())
        if test:
            raise SystemExit(f"without any mutant this test fails: {test}")
        self.limit = 60 + 3 * (time.monotonic() - began)

    def verdicts(self, mutants: Sequence[Mutant]) -> Iterator[Verdict]:
        """Each mutant's fate, in the order in which they end."""
        free, waiting = list(range(self.width)), list(reversed(mutants))
        under_way: dict[int, tuple[int, Mutant, float]] = {}
        while waiting or under_way:
            while waiting and free:
                slot, mutant = free.pop(), waiting.pop()
                under_way[self._forked(slot, mutant)] = slot, mutant, time.monotonic() + self.limit
            done = os.waitpid(-1, os.WNOHANG)[0]
            late = [child for child, (_, _, until) in under_way.items() if time.monotonic() > until]
            if done not in under_way and not late:
                time.sleep(0.02)
                continue
            child = done if done in under_way else late[0]
            slot, mutant, _ = under_way.pop(child)
            if child != done:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            self.ground.leave(slot, mutant)
            free.append(slot)
            yield self._verdict(slot, mutant, timed_out=child != done)

    def _verdict(self, slot: int, mutant: Mutant, *, timed_out: bool) -> Verdict:
        if timed_out:
            return Verdict(mutant, "timed out")
        report = self.directory / f"report-{slot}"
        if not report.exists():
            return Verdict(mutant, "killed", "the end of the process")
        test, unreadable, *_ = json.loads(report.read_text())
        if not test:
            return Verdict(mutant, "survived")
        if test == _NO_TEST and not unreadable:
            raise SystemExit(f"{mutant.name} could not be made:\n{report.read_text()}")
        self._kills[test] += 1
        self._kills_there.setdefault(mutant.place, Counter())[test] += 1
        return Verdict(mutant, "unreadable" if unreadable else "killed", test)

    def _order(self, mutant: Mutant | None) -> list[str]:
        here = self._kills_there.get(mutant.place, Counter()) if mutant else Counter[str]()
        return sorted(self.seconds, key=lambda test: (-here[test], -self._kills[test], self.seconds[test]))

    def _left_out(self, mutant: Mutant | None) -> set[str]:
        asking = {test for test, places in self.asks.items() if mutant and mutant.place in places}
        return set() if _LOADING in asking or not asking else self.seconds.keys() - asking

    def _forked(self, slot: int, mutant: Mutant | None) -> int:
        report, output = self.directory / f"report-{slot}", self.directory / f"output-{slot}"
        report.unlink(missing_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        os.setpgid(0, 0)
        atexit._clear()  # what the parent cleans up at its end
        silent(output)
        watch = _Watch(report, self._order(mutant), self._left_out(mutant), self.ground.asked)
        code = 1
        try:
            self.ground.enter(slot, mutant)
            code = run_tests(self.arguments, watch)
        except Exception:  # noqa: BLE001 - whatever a mutant does before the first test
            watch.write(_NO_TEST, traceback.format_exc())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            os._exit(code)


def run_tests(arguments: Sequence[str], *plugins: object) -> int:
    """Runs tests in this process, up to the first that fails."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=60"]
    return pytest.main([*options, *arguments], plugins=plugins)


def silent(output: Path) -> None:
    """What this process says goes into a file."""
    sys.stdout.flush()
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
