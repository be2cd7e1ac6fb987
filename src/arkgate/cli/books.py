"""Commands about the books and the keys: the group `ledger` with its checks, keys rotate."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from arkgate import app
from arkgate.cli.journal import export
from arkgate.cli.owed import holdings_of, liabilities
from arkgate.cli.places import config_option, load_settings
from arkgate.cli.reconciling import reconcile
from arkgate.cli.running import start_up_errors
from arkgate.cli.shown import sats_shown
from arkgate.cli.statement import statement
from arkgate.core.ledger import EXPENSE_ACCOUNT, Finding
from arkgate.ports import Statements
from arkgate.settings import Settings
from arkgate.simulator.chat import logged_request_ids
from arkgate.store import read_store
from arkgate.store.clock import SystemClock
from arkgate.store.keyfile import rotate

_REQUESTS_RULE = "Every request to a backend belongs to a committed hold"
_COVERED_RULE = "What the nodes hold, with the fees that were borne, covers what is owed to customers"


@click.group()
def ledger() -> None:
    """Commands about the ledger."""


for _command in (statement, export, liabilities, reconcile):
    ledger.add_command(_command)


@ledger.command()
@config_option
@click.option(
    "--backend-log",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The simulated backend's request log, to check that each request belongs to a hold.",
)
def verify(config_path: Path | None, backend_log: Path | None) -> None:
    """Check that the books are sound. Reads only, also beside a running gateway; repairs nothing."""
    settings = load_settings(config_path)
    with start_up_errors():
        findings = asyncio.run(_findings(settings, backend_log))
    for finding in findings:
        word = "--  " if not finding.checked else "ok  " if finding.holds else "FAIL"
        click.echo(f"{word} {finding.invariant}. {finding.sentence}")
    if not all(finding.holds for finding in findings if finding.checked):
        raise SystemExit(1)


async def _findings(settings: Settings, backend_log: Path | None) -> Sequence[Finding]:
    async with read_store(settings.store_url) as statements:
        findings = list(await statements.verify())
        if backend_log is None:
            why = "not checked: the ledger alone cannot see it; name the backend's log with --backend-log."
            findings.append(Finding(9, True, f"{_REQUESTS_RULE}: {why}", checked=False))
        else:
            findings.append(await statements.verify_requests(_requests(backend_log)))
        findings.append(await _covered(settings, statements))
    return findings


async def _covered(settings: Settings, statements: Statements) -> Finding:
    """Invariant 10: asked of the nodes after the books, so that a payment in between does no harm."""
    customers = (await statements.totals()).customers
    async with app.open_nodes(settings, SystemClock()) as nodes:
        answers = [await holdings_of(node) for node in nodes]
    for answer in answers:
        if isinstance(answer, str):
            return Finding(10, True, f"{_COVERED_RULE}: not checked: {answer}.", checked=False)
    held = sum(answer.total for answer in answers if not isinstance(answer, str))
    if held >= customers:  # what was borne reads the whole journal, and can only add to it
        return Finding(10, True, f"{_COVERED_RULE}.")
    async with statements.snapshot() as snapshot:
        borne = -(await snapshot.liabilities()).shared_total(EXPENSE_ACCOUNT)
    if held + borne >= customers:
        return Finding(10, True, f"{_COVERED_RULE}.")
    figures = f"{sats_shown(held)} and {sats_shown(borne)} sats against {sats_shown(customers)}"
    return Finding(10, False, f"{_COVERED_RULE}: it does not, {figures}.")


def _requests(backend_log: Path) -> list[str]:
    try:
        return logged_request_ids(backend_log)
    except (ValueError, TypeError, KeyError) as error:
        raise click.ClickException(f"{backend_log} is not the simulated backend's request log.") from error


@click.group()
def keys() -> None:
    """Commands about the secret keys."""


@keys.command("rotate")
@config_option
def rotate_keys(config_path: Path | None) -> None:
    """Add a key that new macaroons and tokens are made under; old ones keep working."""
    settings = load_settings(config_path)
    with start_up_errors():
        version = rotate(settings.keys_file)
    click.echo(
        f"Added key version {version} to {settings.keys_file}. Restart the gateway to use it, "
        "and back the file up."
    )
