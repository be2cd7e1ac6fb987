"""What a real LND says to the proof of permissions: it makes no invoice, and tells what is missing."""

from dataclasses import replace

import grpc
import pytest

from arkgate._proto.lnd import lightning_pb2, lightning_pb2_grpc
from arkgate.nodes.channel import NodeCredentials
from arkgate.nodes.lnd import LndNode
from arkgate.ports import Health
from arkgate.simulator.wallet import macaroon_hex, trust
from arkgate.store.clock import SystemClock
from tests.node.real import Pair, RealNode
from tests.stage import run

pytestmark = pytest.mark.node


async def health_of(node: RealNode) -> Health:
    credentials = NodeCredentials(node.address, node.tls_cert, node.macaroon)
    lnd = LndNode("gate", 7, credentials, SystemClock())
    try:
        return await lnd.health()
    finally:
        await lnd.close()


async def newest_add_index(node: RealNode) -> int:
    """The add_index of the newest invoice; 0 when there is none."""
    metadata = (("macaroon", macaroon_hex(node.macaroon)),)
    async with grpc.aio.secure_channel(node.address, trust(node.tls_cert)) as channel:
        request = lightning_pb2.ListInvoiceRequest(reversed=True, num_max_invoices=1)
        page = await lightning_pb2_grpc.LightningStub(channel).ListInvoices(request, metadata=metadata)
    return int(page.last_index_offset)


def test_health_proves_the_least_macaroon_and_makes_no_invoice(pair: Pair) -> None:
    before = run(newest_add_index(pair.node))
    health = run(health_of(pair.node))

    assert (health.ready, health.state) == (True, "ready")
    assert run(newest_add_index(pair.node)) == before


def test_health_names_what_a_readonly_macaroon_lacks(pair: Pair) -> None:
    readonly = pair.node.macaroon.with_name("readonly.macaroon")
    if not readonly.exists():
        pytest.skip("LND's readonly.macaroon is not beside the one that is used")
    health = run(health_of(replace(pair.node, macaroon=readonly)))

    assert (health.ready, health.state) == (False, "refused")
    assert "lacks invoices:write" in health.sentence
