"""`ledger export`: the journal as double entry, with the balances before and after it."""

import asyncio
import contextlib
import csv
import datetime
import io
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import click

from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import start_up_errors
from arkgate.cli.shown import start_of_day_ms, time_shown
from arkgate.core.reports import AccountTotal, JournalEntry
from arkgate.ports import Snapshot
from arkgate.settings import Settings
from arkgate.store import read_store
from arkgate.store.clock import DAY_MS
from arkgate.store.durable import new_file

COLUMNS = ("id", "time", "kind", "debit_account", "credit_account", "amount_msat", "detail")
END_OF_TIME_MS = 2**62
Line = tuple[str, str, str, str, str, int, str]
Form = Callable[[Sequence[Line]], bytes]
_DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@config_option
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="A new file; else standard output."
)
@click.option("--since", type=_DAY, help="The first UTC day.")
@click.option("--until", type=_DAY, help="The last UTC day.")
def export(
    config_path: Path | None,
    form: str,
    output: Path | None,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
) -> None:
    """Write the journal: opening balances, one line for each transfer, closing balances.

    For every account, the opening line and the transfers add up to the closing line.
    """
    since_ms = 0 if since is None else start_of_day_ms(since)
    until_ms = END_OF_TIME_MS if until is None else start_of_day_ms(until) + DAY_MS
    if since_ms >= until_ms:
        raise click.UsageError("--since is after --until.")
    settings = load_settings(config_path)
    with start_up_errors(), _file(output) as file:
        asyncio.run(_export(settings, file, form, since_ms, until_ms))


@contextlib.contextmanager
def _file(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    try:
        with new_file(output) as file:
            yield file
    except FileExistsError as error:
        raise click.ClickException(f"{output} exists and is left as it is.") from error


async def _export(settings: Settings, file: IO[bytes], form: str, since_ms: int, until_ms: int) -> None:
    write: Form = _csv if form == "csv" else _jsonl
    if form == "csv":
        file.write(",".join(COLUMNS).encode() + b"\n")
    async with read_store(settings.store_url) as statements, statements.snapshot() as snapshot:
        closing_ms = min(until_ms, snapshot.taken_at_ms)
        if since_ms:
            async for totals in snapshot.totals_before(since_ms):
                file.write(write([_balance("opening", since_ms, total) for total in totals]))
        async for entries in _journal(snapshot, since_ms, until_ms):
            file.write(write(entries))
        async for totals in snapshot.totals_before(until_ms):
            file.write(write([_balance("closing", closing_ms, total) for total in totals]))
    file.flush()


async def _journal(snapshot: Snapshot, since_ms: int, until_ms: int) -> AsyncIterator[list[Line]]:
    async for batch in snapshot.journal(since_ms, until_ms):
        yield [_transfer(entry) for entry in batch]


def _transfer(entry: JournalEntry) -> Line:
    return (
        entry.transfer_id,
        time_shown(entry.at_ms),
        entry.kind,
        entry.debit_account,
        entry.credit_account,
        entry.amount,
        entry.detail,
    )


def _balance(kind: str, at_ms: int, total: AccountTotal) -> Line:
    """A balance has one side: what we own or spent is a debit, what we owe or earned a credit."""
    amount, account = total.credit_less_debit, total.account_id
    debit, credit = (account, "") if amount < 0 else ("", account)
    return f"{kind}:{account}", time_shown(at_ms), kind, debit, credit, abs(amount), ""


def _csv(lines: Sequence[Line]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _jsonl(lines: Sequence[Line]) -> bytes:
    rows = (dict(zip(COLUMNS, line, strict=True)) for line in lines)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
