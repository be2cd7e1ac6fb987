"""A real Core Lightning as the gateway's node and a command that pays, named by the environment."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arkgate.nodes.channel import MutualTls
from arkgate.nodes.cln import ClnNode
from arkgate.store.clock import SystemClock
from tests.node.staged_real import run_command

NODE = "ARKGATE_TEST_CLN"
NEEDED = tuple(f"{NODE}_{part}" for part in ("ADDRESS", "FILES", "PAY"))
RESTART = f"{NODE}_RESTART"
MISSING = f"""\
This needs a real Core Lightning on regtest and a payer with a channel to it. Missing: {{missing}}.
  {NODE}_ADDRESS   its cln-grpc, host:port
  {NODE}_FILES     the folder with its ca.pem, client.pem and client-key.pem
  {NODE}_PAY       a command that pays the invoice that is put after it and prints JSON with payment_preimage,
                   such as `lightning-cli -N none … pay`
  {RESTART}   optional: a command that restarts it"""


@dataclass(frozen=True, slots=True)
class RealCln:
    """Where the node's gRPC is, what opens it, and who pays."""

    address: str
    files: Path
    pay_command: str
    restart_command: str | None

    @property
    def stand_in(self) -> Literal["clns"]:
        """See `RealNode`."""
        return "clns"

    @property
    def credentials(self) -> MutualTls:
        """What opens it."""
        files = self.files
        return MutualTls(
            self.address, files / "ca.pem", files / "client.pem", files / "client-key.pem", "cln"
        )

    def adapter(self) -> ClnNode:
        """The adapter of that node."""
        return ClnNode("gate", 7, self.credentials, SystemClock(), network="regtest")

    @property
    def settings(self) -> str:
        """The lines of the settings."""
        found = self.credentials
        return (
            f'name = "gate"\naddress = "{found.address}"\nca_cert_file = "{found.ca_cert_file}"\n'
            f'client_cert_file = "{found.client_cert_file}"\nclient_key_file = "{found.client_key_file}"'
        )

    async def pay(self, invoice: str) -> bytes:
        """Pays an invoice; gives the preimage."""
        said = await run_command([*shlex.split(self.pay_command), invoice])
        return bytes.fromhex(json.loads(said)["payment_preimage"])

    async def restart(self) -> None:
        """Restarts the node."""
        assert self.restart_command is not None
        await run_command(shlex.split(self.restart_command))


def configured() -> RealCln | str:
    """The node that the environment names, or what is missing."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        return MISSING.format(missing=", ".join(missing))
    address, files, pay = (os.environ[name] for name in NEEDED)
    return RealCln(address, Path(files), pay, os.environ.get(RESTART))
