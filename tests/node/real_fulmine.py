"""A real Fulmine as the gateway's node and a command that pays, named by the environment."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.store.clock import SystemClock
from tests.node.staged_real import run_command

NODE = "ARKGATE_TEST_FULMINE"
NEEDED = tuple(f"{NODE}_{part}" for part in ("ADDRESS", "MACAROON", "BOLTZ_URL"))
OPTIONAL = {name: f"{NODE}_{name}" for name in ("PAY", "RESTART")}
MISSING = f"""\
This needs a real Fulmine on regtest; it may be without a wallet, or locked. Missing: {{missing}}.
  {NODE}_ADDRESS    its gRPC, host:port
  {NODE}_MACAROON   its macaroons/admin.macaroon, whether it is there yet or not
  {NODE}_BOLTZ_URL  its Boltz
And commands, for the tests that need an open wallet:
  {NODE}_PAY        pays the invoice that is put after it and prints JSON with payment_preimage
  {NODE}_RESTART    restarts Fulmine and unlocks its wallet"""


@dataclass(frozen=True, slots=True)
class RealFulmine:
    """Where the node's gRPC is, what opens it, and who pays."""

    credentials: FulmineCredentials
    commands: Mapping[str, str]
    """The optional ones that are there."""

    @property
    def stand_in(self) -> Literal["fulmines"]:
        """See `RealNode`."""
        return "fulmines"

    @property
    def settings(self) -> str:
        """The lines of the settings."""
        found = self.credentials
        return (
            f'name = "gate"\naddress = "{found.address}"\nmacaroon_file = "{found.macaroon_file}"\n'
            f'boltz_url = "{found.boltz_url}"'
        )

    def adapter(self) -> FulmineNode:
        """The adapter of that node."""
        return FulmineNode("gate", 7, self.credentials, SystemClock(), network="regtest")

    async def pay(self, invoice: str) -> bytes:
        """Pays an invoice; gives the preimage. Skips the test where nobody can pay."""
        return bytes.fromhex(json.loads(await self.run("PAY", invoice))["payment_preimage"])

    async def run(self, name: str, *arguments: str) -> str:
        """What one of the optional commands prints; skips the test where it is not there."""
        if name not in self.commands:
            pytest.skip(f"{OPTIONAL[name]} is not set")
        return await run_command([*shlex.split(self.commands[name]), *arguments])


def configured() -> RealFulmine | str:
    """The node that the environment names, or what is missing."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        return MISSING.format(missing=", ".join(missing))
    address, macaroon, boltz_url = (os.environ[name] for name in NEEDED)
    commands = {word: os.environ[name] for word, name in OPTIONAL.items() if os.environ.get(name)}
    return RealFulmine(FulmineCredentials(address, Path(macaroon), boltz_url), commands)
