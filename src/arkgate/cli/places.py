"""Where commands find things: the data directory, the configuration, the demo's ports."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from arkgate import settings

PORT_BASE = 8400
DATA_DIRECTORY = ".arkgate"
PLACES_FILE = "simulator.json"
"""Where the simulator writes down where its payer is."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The demo's ports; ARKGATE_PORT_BASE shifts them all."""

    base: int

    @property
    def gateway(self) -> int:
        """The public listener."""
        return self.base + 2

    @property
    def operator(self) -> int:
        """The operator listener."""
        return self.base + 3

    @property
    def gate(self) -> int:
        """The simulated gate's gRPC."""
        return self.base + 10

    @property
    def payer(self) -> int:
        """The simulated payer's gRPC."""
        return self.base + 11

    @property
    def payer_rest(self) -> int:
        """The simulated payer's REST."""
        return self.base + 12

    @property
    def chat(self) -> int:
        """The simulated chat backend."""
        return self.base + 20


def demo_ports() -> Ports:
    """The ports by ARKGATE_PORT_BASE. Raises ClickException."""
    text = os.environ.get("ARKGATE_PORT_BASE", str(PORT_BASE))
    if not text.isdecimal() or not 1024 <= int(text) <= 65_000:
        raise click.ClickException(f"ARKGATE_PORT_BASE={text} must be a number between 1024 and 65000.")
    return Ports(int(text))


def data_directory() -> Path:
    """Where the demo keeps its state: ARKGATE_DATA, or `.arkgate` here."""
    return Path(os.environ.get("ARKGATE_DATA") or DATA_DIRECTORY).expanduser().absolute()


def config_file(given: Path | None) -> Path:
    """The configuration of a command: the given one, else ./arkgate.toml, else the demo's."""
    if given is not None:
        return given
    here = Path(settings.DEFAULT_FILE)
    demo = data_directory() / settings.DEFAULT_FILE
    if here.exists():
        return here
    if demo.exists():
        return demo
    raise click.ClickException(
        "There is no arkgate.toml here, and no demo has run here. `arkgate init` writes one; "
        "--config names one that is elsewhere."
    )


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--config` option, the same for every command."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The configuration file; without it ./arkgate.toml, else the demo's.",
    )(command)


def load_settings(given: Path | None) -> settings.Settings:
    """The settings of a command; ends it with all problems as sentences when they cannot be used."""
    path = config_file(given)
    try:
        return settings.load(path)
    except settings.SettingsError as error:
        lines = "\n".join(f"  - {problem}" for problem in error.problems)
        raise click.ClickException(f"{path} cannot be used:\n{lines}") from error
