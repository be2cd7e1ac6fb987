"""Mutants of Python functions: made, run and judged by mutmut, whose settings are in pyproject.toml."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.mutation import Mutant, in_words
from tests.mutants.running import Verdict

WORK = "mutants"
"""The directory in which mutmut works and leaves its results; removed at the start of each run."""
_KILLED, _SURVIVED = {1, 3, 37}, {0, 5, 33}
_MUTMUT = (sys.executable, "-m", "mutmut")


def verdicts(tree: Path, names: str) -> Iterator[Verdict]:
    """The fates of the functions' mutants whose names match a pattern such as `arkgate.core.*`."""
    shutil.rmtree(tree / WORK, ignore_errors=True)
    subprocess.run([*_MUTMUT, "run", "--max-children", "2", names], cwd=tree, check=True)
    for results in sorted((tree / WORK).rglob("*.py.meta")):
        path = str(results.relative_to(tree / WORK)).removesuffix(".meta")
        for key, code in json.loads(results.read_text())["exit_code_by_key"].items():
            if code is not None:
                yield _verdict(tree, path, key, code)


def _verdict(tree: Path, path: str, key: str, code: int) -> Verdict:
    place = (
        key.rpartition("__mutmut_")[0]
        .rpartition(".")[2]
        .removeprefix("x_")
        .removeprefix("xǁ")
        .replace("ǁ", ".")
    )
    fate = "killed" if code in _KILLED else "survived" if code in _SURVIVED else "timed out"
    change = _change(tree, key) if fate == "survived" else key
    return Verdict(Mutant(path, place, change, 0, 0, ""), fate)


def _change(tree: Path, key: str) -> str:
    """What mutmut changed, in one line."""
    shown = subprocess.run([*_MUTMUT, "show", key], cwd=tree, check=True, capture_output=True, text=True)
    old = re.findall(r"^-(?!--)(.*)", shown.stdout, re.MULTILINE)
    new = re.findall(r"^\+(?!\+\+)(.*)", shown.stdout, re.MULTILINE)
    return f"{in_words(' '.join(old), most=110)} → {in_words(' '.join(new), most=110)}"
