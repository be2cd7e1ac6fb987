"""The command `doctor`: tries everything a paid call needs and says what it found."""

import asyncio
import re
import shutil
import textwrap
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import click
import orjson

from arkgate import app, settings
from arkgate.cli.places import config_file, config_option
from arkgate.cli.running import set_up_logs
from arkgate.gateway.doctor import WORST_FIRST, Line, worst
from arkgate.ports import Check, Verdict

COLUMNS_MAX = 100
WORDS = {
    Verdict.OK: "ok",
    Verdict.WARNING: "warning",
    Verdict.FAILURE: "FAILURE",
    Verdict.NOT_CHECKED: "not checked",
}
_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILURE: "red"}
_INDENT = 15
_COMMAND = re.compile(r"`([^`]+)`")


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@click.option("--call", is_flag=True, help="Also let the backend answer one call, which may cost you money.")
def doctor(config_path: Path | None, as_json: bool, call: bool) -> None:
    """Try everything a paid call needs, and say what is wrong and what to do.

    Moves no money and reads the books only: safe beside a running gateway, and useful without one. Makes
    one small invoice at each node, which nobody is shown and which is cancelled.

    Exit status: 0 when nothing fails (warnings and lines that were not checked included), 1 when a line
    is a failure, 2 when the command was called wrongly.
    """
    set_up_logs("error", for_people=True)
    lines = asyncio.run(_examined(config_file(config_path), call=call, shown=not as_json))
    verdict = worst(lines)
    if as_json:
        click.echo(orjson.dumps(_document(lines, verdict), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(_summary(lines))
    if verdict is Verdict.FAILURE:
        raise SystemExit(1)


async def _examined(path: Path, *, call: bool, shown: bool) -> list[Line]:
    """Every line; `shown`, also printed as soon as it is known."""
    lines: list[Line] = []
    async for line in _lines(path, call=call):
        if shown:
            click.echo("\n".join(_table(line, lines)))
        lines.append(line)
    return lines


async def _lines(path: Path, *, call: bool) -> AsyncIterator[Line]:
    try:
        loaded = settings.load(path)
    except settings.SettingsError as error:
        for problem in error.problems:
            yield Line("settings", Check(str(path), Verdict.FAILURE, problem, "The gateway does not start."))
        return
    async with app.examining(loaded) as doctor:
        async for line in doctor.examine(call=call):
            yield line


def _table(line: Line, before: Sequence[Line]) -> Iterator[str]:
    """A line of the table, and below it what it means and what to do, unless a line before has said it."""
    check = line.check
    if not before or before[-1].subject != line.subject:
        yield click.style(line.subject, bold=True)
    word = click.style(f"  {WORDS[check.verdict]}".ljust(_INDENT), fg=_COLOURS.get(check.verdict))
    head, *rest = _wrapped(f"{check.name}: {check.seen}" if check.name != line.subject else check.seen)
    yield f"{word}{head.removeprefix(' ' * _INDENT)}".rstrip()
    yield from rest
    if check.meaning:
        yield from _wrapped(f"Means: {check.meaning}")
    if check.remedy in {other.check.remedy for other in before if other.subject == line.subject} - {""}:
        yield from _wrapped("To do: as above.")
    elif check.remedy:
        yield from _remedy(f"To do: {check.remedy}")


def _remedy(text: str) -> Iterator[str]:
    """A command that ends the text has lines of its own, which a shell takes as they are."""
    before, command, after = (*_COMMAND.split(text, maxsplit=1), "", "")[:3]
    if not command or after.strip(" ."):
        yield from _wrapped(text)
        return
    yield from _wrapped(before)
    *most, last = _wrapped(command, reserve=2, deeper=2)
    yield from (f"{part} \\" for part in most)
    yield last


def _wrapped(text: str, *, reserve: int = 0, deeper: int = 0) -> list[str]:
    indent = " " * (_INDENT + deeper)
    width = min(shutil.get_terminal_size().columns, COLUMNS_MAX) - reserve
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _summary(lines: Sequence[Line]) -> str:
    counts = {verdict: sum(line.check.verdict is verdict for line in lines) for verdict in Verdict}
    counted = [f"{counts[verdict]} {verdict.value}{'s' * (counts[verdict] != 1)}" for verdict in WORST_FIRST]
    return f"{', '.join(counted)}, {counts[Verdict.NOT_CHECKED]} not checked, {counts[Verdict.OK]} ok"


def _document(lines: Sequence[Line], verdict: Verdict) -> dict[str, object]:
    return {
        "verdict": verdict.value,
        "checks": [
            {
                "subject": line.subject,
                "name": line.check.name,
                "verdict": line.check.verdict.value,
                "seen": line.check.seen,
                "meaning": line.check.meaning,
                "remedy": line.check.remedy,
            }
            for line in lines
        ],
    }
