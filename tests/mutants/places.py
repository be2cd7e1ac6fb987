"""Where mistakes are made: the statements of both engines, the tables' checks, and Python's constants.

Functions in Python are mutmut's. It leaves out what stands outside of them, and properties.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.mutants.mutation import Mutant, in_words, told_apart
from tests.mutants.sql import Statements

REVISIONS = "src/arkgate/store/migrations/versions"
_FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?(?:FUNCTION|TRIGGER) (\w+)", re.MULTILINE)
_TRIGGER = re.compile(r"CREATE TRIGGER [^;]*;")
_BODY = re.compile(r"\$\$( *\n(DECLARE|BEGIN))?")
_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_BINARY: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Pow: ("**", "*"),
}


def of_functions(path: str, text: str) -> Iterator[Mutant]:
    """The functions of a script for PostgreSQL."""
    for place, definition in _bodies(text).items():
        start = text.index(definition)
        end = start + len(definition)
        trigger = _TRIGGER.match(text, start)
        if trigger is not None:
            yield Mutant(path, place, "without the trigger", start, trigger.end(), "")
            continue
        body = _BODY.search(text, start, end)
        assert body is not None
        yield from Statements(path, text, place, body.end(), text.index("$$;", body.end())).mutants()


def of_statements(path: str, text: str) -> Iterator[Mutant]:
    """The SQL in a module's named strings."""
    for place, string in _strings(ast.parse(text)):
        start, end = _span(text, string)
        if _STATEMENT.match(text[start:end].lstrip("f").lstrip('"')):
            quotes = re.match(r'f?"+', text[start:end])
            assert quotes is not None
            inner = len(quotes.group().lstrip("f"))
            yield from Statements(path, text, place, start + quotes.end(), end - inner).mutants()


def of_tables(path: str, text: str) -> Iterator[Mutant]:
    """What the tables refuse: each check left out, and the mistakes in it; uniqueness; whose row it is."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        start, end = _span(text, node)
        called = ast.unparse(node.func)
        if called == "sa.CheckConstraint":
            place = str(ast.literal_eval(node.keywords[0].value))
            first, last = _span(text, node.args[0])
            yield Mutant(path, place, "without its check", first, last, '"1 = 1"')
            yield from Statements(path, text, place, first, last).mutants()
        elif called in {"_text", "_blob"}:
            for argument in node.args[1:]:
                change = f"without {in_words(ast.unparse(argument))}"
                place = in_words(text[start:end])
                yield Mutant(path, place, change, *_span(text, argument), "*()")
        for keyword in node.keywords:
            if keyword.arg == "unique" and ast.unparse(keyword.value) == "True":
                first, last = _span(text, keyword.value)
                yield Mutant(path, str(ast.literal_eval(node.args[0])), "not unique", first, last, "False")


def of_constants(path: str, text: str) -> Iterator[Mutant]:
    """The values that stand outside of functions, and the properties of values."""
    tree = ast.parse(text)
    for place, node in _named_values(tree):
        for part in ast.walk(node):
            yield from _of_value(path, text, place, part)


def _named_values(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.decorator_list:
                    yield f"{node.name}.{inner.name}", ast.Module(body=inner.body[1:], type_ignores=[])
                elif isinstance(inner, ast.Assign | ast.AnnAssign) and inner.value is not None:
                    target = inner.targets[0] if isinstance(inner, ast.Assign) else inner.target
                    yield f"{node.name}.{ast.unparse(target)}", inner.value
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) not in {"T", "Msat"}:
                yield ast.unparse(target), node.value


def _of_value(path: str, text: str, place: str, node: ast.AST) -> Iterator[Mutant]:
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        sign, other = _BINARY[type(node.op)]
        first, last = _span(text, node.left)[1], _span(text, node.right)[0]
        at = text.index(sign, first, last)
        yield _changed(path, text, place, node, at, at + len(sign), other)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _changed(path, text, place, node, *_span(text, node), str(not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield _changed(path, text, place, node, *_span(text, node), str(node.value + 1))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _span(text, node)[1]:
        start, end = _span(text, node)
        if text[start:end].endswith(('"', "'")) and not text[start:end].startswith('"""'):
            yield _changed(path, text, place, node, end - 1, end - 1, "~")
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.Eq):
        start, end = _span(text, node)
        yield _changed(path, text, place, node, start, end, f"not ({text[start:end]})")
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"max", "min"}:
        start, _ = _span(text, node)
        yield _changed(
            path, text, place, node, start, start + 3, "min" if ast.unparse(node.func) == "max" else "max"
        )


def _changed(path: str, text: str, place: str, node: ast.AST, start: int, end: int, instead: str) -> Mutant:
    first, last = _span(text, node)
    after = text[first:start] + instead + text[end:last]
    return Mutant(path, place, f"{in_words(text[first:last])} → {in_words(after)}", start, end, instead)


def _strings(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            yield ast.unparse(node.targets[0]), node.value


def _span(text: str, node: ast.AST) -> tuple[int, int]:
    """Where a node stands, in characters; Python counts the bytes of a line."""
    assert isinstance(node, ast.expr)
    lines = text.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None

    def at(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def mutants_of(tree: Path, part: str) -> list[Mutant]:
    """The mutants of one part: `sqlite`, `postgres`, `tables` or `constants`."""
    found: list[Mutant] = []
    if part == "sqlite":
        found += _in_file(tree, "src/arkgate/store/sqlite/queries.py", of_statements)
    elif part == "postgres":
        found += _in_file(tree, "src/arkgate/store/postgres/queries.py", of_statements)
        found += _of_scripts(tree)
    elif part == "tables":
        found += _in_file(tree, f"{REVISIONS}/r0001_ledger.py", of_tables)
    else:
        for module in sorted((tree / "src/arkgate/core").glob("[a-z]*.py")):
            found += _in_file(tree, f"src/arkgate/core/{module.name}", of_constants)
    return list(told_apart(found))


def _in_file(tree: Path, path: str, of: Callable[[str, str], Iterator[Mutant]]) -> Iterator[Mutant]:
    return of(path, (tree / path).read_text())


def _of_scripts(tree: Path) -> Iterator[Mutant]:
    """The functions that this version of the program calls, each by its newest definition."""
    bodies: dict[str, str] = {}
    found: dict[str, list[Mutant]] = {}
    for script in sorted((tree / REVISIONS).glob("*.sql")):
        text = script.read_text()
        bodies.update(_bodies(text))
        for place in _bodies(text):
            found[place] = []
        for mutant in of_functions(f"{REVISIONS}/{script.name}", text):
            found[mutant.place].append(mutant)
    unread = [
        "\n".join(path.read_text() for path in sorted((tree / "src/arkgate/store/postgres").glob("*.py")))
    ]
    called = {name for name, body in bodies.items() if body.startswith("CREATE TRIGGER")}
    unread += [bodies[name] for name in called]
    while unread:
        more = set(re.findall(r"\b\w+_v\d+\b", unread.pop())) & bodies.keys() - called
        called |= more
        unread += [bodies[name] for name in more]
    for name in called:
        yield from found[name]


def _bodies(text: str) -> dict[str, str]:
    """The definition of each function and trigger of a script."""
    starts = [(match.group(1), match.start()) for match in _FUNCTION.finditer(text)]
    ends = [start for _, start in starts[1:]] + [len(text)]
    return {name: text[start:end] for (name, start), end in zip(starts, ends, strict=True)}
