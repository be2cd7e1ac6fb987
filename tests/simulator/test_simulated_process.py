"""The simulation in a process of its own: what it prints, and what a kill leaves."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import grpc

from arkgate._proto.lnd import lightning_pb2, lightning_pb2_grpc
from arkgate.simulator import wallet


def _start(data_dir: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "arkgate.simulator", str(data_dir), "--settle-delay-seconds", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


async def _gate(places: dict[str, str], *, payment_hash: bytes | None) -> lightning_pb2.Invoice:
    """The invoice of that hash; without one, a new invoice that has been paid."""
    metadata = (("macaroon", wallet.macaroon_hex(Path(places["gate_macaroon"]))),)
    tls = wallet.trust(Path(places["gate_tls_cert"]))
    async with grpc.aio.secure_channel(places["gate_address"], tls) as channel:
        stub = lightning_pb2_grpc.LightningStub(channel)
        if payment_hash is None:
            added = await stub.AddInvoice(lightning_pb2.Invoice(value=50), metadata=metadata)
            payment_hash = added.r_hash
            await wallet.pay(
                added.payment_request,
                address=places["payer_address"],
                tls_cert=Path(places["payer_tls_cert"]),
                macaroon=Path(places["payer_macaroon"]),
            )
        return await stub.LookupInvoice(lightning_pb2.PaymentHash(r_hash=payment_hash), metadata=metadata)


def test_a_kill_forgets_nothing_and_a_stop_is_clean(tmp_path: Path) -> None:
    process, places = _start(tmp_path)
    paid = asyncio.run(_gate(places, payment_hash=None))
    process.kill()
    process.communicate()
    process, places = _start(tmp_path)
    found = asyncio.run(_gate(places, payment_hash=paid.r_hash))
    process.terminate()
    process.communicate()

    assert paid.state == lightning_pb2.Invoice.SETTLED
    assert found == paid
    assert process.returncode == 0
