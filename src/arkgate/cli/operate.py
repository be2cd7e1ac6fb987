"""Commands of an operator: init, config check, serve."""

import asyncio
import os
from pathlib import Path

import click

from arkgate import app, settings
from arkgate.cli.places import config_file, config_option, load_settings
from arkgate.cli.reference import reference
from arkgate.cli.running import run_until_stopped, set_up_logs
from arkgate.cli.template import TEMPLATE


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=settings.DEFAULT_FILE)
def init(file: Path) -> None:
    """Write a commented configuration, arkgate.toml unless FILE names another."""
    try:
        with open(file, "x", opener=_for_its_owner) as output:
            output.write(TEMPLATE)
    except FileExistsError as error:
        raise click.ClickException(f"{file} exists and is left as it is.") from error
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}.") from error
    click.echo(f"Wrote {file}. Fill in [[nodes]] and [backend], then run: arkgate config check")


def _for_its_owner(path: str, flags: int) -> int:
    """Opens a file that only its owner may read: the backend's key may go into it."""
    return os.open(path, flags, 0o600)


@click.group()
def config() -> None:
    """Commands about the configuration."""


@config.command()
@config_option
def check(config_path: Path | None) -> None:
    """Say in sentences what is wrong or missing, before anything starts."""
    path = config_file(config_path)
    loaded = load_settings(config_path)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}")
    for node in loaded.nodes:
        click.echo(f"node {node.name}: {node.duty.sentence}")
    click.echo(f"{path} can be used.")


@config.command("reference")
def print_reference() -> None:
    """Print the reference of all settings, in Markdown."""
    click.echo(reference(), nl=False)


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the gateway until SIGINT or SIGTERM; open calls are finished first."""
    loaded = load_settings(config_path)
    set_up_logs(loaded.log_level)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)

    async def work(stop: asyncio.Event) -> None:
        await app.run(loaded, stop, ready=lambda: click.echo(f"ready: {loaded.public_url}"))

    run_until_stopped(work)
