"""What the simulator's tests share: a simulation in a temporary directory and clients of its nodes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from arkgate._proto.lnd import (
    lightning_pb2,
    lightning_pb2_grpc,
    router_pb2_grpc,
    stateservice_pb2_grpc,
    verrpc_pb2_grpc,
)
from arkgate.simulator.lnd import SimulatedNode
from arkgate.simulator.simulation import Simulation

Invoice = lightning_pb2.Invoice


class Client:
    """The stubs of one node and a macaroon to call them with."""

    def __init__(self, channel: grpc.aio.Channel, macaroon: bytes) -> None:
        self.lightning = lightning_pb2_grpc.LightningStub(channel)
        self.router = router_pb2_grpc.RouterStub(channel)
        self.state = stateservice_pb2_grpc.StateStub(channel)
        self.versioner = verrpc_pb2_grpc.VersionerStub(channel)
        self.metadata = (("macaroon", macaroon.hex()),)

    async def add(self, **fields: Any) -> lightning_pb2.AddInvoiceResponse:
        if "value" not in fields:
            fields.setdefault("value_msat", 50_000)
        return await self.lightning.AddInvoice(Invoice(**fields), metadata=self.metadata)

    async def look_up(self, payment_hash: bytes) -> lightning_pb2.Invoice:
        request = lightning_pb2.PaymentHash(r_hash=payment_hash)
        return await self.lightning.LookupInvoice(request, metadata=self.metadata)

    async def list_invoices(self, **fields: Any) -> lightning_pb2.ListInvoiceResponse:
        request = lightning_pb2.ListInvoiceRequest(**fields)
        return await self.lightning.ListInvoices(request, metadata=self.metadata)

    def subscribe(self, **fields: Any) -> Any:
        request = lightning_pb2.InvoiceSubscription(**fields)
        return self.lightning.SubscribeInvoices(request, metadata=self.metadata)


@contextlib.asynccontextmanager
async def client_of(node: SimulatedNode, macaroon: bytes | None = None) -> AsyncIterator[Client]:
    tls = grpc.ssl_channel_credentials(node.credentials.tls_cert.read_bytes())
    async with grpc.aio.secure_channel(node.address, tls) as channel:
        yield Client(channel, macaroon or node.credentials.admin_macaroon.read_bytes())


def run(data_dir: Path, story: Callable[[Simulation, Client], Awaitable[None]], **options: Any) -> None:
    """Runs a story against a fresh simulation and a client of the gate's node."""

    async def play() -> None:
        options.setdefault("settle_delay_seconds", 0.001)
        async with contextlib.AsyncExitStack() as stack:
            simulation = await stack.enter_async_context(Simulation.running(data_dir=data_dir, **options))
            gate = await stack.enter_async_context(client_of(simulation.gate))
            await story(simulation, gate)

    asyncio.run(asyncio.wait_for(play(), 20))


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The code and the text that a call fails with."""
    try:
        await call
    except grpc.aio.AioRpcError as exc:
        return exc.code(), exc.details() or ""
    raise AssertionError("the call was not refused")


async def settlement(stream: Any, timeout_seconds: float = 3) -> lightning_pb2.Invoice:
    """The next settled invoice of a subscription."""
    while True:
        invoice: lightning_pb2.Invoice = await asyncio.wait_for(stream.read(), timeout_seconds)
        assert isinstance(invoice, Invoice), "the stream ended"
        if invoice.state == Invoice.SETTLED:
            return invoice


async def is_open(simulation: Simulation, streams: int = 1) -> None:
    """Waits until the gate's node serves that many subscriptions."""
    while simulation.gate.open_streams < streams:  # noqa: ASYNC110  seen from outside the node
        await asyncio.sleep(0.005)
