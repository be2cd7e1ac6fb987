"""The key file when several processes want to make or change it at once."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from arkgate.store import keyfile
from arkgate.store.keyfile import load_keyring, load_or_create_keyring, rotate

RACERS = 8
START = """
import sys
from pathlib import Path
from arkgate.store.keyfile import load_or_create_keyring
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(load_or_create_keyring(path, books_exist=False).versions[1].hex(), flush=True)
"""


def test_processes_that_start_first_at_once_run_on_the_keys_that_are_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(RACERS)
    ]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("\n")
        start.stdin.flush()
    used = {start.communicate()[0].strip() for start in starts}

    assert used == {load_keyring(path).versions[1].hex()}
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


def test_keys_that_appear_while_others_are_made_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "keys.json", tmp_path / "other" / "keys.json"
    restored = load_or_create_keyring(other, books_exist=False)
    create = keyfile._create

    def create_too_late(*arguments: object) -> None:
        other.replace(path)
        create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keyfile, "_create", create_too_late)

    assert load_or_create_keyring(path, books_exist=False) == restored
    assert load_keyring(path) == restored


def test_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    load_or_create_keyring(path, books_exist=False)
    together = Barrier(RACERS)

    def rotate_together(_: int) -> int:
        together.wait()
        return rotate(path)

    with ThreadPoolExecutor(RACERS) as racers:
        versions = list(racers.map(rotate_together, range(RACERS)))

    assert sorted(versions) == list(range(2, RACERS + 2))
    assert sorted(load_keyring(path).versions) == list(range(1, RACERS + 2))
