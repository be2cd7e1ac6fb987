"""What a node keeps of a payment is the operator's expense, also in books that are older than that."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from arkgate.core.ledger import EXPENSE_ACCOUNT
from arkgate.core.money import Msat
from arkgate.core.reports import JournalEntry
from arkgate.store import Store, open_store, revisions
from arkgate.store.postgres import queries
from arkgate.store.sqlite.connections import LOG_BYTES
from tests import postgres
from tests.store.books import (
    ALICE,
    ENGINES,
    FUND_BEFORE_FEES,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    broken,
    for_challenge,
    hash_of,
    in_books,
    new_books,
    pay,
    run,
    settlement,
)

ASSET = f"asset:node:{NODE}"


async def totals_and_journal(store: Store) -> tuple[dict[str, int], Sequence[JournalEntry]]:
    """What each account was credited less what it was debited, and every transfer."""
    async with store.statements.snapshot() as snapshot:
        totals = [one async for batch in snapshot.totals_before(2**62) for one in batch]
        journal = [entry async for batch in snapshot.journal(0, 2**62) for entry in batch]
    return {one.account_id: one.credit_less_debit for one in totals}, journal


@in_books
async def test_what_a_node_keeps_is_the_operators_expense_and_nobody_elses(
    store: Store, clock: ManualClock
) -> None:
    payment = settlement(hash_of("paid"), 6_000_000, fee=112_000)
    for _ in range(2):
        await store.ledger.fund(payment, for_challenge(ALICE))
    await store.ledger.fund(settlement(hash_of("whole"), 5, fee=5), for_challenge(ALICE))
    await store.ledger.fund(settlement(hash_of("least"), 5, fee=1), for_challenge(ALICE))

    totals, journal = await totals_and_journal(store)

    assert totals == {ALICE: 6_000_010, ASSET: -5_888_004, EXPENSE_ACCOUNT: -112_006}
    kept = f"fee:{hash_of('paid').hex()}"
    entry = JournalEntry(kept, NOON, "fee", EXPENSE_ACCOUNT, ASSET, Msat(112_000), NODE)
    assert [one for one in journal if one.transfer_id == kept] == [entry]
    assert len(journal) == 6
    lines = await store.statements.statement(ALICE, offset=0, limit=9)
    assert [line.kind for line in lines] == ["credit"] * 3


@in_books
async def test_a_fee_beyond_its_payment_is_refused_and_nothing_is_credited(
    store: Store, clock: ManualClock
) -> None:
    for fee in (-1, PRICE + 1):
        absurd = settlement(hash_of("paid"), PRICE, fee=fee)
        with pytest.raises(ValueError, match=f"kept {fee} of {PRICE} msat"):
            await store.ledger.fund(absurd, for_challenge(ALICE))

    assert await store.statements.account(ALICE) is None
    assert (await store.ledger.fund(settlement(hash_of("paid")), for_challenge(ALICE))).balance is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_books_from_before_fees_learn_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    if engine == "postgres":
        postgres.prepare()

    async def story() -> None:
        async with new_books(engine, tmp_path) as url:
            with monkeypatch.context() as earlier:
                earlier.setattr(revisions, "REVISIONS", revisions.REVISIONS[:3])
                earlier.setattr(queries, "FUND", FUND_BEFORE_FEES)
                async with open_store(url, ManualClock(), log_bytes=LOG_BYTES) as store:
                    await pay(store, PRICE)
            for number in (1, 2):  # by the connection that upgraded the tables, and by another
                async with open_store(url, ManualClock(), log_bytes=LOG_BYTES) as store:
                    paid = settlement(hash_of(f"later {number}"), PRICE, fee=3)
                    await store.ledger.fund(paid, for_challenge(ALICE))
                    totals, _ = await totals_and_journal(store)
                    assert totals[EXPENSE_ACCOUNT] == -3 * number
                    assert totals[ALICE] == (number + 1) * PRICE
                    assert broken(await store.statements.verify()) == []

    run(story())


def test_a_file_that_was_upgraded_refuses_what_a_new_one_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def schema(name: str, known: Sequence[str]) -> list[str]:
        async def opened() -> None:
            for revisions_known in (known, revisions.REVISIONS):
                with monkeypatch.context() as program:
                    program.setattr(revisions, "REVISIONS", revisions_known)
                    async with open_store(f"sqlite:///{tmp_path / name}", ManualClock(), log_bytes=LOG_BYTES):
                        pass

        run(opened())
        with closing(sqlite3.connect(tmp_path / name)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return [row[0] for row in database.execute("SELECT sql FROM sqlite_master ORDER BY name")]

    assert schema("upgraded.db", revisions.REVISIONS[:3]) == schema("new.db", revisions.REVISIONS)
