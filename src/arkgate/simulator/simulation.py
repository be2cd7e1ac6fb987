"""Everything that is simulated, in one process: the gate's node, a payer's node and a chat backend."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arkgate.simulator import wallet
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.chat import MODELS_DEFAULT, SimulatedChat
from arkgate.simulator.cln import SimulatedCln
from arkgate.simulator.daemon import SimulatedDaemon
from arkgate.simulator.fulmine import SimulatedFulmine
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.network import Network
from arkgate.simulator.rest import rest
from arkgate.simulator.serving import LOOPBACK, serving
from arkgate.simulator.wallet import Paid
from arkgate.simulator.waved import SimulatedWaved

GATE = "gate"
PAYER = "payer"


@dataclass(slots=True)
class Simulation:
    """A running simulation. Its files are under `data_dir`, so that it goes on where it was stopped."""

    data_dir: Path
    network: Network
    gate: SimulatedNode
    payer: SimulatedNode
    chat: SimulatedChat
    payer_rest_port: int
    spares: Sequence[SimulatedNode]
    """Further nodes of the gate's owner."""
    clns: Sequence[SimulatedCln]
    """Core Lightnings of the gate's owner."""
    barkds: Sequence[SimulatedBarkd]
    """Ark wallets of the gate's owner."""
    waveds: Sequence[SimulatedWaved]
    """Wavelength's Ark wallets of the gate's owner."""
    fulmines: Sequence[SimulatedFulmine]
    """Fulmines of the gate's owner, each with a Boltz."""

    @property
    def payer_rest_url(self) -> str:
        """Where the payer's REST interface is: plain HTTP, for clients that pay over LND's REST."""
        return f"http://{LOOPBACK}:{self.payer_rest_port}"

    @property
    def payer_macaroon_hex(self) -> str:
        """The payer's admin macaroon, as such clients want it."""
        return wallet.macaroon_hex(self.payer.credentials.admin_macaroon)

    async def pay(self, payment_request: str) -> Paid:
        """Pays an invoice through the payer's gRPC. Raises wallet.PaymentFailed."""
        return await wallet.pay(
            payment_request,
            address=self.payer.address,
            tls_cert=self.payer.credentials.tls_cert,
            macaroon=self.payer.credentials.admin_macaroon,
        )

    def skip_seconds(self, seconds: float) -> None:
        """Puts the nodes' clock forward, so that invoices expire."""
        self.network.skipped_seconds += seconds

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        *,
        data_dir: Path,
        gate_port: int = 0,
        payer_port: int = 0,
        payer_rest_port: int = 0,
        chat_port: int = 0,
        durable: bool = True,
        chat_log: Path | None = None,
        chat_models: Sequence[str] = MODELS_DEFAULT,
        chat_api_key: str | None = None,
        settle_delay_seconds: float = 0.05,
        spares: Sequence[str] = (),
        clns: Sequence[str] = (),
        barkds: Sequence[str] = (),
        waveds: Sequence[str] = (),
        fulmines: Sequence[str] = (),
    ) -> AsyncIterator["Simulation"]:
        """Runs until the block ends; port 0 takes any free one. Raises PortTaken, which names the port.

        Not `durable` (benchmarks): the nodes' writes go out in batches and a kill may forget the last.
        """
        async with contextlib.AsyncExitStack() as stack:
            network = Network(data_dir / "network.sqlite", durable=durable)
            stack.push_async_callback(network.close)
            gate = SimulatedNode(network, GATE, data_dir=data_dir, port=gate_port)
            payer = SimulatedNode(network, PAYER, data_dir=data_dir, port=payer_port)
            payer.habits.settle_delay_seconds = settle_delay_seconds
            others = [SimulatedNode(network, name, data_dir=data_dir) for name in spares]
            lightnings = [SimulatedCln(network, name, data_dir=data_dir) for name in clns]
            wallets = [SimulatedBarkd(network, name, data_dir=data_dir) for name in barkds]
            waves = [SimulatedWaved(network, name, data_dir=data_dir) for name in waveds]
            lightning_bolts = [SimulatedFulmine(network, name, data_dir=data_dir) for name in fulmines]
            for one in lightning_bolts:
                await stack.enter_async_context(one.boltz.running())
            network.resume()
            daemons: list[SimulatedDaemon] = [
                gate,
                payer,
                *others,
                *lightnings,
                *wallets,
                *waves,
                *lightning_bolts,
            ]
            for node in daemons:
                await node.start()
                stack.push_async_callback(node.stop)
            bound = await stack.enter_async_context(
                serving(rest(payer), port=payer_rest_port, purpose="the simulated payer's REST")
            )
            chat = SimulatedChat(log_path=chat_log, models=chat_models, api_key=chat_api_key)
            await stack.enter_async_context(chat.running(port=chat_port))
            yield cls(
                data_dir=data_dir,
                network=network,
                gate=gate,
                payer=payer,
                chat=chat,
                payer_rest_port=bound,
                spares=others,
                clns=lightnings,
                barkds=wallets,
                waveds=waves,
                fulmines=lightning_bolts,
            )
