"""The locks hold what every supported Python needs, whichever of them they were made on."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYTHONS = {"Debian 12's": "3.11.2", "a later 3.11": "3.11.9", "Ubuntu 24.04's": "3.12.3"}


def locked(file: Path) -> set[str]:
    return {one.lower() for one in re.findall(r"^([A-Za-z0-9._-]+)==", file.read_text(), re.MULTILINE)}


def environment(version: str) -> dict[str, str]:
    return {"python_version": version.rpartition(".")[0], "python_full_version": version, "extra": ""}


@pytest.mark.parametrize("version", PYTHONS.values(), ids=PYTHONS)
def test_nothing_is_missing_on_any_python_that_is_supported(project: Path, version: str) -> None:
    names = locked(project / "requirements" / "dev.lock") | locked(project / "requirements" / "build.lock")
    missing = []
    for distribution in metadata.distributions():
        if distribution.name.lower().replace("_", "-") not in names:
            continue
        for line in distribution.requires or []:
            needed = Requirement(line)
            is_needed = needed.marker is None or needed.marker.evaluate(environment(version))
            if is_needed and needed.name.lower().replace("_", "-") not in names:
                missing.append(f"{distribution.name} needs {line}")

    assert missing == []
    assert "async-timeout" in names
