"""The `arkgate` command: a registry of its subcommands."""

import click

from arkgate.cli.books import keys, ledger
from arkgate.cli.demo import demo, simulator, wallet
from arkgate.cli.operate import config, init, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="arkgate")
def main() -> None:
    """A payment gateway that sells AI chat calls and other HTTP APIs for sats."""


for command in (init, serve, config, ledger, keys, demo, simulator, wallet):
    main.add_command(command)
