"""A real barkd as the gateway's node and a command that pays, named by the environment."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from arkgate.nodes.barkd import BarkdNode
from arkgate.nodes.barkd_rest import BearerToken
from arkgate.store.clock import SystemClock
from tests.node.staged_real import run_command

NODE = "ARKGATE_TEST_BARKD"
ARK_INSTANT_SATS = 10_000
NEEDED = tuple(f"{NODE}_{part}" for part in ("ADDRESS", "TOKEN_FILE", "PAY"))
OPTIONAL = {name: f"{NODE}_{name}" for name in ("PAY_ARK", "MINE", "STOP", "START", "RESTART_SERVER")}
MISSING = f"""\
This needs a real barkd on regtest, whose Ark server has Lightning, and a payer. Missing: {{missing}}.
  {NODE}_ADDRESS     its REST, host:port
  {NODE}_TOKEN_FILE  its auth_token
  {NODE}_PAY         a command that pays the invoice that is put after it and prints JSON
                     with payment_preimage, such as `lightning-cli -N none … xpay`
And optionally commands, for the tests that need them:
  {NODE}_PAY_ARK        pays an Ark address, which is put after it, that many sats, which come last
  {NODE}_MINE           mines a block
  {NODE}_STOP           stops barkd
  {NODE}_START          starts it again
  {NODE}_RESTART_SERVER restarts its Ark server"""


@dataclass(frozen=True, slots=True)
class RealBarkd:
    """Where the node's REST is, what opens it, and who pays."""

    address: str
    token_file: Path
    pay_command: str
    commands: Mapping[str, str]
    """The optional ones that are there."""

    @property
    def stand_in(self) -> Literal["barkds"]:
        """See `RealNode`."""
        return "barkds"

    def adapter(self) -> BarkdNode:
        """The adapter of that node."""
        credentials = BearerToken(self.address, self.token_file)
        return BarkdNode("gate", 7, credentials, SystemClock(), network="regtest")

    @property
    def settings(self) -> str:
        """The lines of the settings."""
        return (
            f'name = "gate"\naddress = "{self.address}"\ntoken_file = "{self.token_file}"\n'
            f"ark_instant_sats = {ARK_INSTANT_SATS}"
        )

    async def pay(self, invoice: str) -> bytes:
        """Pays an invoice; gives the preimage."""
        said = await run_command([*shlex.split(self.pay_command), invoice])
        return bytes.fromhex(json.loads(said)["payment_preimage"])

    async def run(self, name: str, *arguments: str) -> None:
        """Runs one of the optional commands; skips the test where it is not there."""
        if name not in self.commands:
            pytest.skip(f"{OPTIONAL[name]} is not set")
        await run_command([*shlex.split(self.commands[name]), *arguments])


def configured() -> RealBarkd | str:
    """The node that the environment names, or what is missing."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        return MISSING.format(missing=", ".join(missing))
    address, token_file, pay = (os.environ[name] for name in NEEDED)
    commands = {word: os.environ[name] for word, name in OPTIONAL.items() if os.environ.get(name)}
    return RealBarkd(address, Path(token_file), pay, commands)
