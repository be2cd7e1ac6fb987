"""`ledger statement`: every movement of one account, with a running balance that adds up exactly."""

import asyncio
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click

from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import start_up_errors
from arkgate.cli.shown import sats_shown, time_shown
from arkgate.core.keys import token_digest
from arkgate.core.ledger import AccountRecord, StatementLine
from arkgate.ports import Statements
from arkgate.settings import Settings
from arkgate.store import read_store

_ACCOUNT = re.compile(r"[0-9a-f]{32}\Z")
_PAYMENT_HASH = re.compile(r"[0-9a-f]{64}\Z")
_COLUMNS = ("at", "kind", "amount_msat", "balance_msat", "reference", "detail")


@dataclass(slots=True)
class Sums:
    """What the lines that were shown add up to, msat."""

    credited: int = 0
    charged: int = 0
    lines: int = 0

    def add(self, line: StatementLine) -> None:
        """Counts a line."""
        self.lines += 1
        if line.amount > 0:
            self.credited += line.amount
        else:
            self.charged -= line.amount


class _Form(Protocol):
    def begin(self, account: AccountRecord) -> Iterator[str]: ...

    def line(self, line: StatementLine) -> str: ...

    def end(self, account: AccountRecord, sums: Sums) -> Iterator[str]: ...


@click.command()
@config_option
@click.argument("account", required=False)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The account by its ak_ token, read from this file; - reads standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="As CSV, amounts in msat.")
def statement(
    config_path: Path | None, account: str | None, token_file: Path | None, *, as_json: bool, as_csv: bool
) -> None:
    """Show every credit, charge and refund of ACCOUNT: its id, or the payment hash of an invoice it paid."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms: choose one.")
    if account is not None and token_file is None:
        named = _checked(account.strip().lower())
    elif token_file is not None and account is None:
        named = _from_token(token_file)
    else:
        raise click.UsageError("Name an account, or its token with --token-file.")
    settings = load_settings(config_path)
    form: _Form = _Json() if as_json else _Csv() if as_csv else _Text()
    with start_up_errors():
        asyncio.run(_show(settings, named, form))


def _checked(account: str) -> "str | bytes | _Token":
    """An account's id, or a payment hash as bytes."""
    if account.startswith("ak_"):
        raise click.UsageError(
            "A token on the command line can be read by everybody on this machine: put it into a file, "
            "or on standard input, and name that with --token-file."
        )
    if _PAYMENT_HASH.match(account):
        return bytes.fromhex(account)
    if not _ACCOUNT.match(account):
        raise click.UsageError("An account is 32 hex digits, a payment hash 64.")
    return account


def _from_token(path: Path) -> "_Token":
    try:
        text = sys.stdin.readline() if path == Path("-") else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}.") from error
    if not text.strip().startswith("ak_"):
        raise click.ClickException("There is no ak_ token.")
    return _Token(token_digest(text.strip()))


@dataclass(frozen=True, slots=True)
class _Token:
    """An account by what is stored of its token."""

    digest: bytes


async def _show(settings: Settings, named: "str | bytes | _Token", form: _Form) -> None:
    async with read_store(settings.store_url) as statements:
        account_id = await _account_id(statements, named)
        async with statements.snapshot() as snapshot:
            account = None if account_id is None else await snapshot.account(account_id)
            if account is None:
                raise click.ClickException("These books have no such account.")
            sums = Sums()
            _print(form.begin(account))
            async for batch in snapshot.statement(account.account_id):
                for line in batch:
                    sums.add(line)
                    click.echo(form.line(line))
            _print(form.end(account, sums))
    if sums.credited - sums.charged != account.balance.posted:
        raise click.ClickException("The lines do not add up to the balance: run `arkgate ledger verify`.")


async def _account_id(statements: Statements, named: "str | bytes | _Token") -> str | None:
    if isinstance(named, _Token):
        return await statements.account_by_token(named.digest)
    if isinstance(named, bytes):
        return await statements.account_by_payment(named)
    return named


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line)


def _fields(line: StatementLine) -> Mapping[str, str | int]:
    values = (time_shown(line.at_ms), line.kind, line.amount, line.balance, line.reference, line.detail)
    return dict(zip(_COLUMNS, values, strict=True))


class _Text:
    """For people: sats, with msat only where there are any."""

    def begin(self, account: AccountRecord) -> Iterator[str]:
        yield f"Account {account.account_id}, opened {time_shown(account.created_at_ms)}; amounts in sats"
        yield f"{'time':24}  {'kind':6}  {'amount':>14}  {'balance':>14}  reference, detail"

    def line(self, line: StatementLine) -> str:
        amount, balance = sats_shown(line.amount), sats_shown(line.balance)
        words = f"{line.reference} {line.detail}"
        return f"{time_shown(line.at_ms)}  {line.kind:6}  {amount:>14}  {balance:>14}  {words}"

    def end(self, account: AccountRecord, sums: Sums) -> Iterator[str]:
        yield f"Credited {sats_shown(sums.credited)}, charged {sats_shown(sums.charged)} sats."
        balance = account.balance
        yield (
            f"Balance {sats_shown(balance.posted)} sats; calls under way hold {sats_shown(balance.held)}, "
            f"{sats_shown(balance.available)} are available."
        )


@dataclass(slots=True)
class _Json:
    """One object, written line by line."""

    separator: str = field(default="")

    def begin(self, account: AccountRecord) -> Iterator[str]:
        yield f'{{"account": {json.dumps(account.account_id)}, "lines": ['

    def line(self, line: StatementLine) -> str:
        separator, self.separator = self.separator, ","
        return separator + json.dumps(_fields(line), ensure_ascii=False)

    def end(self, account: AccountRecord, sums: Sums) -> Iterator[str]:
        figures = {
            "credited_msat": sums.credited,
            "charged_msat": sums.charged,
            "balance_msat": account.balance.posted,
            "held_msat": account.balance.held,
            "available_msat": account.balance.available,
        }
        yield f"], {json.dumps(figures)[1:]}"


class _Csv:
    """The lines alone; the last balance is the account's."""

    def begin(self, account: AccountRecord) -> Iterator[str]:
        yield ",".join(_COLUMNS)

    def line(self, line: StatementLine) -> str:
        return csv_line(list(_fields(line).values()))

    def end(self, account: AccountRecord, sums: Sums) -> Iterator[str]:
        yield from ()


class _Kept:
    """A file that keeps the last line that was written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def csv_line(values: list[str | int]) -> str:
    """One line of CSV without its end."""
    kept = _Kept()
    csv.writer(kept, lineterminator="").writerow(values)
    return kept.text
