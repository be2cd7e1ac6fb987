"""The keyring's file: JSON of version to hex key, mode 0600, beside the database and never inside it."""

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from arkgate.core.keys import KEY_BYTES, Keyring
from arkgate.store.durable import make_durable

KEY_FACT = "key_fingerprint:"
"""What the fact that names a key of these books begins with; its version follows."""


class KeyfileError(Exception):
    """The keys cannot be used; the sentence says what to do."""


def load_keyring(path: Path) -> Keyring:
    """Reads the keyring. Raises KeyfileError, also when others than its owner may read the file."""
    try:
        mode = path.stat().st_mode
        stored = json.loads(path.read_text())
        keyring = Keyring({int(version): bytes.fromhex(key) for version, key in stored.items()})
    except OSError as error:
        raise KeyfileError(f"the key file {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise KeyfileError(
            f"the key file {path} is damaged ({error}): restore it from a backup; "
            "without it nobody's credential or token can be read"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyfileError(f"the key file {path} may be read by others: chmod 600 {path}")
    return keyring


def load_or_create_keyring(path: Path, *, books_exist: bool) -> Keyring:
    """The keyring, made on the first start. Raises KeyfileError when books exist and their keys do not."""
    if path.exists():
        return load_keyring(path)
    if books_exist:
        raise KeyfileError(
            f"the key file {path} is missing although the database holds accounts: restore it, "
            "or nobody's credential or token works any more"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _changing(path), contextlib.suppress(FileExistsError):
        _create(path, Keyring({1: secrets.token_bytes(KEY_BYTES)}))
    # Read back also what was made here: a gateway never runs on keys that are on no disk.
    return load_keyring(path)


def keyring_of_books(path: Path, facts: Mapping[str, int]) -> tuple[Keyring, Mapping[str, int]]:
    """The keyring, and the facts to note in the books so that they are never used with another.

    Raises KeyfileError for a file that lacks a key of these books or has another one in its place: on
    such keys paid credentials would be refused and tokens be given out that nobody else can read.
    """
    keyring = load_or_create_keyring(path, books_exist=any(name.startswith(KEY_FACT) for name in facts))
    return keyring, fit_the_books(path, keyring, facts)


def fit_the_books(path: Path, keyring: Keyring, facts: Mapping[str, int]) -> Mapping[str, int]:
    """The facts about these keys that the books do not have yet. Raises KeyfileError as above."""
    known = {name: value for name, value in facts.items() if name.startswith(KEY_FACT)}
    fingerprints = {f"{KEY_FACT}{version}": keyring.fingerprint(version) for version in keyring.versions}
    for name, value in known.items():
        version = name.removeprefix(KEY_FACT)
        if name not in fingerprints:
            raise KeyfileError(
                f"the key file {path} lacks key version {version} of these books: "
                "copy the newest key file to every gateway"
            )
        if fingerprints[name] != value:
            raise KeyfileError(
                f"the key file {path} has another key version {version} than these books were used with: "
                "restore the right file, or name the right database"
            )
    return {name: value for name, value in fingerprints.items() if name not in known}


def rotate(path: Path) -> int:
    """Adds a key that new secrets are made under; the old ones stay. Answers its version."""
    with _changing(path):
        keyring = load_keyring(path)
        version = keyring.current + 1
        added = Keyring({**keyring.versions, version: secrets.token_bytes(KEY_BYTES)})
        _write(path, added).replace(path)
        make_durable(path.parent)
    return version


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One process at a time changes the key file.

    The lock is the folder's: that of the file would be lost with the file that a rotation replaces.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyfileError(f"the key file {path} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _create(path: Path, keyring: Keyring) -> None:
    """Makes the first key file, whole or not at all. Raises FileExistsError when there is one by now."""
    temporary = _write(path, keyring)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    make_durable(path.parent)


def _write(path: Path, keyring: Keyring) -> Path:
    """Writes the keys beside the file: a crash leaves the old keys or the new, never half."""
    text = json.dumps({str(version): key.hex() for version, key in sorted(keyring.versions.items())})
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary
