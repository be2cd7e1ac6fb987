"""A coin that came in at an Ark address of ours is credited once, at once or when it is final."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from arkgate.core.ledger import ArkPayment, Cursor, FundOutcome, SessionRecord
from arkgate.core.money import Msat
from arkgate.store import Store, open_store
from arkgate.store.clock import DAY_MS
from arkgate.store.sqlite.connections import LOG_BYTES
from tests import postgres
from tests.store.books import (
    ALICE,
    BOB,
    NOON,
    PRICE,
    WALLET,
    ManualClock,
    ark_address,
    broken,
    coin,
    hash_of,
    in_books,
    invoice,
    new_books,
    pay,
    run,
)

INSTANT = Msat(2 * PRICE)


async def with_address(store: Store, address: str = "tark1") -> None:
    await pay(store, 1)
    await store.ledger.add_address(ark_address(address))


async def posted(store: Store, account_id: str = ALICE) -> int:
    account = await store.statements.account(account_id)
    assert account is not None
    return account.balance.posted


async def outcome(store: Store, payment: ArkPayment) -> FundOutcome:
    return (await store.ledger.fund_ark(payment, instant_max=INSTANT)).outcome


@in_books
async def test_an_outpoint_is_credited_once(store: Store, clock: ManualClock) -> None:
    await with_address(store)

    found = [await outcome(store, coin("t:0", "tark1")) for _ in range(3)]
    other = await outcome(store, coin("t:1", "tark1"))

    assert found == [FundOutcome.APPLIED, FundOutcome.REPLAYED, FundOutcome.REPLAYED]
    assert other is FundOutcome.APPLIED
    assert await posted(store) == 1 + 2 * PRICE
    lines = await store.statements.statement(ALICE, offset=0, limit=9)
    assert [(line.reference, line.detail, line.amount) for line in lines[1:]] == [
        ("t:0", "topup", PRICE),
        ("t:1", "topup", PRICE),
    ]


@in_books
async def test_many_who_report_a_coin_at_once_credit_it_once(store: Store, clock: ManualClock) -> None:
    await with_address(store)

    found = await asyncio.gather(*(outcome(store, coin("t:0", "tark1")) for _ in range(8)))

    assert sorted(one.value for one in found) == ["applied", *["replayed"] * 7]
    assert await posted(store) == 1 + PRICE


@in_books
async def test_a_coin_at_an_address_that_is_not_ours_is_foreign_and_moves_the_cursor(
    store: Store, clock: ManualClock
) -> None:
    funded = await store.ledger.fund_ark(coin("t:0", "tark9"), instant_max=INSTANT, cursor=Cursor(3, 4))

    assert (funded.outcome, funded.account_id, funded.balance) == (FundOutcome.FOREIGN, None, None)
    assert await store.statements.cursor(WALLET) == Cursor(3, 4)


@in_books
async def test_a_coin_above_the_cap_waits_until_it_is_final(store: Store, clock: ManualClock) -> None:
    await with_address(store)
    large = coin("t:0", "tark1", INSTANT + 1)

    first = await store.ledger.fund_ark(large, instant_max=INSTANT, cursor=Cursor(1, 1))
    again = await outcome(store, large)
    before = await posted(store)
    final = await outcome(store, replace(large, final=True))
    late = await outcome(store, large)

    assert (first.outcome, first.account_id) == (FundOutcome.WAITING, ALICE)
    assert again is FundOutcome.WAITING
    assert before == 1
    assert final is FundOutcome.APPLIED
    assert late is FundOutcome.REPLAYED
    assert await posted(store) == 1 + INSTANT + 1
    assert await store.statements.cursor(WALLET) == Cursor(1, 1)


@in_books
async def test_a_payment_in_parts_waits_like_a_whole_one(store: Store, clock: ManualClock) -> None:
    await with_address(store)
    await store.ledger.add_address(ark_address("tark2"))

    parts = [await outcome(store, coin(f"t:{number}", "tark1")) for number in range(3)]
    elsewhere = await outcome(store, coin("t:3", "tark2", INSTANT))
    final = await outcome(store, coin("t:4", "tark1", final=True))

    assert parts == [FundOutcome.APPLIED, FundOutcome.APPLIED, FundOutcome.WAITING]
    assert elsewhere is FundOutcome.APPLIED
    assert final is FundOutcome.APPLIED


@in_books
async def test_a_coin_that_comes_back_with_another_amount_or_address_is_refused(
    store: Store, clock: ManualClock
) -> None:
    await with_address(store)
    await store.ledger.add_address(ark_address("tark2"))
    await outcome(store, coin("t:0", "tark1", INSTANT + 1))

    for other in (coin("t:0", "tark1", final=True), coin("t:0", "tark2", INSTANT + 1, final=True)):
        with pytest.raises(ValueError, match="another amount or address for t:0"):
            await outcome(store, other)
    for amount in (0, -1, 2_100_000_000_000_000_001):
        with pytest.raises(ValueError, match=f"reports {amount} msat for t:1"):
            await outcome(store, coin("t:1", "tark1", amount))

    assert await posted(store) == 1


@in_books
async def test_an_address_belongs_to_one_account_for_ever(store: Store, clock: ManualClock) -> None:
    await with_address(store)
    await pay(store, 1, BOB)

    await store.ledger.add_address(ark_address("tark1"))
    for other in (ark_address("tark1", BOB), ark_address("tark1", purpose="session")):
        with pytest.raises(ValueError, match="tark1 was given out for something else"):
            await store.ledger.add_address(other)
    with pytest.raises(LookupError):
        await store.ledger.add_address(ark_address("tark2", "c0" * 16))

    assert await outcome(store, coin("t:0", "tark1")) is FundOutcome.APPLIED
    assert await posted(store) == 1 + PRICE


@in_books
async def test_a_session_may_have_an_address_beside_its_invoice_or_instead(
    store: Store, clock: ManualClock
) -> None:
    both = SessionRecord(
        "s1",
        ALICE,
        invoice(hash_of("invoice"), purpose="session"),
        ark_address("tark1", purpose="session"),
    )
    alone = SessionRecord("s2", BOB, None, ark_address("tark2", BOB, purpose="session"))

    for session, token in ((both, "one"), (alone, "two")):
        for _ in range(2):
            await store.ledger.open_session(session, token_digest=hash_of(token), key_version=1)
    other = replace(both, address=ark_address("tark3", purpose="session"))
    with pytest.raises(ValueError, match="opened before with another invoice or address"):
        await store.ledger.open_session(other, token_digest=hash_of("one"), key_version=1)
    await outcome(store, coin("t:0", "tark1"))
    await outcome(store, coin("t:1", "tark2", INSTANT + 1))

    assert await store.statements.session("s1") == replace(
        both, address=replace(ark_address("tark1", purpose="session"), credited=PRICE)
    )
    assert await store.statements.session("s2") == replace(
        alone, address=replace(ark_address("tark2", BOB, purpose="session"), waiting=Msat(INSTANT + 1))
    )
    assert await store.statements.account_by_token(hash_of("two")) == BOB
    assert await store.statements.address("tark1") == replace(
        ark_address("tark1", purpose="session"), credited=PRICE
    )
    assert await store.statements.address("tark3") is None
    assert (await outcome(store, coin("t:2", "tark3"))) is FundOutcome.FOREIGN


@in_books
async def test_addresses_are_due_until_they_are_not_looked_up_any_more(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, 1)
    for number in range(3):
        await store.ledger.add_address(ark_address(f"tark{number}"))
        clock.pass_ms(1)
    await store.ledger.mark_address_looked_up("tark1", None)

    first = await store.statements.addresses_to_look_up(WALLET, limit=9)
    newest = await store.statements.addresses_to_look_up(WALLET, limit=1, newest=True)
    await store.ledger.mark_address_looked_up("tark0", NOON + DAY_MS)
    later = await store.statements.addresses_to_look_up(WALLET, limit=9)
    await store.ledger.mark_address_looked_up("tark2", clock.now_ms() + 1)
    before = await store.statements.addresses_to_look_up(WALLET, limit=9)
    clock.pass_ms(1)
    due_now = await store.statements.addresses_to_look_up(WALLET, limit=9)

    assert [one.address for one in first] == ["tark0", "tark2"]
    assert [one.address for one in newest] == ["tark2"]
    assert [one.address for one in later] == ["tark2"]
    assert before == []
    assert [one.address for one in due_now] == ["tark2"]
    assert await store.statements.addresses_to_look_up("lnd", limit=9) == []


def test_replicas_that_race_for_a_coin_credit_it_once(tmp_path: Path) -> None:
    postgres.prepare()

    async def story() -> None:
        async with new_books("postgres", tmp_path) as url:
            clock = ManualClock()
            async with (
                open_store(url, clock, log_bytes=LOG_BYTES) as one,
                open_store(url, clock, log_bytes=LOG_BYTES) as other,
            ):
                await with_address(one)
                for number in range(20):
                    payment = coin(f"t:{number}", "tark1", final=True)
                    found = await asyncio.gather(
                        *(outcome(store, payment) for store in (one, other, one, other))
                    )
                    assert sorted(outcome.value for outcome in found) == ["applied", *["replayed"] * 3]
                assert await posted(one) == 1 + 20 * PRICE
                assert not broken(await one.statements.verify())

    run(story())
