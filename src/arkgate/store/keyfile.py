"""The keyring's file: JSON of version to hex key, mode 0600, beside the database and never inside it."""

import json
import os
import secrets
import stat
from pathlib import Path

from arkgate.core.keys import KEY_BYTES, Keyring


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
    keyring = Keyring({1: secrets.token_bytes(KEY_BYTES)})
    _write(path, keyring)
    return keyring


def rotate(path: Path) -> int:
    """Adds a key that new secrets are made under; the old ones stay. Answers its version."""
    keyring = load_keyring(path)
    version = keyring.current + 1
    _write(path, Keyring({**keyring.versions, version: secrets.token_bytes(KEY_BYTES)}))
    return version


def _write(path: Path, keyring: Keyring) -> None:
    """Writes a new file and renames it: a crash leaves the old keys or the new, never half."""
    text = json.dumps({str(version): key.hex() for version, key in sorted(keyring.versions.items())})
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
