"""The `arkgate` command: a registry of its subcommands."""

from importlib import import_module

import click

COMMANDS = {
    "init": "operate",
    "serve": "operate",
    "config": "operate",
    "doctor": "doctor",
    "ledger": "books",
    "backup": "archive",
    "restore": "archive",
    "keys": "books",
    "demo": "demo",
    "simulator": "demo",
    "wallet": "wallet",
    "mcp": "mcp",
}
"""The module of each command."""


class _Commands(click.Group):
    """Imports a command's module when it is called: a wallet that pays needs no web server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"arkgate.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="arkgate")
def main() -> None:
    """A payment gateway that sells AI chat calls and other HTTP APIs for sats."""
