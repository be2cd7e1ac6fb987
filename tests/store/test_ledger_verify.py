"""Each invariant of `verify` finds the books that were broken by hand, and names what broke them."""

import asyncio
import sqlite3
import time
from functools import partial
from pathlib import Path

import pytest

from arkgate.core.errors import InternalError
from arkgate.core.ledger import Finding
from arkgate.store import audit
from arkgate.store.audit import RULES, Rule
from arkgate.store.sqlite.opening import open_sqlite, open_sqlite_readonly
from tests.store.books import (
    ALICE,
    BOB,
    CHAT,
    NOON,
    PRICE,
    ManualClock,
    ark_address,
    broken,
    by_hand,
    call,
    charge,
    coin,
    for_challenge,
    hash_of,
    pay,
    run,
    settlement,
)

PAID = hash_of("paid")
CREDIT = f"credit:{PAID.hex()}"

# What is done by hand, the invariants that it breaks, and what the first of them must name.
DAMAGE = {
    "a check of the database is broken": (
        "UPDATE invoice SET purpose = 'gift'",
        {0},
        "CHECK constraint failed in invoice",
    ),
    "a row refers to nothing": ("INSERT INTO session VALUES ('s', 'nobody', x'00', NULL)", {0}, "session"),
    "a balance is not its transfers": (
        f"UPDATE account SET posted_msat = posted_msat + 1 WHERE account_id = '{ALICE}'",
        {1, 3},
        ALICE,
    ),
    "a shared account keeps a balance": (
        "UPDATE account SET posted_msat = 1 WHERE account_id = 'income:calls'",
        {0, 1},
        "income:calls",
    ),
    "a hold is forgotten": (
        f"UPDATE account SET held_msat = 0 WHERE account_id = '{ALICE}'",
        {2},
        ALICE,
    ),
    "money comes from an account that is not there": (
        "UPDATE transfer SET debit_account_id = 'nowhere' WHERE kind = 'credit'",
        {0, 1, 3, 4},
        "nowhere",
    ),
    "a credit was deleted": (f"DELETE FROM transfer WHERE transfer_id = '{CREDIT}'", {1, 3, 4}, CREDIT),
    "a credit has another amount than its invoice": (
        f"UPDATE invoice SET amount_paid_msat = 1 WHERE payment_hash = x'{PAID.hex()}'",
        {4},
        CREDIT,
    ),
    "an Ark payment was credited to nobody": (
        "INSERT INTO ark_payment VALUES ('t:0', 'tark1', 1, 'credited', 1, 1)",
        {4},
        "credit:t:0",
    ),
    "an Ark payment has another amount than its credit": (
        "UPDATE ark_payment SET amount_msat = 1 WHERE outpoint = 't:1'",
        {4},
        "credit:t:1",
    ),
    "a fee belongs to no payment": (
        "INSERT INTO transfer VALUES ('fee:00', 'fee', 'expense:fees', 'asset:node:lnd', 1, 1, 'lnd')",
        {4},
        "fee:00",
    ),
    "a fee is more than what was paid": (
        f"UPDATE transfer SET amount_msat = {9 * PRICE + 1} WHERE kind = 'fee'",
        {4},
        f"fee:{PAID.hex()}",
    ),
    "a fee was kept by somebody else than the node": (
        "UPDATE transfer SET credit_account_id = 'income:calls' WHERE kind = 'fee'",
        {4},
        f"fee:{PAID.hex()}",
    ),
    "a fee has the id of a charge": (
        "UPDATE transfer SET transfer_id = 'charge:fee' WHERE kind = 'fee'",
        {0},
        "CHECK constraint failed in transfer",
    ),
    "a paid invoice is open again": (
        "UPDATE invoice SET state = 'open', amount_paid_msat = 0, settled_at_ms = NULL",
        {4},
        CREDIT,
    ),
    "a charge was deleted": ("DELETE FROM transfer WHERE transfer_id = 'charge:c1'", {1, 3, 5}, "charge:c1"),
    "a released hold was charged": (
        f"INSERT INTO transfer VALUES ('charge:c3', 'charge', '{ALICE}', 'income:calls', 1, 1, 'chat')",
        {1, 3, 5},
        "charge:c3",
    ),
    "a charge is not the hold's cost": (
        "UPDATE hold SET cost_msat = cost_msat - 1 WHERE call_id = 'c1'",
        {5},
        "charge:c1",
    ),
    "a hold was charged over its amount": (
        "UPDATE hold SET amount_msat = 1 WHERE call_id = 'c1'",
        {0, 5},
        "c1",
    ),
    "more is held than there is": (
        f"UPDATE account SET held_msat = 1000 * held_msat WHERE account_id = '{ALICE}'",
        {0, 2, 6},
        ALICE,
    ),
    "a day's count is too low": ("UPDATE allowance SET used = used - 1", {7}, f"{ALICE} {CHAT}"),
    "a day's count is missing": ("DELETE FROM allowance", {7}, f"{ALICE} {CHAT}"),
    "a day has more calls than its limit": ("UPDATE hold SET calls_per_day = 1", {7}, f"{ALICE} {CHAT}"),
    "a hold is overdue": (f"UPDATE hold SET deadline_ms = {NOON - 60_001} WHERE state = 'open'", {8}, "c2"),
}


async def _write_books(path: Path) -> None:
    """A settled, an open and a released call of one account, and a customer who never paid."""
    async with open_sqlite(path, ManualClock()) as store:
        await store.ledger.fund(settlement(PAID, 9 * PRICE, fee=7), for_challenge(ALICE))
        await pay(store, PRICE, BOB)
        await store.ledger.add_address(ark_address("tark1"))
        await store.ledger.fund_ark(coin("t:1", "tark1"), instant_max=PRICE)
        await charge(store, call("c1", calls_per_day=5))
        await store.ledger.reserve(call("c2", calls_per_day=5))
        await store.ledger.reserve(call("c3", calls_per_day=5))
        await store.ledger.release("c3", "backend failed")


async def _verify(path: Path) -> list[Finding]:
    with open_sqlite_readonly(path, ManualClock()) as statements:
        return list(await statements.verify())


def test_books_that_nobody_touched_hold_every_invariant(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    run(_write_books(path))

    findings = run(_verify(path))

    assert [finding.invariant for finding in findings] == list(range(9))
    assert broken(findings) == []


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "ledger.db"
    statement, invariants, named = DAMAGE[what]
    run(_write_books(path))
    by_hand(path, statement)

    found = broken(run(_verify(path)))

    assert {finding.invariant for finding in found} == invariants
    assert any(named in finding.sentence for finding in found)


def test_every_invariant_has_its_damage() -> None:
    covered = {invariant for _, invariants, _ in DAMAGE.values() for invariant in invariants}

    assert covered == {rule.invariant for rule in RULES} | {0, 8}


def _change(statement: str, database: sqlite3.Cursor, _now_ms: int) -> None:
    database.execute(statement)


def test_a_transfer_cannot_be_changed_or_deleted(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as store:
            await pay(store, PRICE)
            for statement in ("UPDATE transfer SET amount_msat = 1", "DELETE FROM transfer"):
                with pytest.raises(InternalError, match="refused this change") as refused:
                    await store.writer.run(partial(_change, statement))
                assert "append-only" in str(refused.value.__cause__)
            assert broken(await store.statements.verify()) == []

    run(story())


def test_many_broken_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def write() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            for number in range(5):
                await pay(store, PRICE, f"{number:032x}")

    run(write())
    by_hand(path, "UPDATE account SET posted_msat = 1 WHERE kind = 'customer'")

    finding = broken(run(_verify(path)))[0]

    assert f"broken 5 times, at {0:032x}, {1:032x}, {2:032x} and more" in finding.sentence


def test_whoever_gives_a_verification_up_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0"
    monkeypatch.setattr(audit, "RULES", (Rule(1, "never known", endless), *RULES[1:]))

    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as store:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.statements.verify()

    started = time.monotonic()
    run(story())  # whose loop waits for its threads
    assert time.monotonic() - started < 10
