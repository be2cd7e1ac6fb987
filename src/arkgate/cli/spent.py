"""What was spent and is not in the books: after an old backup was restored, the operator's loss.

The gateway logs each charged call, so its own log says exactly what payers spent. The backend's log
says which requests were made, and not what they cost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson

from arkgate.cli.shown import sats_shown, time_shown
from arkgate.core.reports import BACKUP_FACT
from arkgate.ports import Statements
from arkgate.settings import Settings
from arkgate.simulator.chat import logged_request_ids
from arkgate.store import read_store

AT_ONCE = 5000
LINE_BYTES_MAX = 1024 * 1024
_READABLE = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Spent:
    """The logs to look into."""

    logs: Sequence[Path]
    backend_log: Path | None


@dataclass(slots=True)
class Lost:
    """Calls that were charged and that these books did not charge: msat by call id."""

    calls: dict[str, int] = field(default_factory=dict)

    @property
    def amount(self) -> int:
        """What was spent on them, msat."""
        return sum(self.calls.values())


def spent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--log` and `--backend-log`, the same wherever spends are counted."""
    for option in (
        click.option(
            "--backend-log", type=_READABLE, help="The simulated backend's request log, to count from, too."
        ),
        click.option(
            "--log",
            type=_READABLE,
            multiple=True,
            help="The gateway's own log (JSON lines), to count what was spent since a backup. Repeatable.",
        ),
    ):
        command = option(command)
    return command


async def report_spent(settings: Settings, spent: Spent) -> None:
    """Prints what the logs know and the books do not; nothing when no log was named."""
    if not spent.logs and spent.backend_log is None:
        return
    async with read_store(settings.store_url) as statements:
        taken_at_ms = (await statements.facts()).get(BACKUP_FACT)
        since = "" if taken_at_ms is None else f" since the backup of {time_shown(taken_at_ms)}"
        if spent.logs:
            lost = await _lost(statements, spent.logs)
            click.echo(
                f"Spent{since} and not in the books: {len(lost.calls)} calls, {sats_shown(lost.amount)} "
                "sats. Their payers have it back; it is your loss."
            )
        if spent.backend_log is not None:
            await _report_requests(settings, statements, spent.backend_log)


async def _lost(statements: Statements, logs: Sequence[Path]) -> Lost:
    """Each call once, however many logs tell of it; only what is missing is kept in memory."""
    lost = Lost()
    for path in logs:
        waiting: dict[str, int] = {}
        for call_id, cost in charged_calls(path):
            waiting[call_id] = cost
            if len(waiting) == AT_ONCE:
                await _look_for(statements, waiting, lost)
                waiting = {}
        await _look_for(statements, waiting, lost)
    return lost


async def _look_for(statements: Statements, charged: dict[str, int], lost: Lost) -> None:
    for call_id in await statements.missing_calls(list(charged), charged=True):
        lost.calls[call_id] = charged[call_id]


def charged_calls(log: Path) -> Iterator[tuple[str, int]]:
    """The id and cost (msat) of each charged call that a gateway's log tells of.

    Other programs may write into the same file: what is no event of ours is passed over.
    """
    with log.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX):
            start = line.find(b"{")  # a journal's prefix may stand before it
            if start < 0 or b'"call finished"' not in line:
                continue
            try:
                event = orjson.loads(line[start:])
            except ValueError:
                continue
            cost = event.get("cost_msat")
            if event.get("outcome") == "charged" and isinstance(cost, int) and cost > 0:
                yield str(event["call"]), cost


async def _report_requests(settings: Settings, statements: Statements, backend_log: Path) -> None:
    try:
        requests = list(dict.fromkeys(logged_request_ids(backend_log)))
    except (ValueError, TypeError, KeyError) as error:
        raise click.ClickException(f"{backend_log} is not the simulated backend's request log.") from error
    unknown = await statements.missing_calls(requests, charged=False)
    price = max(service.price for service in settings.catalog)
    click.echo(
        f"Requests that the backend saw and the books do not know: {len(unknown)}, "
        f"at most {sats_shown(len(unknown) * price)} sats at today's price."
    )
