"""A wallet that pays: over the payer's gRPC, as any program with its certificate and macaroon could."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from arkgate._proto.lnd import lightning_pb2, router_pb2, router_pb2_grpc

TIMEOUT_SECONDS = 60
REGTEST_PREFIX = "lnbcrt"


class PaymentFailed(Exception):  # noqa: N818
    """The payment did not succeed; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment that succeeded: the preimage is the payer's proof."""

    preimage: bytes
    payment_hash: bytes
    amount_msat: int
    fee_msat: int


async def pay(
    payment_request: str,
    *,
    address: str,
    tls_cert: Path,
    macaroon: Path,
    timeout_seconds: int = TIMEOUT_SECONDS,
) -> Paid:
    """Pays a regtest invoice and waits for the outcome. Raises PaymentFailed."""
    payment_request = payment_request.strip().lower().removeprefix("lightning:")
    if not payment_request.startswith(REGTEST_PREFIX):
        raise PaymentFailed("the simulated wallet pays regtest invoices (lnbcrt…) only")
    request = router_pb2.SendPaymentRequest(
        payment_request=payment_request, timeout_seconds=timeout_seconds, no_inflight_updates=True
    )
    metadata = (("macaroon", macaroon_hex(macaroon)),)
    async with grpc.aio.secure_channel(address, trust(tls_cert)) as channel:
        try:
            async for payment in router_pb2_grpc.RouterStub(channel).SendPaymentV2(
                request, metadata=metadata, timeout=timeout_seconds + 5
            ):
                if payment.status != lightning_pb2.Payment.IN_FLIGHT:
                    return _outcome(payment)
        except grpc.aio.AioRpcError as exc:
            raise PaymentFailed(f"the payer's node refused: {exc.details()}") from exc
    raise PaymentFailed("the payer's node said nothing of the payment's outcome")


def trust(tls_cert: Path) -> grpc.ChannelCredentials:
    """A channel that trusts this certificate and no other."""
    return grpc.ssl_channel_credentials(tls_cert.read_bytes())


def macaroon_hex(macaroon: Path) -> str:
    """A macaroon file as LND's metadata and REST headers carry it."""
    return macaroon.read_bytes().hex()


def _outcome(payment: lightning_pb2.Payment) -> Paid:
    if payment.status != lightning_pb2.Payment.SUCCEEDED:
        reason = lightning_pb2.PaymentFailureReason.Name(payment.failure_reason)
        raise PaymentFailed(f"the payment failed: {reason}")
    return Paid(
        preimage=bytes.fromhex(payment.payment_preimage),
        payment_hash=bytes.fromhex(payment.payment_hash),
        amount_msat=payment.value_msat,
        fee_msat=payment.fee_msat,
    )
