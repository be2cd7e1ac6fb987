"""Commands about the books and the keys: ledger verify, keys rotate."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import start_up_errors
from arkgate.core.ledger import Finding
from arkgate.settings import Settings
from arkgate.simulator.chat import logged_request_ids
from arkgate.store import read_store
from arkgate.store.keyfile import rotate


@click.group()
def ledger() -> None:
    """Commands about the ledger."""


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
        click.echo(f"{'ok  ' if finding.holds else 'FAIL'} {finding.invariant}. {finding.sentence}")
    if not all(finding.holds for finding in findings):
        raise SystemExit(1)


async def _findings(settings: Settings, backend_log: Path | None) -> Sequence[Finding]:
    async with read_store(settings.store_url) as statements:
        findings = list(await statements.verify())
        if backend_log is not None:
            findings.append(await statements.verify_requests(_requests(backend_log)))
    return findings


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
