"""The key file: made once, for its owner only, and never replaced where books exist."""

import json
from pathlib import Path

import pytest

from arkgate.store.keyfile import KeyfileError, keyring_of_books, load_keyring, load_or_create_keyring, rotate

KEY = "0123456789abcdef" * 4


def test_the_first_start_makes_a_key_that_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "keys.json"
    made = load_or_create_keyring(path, books_exist=False)

    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_keyring(path, books_exist=True) == made == load_keyring(path)


def test_keys_that_are_missing_beside_books_are_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(KeyfileError, match="is missing although the database holds accounts"):
        load_or_create_keyring(path, books_exist=True)

    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"1": KEY}))
    path.chmod(mode)
    with pytest.raises(KeyfileError, match=f"may be read by others: chmod 600 {path}"):
        load_keyring(path)


DAMAGED = {
    "cut off": "{",
    "a list": "[]",
    "no key": "{}",
    "a short key": '{"1": "00"}',
    "a number": '{"1": 7}',
    "a key of zeros": json.dumps({"1": "00" * 32}),
    "no version": json.dumps({"one": KEY}),
    "version zero": json.dumps({"0": KEY}),
    "a version above the wire's": json.dumps({"65536": KEY}),
    "binary": "\udcff\udcfe",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_key_file_is_refused_without_showing_a_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content, errors="surrogateescape")
    path.chmod(0o600)
    with pytest.raises(KeyfileError, match="is damaged") as refused:
        load_keyring(path)

    assert KEY not in str(refused.value)


def test_a_rotation_adds_a_version_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = load_or_create_keyring(path, books_exist=False)
    versions = [rotate(path), rotate(path)]
    after = load_keyring(path)

    assert versions == [2, 3]
    assert after.current == 3
    assert after.versions[1] == before.versions[1]
    assert len(set(after.versions.values())) == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


def test_an_interrupted_rotation_is_repeated_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    load_or_create_keyring(path, books_exist=False)
    (tmp_path / "keys.json.new").write_text("half")

    assert rotate(path) == 2


def test_books_are_never_used_with_keys_that_are_not_theirs(tmp_path: Path) -> None:
    path, other = tmp_path / "keys.json", tmp_path / "other.json"
    keyring, facts = keyring_of_books(path, {"opened_at_ms": 1})
    rotate(path)
    _, added = keyring_of_books(path, facts)
    load_or_create_keyring(other, books_exist=False)

    assert keyring_of_books(path, {**facts, **added}) == (load_keyring(path), {})
    assert keyring.current == 1
    with pytest.raises(KeyfileError, match="another key version 1"):
        keyring_of_books(other, facts)
    path.write_text(json.dumps({"1": keyring.versions[1].hex()}))
    with pytest.raises(KeyfileError, match="lacks key version 2"):
        keyring_of_books(path, {**facts, **added})
    path.unlink()
    with pytest.raises(KeyfileError, match="missing although"):
        keyring_of_books(path, facts)
