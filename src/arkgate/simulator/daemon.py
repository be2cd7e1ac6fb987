"""What every simulated node is, whatever it speaks, and what those have in common that speak gRPC."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NoReturn

import grpc

from arkgate.simulator.habits import Habits
from arkgate.simulator.network import Network, Refused
from arkgate.simulator.records import InvoiceRow
from arkgate.simulator.serving import LOOPBACK, PortTaken

PINGS_SECONDS = 5
"""LND answers pings that come every 5 seconds while a call is open, and hangs up on faster ones."""

Context = grpc.aio.ServicerContext[Any, Any]


class SimulatedDaemon(ABC):
    """One simulated node. Turn `habits` while it runs; `stop` and `start` are a restart of the daemon."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        self.network = network
        self.name = name
        self.data_dir = data_dir / name
        self.peer = network.join(name)
        self.port = port

    @abstractmethod
    async def start(self) -> None:
        """Listens; after `stop`, on the same port. Raises PortTaken."""

    @abstractmethod
    async def stop(self) -> None:
        """Stops listening and breaks every call; invoices and payments stay."""

    @property
    @abstractmethod
    def open_streams(self) -> int:
        """How many calls wait for settlements."""

    @abstractmethod
    def cut_streams(self) -> int:
        """Breaks every call that waits for settlements; answers how many."""

    @property
    def habits(self) -> Habits:
        """The node's switches."""
        return self.peer.habits

    @property
    def address(self) -> str:
        """Where it listens: host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def public_key(self) -> str:
        """The node's identity, hex."""
        return self.peer.public_key

    @property
    def received_msat(self) -> int:
        """What came over its channels and was not taken away."""
        received = sum(row.paid_msat for row in self.peer.invoices.values() if row.settled)
        return max(0, received - self.habits.taken_away_msat)

    def fill_with_old_invoices(self, count: int, *, age_seconds: float) -> None:
        """Many settled invoices of somebody else, made that long ago."""
        self.network.fill(self.peer, count, created_at=int(self.network.now_at(self.peer) - age_seconds))

    def cancel(self, payment_hash: bytes) -> None:
        """Cancels an open invoice."""
        self.network.cancel(self.peer, payment_hash)

    def add_foreign_invoice(self, amount_msat: int, *, memo: str = "another shop's order 7") -> InvoiceRow:
        """An invoice that another application made on this node."""
        return self.network.add_invoice(self.peer, amount_msat=amount_msat, memo=memo)

    def receive_keysend(self, amount_msat: int, *, memo: str = "") -> InvoiceRow:
        """A payment that came without an invoice."""
        return self.network.receive_keysend(self.peer, amount_msat=amount_msat, memo=memo)

    def invoice(self, payment_hash: bytes) -> InvoiceRow | None:
        """The node's own record of an invoice."""
        return self.peer.invoice(payment_hash)


class GrpcDaemon(SimulatedDaemon):
    """A node that speaks gRPC, over TLS unless it has none."""

    pings_seconds: float = PINGS_SECONDS
    """Who pings more often than that is hung up on."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self._server: grpc.aio.Server | None = None

    @abstractmethod
    def add_services(self, server: grpc.aio.Server) -> None:
        """Puts the daemon's services on the server that `start` makes."""

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """The TLS of the daemon, as its files are now; None: plain text."""
        return None

    def renew_certificate(self) -> None:
        """Makes the TLS files anew; they are shown after the next start."""
        raise NotImplementedError(f"{self.name} has no TLS")

    async def start(self) -> None:
        """Listens; after `stop`, on the same port with the TLS files as they are. Raises PortTaken."""
        server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", int(self.pings_seconds * 1000)),
                ("grpc.keepalive_permit_without_calls", 0),
            )
        )
        self.add_services(server)
        try:
            tls = self.server_credentials()
            self.port = (
                server.add_insecure_port(self.address)
                if tls is None
                else server.add_secure_port(self.address, tls)
            )
        except RuntimeError as exc:
            raise PortTaken(self.port, f"the simulated {self.name} node") from exc
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stops listening and breaks every call; invoices and payments stay."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None


def macaroons_of(context: Context) -> list[str]:
    """The macaroons that came with a call."""
    return [
        value if isinstance(value, str) else value.decode("ascii", "replace")
        for key, value in context.invocation_metadata() or ()
        if key == "macaroon"
    ]


async def abort(context: Context, refused: Refused) -> NoReturn:
    """Ends a call as a node refuses it."""
    await context.abort(refused.code, refused.text)
    raise AssertionError("abort raises")


async def leave(node: SimulatedDaemon, method: str, context: Context) -> None:
    """Loses the answer of a call that was carried out, when a test asked for that."""
    if method in node.habits.lost_answers:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
