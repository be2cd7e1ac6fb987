"""The configuration reference says what the code reads, all of it and nothing else."""

import ast
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import arkgate
from arkgate import settings
from arkgate.cli import reference

PACKAGE = Path(arkgate.__file__).parent
PAGE = PACKAGE.parent.parent / "docs" / "configuration.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == reference.reference(), "run `make docs`"


def test_every_setting_that_is_read_has_a_meaning_and_no_other() -> None:
    read = {(table, name) for table, names in reference.settings_by_table().items() for name in names}

    assert read == {(table, name) for table, names in reference.meanings().items() for name in names}


def test_a_setting_without_a_meaning_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MEANINGS", {**reference.MEANINGS, "[store]": {"url": "a database"}})

    with pytest.raises(KeyError):
        reference.reference()


def test_a_setting_of_some_kinds_of_node_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"lnd": settings.known()["lnd"], "other": ()}
    monkeypatch.setattr(settings, "known", lambda: known)

    assert "Only for `lnd`." in reference.reference()


def fields_of(kind: object) -> Iterator[str]:
    """The fields of the settings and of what is in them."""
    for argument in typing.get_args(kind):
        yield from fields_of(argument)
    if dataclasses.is_dataclass(kind):
        for name, hint in typing.get_type_hints(kind).items():
            yield name
            yield from fields_of(hint)


def test_every_setting_is_used_where_the_gateway_is_built_or_runs() -> None:
    used = {
        node.attr
        for file in PACKAGE.rglob("*.py")
        if file.name not in ("settings.py", "settings_table.py", "settings_offers.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }

    # Where they came from, and what a call's deadline is made of.
    assert set(fields_of(settings.Settings)) - used == {"file", "hold_margin_seconds"}
