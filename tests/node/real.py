"""A real LND as the gateway's node and a real payer, named by the environment; the chat is simulated."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import grpc

from arkgate._proto.lnd import lightning_pb2, lightning_pb2_grpc
from arkgate.simulator import wallet
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import Paid
from tests.stage import MODEL, Stage, staged

NODE = "ARKGATE_TEST_LND"
PAYER = "ARKGATE_TEST_PAYER"
RESTART = f"{NODE}_RESTART"
STOP, START = f"{NODE}_STOP", f"{NODE}_START"
NEEDED = tuple(f"{node}_{part}" for node in (NODE, PAYER) for part in ("ADDRESS", "CERT", "MACAROON"))
MISSING = """\
These tests need a real LND on regtest and a payer with a channel to it. Missing: {missing}.
  {node}_ADDRESS    the gateway's node, gRPC, host:port
  {node}_CERT       its tls.cert
  {node}_MACAROON   its invoice.macaroon
  {payer}_ADDRESS, {payer}_CERT, {payer}_MACAROON (admin)    the payer's
  {payer}_REST      optional: the payer's REST, like https://127.0.0.1:8080, for l402-requests
  {node}_RESTART    optional: a command that restarts the gateway's node
  {node}_STOP, {node}_START    optional: commands that stop it and start it again
  ARKGATE_TEST_LNGET   optional: lnget, where it is not on the PATH"""


class NotConfigured(Exception):  # noqa: N818
    """The environment does not name the nodes; says which variables to set."""


@dataclass(frozen=True, slots=True)
class RealNode:
    """Where a node's gRPC is and what opens it."""

    address: str
    tls_cert: Path
    macaroon: Path

    @property
    def settings(self) -> str:
        """The lines of the settings, but for kind, name and number."""
        return (
            f'address = "{self.address}"\ntls_cert_file = "{self.tls_cert}"\n'
            f'macaroon_file = "{self.macaroon}"'
        )

    @classmethod
    def named(cls, prefix: str) -> "RealNode":
        """The node that the environment names."""
        return cls(
            os.environ[f"{prefix}_ADDRESS"],
            Path(os.environ[f"{prefix}_CERT"]),
            Path(os.environ[f"{prefix}_MACAROON"]),
        )

    async def version(self) -> str:
        """What it says it is."""
        metadata = (("macaroon", wallet.macaroon_hex(self.macaroon)),)
        async with grpc.aio.secure_channel(self.address, wallet.trust(self.tls_cert)) as channel:
            stub = lightning_pb2_grpc.LightningStub(channel)
            information = await stub.GetInfo(lightning_pb2.GetInfoRequest(), metadata=metadata)
        return str(information.version)


@dataclass(frozen=True, slots=True)
class Pair:
    """The gateway's node and the payer."""

    node: RealNode
    payer: RealNode
    payer_rest: str | None
    restart: str | None

    async def pay(self, invoice: str) -> Paid:
        """Pays with the payer. Raises wallet.PaymentFailed."""
        return await wallet.pay(
            invoice, address=self.payer.address, tls_cert=self.payer.tls_cert, macaroon=self.payer.macaroon
        )


def configured_pair() -> Pair:
    """The pair that the environment names. Raises NotConfigured."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        raise NotConfigured(MISSING.format(missing=", ".join(missing), node=NODE, payer=PAYER))
    return Pair(
        RealNode.named(NODE),
        RealNode.named(PAYER),
        os.environ.get(f"{PAYER}_REST"),
        os.environ.get(RESTART),
    )


@dataclass(slots=True)
class RealPayments(Simulation):
    """A simulation of which only the chat is used: payments are the pair's."""

    pair: Pair

    async def pay(self, payment_request: str) -> Paid:
        """Pays an invoice of the real node."""
        return await self.pair.pay(payment_request)


@contextlib.asynccontextmanager
async def staged_with(
    pair: Pair, directory: Path, *, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """The stage of the other stories, with the pair in place of the simulated nodes."""
    async with Simulation.running(data_dir=directory / "simulator", chat_models=(MODEL,)) as simulated:
        parts = {part.name: getattr(simulated, part.name) for part in fields(simulated)}
        simulation = RealPayments(pair=pair, **parts)
        async with staged(
            directory, extra={"[[nodes]]": pair.node.settings, **(extra or {})}, simulation=simulation
        ) as stage:
            yield stage
