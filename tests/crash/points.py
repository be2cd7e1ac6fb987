"""Finds every durable step in the code: where the gateway changes the world, a kill may come before or after.

A step is a place in a file, so that nothing in production code has to tell where it is.
"""

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import arkgate
from arkgate.ports import ArkWallet, Backend, Ledger, PaymentNode

PACKAGE = Path(arkgate.__file__).parent
ROOMS = ("gateway", "web", "cli", "app.py")
"""Where ports are used. Adapters keep what they promise; how is the business of their own steps below."""
COMMANDS = frozenset({"doctor"})
"""Jobs of a command that changes nothing, whatever it asks: nobody's money depends on its end."""
READS = frozenset({"ark_payments", "close", "health", "holdings", "look_up", "watch"})
"""Methods of the ports that change nothing. One that is not listed here is taken for a change."""
BLOCKS = frozenset({"forward"})
"""Opens a block and is not awaited: a kill falls before it sends anything, later ones at the next step."""
NOT_PORTS = frozenset({"meter", "self"})
"""What has methods of the same names as a port and is none: it asks the port in turn."""
FILE_STEPS = frozenset(
    {"flush", "fsync", "link", "mkdir", "open", "rename", "replace", "unlink", "write", "write_text"}
)
TRANSACTION_STEPS = {"BEGIN IMMEDIATE": "begin", "COMMIT": "commit"}


def _changes(port: type) -> frozenset[str]:
    methods = inspect.getmembers(port, inspect.iscoroutinefunction)
    return frozenset(name for name, _ in methods if not name.startswith("_")) - READS


PORTS = {
    "ledger": _changes(Ledger),
    "node": _changes(PaymentNode),
    "wallet": _changes(ArkWallet),
    "backend": _changes(Backend) | {"forward"},
}
CHANGES = frozenset().union(*PORTS.values())


@dataclass(frozen=True, slots=True)
class Step:
    """One durable step in the code, by its name and by its place."""

    name: str
    """`<module>.<function>:<whom>.<verb>`, and `#2` for the second one of the same name."""
    file: Path
    begin: tuple[int, int]
    end: tuple[int, int]
    """Line and column (in bytes) of the call, with its `await` where it has one."""


class Unfindable(AssertionError):  # noqa: N818 - a sentence for whoever wrote the code
    """A change of the world is written in a way that hides where it happens; says how to write it."""


_Rule = Callable[["_Reader", ast.Call, bool], str | None]
"""Names the step that a call is, if it is one; told whether it is awaited."""


class _Reader(ast.NodeVisitor):
    """Reads one module and collects the steps that a rule names."""

    def __init__(self, file: Path, rule: _Rule) -> None:
        self.file = file
        self._rule = rule
        self._where = [".".join(file.relative_to(PACKAGE).with_suffix("").parts)]
        self._called: set[ast.AST] = set()
        self.found: list[tuple[str, ast.expr]] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._where.append(node.name)
        self.generic_visit(node)
        self._where.pop()

    def visit_Await(self, node: ast.Await) -> None:
        if isinstance(node.value, ast.Call):
            self._called.add(node.value)
            self._ask(node.value, node, awaited=True)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if node not in self._called:
            self._ask(node, node, awaited=False)
        self._called.add(node.func)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A verb that is handed on instead of called would happen in a place that nobody can name."""
        port = _last_name(node.value)
        if self._rule is _port_step and node not in self._called and node.attr in PORTS.get(port, ()):
            raise Unfindable(
                f"{self._place(node)}: {port}.{node.attr} is handed on. "
                "Await it in a method of its own and hand that on, so that its crash points have a place."
            )
        self.generic_visit(node)

    def _ask(self, call: ast.Call, whole: ast.expr, *, awaited: bool) -> None:
        verb = self._rule(self, call, awaited)
        if verb is not None:
            self.found.append((f"{'.'.join(self._where)}:{verb}", whole))

    def _place(self, node: ast.expr) -> str:
        return f"{self.file.relative_to(PACKAGE.parent)}:{node.lineno}"

    def hidden(self, node: ast.expr, why: str) -> Unfindable:
        """The refusal of a line."""
        return Unfindable(f"{self._place(node)}: {why}")


def _port_step(reader: _Reader, call: ast.Call, awaited: bool) -> str | None:
    """A verb of a port that changes the world, or bytes of an answer that leave."""
    if isinstance(call.func, ast.Name):
        return "socket.send" if call.func.id == "send" and awaited else None
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in CHANGES:
        return None
    whom, verb = _last_name(call.func.value), call.func.attr
    if verb in PORTS.get(whom, ()):
        if awaited or verb in BLOCKS:
            return f"{whom}.{verb}"
        raise reader.hidden(call, f"{whom}.{verb} is not awaited where it is called. Await it there.")
    if awaited and whom not in NOT_PORTS:
        raise reader.hidden(
            call,
            f"{whom or 'what'}.{verb} has the name of a change that a port makes. Call the port "
            f"{' or '.join(PORTS)}, or list {whom!r} in NOT_PORTS of tests/crash/points.py.",
        )
    return None


def _file_step(_: _Reader, call: ast.Call, awaited: bool) -> str | None:
    """A step that leaves something in a folder."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in FILE_STEPS:
        return None
    return f"{_last_name(call.func.value) or 'file'}.{call.func.attr}"


def _sqlite_step(_: _Reader, call: ast.Call, awaited: bool) -> str | None:
    """The ends of a transaction, what is between them at a start, and the answer to who asked."""
    if not isinstance(call.func, ast.Attribute):
        return None
    if call.func.attr in ("apply_missing", "call_soon_threadsafe"):
        return f"{_last_name(call.func.value)}.{call.func.attr}"
    first = call.args[0] if call.args else None
    if call.func.attr in ("execute", "exec_driver_sql") and isinstance(first, ast.Constant):
        step = TRANSACTION_STEPS.get(str(first.value))
        return None if step is None else f"{_last_name(call.func.value)}.{step}"
    return None


def _postgres_step(_: _Reader, call: ast.Call, awaited: bool) -> str | None:
    """The statements that change the books, each a transaction of its own, and the answer to who asked."""
    if not isinstance(call.func, ast.Attribute):
        return None
    whom, verb = _last_name(call.func.value), call.func.attr
    if verb == "_again_if_crossed":
        return "pool.change"
    if (whom, verb) == ("connection", "fetch"):
        return "connection.fetch"
    return "call.answer" if verb == "answer" else None


def _last_name(node: ast.expr) -> str:
    """`ledger` of `self._ledger` and of `store.ledger`; nothing for what has no name."""
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    return node.id.lstrip("_") if isinstance(node, ast.Name) else ""


def gateway_steps() -> Sequence[Step]:
    """Every change that the gateway asks of ledger, node and backend, and every answer that leaves."""
    files = [file for room in ROOMS for file in _modules(PACKAGE / room) if file.stem not in COMMANDS]
    return [step for file in files for step in steps_in(file)]


def key_file_steps() -> Sequence[Step]:
    """What the key file goes through. A backup is written beside its name, so a kill leaves nothing of it."""
    shared = _steps(PACKAGE / "store" / "durable.py", _file_step)
    folder = [step for step in shared if step.name.startswith("store.durable.make_durable:")]
    return [*_steps(PACKAGE / "store" / "keyfile.py", _file_step), *folder]


def sqlite_steps() -> Sequence[Step]:
    """What SQLite's transactions go through. Reading ones change nothing and are left out."""
    apart = {"statements", "restoring"}  # a restore is one transaction of a command, on books nobody uses
    files = [file for file in _modules(PACKAGE / "store" / "sqlite") if file.stem not in apart]
    return [step for file in files for step in _steps(file, _sqlite_step)]


def postgres_steps() -> Sequence[Step]:
    """What PostgreSQL's writing statements go through."""
    room = PACKAGE / "store" / "postgres"
    return [step for name in ("lanes.py", "ledger.py") for step in _steps(room / name, _postgres_step)]


def steps_in(file: Path) -> Sequence[Step]:
    """The changes that one module asks of the ports. Raises Unfindable."""
    return _steps(file, _port_step)


def _modules(room: Path) -> Iterator[Path]:
    if room.suffix == ".py":
        yield room
    else:
        yield from sorted(room.rglob("*.py"))


def _steps(file: Path, rule: _Rule) -> list[Step]:
    reader = _Reader(file, rule)
    reader.visit(ast.parse(file.read_text()))
    count: Counter[str] = Counter()
    steps = []
    for name, node in sorted(reader.found, key=lambda found: (found[1].lineno, found[1].col_offset)):
        count[name] += 1
        number = f"#{count[name]}" if count[name] > 1 else ""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        steps.append(Step(name + number, file, begin, end))
    return steps
