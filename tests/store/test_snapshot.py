"""A snapshot is one moment: its journal, balances, statements and debts fit each other."""

from collections.abc import Sequence

import pytest

from arkgate.core.ledger import InvoiceState, StatementLine
from arkgate.core.money import Msat
from arkgate.core.reports import AccountAge, AccountState, AccountTotal, Column, JournalEntry, Owed, Table
from arkgate.ports import Snapshot
from arkgate.store import Store
from arkgate.store.clock import DAY_MS
from tests.store.books import (
    ALICE,
    BOB,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    call,
    charge,
    hash_of,
    in_books,
    invoice,
    pay,
    session,
)

ASSET = f"asset:node:{NODE}"


async def journal(snapshot: Snapshot, since_ms: int = 0, until_ms: int = 2**62) -> list[JournalEntry]:
    return [entry async for batch in snapshot.journal(since_ms, until_ms) for entry in batch]


async def totals(snapshot: Snapshot, at_ms: int = 2**62) -> dict[str, int]:
    found: list[AccountTotal] = [one async for batch in snapshot.totals_before(at_ms) for one in batch]
    return {total.account_id: total.credit_less_debit for total in found}


async def lines(snapshot: Snapshot, account_id: str) -> Sequence[StatementLine]:
    return [line async for batch in snapshot.statement(account_id) for line in batch]


@in_books
async def test_what_happens_later_is_not_in_a_snapshot(store: Store, clock: ManualClock) -> None:
    await pay(store, 3 * PRICE)
    async with store.statements.snapshot() as snapshot:
        await pay(store, PRICE, BOB)
        await charge(store, call())
        await store.ledger.note("later", 1)

        assert snapshot.taken_at_ms == NOON
        assert await totals(snapshot) == {ALICE: 3 * PRICE, ASSET: -3 * PRICE}
        assert len(await journal(snapshot)) == len(await lines(snapshot, ALICE)) == 1
        assert (await snapshot.liabilities()).total == Owed(1, Msat(3 * PRICE))
        assert "later" not in await snapshot.facts()
        account = await snapshot.account(ALICE)
        assert account is not None
        assert account.balance.posted == 3 * PRICE
        assert await snapshot.account(BOB) is None


@in_books
async def test_a_statement_is_that_of_the_pages(store: Store, clock: ManualClock) -> None:
    await pay(store, 3 * PRICE + 250)
    clock.pass_ms(5)
    await charge(store, call("c1"))
    for name in ("c0", "c2"):
        await store.ledger.reserve(call(name))
        await store.ledger.release(name, "backend failed")
    async with store.statements.snapshot() as snapshot:
        shown = await lines(snapshot, ALICE)

        assert shown == await store.statements.statement(ALICE, offset=0, limit=100)
        assert [line.kind for line in shown] == ["credit", "refund", "charge", "refund"]
        assert shown[-1].balance == 2 * PRICE + 250
        for other in ("", "x", "income:calls", f"{ALICE}'--", ALICE.upper()):
            assert await lines(snapshot, other) == []
            assert await snapshot.account(other) is None


@in_books
async def test_a_period_of_the_journal_begins_at_its_start_and_ends_before_its_end(
    store: Store, clock: ManualClock
) -> None:
    for _ in range(3):
        await pay(store, PRICE)
        clock.pass_ms(1)
    async with store.statements.snapshot() as snapshot:
        middle = await journal(snapshot, NOON + 1, NOON + 2)

        assert [entry.at_ms for entry in middle] == [NOON + 1]
        assert (middle[0].debit_account, middle[0].credit_account, middle[0].amount) == (ASSET, ALICE, PRICE)
        assert (await totals(snapshot, NOON + 1))[ALICE] == PRICE
        assert await totals(snapshot, NOON) == {}
        assert [entry.at_ms for entry in await journal(snapshot)] == [NOON, NOON + 1, NOON + 2]


@in_books
async def test_many_rows_come_in_batches(store: Store, clock: ManualClock) -> None:
    for _ in range(1001):
        await pay(store, PRICE)
    async with store.statements.snapshot() as snapshot:
        sizes = [len(batch) async for batch in snapshot.journal(0, 2**62)]

        assert sizes == [1000, 1]


def account(number: int) -> str:
    return f"{number:032x}"


@in_books
async def test_what_is_owed_is_sorted_by_the_last_movement_and_by_state(
    store: Store, clock: ManualClock
) -> None:
    ages = (AccountAge.OLDER, AccountAge.DAYS_365, AccountAge.DAYS_90, AccountAge.DAYS_30)
    today = NOON + 400 * DAY_MS
    await pay(store, 2 * PRICE, BOB)
    for number, days in enumerate((365, 90, 30, 0)):
        clock.at_ms = today - days * DAY_MS
        await pay(store, PRICE + number, account(number))
    deadline_ms = today + 60_000
    await store.ledger.reserve(call("held", account_id=BOB, deadline_ms=deadline_ms))
    async with store.statements.snapshot() as snapshot:
        assert (await snapshot.liabilities()).by_age(AccountAge.OLDER).accounts == 2
    await charge(store, call("old", account_id=account(0), deadline_ms=deadline_ms))
    async with store.statements.snapshot() as snapshot:
        owed = await snapshot.liabilities()

    found = {age: owed.by_age(age) for age in ages}
    assert {age: (one.accounts, one.posted, one.held) for age, one in found.items()} == {
        AccountAge.OLDER: (1, 2 * PRICE, PRICE),
        AccountAge.DAYS_365: (1, PRICE + 1, 0),
        AccountAge.DAYS_90: (1, PRICE + 2, 0),
        AccountAge.DAYS_30: (2, PRICE + 3, 0),
    }
    assert owed.by_state(AccountState.EMPTY).accounts == 1  # it moved today
    assert owed.by_state(AccountState.ACTIVE).accounts == 4
    assert owed.total.posted == (await store.statements.totals()).customers
    assert owed.total.held == PRICE
    shared = {total.account_id: total.credit_less_debit for total in owed.shared}
    assert shared == {
        ASSET: -(7 * PRICE - PRICE + 6),
        "equity:operator": 0,
        "expense:fees": 0,
        "income:calls": PRICE,
    }


@in_books
async def test_who_never_paid_waits_or_came_too_late(store: Store, clock: ManualClock) -> None:
    for number in range(3):
        opened = session(f"s{number}", account(number))
        await store.ledger.open_session(opened, token_digest=hash_of(f"t{number}"), key_version=1)
    await store.ledger.mark_invoice(hash_of("s1"), InvoiceState.CANCELLED)
    await store.ledger.add_invoice(invoice(hash_of("another"), account(0)))
    clock.at_ms = NOON + DAY_MS - 1
    async with store.statements.snapshot() as snapshot:
        before = await snapshot.liabilities()
    clock.at_ms = NOON + DAY_MS
    async with store.statements.snapshot() as snapshot:
        after = await snapshot.liabilities()

    assert before.by_state(AccountState.AWAITING_PAYMENT).accounts == 2
    assert before.by_state(AccountState.EXPIRED).accounts == 1
    assert (before.invoices_open, before.invoices_open_amount) == (3, 3 * PRICE)
    assert after.by_state(AccountState.EXPIRED).accounts == 3
    assert after.invoices_open == 0


@in_books
async def test_only_the_tables_of_the_books_are_read(store: Store, clock: ManualClock) -> None:
    async with store.statements.snapshot() as snapshot:
        known = snapshot.tables
        strange = (
            Table("sqlite_master", (Column("sql", "text"),)),
            Table("meta", (Column("1 FROM account --", "text"),)),
        )
        for table in strange:
            with pytest.raises(ValueError, match="have no table"):
                _ = [batch async for batch in snapshot.rows(table)]

        assert {"account", "transfer", "hold", "invoice", "meta"} < {table.name for table in known}
        names = [table.name for table in known]
        assert names.index("account") < names.index("invoice") < names.index("session")


@in_books
async def test_calls_that_were_not_charged_are_missing(store: Store, clock: ManualClock) -> None:
    await pay(store, 9 * PRICE)
    await charge(store, call("settled"))
    await store.ledger.reserve(call("open"))
    await store.ledger.reserve(call("released"))
    await store.ledger.release("released", "backend failed")
    asked = ["unknown", "released", "settled", "open", "unknown"]

    assert await store.statements.missing_calls(asked, charged=True) == [
        "unknown",
        "released",
        "open",
        "unknown",
    ]
    assert await store.statements.missing_calls(asked, charged=False) == ["unknown", "unknown"]
    many = [f"unknown {number}" for number in range(1234)]
    assert await store.statements.missing_calls([*many, "settled"], charged=True) == many
