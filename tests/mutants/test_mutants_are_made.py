"""The mutants of statements: which mistakes are made, and that what is left is still a statement."""

import sqlite3
from pathlib import Path

from tests.mutants.grounds import Copies
from tests.mutants.mutation import Mutant
from tests.mutants.places import mutants_of
from tests.mutants.running import _LOADING, Runner
from tests.mutants.sql import Statements

TREE = Path(__file__).parent.parent.parent


def changed(text: str) -> dict[str, str]:
    """The mutants of a statement, by what was changed."""
    made = Statements("some/file.py", text, "PLACE", 0, len(text)).mutants()
    return {mutant.change: mutant.applied(text) for mutant in made}


def test_each_guard_of_a_where_is_left_out_and_its_edge_is_moved() -> None:
    made = changed("UPDATE account SET held = held + ? WHERE id = ? AND posted - held >= ?")

    assert made == {
        "held + ? → held - ?": "UPDATE account SET held = held - ? WHERE id = ? AND posted - held >= ?",
        "id = ? → id <> ?": "UPDATE account SET held = held + ? WHERE id <> ? AND posted - held >= ?",
        "without id = ?": "UPDATE account SET held = held + ? WHERE (true OR id = ?) AND posted - held >= ?",
        "posted - held → posted + held": (
            "UPDATE account SET held = held + ? WHERE id = ? AND posted + held >= ?"
        ),
        "held >= ? → held > ?": "UPDATE account SET held = held + ? WHERE id = ? AND posted - held > ?",
        "without posted - held >= ?": (
            "UPDATE account SET held = held + ? WHERE id = ? AND (true OR posted - held >= ?)"
        ),
    }


def test_a_state_becomes_another_one_and_a_conflict_is_not_foreseen() -> None:
    made = changed("INSERT INTO c VALUES (?) ON CONFLICT (id) DO UPDATE SET state = 'open' WHERE n < 5")
    without = changed("INSERT INTO c SELECT 1 ON CONFLICT (id) DO UPDATE SET state = 'open' WHERE n < 5")

    assert made["= 'open' WHERE → = 'settled' WHERE"].endswith("SET state = 'settled' WHERE n < 5")
    assert made["< 5 → < 6"].endswith("WHERE n < 6")
    assert without["without DO UPDATE"] == "INSERT INTO c SELECT 1 ON CONFLICT (id) DO NOTHING"
    assert "INSERT INTO c SELECT 1 " in without.values()


def test_each_step_of_a_function_is_left_out() -> None:
    body = " DECLARE n bigint; BEGIN n := 1; IF n > 0 AND n < 9 THEN RETURN; END IF; DELETE FROM c; END"
    made = changed(body)

    assert made["without n := 1;"] == body.replace("n := 1;", "NULL;")
    assert made["without RETURN;"] == body.replace("RETURN;", "NULL;")
    assert made["without DELETE FROM c;"] == body.replace("DELETE FROM c;", "NULL;")
    assert made["IF NOT n > 0 AND n < 9"] == body.replace("n > 0 AND n < 9", "NOT (n > 0 AND n < 9)")
    assert made["without n > 0"] == body.replace("n > 0", "(true OR n > 0)")


def test_every_place_has_mutants_with_names_of_their_own() -> None:
    for part in ("constants", "sqlite", "postgres", "tables"):
        made = mutants_of(TREE, part)

        assert len(made) > 50
        assert len({mutant.name for mutant in made}) == len(made)
        assert all(_differs(mutant) for mutant in made)


def test_what_does_not_ask_for_a_statement_is_left_out_unless_nobody_does(tmp_path: Path) -> None:
    asks = {_LOADING: ["NAMED"], "one": ["ASKED", "NAMED"], "other": []}
    seconds = dict.fromkeys(("one", "other"), 1.0)
    runner = Runner(TREE, tmp_path, Copies(TREE, tmp_path, 0), [], 1, seconds=seconds, asks=asks)

    left_out = {
        place: runner._left_out(Mutant("some/queries.py", place, "", 0, 0, ""))
        for place in ("ASKED", "NAMED", "DERIVED")
    }

    assert left_out == {"ASKED": {"other"}, "NAMED": set(), "DERIVED": set()}


def _differs(mutant: Mutant) -> bool:
    text = (TREE / mutant.path).read_text()
    return mutant.applied(text) != text


def test_nearly_every_mutant_of_a_statement_can_be_read_by_sqlite() -> None:
    """One that cannot be read shows nothing; the tables are empty, so nothing happens."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE account (id, posted, held, state)")
    text = "UPDATE account SET posted = posted - ?, held = held - ? WHERE id = ? AND state IN ('open')"
    made = changed(text)

    assert len(made) > 8
    for statement in made.values():
        database.execute(statement, (1, 2, 3))
