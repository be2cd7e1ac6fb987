"""Each guarded statement of SQLite's books, by itself: it meets no row that it may not change.

A verb reads before it changes and one writer does both, so no verb can show that these guards hold. They
are there for the day when somebody changes that.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arkgate.core.ledger import Balance, InvoiceState, Reservation, node_account
from arkgate.core.money import Msat
from arkgate.store.clock import day_of
from arkgate.store.sqlite import calls, queries
from arkgate.store.sqlite.opening import open_sqlite
from tests.store.books import (
    ALICE,
    BOB,
    CHAT,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    call,
    for_challenge,
    hash_of,
    invoice,
    pay,
    run,
    settlement,
)

ASSET = node_account(NODE)
TODAY = day_of(NOON)
TOKEN = hash_of("token")
HASHES = {state: hash_of(state) for state in ("open", "expired", "cancelled", "settled", "unrecorded")}


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calls' money on Alice's account, one of them held; one call settled, one released; each invoice."""
    path = tmp_path_factory.mktemp("guards") / "ledger.db"

    async def fill() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            await pay(store, 3 * PRICE)
            for name in ("open", "settled", "released"):
                await store.ledger.reserve(call(name, calls_per_day=9))
            await store.ledger.settle("settled", PRICE, None)
            await store.ledger.release("released", "backend failed")
            await store.ledger.set_token(ALICE, token_digest=TOKEN, key_version=1)
            for state in ("open", "expired", "cancelled", "settled"):
                await store.ledger.add_invoice(invoice(HASHES[state]))
            for end in (InvoiceState.EXPIRED, InvoiceState.CANCELLED):
                await store.ledger.mark_invoice(HASHES[end.value], end)
            for name in ("settled", "unrecorded"):
                await store.ledger.fund(settlement(HASHES[name]), for_challenge(ALICE))
            await pay(store, PRICE, BOB)

    run(fill())
    return path


@pytest.fixture
def database(books: Path) -> Iterator[sqlite3.Connection]:
    """The books, as they are again after the test."""
    with closing(sqlite3.connect(books, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("ROLLBACK")


POSTED, HELD = 4 * PRICE, PRICE
DEADLINE = NOON + 60_000
AVAILABLE = POSTED - HELD


def settled_by(payment_hash: bytes, account_id: str = ALICE) -> tuple[Any, ...]:
    return (payment_hash, account_id, NODE, "topup", 9, 9, NOON, NOON, NOON)


def recorded(payment_hash: bytes) -> tuple[Any, ...]:
    return (payment_hash, ALICE, NODE, "topup", "lnbc", 9, NOON, NOON, NOON)


@pytest.mark.parametrize(
    ("statement", "values", "met"),
    [
        (queries.HOLD_FROM_ACCOUNT, (AVAILABLE, ALICE, AVAILABLE), 1),
        (queries.HOLD_FROM_ACCOUNT, (AVAILABLE + 1, ALICE, AVAILABLE + 1), 0),
        (queries.HOLD_FROM_ACCOUNT, (0, ASSET, 0), 0),
        (queries.RESOLVE_IN_ACCOUNT, (HELD, HELD, ALICE, HELD), 1),
        (queries.RESOLVE_IN_ACCOUNT, (0, HELD + 1, ALICE, HELD + 1), 0),
        (queries.RESOLVE_IN_ACCOUNT, (0, 0, ASSET, 0), 0),
        (queries.CREDIT_ACCOUNT, (1, ALICE), 1),
        (queries.CREDIT_ACCOUNT, (0, ASSET), 0),
        (queries.GIVE_TOKEN, (b"other", 2, BOB), 1),
        (queries.GIVE_TOKEN, (b"other", 2, ALICE), 0),
        (queries.GIVE_TOKEN, (b"other", 2, ASSET), 0),
        (queries.SETTLE_HOLD, (PRICE, NOON, "open", PRICE), 1),
        (queries.SETTLE_HOLD, (PRICE + 1, NOON, "open", PRICE + 1), 0),
        (queries.SETTLE_HOLD, (PRICE, NOON, "settled", PRICE), 0),
        (queries.SETTLE_HOLD, (PRICE, NOON, "released", PRICE), 0),
        (queries.RELEASE_HOLD, (NOON, "reason", "open"), 1),
        (queries.RELEASE_HOLD, (NOON, "reason", "settled"), 0),
        (queries.RELEASE_HOLD, (NOON, "reason", "released"), 0),
        (queries.BRING_DEADLINES_FORWARD, (NOON, NOON), 1),
        (queries.BRING_DEADLINES_FORWARD, (DEADLINE, DEADLINE), 0),
        (queries.BRING_DEADLINES_FORWARD, (DEADLINE + 1, DEADLINE + 1), 0),
        (queries.TAKE_ALLOWANCE, (ALICE, CHAT, TODAY, 3, 3), 1),
        (queries.TAKE_ALLOWANCE, (ALICE, CHAT, TODAY, 2, 2), 0),
        (queries.TAKE_ALLOWANCE, (ALICE, CHAT, TODAY + 1, 1, 1), 1),
        (queries.TAKE_ALLOWANCE, (ALICE, CHAT, TODAY + 1, 0, 0), 0),
        (queries.GIVE_BACK_ALLOWANCE, (ALICE, CHAT, TODAY), 1),
        (queries.GIVE_BACK_ALLOWANCE, (ALICE, CHAT, TODAY + 1), 0),
        (queries.SETTLE_INVOICE, settled_by(HASHES["open"]), 1),
        (queries.SETTLE_INVOICE, settled_by(HASHES["expired"]), 1),
        (queries.SETTLE_INVOICE, settled_by(HASHES["settled"]), 0),
        (queries.SETTLE_INVOICE, settled_by(HASHES["open"], BOB), 0),
        (queries.ADD_INVOICE, recorded(hash_of("new")), 1),
        (queries.ADD_INVOICE, recorded(HASHES["unrecorded"]), 1),
        (queries.ADD_INVOICE, recorded(HASHES["settled"]), 0),
        *(
            (statement, (*value, HASHES[state]), met)
            for state, met in {"open": 1, "expired": 1, "cancelled": 0, "settled": 0}.items()
            for statement, value in ((queries.MARK_INVOICE, ("expired",)), (queries.MARK_LOOKED_UP, (NOON,)))
        ),
        *(
            (queries.FORGET_INVOICE, (HASHES[state],), met)
            for state, met in {"open": 0, "expired": 1, "cancelled": 1, "settled": 0}.items()
        ),
    ],
)
def test_a_guard_holds_without_the_verb_that_reads_first(
    database: sqlite3.Connection, statement: str, values: tuple[Any, ...], met: int
) -> None:
    assert database.execute(statement, values).rowcount == met


def test_no_unit_is_given_back_that_was_not_taken(database: sqlite3.Connection) -> None:
    give_back = (ALICE, CHAT, TODAY)
    for _ in range(2):
        database.execute(queries.GIVE_BACK_ALLOWANCE, give_back)

    assert database.execute(queries.GIVE_BACK_ALLOWANCE, give_back).rowcount == 0
    assert database.execute(queries.USED, give_back).fetchone() == (0,)


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (call("dear", price=AVAILABLE + 1), Balance(Msat(2 * POSTED), Msat(0))),
        (call("late", calls_per_day=2), Balance(Msat(POSTED), Msat(HELD))),
    ],
    ids=["balance", "allowance"],
)
def test_no_hold_is_taken_on_what_was_so_before(
    database: sqlite3.Connection, asked: Reservation, seen: Balance
) -> None:
    standing = calls._Standing(seen.posted, seen.held, used=0, holder=None, claimant=None)

    with pytest.raises(AssertionError, match=r"^a guarded change of the ledger did not meet its row$"):
        calls._take(database, NOON, TODAY, asked, standing)


def test_only_a_call_under_way_has_its_deadline_brought_forward(database: sqlite3.Connection) -> None:
    database.execute(queries.BRING_DEADLINES_FORWARD, (NOON, NOON))

    deadlines = dict(database.execute("SELECT call_id, deadline_ms FROM hold").fetchall())
    assert deadlines == {"open": NOON, "settled": DEADLINE, "released": DEADLINE}
