"""The stage of the other stories with a real node in place of a simulated one, and a command that pays."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol

from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import Paid
from tests.stage import MODEL, Stage, staged

COMMAND_SECONDS = 120


class RealNode(Protocol):
    """A real daemon as the gateway's node, and somebody who pays it."""

    @property
    def stand_in(self) -> Literal["clns", "barkds", "fulmines"]:
        """The simulated daemons of its kind, of which one lends its place in the settings."""
        ...

    @property
    def settings(self) -> str:
        """The lines of the settings, but for the kind."""
        ...

    async def pay(self, invoice: str) -> bytes:
        """Pays an invoice; gives the preimage."""
        ...


async def run_command(command: Sequence[str]) -> str:
    """What a command prints. Raises subprocess.SubprocessError when it fails."""
    done = await asyncio.to_thread(
        subprocess.run, command, check=True, timeout=COMMAND_SECONDS, stdout=subprocess.PIPE, text=True
    )
    return str(done.stdout)


@dataclass(slots=True)
class RealPayments(Simulation):
    """A simulation of which only the chat is used: payments are the real node's."""

    node: RealNode

    async def pay(self, payment_request: str) -> Paid:
        """Pays an invoice of the real node."""
        return Paid(await self.node.pay(payment_request), b"", 0, 0)


@contextlib.asynccontextmanager
async def staged_with(node: RealNode, directory: Path) -> AsyncIterator[Stage]:
    """The stage of the other stories, with the real node in place of a simulated one."""
    async with Simulation.running(
        data_dir=directory / "simulator",
        chat_models=(MODEL,),
        clns=("cln",),
        barkds=("ark",),
        fulmines=("bolt",),
    ) as simulated:
        parts = {part.name: getattr(simulated, part.name) for part in fields(simulated)}
        simulation = RealPayments(node=node, **parts)
        async with staged(
            directory,
            extra={"[[nodes]]": node.settings},
            simulation=simulation,
            nodes=getattr(simulated, node.stand_in),
        ) as stage:
            yield stage
