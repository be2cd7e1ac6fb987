"""`python -m tests.mutants core sqlite`: mutates these parts and says which mutants no test sees."""

import argparse
import contextlib
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutants import functions
from tests.mutants.grounds import Copies, Loaded, postgres_of_its_own
from tests.mutants.places import mutants_of
from tests.mutants.running import Ground, Runner, Verdict

TREE = Path(__file__).parent.parent.parent
EQUIVALENT = TREE / "docs/mutants.md"
"""The list of the mutants that change nothing, each as "- `its name`" below the reason."""
WIDTH = 2
_VERBS = [
    *(
        f"tests/store/test_{name}.py"
        for name in (
            *("postgres_guards", "postgres_together", "guards", "ledger_calls", "ledger_funding", "snapshot"),
            *(
                "ledger_replay",
                "ledger_pruning",
                "postgres_pruning",
                "every_outcome",
                "clock_steps",
                "fees",
                "ark_payments",
                "races",
            ),
        )
    ),
    "tests/store/test_postgres.py::test_a_replica_hears_at_once_what_another_one_credited",
]
"""Tests that leave a database's tables and its version as they are."""
_SQLITE = "not postgres and not processes and not killed and not opening"
# What is mutated in each part: functions by mutmut, by this pattern, or places of our own, by these tests.
FUNCTIONS = {"core": "arkgate.core.*", "store": "arkgate.store.*"}
PLACES = {
    "constants": ["tests/core", "tests/l402"],
    "sqlite": ["tests/store", "-k", _SQLITE],
    "postgres": [*_VERBS, "-k", "(postgres or clock_steps) and not before_fees"],
    "tables": ["tests/store", "-k", "tables or declared or postgres_guards"],
}
COLUMNS = ("killed", "timed out", "equivalent", "survived", "unreadable")


def main() -> None:
    """Prints each mutant that lives, then the counts by file; the exit status says whether any lives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join([*FUNCTIONS, *PLACES])}; all"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="places whose mutants' names contain this")
    arguments = parser.parse_args()
    equivalent = set(re.findall(r"^- `(.+)`$", EQUIVALENT.read_text(), re.MULTILINE))
    counts: dict[str, Counter[str]] = {}
    for part in arguments.parts or [*FUNCTIONS, *PLACES]:
        began = time.monotonic()
        for verdict in _verdicts(part, arguments.only):
            lives = verdict.fate == "survived" and verdict.mutant.name not in equivalent
            fate = "equivalent" if verdict.fate == "survived" and not lives else verdict.fate
            counts.setdefault(verdict.mutant.path, Counter())[fate] += 1
            if fate != "killed":
                print(f"{fate}: {verdict.mutant.name}", flush=True)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
    _print_table(counts)
    raise SystemExit(any(fates["survived"] for fates in counts.values()))


def _verdicts(part: str, only: str) -> Iterator[Verdict]:
    if part in FUNCTIONS:
        yield from functions.verdicts(TREE, FUNCTIONS[part])
        return
    mutants = [mutant for mutant in mutants_of(TREE, part) if only in mutant.name]
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="arkgate-mutants-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        if part in {"postgres", "tables"} and "ARKGATE_TEST_POSTGRES" not in os.environ:
            url = stack.enter_context(postgres_of_its_own(TREE))
            stack.callback(os.environ.pop, "ARKGATE_TEST_POSTGRES")
            os.environ["ARKGATE_TEST_POSTGRES"] = url
        ground: Ground = Copies(TREE, directory, WIDTH)
        if part in {"sqlite", "postgres"}:
            ground = Loaded(TREE, directory, databases=WIDTH if part == "postgres" else 0)
        runner = Runner(TREE, directory, ground, PLACES[part], WIDTH)
        runner.prepare()
        yield from runner.verdicts(mutants)


def _print_table(counts: dict[str, Counter[str]]) -> None:
    rows: list[Sequence[object]] = [("File", "Mutants", *COLUMNS)]
    total: Counter[str] = Counter()
    for path, fates in sorted(counts.items()):
        rows.append(
            (f"`{path.removeprefix('src/arkgate/')}`", fates.total(), *(fates[one] for one in COLUMNS))
        )
        total += fates
    rows.append(("all", total.total(), *(total[one] for one in COLUMNS)))
    for number, row in enumerate(rows):
        print(f"| {' | '.join(str(cell) for cell in row)} |")
        if not number:
            print(f"|---{'|---:' * (len(row) - 1)}|")
    dead, judged = (
        total["killed"] + total["timed out"],
        total.total() - total["unreadable"] - total["equivalent"],
    )
    share = 100 * dead / max(judged, 1)
    print(f"mutants: {dead} of {judged} killed ({share:.1f} %), {total['survived']} survived")


if __name__ == "__main__":
    main()
