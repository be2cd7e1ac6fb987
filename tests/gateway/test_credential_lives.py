"""Credentials over their life: used up, expired, narrowed, rotated, exchanged for a token."""

import asyncio
import base64
import hashlib
import secrets
import time
from pathlib import Path

import httpx
import pytest
from pymacaroons.serializers import BinarySerializer
from tests.stage import MODEL, Credential, Stage, eventually, play, run, staged

from arkgate.l402.caveats import issued
from arkgate.l402.identifier import Identifier
from arkgate.l402.macaroon import mint, read
from arkgate.simulator.simulation import Simulation
from arkgate.store.keyfile import load_keyring, rotate


def attenuated(credential: Credential, *caveats: str) -> Credential:
    """The credential as somebody gets it who may do less with it than its buyer."""
    macaroon = BinarySerializer().deserialize_raw(base64.b64decode(credential.macaroon))
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    raw = BinarySerializer().serialize_raw(macaroon)
    return Credential(base64.b64encode(raw).decode(), credential.preimage, credential.invoice)


def caveats_of(macaroon: str) -> list[str]:
    return [caveat.decode() for caveat in read(base64.b64decode(macaroon)).caveats]


def identifier_of(macaroon: str) -> Identifier:
    return Identifier.decode(read(base64.b64decode(macaroon)).identifier)


def invoices_made(stage: Stage) -> int:
    return len(stage.simulation.gate.peer.invoices)


def test_an_exhausted_credential_is_topped_up_by_its_next_challenge(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        first = await stage.buy_credential()
        await stage.chat(first.header, {"prompt": "one"})
        used_up = await stage.chat(first.header, {"prompt": "two"})
        assert used_up.status_code == 402
        assert used_up.json()["code"] == "insufficient_balance"
        assert used_up.json()["balance_remaining"] == 0
        account = identifier_of(first.macaroon).account_id
        assert f"account={account}" in caveats_of(used_up.json()["macaroon"])
        assert "account=" not in " ".join(caveats_of(first.macaroon))
        paid = await stage.simulation.pay(used_up.json()["invoice"])
        second = Credential(used_up.json()["macaroon"], paid.preimage.hex(), "")

        for credential in (second, first):
            assert (await stage.balance(credential.header))["balance_sats"] == 50
        assert (await stage.chat(first.header, {"prompt": "two"})).status_code == 200
        assert (await stage.balance(second.header))["balance_sats"] == 0

    play(tmp_path, story)


def test_a_remainder_is_not_stranded(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.simulation.payer.habits.overpay_msat = 20_500
        first = await stage.buy_credential()
        await stage.chat(first.header, {"prompt": "one"})
        second = await stage.buy_credential(first.header)

        assert (await stage.balance(second.header))["balance_sats"] == 91

    play(tmp_path, story)


def issued_long_ago(stage: Stage, credential: Credential) -> Credential:
    """The same purchase as a gateway would have minted it whose credentials have ended by now."""
    identifier = read(base64.b64decode(credential.macaroon)).identifier
    keyring = load_keyring(stage.settings.keys_file)
    root_key = keyring.root_key(identifier, version=keyring.current)
    assert root_key is not None
    raw = mint(root_key, identifier, issued("ai_chat", valid_until=1, account_id=None))
    return Credential(base64.b64encode(raw).decode(), credential.preimage, credential.invoice)


def test_an_expired_credential_gets_a_challenge_for_its_own_account(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        whole = await stage.buy_credential()
        expired = await stage.chat(issued_long_ago(stage, whole).header)

        assert expired.status_code == 402
        assert expired.json()["code"] == "credential_expired"
        assert expired.headers["x-balance-sats"] == "50"
        assert f"account={identifier_of(whole.macaroon).account_id}" in caveats_of(expired.json()["macaroon"])
        assert (await stage.chat(whole.header)).status_code == 200

    play(tmp_path, story)


@pytest.mark.parametrize("spent", [False, True])
def test_a_lent_credential_is_never_renewed_into_its_owners_account(tmp_path: Path, spent: bool) -> None:
    async def story(stage: Stage) -> None:
        owner = await stage.buy_credential()
        lent = attenuated(
            owner, f"ai_chat_valid_until={time.time() + 1000:.0f}" if spent else "ai_chat_valid_until=1"
        )
        if spent:
            await stage.chat(lent.header, {"prompt": "one"})
        renewed = await stage.chat(lent.header, {"prompt": "two"})

        assert renewed.status_code == 402
        macaroon = renewed.json()["macaroon"]
        assert identifier_of(macaroon).account_id != identifier_of(owner.macaroon).account_id
        assert not [caveat for caveat in caveats_of(macaroon) if caveat.startswith("account=")]

    play(tmp_path, story)


def test_an_expired_credential_at_its_days_limit_is_sold_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        whole = await stage.buy_credential()
        await stage.chat(whole.header)
        before = invoices_made(stage)
        answer = await stage.chat(issued_long_ago(stage, whole).header, {"prompt": "another"})

        assert answer.status_code == 429
        assert invoices_made(stage) == before

    play(tmp_path, story, {"[[services]]": "calls_per_day = 1"})


def test_an_expired_credential_with_a_hopeless_body_is_not_sold_a_call(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        expired = attenuated(await stage.buy_credential(), "ai_chat_valid_until=1")
        before = invoices_made(stage)
        answer = await stage.chat(expired.header, {"messages": "none"})

        assert answer.status_code == 400
        assert invoices_made(stage) == before

    play(tmp_path, story)


def test_a_credential_for_another_service_gets_a_challenge(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(
                tmp_path, simulation=simulation, extra={"[[services]]": 'name = "images"'}
            ) as stage:
                other = await stage.buy_credential()
            async with staged(tmp_path, simulation=simulation) as stage:
                answer = await stage.chat(other.header)

                assert answer.status_code == 402
                assert answer.json()["code"] == "wrong_service"
                second = await stage.buy_credential(other.header)
                assert (await stage.balance(second.header))["balance_sats"] == 100
                assert (await stage.chat(second.header)).status_code == 200

    run(asyncio.wait_for(story(), 60))


def test_the_answer_of_a_service_that_was_renamed_can_still_be_fetched(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(
                tmp_path, simulation=simulation, extra={"[[services]]": 'name = "images"'}
            ) as stage:
                token = await stage.fund_token(100)
                await stage.chat({**token, "X-Request-Id": "mine-1"})
            async with staged(tmp_path, simulation=simulation) as stage:
                answer = await stage.http.get("/v1/calls/mine-1", headers=token)

                assert answer.status_code == 200
                assert answer.json()["request_id"] == "mine-1"

    run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize(
    "caveat", ["ai_chat_valid_until=9999999999", "services=ai_chat:0,other:0", "account="]
)
def test_a_credential_that_was_widened_is_refused(tmp_path: Path, caveat: str) -> None:
    async def story(stage: Stage) -> None:
        widened = attenuated(await stage.buy_credential(), caveat)
        answer = await stage.chat(widened.header)

        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == ["L402"]
        assert answer.json()["code"] == "invalid_credential"

    play(tmp_path, story)


def test_a_narrowed_credential_buys_and_cannot_be_exchanged(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        whole = await stage.buy_credential()
        narrowed = attenuated(whole, "ai_chat_valid_until=1800000000")
        for call in (
            stage.http.post("/v1/tokens", headers=narrowed.header),
            stage.http.post("/v1/topups", headers=narrowed.header, json={"amount_sats": 1}),
            stage.http.get("/v1/usage", headers=narrowed.header),
        ):
            refused = await call
            assert refused.status_code == 403
            assert refused.json()["code"] == "attenuated_credential"

        with_preimage = attenuated(whole, f"preimage={whole.preimage}", "expiration=1", "ip=10.0.0.1")
        assert (await stage.http.post("/v1/tokens", headers=with_preimage.header)).status_code == 200
        assert (await stage.chat(narrowed.header)).status_code == 200

    play(tmp_path, story)


def test_a_credential_is_exchanged_for_the_same_token_each_time(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        credential = await stage.buy_credential()
        first, second = [
            (await stage.http.post("/v1/tokens", headers=credential.header)).json() for _ in range(2)
        ]
        token = {"Authorization": f"Bearer {first['token']}"}

        assert first == second
        assert first["token"].startswith("ak_")
        assert first["balance_sats"] == 50
        assert (await stage.chat(token)).status_code == 200
        assert (await stage.balance(credential.header))["balance_sats"] == 0
        assert (await stage.http.post("/v1/tokens", headers=token)).json()["token"] == first["token"]

    play(tmp_path, story)


def test_an_expired_credential_can_still_be_exchanged(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        bought = await stage.buy_credential()
        identifier = read(base64.b64decode(bought.macaroon)).identifier
        root_key = load_keyring(stage.settings.keys_file).root_key(identifier, version=1)
        assert root_key is not None
        old = mint(root_key, identifier, ["services=ai_chat:0", "ai_chat_valid_until=1"])
        expired = Credential(base64.b64encode(old).decode(), bought.preimage, "")

        assert (await stage.chat(expired.header)).json()["code"] == "credential_expired"
        assert (await stage.http.post("/v1/tokens", headers=expired.header)).json()["balance_sats"] == 50

    play(tmp_path, story)


def test_old_credentials_and_tokens_work_after_a_rotation(tmp_path: Path) -> None:
    async def story() -> None:
        async with Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation:
            async with staged(tmp_path, simulation=simulation) as stage:
                token = await stage.fund_token(100)
                used = await stage.buy_credential()
                exchanged = (await stage.http.post("/v1/tokens", headers=used.header)).json()["token"]
                unused = await stage.buy_credential()
                late = (await stage.chat()).json()
                keys = stage.settings.keys_file
            assert rotate(keys) == 2
            async with staged(tmp_path, simulation=simulation) as stage:
                for header in (token, used.header, unused.header):
                    assert (await stage.chat(header)).status_code == 200
                again = await stage.http.post("/v1/tokens", headers=used.header)
                assert again.json()["token"] == exchanged
                paid = await simulation.pay(late["invoice"])
                header = Credential(late["macaroon"], paid.preimage.hex(), "").header
                assert (await stage.chat(header)).status_code == 200
                assert identifier_of((await stage.chat()).json()["macaroon"]).key_version == 2
                fresh = await stage.buy_credential()
                assert (await stage.chat(fresh.header)).status_code == 200
                assert await stage.verify() == []

    run(asyncio.wait_for(story(), 60))


def test_a_credential_is_worth_nothing_without_its_key(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        bought = await stage.buy_credential()
        identifier = read(base64.b64decode(bought.macaroon)).identifier
        for raw in (
            mint(secrets.token_bytes(32), identifier, caveats_of(bought.macaroon)),
            mint(secrets.token_bytes(32), identifier[:34] + b"\0\x09" + identifier[36:], []),
            mint(secrets.token_bytes(32), identifier[:-1], []),
        ):
            forged = Credential(base64.b64encode(raw).decode(), bought.preimage, "")
            answer = await stage.chat(forged.header)
            assert answer.status_code == 401
            assert answer.json()["code"] == "invalid_credential"
        wrong = Credential(bought.macaroon, secrets.token_bytes(32).hex(), "")
        assert (await stage.chat(wrong.header)).status_code == 401

    play(tmp_path, story)


def test_a_preimage_buys_nothing_with_another_invoices_macaroon(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        one, other = await stage.buy_credential(), await stage.buy_credential()

        assert (await stage.chat(Credential(one.macaroon, other.preimage, "").header)).status_code == 401
        both = Credential(f"{one.macaroon},{other.macaroon}", one.preimage, "")
        assert (await stage.chat(both.header)).status_code == 401

    play(tmp_path, story)


def test_two_macaroons_of_one_payment_allow_what_both_allow(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        whole = await stage.buy_credential()
        narrowed = attenuated(whole, "ai_chat_valid_until=1")
        twice = Credential(f"{whole.macaroon},{whole.macaroon}", whole.preimage, "")
        mixed = Credential(f"{whole.macaroon},{narrowed.macaroon}", whole.preimage, "")
        turned = Credential(f"{narrowed.macaroon},{whole.macaroon}", whole.preimage, "")

        for credential in (mixed, turned):
            assert (await stage.chat(credential.header)).json()["code"] == "credential_expired"
        assert (await stage.chat(twice.header)).status_code == 200
        assert (await stage.chat(whole.header, {"prompt": "two"})).json()["code"] == "insufficient_balance"

    play(tmp_path, story)


def test_every_carrier_of_a_credential_is_metered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        def carriers(bought: Credential) -> list[dict[str, str]]:
            text = f"{bought.macaroon}:{bought.preimage}"
            with_preimage = attenuated(bought, f"preimage={bought.preimage}")
            hexed = base64.b64decode(with_preimage.macaroon).hex()
            again = base64.b64decode(bought.preimage).hex()
            return [
                {"Authorization": f"LSAT {text}"},
                {"Authorization": f"l402 {text}"},
                {"Authorization": f"Bearer {text}"},
                {"Authorization": f"L402 {bought.macaroon.rstrip('=')}:{bought.preimage.upper()}"},
                {"Authorization": f"L402 {with_preimage.macaroon}:{bought.preimage}"},
                {"Authorization": f"L402 {bought.macaroon}:{again}"},
                {"Macaroon": hexed},
                {"Grpc-Metadata-Macaroon": hexed},
            ]

        for place in range(len(carriers(await stage.buy_credential()))):
            header = carriers(await stage.buy_credential())[place]
            bought = await stage.chat(header, {"prompt": "one"})
            assert bought.status_code == 200, header
            assert bought.headers["x-cost-sats"] == "50"
            assert (await stage.chat(header, {"prompt": "two"})).status_code == 402

        shared = await stage.buy_credential()
        codes = [(await stage.chat(header, {"prompt": "n"})).status_code for header in carriers(shared)]
        assert codes == [200] * len(codes)  # one call, and its stored answer for each other way to write it
        assert (await stage.balance(shared.header))["balance_sats"] == 0

    play(tmp_path, story)


def test_the_first_line_that_verifies_wins(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(100)
        forged = f"L402 {base64.b64encode(secrets.token_bytes(80)).decode()}:{'0' * 64}"
        unknown = "Bearer ak_" + "0" * 32
        lines = [("Authorization", line) for line in ("Basic eDp5", forged, unknown)]
        answer = await stage.http.get("/v1/balance", headers=[*lines, *token.items()])

        assert answer.status_code == 200
        assert answer.json()["balance_sats"] == 100
        assert f"Bearer {answer.json()['token']}" == token["Authorization"]
        none_good = await stage.http.get("/v1/balance", headers=lines)
        assert none_good.json()["code"] == "invalid_credential"

    play(tmp_path, story)


def test_one_credential_at_once_from_many_buys_what_it_can(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.simulation.payer.habits.overpay_msat = 100_000
        bought = await stage.buy_credential()
        answers = await asyncio.gather(
            *(stage.chat(bought.header, {"prompt": f"number {number}"}) for number in range(8))
        )

        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 5
        assert (await stage.balance(bought.header))["balance_sats"] == 0

    play(tmp_path, story)


def test_challenges_are_limited_for_each_client_behind_the_proxy(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async def ask(client: str) -> httpx.Response:
            return await stage.http.post(
                "/api/ai-chat", json={"prompt": "hi"}, headers={"X-Forwarded-For": client}
            )

        first = [await ask("203.0.113.7") for _ in range(3)]
        assert [answer.status_code for answer in first] == [402, 402, 429]
        made = invoices_made(stage)
        limited = await ask("198.51.100.9, 203.0.113.7")  # the left end is what the client wrote itself
        assert limited.status_code == 429
        assert limited.json()["code"] == "rate_limited"
        assert int(limited.headers["retry-after"]) in range(1, 61)
        assert "www-authenticate" not in limited.headers
        assert invoices_made(stage) == made
        assert (await ask("203.0.113.8")).status_code == 402

    extra = {
        "[gateway]": 'trusted_proxies = ["127.0.0.1"]',
        "[limits]": "challenges_per_minute_and_client = 2",
    }
    play(tmp_path, story, extra)


def test_forwarded_addresses_of_strangers_do_not_count(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        codes = []
        for number in range(4):
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            session = await stage.http.post("/v1/sessions", json={"amount_sats": 10}, headers=headers)
            codes.append(session.status_code)
        assert codes == [201, 201, 429, 429]
        token = await stage.buy_credential()
        assert (await stage.chat(token.header)).status_code == 200

    play(tmp_path, story, {"[limits]": "sessions_per_hour_and_client = 2"})


def test_all_clients_together_are_limited(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        codes = [(await stage.chat()).status_code for _ in range(4)]

        assert codes == [402, 402, 402, 429]

    play(tmp_path, story, {"[limits]": "challenges_per_minute = 3"})


def test_a_hash_without_its_preimage_opens_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        bought = await stage.buy_credential()
        payment_hash = hashlib.sha256(bytes.fromhex(bought.preimage)).digest()

        async def in_the_books() -> bool:
            return (await stage.balance(bought.header)).get("balance_sats") == 50

        await eventually(in_the_books)
        guess = Credential(bought.macaroon, payment_hash.hex(), "")
        assert (await stage.chat(guess.header)).status_code == 401
        bare = await stage.http.post(
            "/api/ai-chat", json={"prompt": "hi"}, headers={"Authorization": f"L402 :{bought.preimage}"}
        )
        assert bare.status_code == 401

    play(tmp_path, story)
