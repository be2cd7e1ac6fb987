"""Sessions with an Ark address: whichever way is paid, however often, each payment is credited once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.gateway.node_stories import has
from tests.stage import MODEL, Stage, eventually, run, staged

from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation

pytestmark = pytest.mark.usefixtures("short_pauses")
Story = Callable[[Stage, SimulatedBarkd], Awaitable[None]]


def play(tmp_path: Path, story: Story, *, with_lnd: bool = True, extra: dict[str, str] | None = None) -> None:
    """Runs a story with an LND for invoices and a barkd for addresses; the books are sound after it."""

    async def played() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, barkds=("ark",)
        ) as simulation:
            (barkd,) = simulation.barkds
            nodes = [simulation.gate, barkd] if with_lnd else [barkd]
            async with staged(tmp_path, simulation=simulation, nodes=nodes, extra=extra) as stage:
                await story(stage, barkd)
                assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


async def session(stage: Stage, amount_sats: int = 500) -> tuple[dict[str, str], dict[str, Any]]:
    """A new session's token as a header, and its answer."""
    answer = await stage.http.post("/v1/sessions", json={"amount_sats": amount_sats})
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}, answer.json()


async def status(stage: Stage, opened: dict[str, Any]) -> dict[str, Any]:
    answer = (await stage.http.get(f"/v1/sessions/{opened['session_id']}")).json()
    assert isinstance(answer, dict)
    return answer


def test_a_session_offers_an_invoice_of_one_node_and_an_address_of_another(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        _, opened = await session(stage)
        funding = opened["funding"]
        uri = urlsplit(funding["bip321"])

        assert funding["ark_address"] in barkd.wallet.purse.addresses.values()
        assert stage.simulation.gate.invoice(bytes.fromhex(funding["payment_hash"])) is not None
        assert (uri.scheme, uri.path) == ("bitcoin", "")
        assert parse_qs(uri.query) == {
            "amount": ["0.00000500"],
            "ark": [funding["ark_address"]],
            "lightning": [funding["lightning_invoice"]],
        }
        told = await status(stage, opened)
        assert told["funding"] == funding
        assert (told["status"], told["amount_sats"], told["balance_sats"]) == ("awaiting_payment", 500, 0)

    play(tmp_path, story)


def test_an_ark_payment_activates_the_session_and_both_ways_are_credited(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, opened = await session(stage)
        barkd.wallet.pay_ark(opened["funding"]["ark_address"], 500)
        await has(stage, token, 500)
        assert (await status(stage, opened))["status"] == "active"
        assert (await stage.chat(token)).status_code == 200

        await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        await has(stage, token, 950)
        barkd.wallet.pay_ark(opened["funding"]["ark_address"], 7)
        await has(stage, token, 957)
        lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
        assert [line["kind"] for line in lines] == ["credit", "charge", "credit", "credit"]

    play(tmp_path, story)


def test_a_payment_above_the_cap_waits_for_its_round_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.ark.WAITING_PAUSE_MS", 50)
    monkeypatch.setattr("arkgate.gateway.pace.LOOK_UP_PAUSE_MS_MAX", 200)

    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, opened = await session(stage, 900_000)
        barkd.wallet.pay_ark(opened["funding"]["ark_address"], 900_000)

        async def waits() -> bool:
            return bool((await status(stage, opened))["status"] == "awaiting_finality")

        await eventually(waits)
        assert (await status(stage, opened))["waiting_sats"] == 900_000
        assert (await stage.balance(token))["balance_sats"] == 0
        assert (await stage.chat(token)).status_code == 402
        barkd.wallet.hold_round()
        await has(stage, token, 900_000)
        assert (await status(stage, opened))["status"] == "active"
        assert "waiting_sats" not in await status(stage, opened)

    play(tmp_path, story)


def test_payments_in_every_gap_are_credited_once(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, opened = await session(stage)
        address = opened["funding"]["ark_address"]
        await barkd.stop()
        barkd.wallet.pay_ark(address, 10)
        await barkd.start()
        await has(stage, token, 10)
        barkd.stop_server()
        barkd.start_server()
        barkd.wallet.pay_ark(address, 20)
        await has(stage, token, 30)
        barkd.ark.notifications_lost = True
        barkd.wallet.pay_ark(address, 40)
        await has(stage, token, 70)

    play(tmp_path, story)


def test_a_coin_that_is_delivered_again_with_a_new_one_is_not_credited_again(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, opened = await session(stage)
        address = opened["funding"]["ark_address"]
        (large,) = barkd.wallet.pay_ark(address, 50_000)
        await has(stage, token, 50_000)
        barkd.wallet.pay_ark(address, 1, resent=[large])
        await has(stage, token, 50_001)

    play(tmp_path, story)


def test_either_way_is_offered_alone_while_the_other_is_away(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        await barkd.stop()
        _, by_lightning = await session(stage)
        assert by_lightning["funding"]["ark_address"] is None
        assert "ark" not in parse_qs(urlsplit(by_lightning["funding"]["bip321"]).query)
        await barkd.start()

        async def given() -> bool:
            return bool((await session(stage))[1]["funding"]["ark_address"])

        await eventually(given)
        await stage.simulation.gate.stop()
        barkd.ark.has_lightning = False
        token, by_ark = await session(stage)
        assert (by_ark["funding"]["lightning_invoice"], by_ark["funding"]["payment_hash"]) == (None, None)
        barkd.wallet.pay_ark(by_ark["funding"]["ark_address"], 500)
        await has(stage, token, 500)
        assert (await status(stage, by_ark))["status"] == "active"

    play(tmp_path, story, extra={"[limits]": "sessions_per_hour_and_client = 1000"})


def test_an_address_that_was_given_out_before_is_offered_to_nobody_else(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, first = await session(stage)
        barkd.wallet.purse.begins_again = True
        _, second = await session(stage)
        barkd.wallet.pay_ark(first["funding"]["ark_address"], 500)
        await has(stage, token, 500)

        assert second["funding"]["ark_address"] is None
        assert second["funding"]["lightning_invoice"]

    play(tmp_path, story)


def test_a_top_up_may_be_paid_to_an_address_too(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        token, opened = await session(stage)
        barkd.wallet.pay_ark(opened["funding"]["ark_address"], 60)
        await has(stage, token, 60)
        top_up = (await stage.http.post("/v1/topups", json={"amount_sats": 40}, headers=token)).json()
        assert top_up["funding"]["ark_address"] not in (None, opened["funding"]["ark_address"])
        barkd.wallet.pay_ark(top_up["funding"]["ark_address"], 40)
        await has(stage, token, 100)

    play(tmp_path, story)


def test_without_lightning_calls_are_sold_to_funded_tokens_and_the_402_says_so(tmp_path: Path) -> None:
    async def story(stage: Stage, barkd: SimulatedBarkd) -> None:
        barkd.ark.has_lightning = False
        refused = await stage.chat()
        assert refused.status_code == 402
        assert "www-authenticate" not in refused.headers
        body = refused.json()
        assert (body["code"], body["price_sats"]) == ("funded_token_required", 50)
        assert body["next"][0]["do"] == "fund_token"
        token, opened = await session(stage)
        assert opened["funding"]["lightning_invoice"] is None
        barkd.wallet.pay_ark(opened["funding"]["ark_address"], 500)
        await has(stage, token, 500)
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story, with_lnd=False, extra={"[[nodes]]": "lightning = false"})
