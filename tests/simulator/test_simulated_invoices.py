"""Invoices of a simulated LND: what their text says, what is refused, how they end and are listed."""

import hashlib
from pathlib import Path

import bolt11
import grpc
import pytest
from coincurve import PrivateKey

from arkgate.simulator.habits import Lie
from arkgate.simulator.payment_request import PaymentRequest, UnreadableRequest, read, sign
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import PaymentFailed
from tests.simulator.simulated import Client, Invoice, refusal, run

UNKNOWN = grpc.StatusCode.UNKNOWN


def test_an_issued_invoice_decodes_to_what_was_asked(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        answer = await gate.add(value_msat=123_456, memo="zwölf Anrufe", expiry=600)
        decoded = bolt11.decode(answer.payment_request)

        assert answer.payment_request.startswith("lnbcrt")
        assert decoded.amount_msat == 123_456
        assert decoded.payment_hash == answer.r_hash.hex()
        assert decoded.payment_secret == answer.payment_addr.hex()
        assert decoded.description == "zwölf Anrufe"
        assert decoded.expiry == 600
        assert decoded.min_final_cltv_expiry == 80
        assert decoded.payee == simulation.gate.public_key
        assert decoded.features is not None
        assert decoded.features.readable == {
            "var_onion_optin": "required",
            "payment_secret": "required",
            "basic_mpp": "supported",
        }

    run(tmp_path, story)


@pytest.mark.parametrize(
    "amount_msat", [0, 1, 10, 99, 1000, 50_000, 100_000, 123_456_789, 100_000_000_000, 250_000_000_000]
)
def test_every_amount_survives_its_text(amount_msat: int) -> None:
    request = PaymentRequest(
        payment_hash=bytes(range(32)),
        payment_secret=bytes(32),
        amount_msat=amount_msat,
        description="",
        created_at=1_700_000_000,
        expiry_seconds=3600,
        cltv_expiry=80,
        description_hash=hashlib.sha256(b"menu").digest(),
    )
    found = read(sign(request, PrivateKey(b"k" * 32)))

    assert found.amount_msat == amount_msat
    assert found.description_hash == request.description_hash
    assert found.expires_at == request.expires_at


def test_a_broken_text_is_refused() -> None:
    for text in ("", "lnbcrt1", "lnbcrt500n1pqqqq", "hello"):
        with pytest.raises(UnreadableRequest):
            read(text)


def test_a_lookup_of_an_unknown_hash_is_not_found(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        assert await refusal(gate.look_up(b"\1" * 32)) == (
            grpc.StatusCode.NOT_FOUND,
            "unable to locate invoice",
        )

    run(tmp_path, story)


def test_an_invoice_is_looked_up_as_it_was_asked_for(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        preimage = b"p" * 32
        added = await gate.add(value=7, memo="seven", expiry=60, r_preimage=preimage)
        found = await gate.look_up(added.r_hash)

        assert found.r_hash == hashlib.sha256(preimage).digest()
        assert (found.value_msat, found.memo, found.expiry) == (7_000, "seven", 60)
        assert (found.add_index, found.settle_index, found.state) == (1, 0, Invoice.OPEN)
        assert found.payment_request == added.payment_request
        assert (await gate.add(expiry=0)).add_index == 2

    run(tmp_path, story)


def test_what_lnd_refuses_is_refused(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        await gate.add(r_preimage=b"p" * 32)

        assert await refusal(gate.add(r_preimage=b"p" * 32)) == (
            UNKNOWN,
            "invoice with payment hash already exists",
        )
        assert (await refusal(gate.add(memo="x" * 640)))[1] == "memo too large: 640 bytes (maxsize=639)"
        assert "greater than max expiry" in (await refusal(gate.add(expiry=366 * 86_400)))[1]
        assert "negative" in (await refusal(gate.add(value_msat=-1)))[1]
        assert "mutually exclusive" in (await refusal(gate.add(value=-1, value_msat=-1)))[1]
        assert len(simulation.gate.peer.invoices) == 1

    run(tmp_path, story)


def test_an_expired_invoice_is_canceled_and_then_collected(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        short = await gate.add(expiry=60)
        long = await gate.add(expiry=3600)
        simulation.skip_seconds(61)

        assert (await gate.look_up(short.r_hash)).state == Invoice.CANCELED
        assert (await gate.look_up(long.r_hash)).state == Invoice.OPEN
        assert simulation.gate.collect_garbage() == 1
        assert (await refusal(gate.look_up(short.r_hash)))[0] == grpc.StatusCode.NOT_FOUND
        assert [found.r_hash for found in (await gate.list_invoices()).invoices] == [long.r_hash]

    run(tmp_path, story)


def test_lists_come_in_pages_both_ways(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        for _ in range(5):
            await gate.add()
        first = await gate.list_invoices(num_max_invoices=2)
        second = await gate.list_invoices(num_max_invoices=2, index_offset=first.last_index_offset)
        newest = await gate.list_invoices(num_max_invoices=2, reversed=True)
        before = await gate.list_invoices(
            num_max_invoices=2, reversed=True, index_offset=newest.first_index_offset
        )

        assert [found.add_index for found in first.invoices] == [1, 2]
        assert [found.add_index for found in second.invoices] == [3, 4]
        assert [found.add_index for found in newest.invoices] == [4, 5]
        assert [found.add_index for found in before.invoices] == [2, 3]

    run(tmp_path, story)


def test_offsets_are_exclusive_and_zero_is_the_newest_when_reversed(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        empty = await gate.list_invoices(reversed=True)
        for _ in range(3):
            await gate.add()

        async def listed(offset: int, *, backwards: bool) -> list[int]:
            page = await gate.list_invoices(index_offset=offset, reversed=backwards)
            return [found.add_index for found in page.invoices]

        assert (empty.first_index_offset, empty.last_index_offset) == (0, 0)
        assert await listed(0, backwards=True) == [1, 2, 3]
        assert await listed(3, backwards=True) == [1, 2]
        assert await listed(1, backwards=True) == []
        assert await listed(99, backwards=True) == [1, 2, 3]
        assert await listed(2, backwards=False) == [3]
        assert await listed(3, backwards=False) == []
        page = await gate.list_invoices(num_max_invoices=2, reversed=True)
        assert (page.first_index_offset, page.last_index_offset) == (2, 3)

    run(tmp_path, story)


def test_a_list_from_a_date_reads_all_that_is_older_and_a_page_backwards_does_not(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.fill_with_old_invoices(2_000, age_seconds=30 * 86_400)
        await gate.add()
        since = int(simulation.network.now()) - 3600
        dated = await gate.list_invoices(creation_date_start=since)
        read_forwards, simulation.gate.invoices_read = simulation.gate.invoices_read, 0
        newest = await gate.list_invoices(num_max_invoices=10, reversed=True)

        assert [found.add_index for found in dated.invoices] == [2_001]
        assert read_forwards == 2_001
        assert [found.add_index for found in newest.invoices] == list(range(1_992, 2_002))
        assert simulation.gate.invoices_read == 10
        assert newest.invoices[0].state == Invoice.SETTLED

    run(tmp_path, story, durable=False)


def test_a_node_filled_with_old_invoices_goes_on_counting_also_after_a_restart(tmp_path: Path) -> None:
    async def filled(simulation: Simulation, gate: Client) -> None:
        paid = await gate.add()
        await simulation.pay(paid.payment_request)
        simulation.gate.fill_with_old_invoices(700, age_seconds=86_400)
        paid = await gate.add()
        await simulation.pay(paid.payment_request)

        assert (await gate.look_up(paid.r_hash)).add_index == 702
        assert (await gate.look_up(paid.r_hash)).settle_index == 702

    async def after(simulation: Simulation, gate: Client) -> None:
        assert (await gate.add()).add_index == 703
        page = await gate.list_invoices(num_max_invoices=1, reversed=True, index_offset=702)
        assert page.invoices[0].memo == "another shop's order 701"

    run(tmp_path, filled)
    run(tmp_path, after)


def test_a_node_whose_clock_is_off_dates_and_ends_invoices_by_it(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.clock_off_seconds = 3600
        ahead = await gate.look_up((await gate.add(expiry=60)).r_hash)
        simulation.gate.habits.clock_off_seconds = -3600
        behind = await gate.look_up((await gate.add(expiry=60)).r_hash)
        now = simulation.network.now()

        assert ahead.creation_date - now == pytest.approx(3600, abs=5)
        assert behind.creation_date - now == pytest.approx(-3600, abs=5)
        assert behind.state == Invoice.OPEN
        with pytest.raises(PaymentFailed, match="invoice expired"):
            await simulation.pay(behind.payment_request)

    run(tmp_path, story)


def test_lists_are_limited_by_state_and_creation_date(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        paid = await gate.add()
        await simulation.pay(paid.payment_request)
        simulation.skip_seconds(100)
        late = await gate.add()
        created = (await gate.look_up(late.r_hash)).creation_date
        pending = await gate.list_invoices(pending_only=True)
        since = await gate.list_invoices(creation_date_start=created)
        until = await gate.list_invoices(creation_date_end=created - 1)

        assert [found.r_hash for found in pending.invoices] == [late.r_hash]
        assert [found.r_hash for found in since.invoices] == [late.r_hash]
        assert [found.r_hash for found in until.invoices] == [paid.r_hash]

    run(tmp_path, story)


def test_a_lying_node_answers_another_hash_amount_or_network(tmp_path: Path) -> None:
    async def story(simulation: Simulation, gate: Client) -> None:
        simulation.gate.habits.lie = Lie.PAYMENT_HASH
        other_hash = await gate.add()
        simulation.gate.habits.lie = Lie.AMOUNT
        other_amount = await gate.add()
        simulation.gate.habits.lie = Lie.NETWORK
        other_network = await gate.add()

        assert bolt11.decode(other_hash.payment_request).payment_hash != other_hash.r_hash.hex()
        assert bolt11.decode(other_amount.payment_request).amount_msat == 51_000
        assert bolt11.decode(other_network.payment_request).is_mainnet()

    run(tmp_path, story)
