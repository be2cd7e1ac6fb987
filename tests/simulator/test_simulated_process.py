"""The simulation in a process of its own: what a kill leaves."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc

from arkgate import settings
from arkgate._proto.lnd import lightning_pb2, lightning_pb2_grpc
from arkgate.cli.places import PLACES_FILE
from arkgate.simulator import wallet
from tests.cli.program import DEMO_OFFSETS
from tests.ports import free_port_base


def _start(data: Path, port_base: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "arkgate", "simulator"],
        env={**os.environ, "ARKGATE_DATA": str(data), "ARKGATE_PORT_BASE": str(port_base)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("simulating")
    return process


async def _gate(data: Path, *, payment_hash: bytes | None) -> lightning_pb2.Invoice:
    """The invoice of that hash; without one, a new invoice that has been paid."""
    node = settings.load(data / settings.DEFAULT_FILE).nodes[0]
    metadata = (("macaroon", wallet.macaroon_hex(node.files["macaroon_file"])),)
    async with grpc.aio.secure_channel(node.address, wallet.trust(node.files["tls_cert_file"])) as channel:
        stub = lightning_pb2_grpc.LightningStub(channel)
        if payment_hash is None:
            added = await stub.AddInvoice(lightning_pb2.Invoice(value=50), metadata=metadata)
            payment_hash = added.r_hash
            payer = json.loads((data / PLACES_FILE).read_text())
            await wallet.pay(
                added.payment_request,
                address=payer["payer_address"],
                tls_cert=Path(payer["payer_tls_cert"]),
                macaroon=Path(payer["payer_macaroon"]),
            )
        return await stub.LookupInvoice(lightning_pb2.PaymentHash(r_hash=payment_hash), metadata=metadata)


def test_a_kill_forgets_nothing_and_a_stop_is_clean(tmp_path: Path) -> None:
    port_base = free_port_base(DEMO_OFFSETS)
    process = _start(tmp_path, port_base)
    paid = asyncio.run(_gate(tmp_path, payment_hash=None))
    process.kill()
    process.communicate()
    process = _start(tmp_path, port_base)
    found = asyncio.run(_gate(tmp_path, payment_hash=paid.r_hash))
    process.terminate()
    process.communicate()

    assert paid.state == lightning_pb2.Invoice.SETTLED
    assert found == paid
    assert process.returncode == 0
