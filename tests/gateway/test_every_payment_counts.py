"""Payments: whoever reports them, whatever is lost, each one is credited exactly once."""

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import grpc
import httpx
import pytest
from tests.stage import MODEL, Credential, Stage, eventually, play, run, staged

from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store


async def open_session(stage: Stage, amount_sats: int = 500) -> tuple[dict[str, str], str]:
    """A session that waits: its token's header and its invoice."""
    body = (await stage.http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
    return {"Authorization": f"Bearer {body['token']}"}, body["funding"]["lightning_invoice"]


async def challenge(stage: Stage) -> dict[str, str]:
    """The body of a fresh challenge."""
    body: dict[str, str] = (await stage.chat()).json()
    return body


async def pay(stage: Stage, offer: Mapping[str, str]) -> Credential:
    paid = await stage.simulation.pay(offer["invoice"])
    return Credential(offer["macaroon"], paid.preimage.hex(), offer["invoice"])


async def has(stage: Stage, header: Mapping[str, str], sats: int, *, seconds: float = 10) -> None:
    """Waits until the account has so much, and it stays so."""

    async def enough() -> bool:
        return bool((await stage.balance(header)).get("balance_sats") == sats)

    await eventually(enough, seconds)


async def credited_sats(stage: Stage) -> int:
    """Everything that was ever credited, from the books."""
    async with read_store(stage.settings.store_url) as statements:
        return (await statements.totals()).credited // 1000


async def credited(stage: Stage, sats: int) -> None:
    async def so_much() -> bool:
        return await credited_sats(stage) >= sats

    await eventually(so_much)
    assert await credited_sats(stage) == sats


async def streaming(stage: Stage) -> None:
    async def is_open() -> bool:
        return stage.simulation.gate.open_streams > 0

    await eventually(is_open)


def test_payments_made_while_the_gateway_was_stopped_are_credited_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(tmp_path, simulation=simulation) as stage:
                token, invoice = await open_session(stage)
                come_back, forgotten = await challenge(stage), await challenge(stage)
            await simulation.pay(invoice)
            paid = await simulation.pay(come_back["invoice"])
            await simulation.pay(forgotten["invoice"])

            async with staged(tmp_path, simulation=simulation) as stage:
                await has(stage, token, 500)
                credential = Credential(come_back["macaroon"], paid.preimage.hex(), "")
                assert (await stage.chat(credential.header)).status_code == 200
                await credited(stage, 600)
                assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


def test_payments_made_while_the_stream_was_cut_are_credited(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token, invoice = await open_session(stage)
        forgotten = await challenge(stage)
        await streaming(stage)
        stage.simulation.gate.cut_streams()
        await stage.simulation.pay(invoice)
        await stage.simulation.pay(forgotten["invoice"])

        await has(stage, token, 500)
        await credited(stage, 550)

    play(tmp_path, story)


@pytest.mark.parametrize("habit", ["streams_silent", "settlements_hidden"])
def test_a_session_that_no_stream_tells_of_is_found_by_look_ups(tmp_path: Path, habit: str) -> None:
    async def story(stage: Stage) -> None:
        setattr(stage.simulation.gate.habits, habit, True)
        token, invoice = await open_session(stage)
        offer = await challenge(stage)
        await stage.simulation.pay(invoice)
        credential = await pay(stage, offer)

        assert (await stage.chat(credential.header)).status_code == 200
        await has(stage, token, 500)
        assert await credited_sats(stage) == 550

    play(tmp_path, story)


def test_repeated_events_out_of_order_credit_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            simulation.gate.habits.duplicate_events = True
            simulation.gate.habits.backlog_out_of_order = True
            async with staged(tmp_path, simulation=simulation) as stage:
                await stage.fund_token(100)
                sessions = [await open_session(stage, 200 + number) for number in range(4)]
            for _, invoice in sessions:
                await simulation.pay(invoice)
            async with staged(tmp_path, simulation=simulation) as stage:
                for number, (token, _) in enumerate(sessions):
                    await has(stage, token, 200 + number)
                for _ in range(3):
                    await streaming(stage)
                    simulation.gate.cut_streams()
                    await asyncio.sleep(0.1)
                await credited(stage, 100 + 200 + 201 + 202 + 203)
                assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


def test_a_paid_challenge_is_credited_although_nobody_comes_back(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.simulation.pay((await challenge(stage))["invoice"])

        await credited(stage, 50)

    play(tmp_path, story)


def test_a_payment_for_another_application_on_the_node_is_not_credited(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await streaming(stage)
        foreign = stage.simulation.gate.add_foreign_invoice(90_000)
        await stage.simulation.pay(foreign.payment_request)
        stage.simulation.gate.receive_keysend(80_000, memo="here you are")
        await stage.fund_token(100)

        assert await credited_sats(stage) == 100

    play(tmp_path, story)


def test_stream_proof_and_look_up_at_the_same_time_are_one_credit(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.simulation.gate.habits.duplicate_events = True
        tokens, credentials = [], []
        for _ in range(4):
            token, invoice = await open_session(stage)
            tokens.append(token)
            credentials.append(await challenge(stage))
            await stage.simulation.pay(invoice)
        for offer in credentials:
            credential = await pay(stage, offer)
            answers = await asyncio.gather(
                *(stage.http.get("/v1/balance", headers=credential.header) for _ in range(8))
            )
            assert {answer.json()["balance_sats"] for answer in answers} == {50}
        for token in tokens:
            await has(stage, token, 500)

        assert await credited_sats(stage) == 4 * 550
        assert await stage.metric("arkgate_payments_total") == 8

    play(tmp_path, story)


def test_the_stream_goes_on_after_the_channel_was_rebuilt_under_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        offer = await challenge(stage)
        await streaming(stage)
        habits = stage.simulation.gate.habits
        habits.failures["AddInvoice"] = grpc.StatusCode.UNAVAILABLE
        refused = [await stage.chat() for _ in range(3)]
        assert [answer.status_code for answer in refused] == [503] * 3
        habits.failures.clear()
        await stage.simulation.pay(offer["invoice"])

        await credited(stage, 50)
        await eventually(lambda: answers_with(stage, 402))

    play(tmp_path, story)


async def answers_with(stage: Stage, status: int) -> bool:
    return (await stage.chat()).status_code == status


def test_an_overpayment_is_credited_as_it_arrived(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.simulation.payer.habits.overpay_msat = 12_345
        credential = await stage.buy_credential()
        token = await stage.fund_token(100)

        assert (await stage.balance(credential.header))["balance_sats"] == 62
        assert (await stage.balance(token))["balance_sats"] == 112
        usage = (await stage.http.get("/v1/usage", headers=credential.header)).json()
        assert usage["lines"][0]["amount_sats"] == 62.345

    play(tmp_path, story)


def test_top_ups_add_up_for_tokens_and_for_l402_accounts(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for header in (await stage.fund_token(100), (await stage.buy_credential()).header):
            before = (await stage.balance(header))["balance_sats"]
            for amount in (10, 20):
                topup = await stage.http.post("/v1/topups", json={"amount_sats": amount}, headers=header)
                assert topup.status_code == 201
                assert topup.json()["status"] == "awaiting_payment"
                await stage.simulation.pay(topup.json()["funding"]["lightning_invoice"])

            await has(stage, header, before + 30)

    play(tmp_path, story)


def test_a_session_that_was_not_paid_in_time_has_expired_and_cannot_be_paid(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 10})).json()
        stage.simulation.gate.cancel(bytes.fromhex(opened["funding"]["payment_hash"]))

        async def is_over() -> bool:
            session = await stage.http.get(f"/v1/sessions/{opened['session_id']}")
            return bool(session.json()["status"] in ("expired", "cancelled"))

        await eventually(is_over)
        with pytest.raises(Exception, match="failed"):
            await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        header = {"Authorization": f"Bearer {opened['token']}"}
        assert (await stage.balance(header))["status"] == "awaiting_payment"

    play(tmp_path, story)


def test_a_settlement_that_lags_is_awaited_and_then_asked_to_come_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        habits = stage.simulation.gate.habits
        habits.settlement_lag_seconds = 0.5
        quick = await stage.buy_credential()
        assert (await stage.chat(quick.header)).status_code == 200
        habits.settlement_lag_seconds = 4
        slow = await stage.buy_credential()
        early = await stage.chat(slow.header)

        assert early.status_code == 503
        assert early.json()["code"] == "settlement_pending"
        assert int(early.headers["retry-after"]) >= 1
        assert "www-authenticate" not in early.headers
        await asyncio.sleep(1.2)
        assert (await stage.chat(slow.header, {"prompt": "again"})).status_code == 200

    play(tmp_path, story)


def test_a_token_works_beside_a_credential_that_is_still_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.PROOF_PATIENCE_SECONDS", 0.8)

    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        stage.simulation.gate.habits.settlement_lag_seconds = 8
        pending = await stage.buy_credential()
        both = [("Authorization", pending.header["Authorization"]), *token.items()]
        answer = await stage.http.post("/api/ai-chat", json={"prompt": "hi"}, headers=both)

        assert answer.status_code == 200
        assert answer.json()["balance_remaining"] == 50

    play(tmp_path, story)


def test_the_same_pending_credential_on_two_lines_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkgate.gateway.fund.PROOF_PATIENCE_SECONDS", 0.8)

    async def story(stage: Stage) -> None:
        stage.simulation.gate.habits.settlement_lag_seconds = 8
        text = (await stage.buy_credential()).header["Authorization"].removeprefix("L402 ")
        lines = [("Authorization", f"LSAT {text}"), ("Authorization", f"L402 {text}")]
        started = asyncio.get_running_loop().time()
        answer = await stage.http.post("/api/ai-chat", json={"prompt": "hi"}, headers=lines)

        assert answer.status_code == 503
        assert asyncio.get_running_loop().time() - started < 1.5

    play(tmp_path, story)


def test_a_right_preimage_of_an_invoice_that_the_node_forgot_gets_a_support_id(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        offer = await challenge(stage)
        gate = stage.simulation.gate
        row = gate.invoice(bytes.fromhex(offer["payment_hash"]))
        assert row is not None
        gate.cancel(row.payment_hash)
        gate.collect_garbage()
        answer = await stage.chat(Credential(offer["macaroon"], row.preimage.hex(), "").header)

        assert answer.status_code == 401
        assert answer.json()["code"] == "invalid_credential"
        assert answer.json()["support_id"] in answer.json()["error"]
        assert answer.headers.get_list("www-authenticate") == ["L402"]

    play(tmp_path, story)


def test_while_the_node_is_down_tokens_buy_and_challenges_wait(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        known = await stage.buy_credential()
        assert (await stage.balance(known.header))["balance_sats"] == 50
        unknown = await stage.buy_credential()
        await stage.simulation.gate.stop()

        assert (await stage.chat(token)).status_code == 200
        assert (await stage.chat(known.header)).status_code == 200
        assert_waits(await stage.chat())
        assert_waits(await stage.http.post("/v1/sessions", json={"amount_sats": 10}))
        assert_waits(await stage.http.post("/v1/topups", json={"amount_sats": 10}, headers=token))
        ready = await stage.http.get("/health/ready")
        assert ready.status_code == 503
        assert not ready.json()["dependencies"]["node:gate"]["ready"]
        assert (await stage.http.get("/health")).status_code == 200
        paid_unseen = await stage.chat(unknown.header)
        assert paid_unseen.status_code in (200, 503)  # 200 when the stream was quicker than the stop

        await stage.simulation.gate.start()
        await eventually(lambda: answers_with(stage, 402))
        await eventually(lambda: is_ready(stage))
        assert (await stage.chat(unknown.header, {"prompt": "again"})).status_code in (200, 402)

    play(tmp_path, story)


async def is_ready(stage: Stage) -> bool:
    return (await stage.http.get("/health/ready")).status_code == 200


def assert_waits(answer: httpx.Response) -> None:
    """The node is needed and cannot be asked: come again, and do not pay."""
    assert answer.status_code == 503
    assert answer.json()["code"] == "node_unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    assert "www-authenticate" not in answer.headers


def test_a_payment_that_settles_after_its_session_was_given_up_is_credited(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 80})).json()
        header = {"Authorization": f"Bearer {opened['token']}"}
        stage.simulation.gate.habits.settlement_lag_seconds = 1.5
        await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        with sqlite3.connect(stage.database) as database:
            database.execute("UPDATE invoice SET state = 'expired', next_lookup_ms = NULL")

        await has(stage, header, 80)
        session = await stage.http.get(f"/v1/sessions/{opened['session_id']}")
        assert session.json()["status"] == "active"

    play(tmp_path, story)
