"""Payments between the simulated nodes: what the payer learns, what the payee notes, what is refused."""

import asyncio
import hashlib
from pathlib import Path

import grpc
import httpx
import pytest
from coincurve import PrivateKey
from l402_requests.wallets.lnd import LndWallet

from arkgate._proto.lnd import lightning_pb2, router_pb2
from arkgate.simulator import wallet
from arkgate.simulator.payment_request import PaymentRequest, sign
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from tests.simulator.simulated import Client, Invoice, client_of, is_open, refusal, run, settlement

Payment = lightning_pb2.Payment


def test_a_payment_settles_the_invoice_and_reveals_the_preimage(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add(memo="call")
        paid = await simulation.pay(added.payment_request)
        found = await gate.look_up(added.r_hash)

        assert hashlib.sha256(paid.preimage).digest() == paid.payment_hash == added.r_hash
        assert (paid.amount_msat, paid.fee_msat) == (50_000, 0)
        assert (found.state, found.amt_paid_msat, found.settle_index) == (Invoice.SETTLED, 50_000, 1)
        assert found.settle_date >= found.creation_date

    run(tmp_path, story)


def test_an_overpayment_is_noted_as_it_arrived_and_an_underpayment_fails(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.payer.habits.overpay_msat = 7_000
        more = await gate.add()
        await simulation.pay(more.payment_request)
        simulation.payer.habits.overpay_msat = -1
        less = await gate.add()

        assert (await gate.look_up(more.r_hash)).amt_paid_msat == 57_000
        with pytest.raises(PaymentFailed, match="INCORRECT_PAYMENT_DETAILS"):
            await simulation.pay(less.payment_request)
        assert (await gate.look_up(less.r_hash)).state == Invoice.OPEN

    run(tmp_path, story)


def test_what_cannot_be_paid_fails_as_with_lnd(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        paid, canceled, expired = [await gate.add(expiry=60) for _ in range(3)]
        await simulation.pay(paid.payment_request)
        simulation.gate.cancel(canceled.r_hash)

        with pytest.raises(PaymentFailed, match="invoice is already paid"):
            await simulation.pay(paid.payment_request)
        with pytest.raises(PaymentFailed, match="FAILURE_REASON_INCORRECT_PAYMENT_DETAILS"):
            await simulation.pay(canceled.payment_request)
        simulation.skip_seconds(61)
        with pytest.raises(PaymentFailed, match=r"invoice expired\. Valid until 20"):
            await simulation.pay(expired.payment_request)
        with pytest.raises(PaymentFailed, match="not a BOLT11 invoice"):
            await simulation.pay("lnbcrt1nonsense")
        with pytest.raises(PaymentFailed, match="regtest"):
            await simulation.pay("lnbc500n1nonsense")

    run(tmp_path, story)


def test_a_payment_that_nobody_expects_fails(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        wish = PaymentRequest(
            payment_hash=b"h" * 32,
            payment_secret=b"s" * 32,
            amount_msat=1_000,
            description="",
            created_at=int(simulation.network.now()),
            expiry_seconds=60,
            cltv_expiry=80,
        )
        with pytest.raises(PaymentFailed, match="FAILURE_REASON_INCORRECT_PAYMENT_DETAILS"):
            await simulation.pay(sign(wish, simulation.gate.peer.key))
        with pytest.raises(PaymentFailed, match="FAILURE_REASON_NO_ROUTE"):
            await simulation.pay(sign(wish, PrivateKey(b"k" * 32)))

    run(tmp_path, story)


def test_a_payment_goes_on_when_its_payer_stops_listening(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add()
        async with client_of(simulation.payer) as payer:
            request = router_pb2.SendPaymentRequest(payment_request=added.payment_request)
            stream = payer.router.SendPaymentV2(request, metadata=payer.metadata)
            begun = await stream.read()
            stream.cancel()
            again = payer.router.SendPaymentV2(request, metadata=payer.metadata)
            assert await refusal(again.read()) == (
                grpc.StatusCode.ALREADY_EXISTS,
                "payment is in transition",
            )
            tracked = payer.router.TrackPaymentV2(
                router_pb2.TrackPaymentRequest(payment_hash=added.r_hash), metadata=payer.metadata
            )
            outcome = await tracked.read()

        assert isinstance(begun, Payment)
        assert isinstance(outcome, Payment)
        assert begun.status == Payment.IN_FLIGHT
        assert outcome.status == Payment.SUCCEEDED
        assert (await gate.look_up(added.r_hash)).state == Invoice.SETTLED

    run(tmp_path, story, settle_delay_seconds=0.2)


def test_the_payer_may_have_the_preimage_before_the_payee_reports_the_settlement(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.settlement_lag_seconds = 0.15
        added = await gate.add()
        await simulation.pay(added.payment_request)
        before = await gate.look_up(added.r_hash)
        await asyncio.sleep(0.25)

        assert before.state == Invoice.OPEN
        assert (await gate.look_up(added.r_hash)).state == Invoice.SETTLED

    run(tmp_path, story)


def test_a_payment_in_parts_is_held_until_all_have_come_and_settles_once(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.payer.habits.parts = 3
        simulation.payer.habits.settle_delay_seconds = 0.1
        stream = gate.subscribe()
        await is_open(simulation)
        added = await gate.add(value_msat=50_000)
        payment = asyncio.create_task(simulation.pay(added.payment_request))
        held = await gate.look_up(added.r_hash)
        while not held.htlcs:
            held = await gate.look_up(added.r_hash)
        await payment
        told = await settlement(stream)

        assert (held.state, held.amt_paid_msat) == (Invoice.OPEN, 0)
        assert held.htlcs[0].state == lightning_pb2.ACCEPTED
        assert [(part.amt_msat, part.state) for part in told.htlcs] == [
            (16_668, lightning_pb2.SETTLED),
            (16_666, lightning_pb2.SETTLED),
            (16_666, lightning_pb2.SETTLED),
        ]
        assert (told.r_hash, told.amt_paid_msat) == (added.r_hash, 50_000)

    run(tmp_path, story)


def test_invoices_payments_and_keys_outlive_the_process(tmp_path: Path) -> None:
    kept: list[bytes] = []

    async def before(simulation: Simulation, gate: Client) -> None:
        paid, under_way, lagging = [await gate.add() for _ in range(3)]
        await simulation.pay(paid.payment_request)
        simulation.gate.habits.settlement_lag_seconds = 60
        await simulation.pay(lagging.payment_request)
        simulation.payer.habits.settle_delay_seconds = 60
        simulation.network.pay(simulation.payer.peer, under_way.payment_request)
        kept.extend((paid.r_hash, under_way.r_hash, lagging.r_hash, gate.metadata[0][1].encode()))

    async def after(simulation: Simulation, gate: Client) -> None:
        await asyncio.sleep(0.2)
        states = [(await gate.look_up(payment_hash)).state for payment_hash in kept[:3]]

        assert states == [Invoice.SETTLED] * 3
        assert gate.metadata[0][1].encode() == kept[3]
        assert (await gate.add()).add_index == 4

    run(tmp_path, before)
    run(tmp_path, after)


def test_rest_pays_line_by_line_and_checks_its_macaroon(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add()
        headers = {"Grpc-Metadata-macaroon": simulation.payer_macaroon_hex}
        readonly = simulation.payer.credentials.readonly_macaroon.read_bytes().hex()
        async with httpx.AsyncClient(base_url=simulation.payer_rest_url) as client:
            wish = {"payment_request": added.payment_request, "timeout_seconds": 60}
            unarmed = await client.post("/v2/router/send", json=wish)
            denied = await client.post(
                "/v2/router/send", json=wish, headers={"Grpc-Metadata-macaroon": readonly}
            )
            answer = await client.post("/v2/router/send", json=wish, headers=headers)
            again = await client.post("/v2/router/send", json=wish, headers=headers)
            information = await client.get("/v1/getinfo", headers=headers)
        first, last = [httpx.Response(200, text=line).json()["result"] for line in answer.text.splitlines()]

        assert unarmed.json()["error"]["message"] == "expected 1 macaroon, got 0"
        assert denied.json()["error"]["message"] == "permission denied"
        assert (first["status"], last["status"]) == ("IN_FLIGHT", "SUCCEEDED")
        assert hashlib.sha256(bytes.fromhex(last["payment_preimage"])).digest() == added.r_hash
        assert (last["value_msat"], last["fee_msat"]) == ("50000", "0")
        assert (again.status_code, again.json()["error"]["message"]) == (409, "invoice is already paid")
        assert information.json()["chains"][0]["network"] == "regtest"

    run(tmp_path, story)


def test_l402_requests_pays_over_rest(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add()
        payer = LndWallet(simulation.payer_rest_url, simulation.payer_macaroon_hex)
        await payer.pay_invoice(added.payment_request)

        assert (await gate.look_up(added.r_hash)).state == Invoice.SETTLED

    run(tmp_path, story)


def test_the_wallet_says_why_it_could_not_reach_the_payer(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        added = await gate.add()
        await simulation.payer.stop()
        with pytest.raises(PaymentFailed, match="the payer's node refused"):
            await wallet.pay(
                added.payment_request,
                address=simulation.payer.address,
                tls_cert=simulation.payer.credentials.tls_cert,
                macaroon=simulation.payer.credentials.admin_macaroon,
                timeout_seconds=1,
            )

    run(tmp_path, story)
