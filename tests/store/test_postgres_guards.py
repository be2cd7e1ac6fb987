"""Each guard of PostgreSQL's functions, by itself: where no lock came first, and in damaged books.

The money calls of a lane lock their accounts before they look, so no verb can show that these guards hold.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from arkgate.core.ledger import INCOME_ACCOUNT
from arkgate.core.money import Msat
from tests import postgres
from tests.store.books import CHAT, NODE, NOON, PRICE, hash_of, run

RESERVE = "SELECT (reserve_v1($1, $2, $3, $4, $5, $6, $7, $2, $8, NULL)).outcome"
RESOLVE = "SELECT (resolve_v1($1, $2, $3, 'backend failed', NULL, NULL, NULL, NULL)).outcome"
FUND = "SELECT (fund_v1($1, $2, $3, $4, $1, $5, 'topup', NULL, NULL)).outcome"
Connection = Any
Step = Callable[[Connection, str], Awaitable[Any]]
"""Something that is done in one session, to one account."""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Books that all tests share; each of them has an account of its own."""
    postgres.prepare()
    return run(postgres.books_of(tmp_path_factory.mktemp("guards")))


@asynccontextmanager
async def account_in(url: str) -> AsyncIterator[tuple[Connection, Connection, str]]:
    """Two sessions, and an account with two prices of which the call `held` holds one."""
    first, second = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        account_id = f"{next(_numbers):032x}"
        for payment in ("one", "two"):
            await fund(f"{payment} of {account_id}")(first, account_id)
        await reserve("held")(first, account_id)
        yield first, second, account_id
    finally:
        await first.close()
        await second.close()


def reserve(name: str, *, limit: int | None = None) -> Step:
    def step(connection: Connection, account_id: str) -> Awaitable[Any]:
        terms = (PRICE, limit, NOON + 60_000, hash_of(name))
        return connection.fetchval(RESERVE, NOON, f"{name} of {account_id}", account_id, CHAT, *terms)  # type: ignore[no-any-return]

    return step


def resolve(cost: Msat | None) -> Step:
    return lambda connection, account_id: connection.fetchval(RESOLVE, NOON, f"held of {account_id}", cost)


def fund(word: str) -> Step:
    payment = (NODE, hash_of(word), PRICE)
    return lambda connection, account_id: connection.fetchval(FUND, NOON, *payment, account_id)


def by_hand(statement: str) -> Step:
    return lambda connection, account_id: connection.execute(f"{statement} WHERE account_id = $1", account_id)


async def crossed(one: tuple[Connection, Step, str], other: tuple[Connection, Step, str]) -> Any:
    """Runs the other step so that it looks before the one is committed and changes after it."""
    (first, early, account_id), (second, late, of_late) = one, other
    transaction = first.transaction()
    await transaction.start()
    await early(first, account_id)
    waiting = asyncio.ensure_future(late(second, of_late))
    while not await first.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert not waiting.done(), "the late one waits for nobody"
        await asyncio.sleep(0.001)
    await transaction.commit()
    return await waiting


@pytest.mark.parametrize(
    ("early", "late", "sentence"),
    [
        (reserve("a"), reserve("b"), "a hold met no balance"),
        (resolve(PRICE), resolve(PRICE), "a hold was resolved twice"),
        (resolve(None), resolve(PRICE), "a hold was resolved twice"),
        (resolve(PRICE), resolve(None), "a hold was resolved twice"),
        (by_hand("UPDATE hold SET amount_msat = 1"), resolve(PRICE), "a hold was resolved twice"),
    ],
)
def test_a_guard_sees_what_was_committed_since_its_verb_looked(
    url: str, early: Step, late: Step, sentence: str
) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            with pytest.raises(asyncpg.AssertError, match=sentence):
                await crossed((first, early, account_id), (second, late, account_id))

    run(story())


def test_a_day_that_was_used_up_meanwhile_takes_no_hold(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            await fund(f"three of {account_id}")(first, account_id)
            one, other = reserve("a", limit=2), reserve("b", limit=2)

            with pytest.raises(asyncpg.AssertError, match="a hold met no allowance"):
                await crossed((first, one, account_id), (second, other, account_id))

    run(story())


@pytest.mark.parametrize(
    ("damage", "verb", "sentence"),
    [
        (by_hand("UPDATE account SET held_msat = held_msat - 1"), resolve(PRICE), "was not held"),
        (by_hand("UPDATE account SET held_msat = held_msat - 1"), resolve(None), "was not held"),
        (by_hand("UPDATE allowance SET used = 0"), resolve(None), "was not taken"),
        (by_hand("DELETE FROM allowance"), resolve(None), "was not taken"),
    ],
)
def test_books_that_were_damaged_are_not_made_worse(
    url: str, damage: Step, verb: Step, sentence: str
) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await damage(first, account_id)

            with pytest.raises(asyncpg.AssertError, match=sentence):
                await verb(first, account_id)

    run(story())


def test_a_payment_that_became_another_accounts_meanwhile_is_looked_at_again(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            payment, other_id = fund(f"paid to {account_id}"), f"{next(_numbers):032x}"

            with pytest.raises(asyncpg.SerializationError, match="credited meanwhile"):
                await crossed((first, payment, account_id), (second, payment, other_id))

            assert await payment(second, other_id) == "replayed"
            owners = "SELECT count(*) FROM account WHERE account_id = $1"
            assert await second.fetchval(owners, other_id) == 0

    run(story())


def test_an_invoice_that_is_settled_already_is_not_settled_again(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await first.execute(
                "INSERT INTO invoice VALUES ($1, $2, $3, 'topup', '', $4, $4, 'settled', $5, $5, $5, NULL)",
                *(hash_of(f"paid to {account_id}"), account_id, NODE, PRICE, NOON),
            )

            with pytest.raises(asyncpg.SerializationError, match="credited meanwhile"):
                await fund(f"paid to {account_id}")(first, account_id)

    run(story())


@pytest.mark.parametrize("amount", [-1, 0, 2_100_000_000_000_000_001])
def test_an_amount_that_cannot_exist_is_not_credited_by_the_database_either(url: str, amount: int) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^lnd reports {amount} msat for "):
                await first.fetchval(FUND, NOON, NODE, hash_of("paid"), amount, account_id)

    run(story())


def test_a_payment_for_a_shared_account_meets_no_account(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            income = "INSERT INTO account VALUES ($1, 'income', 0, 0, NULL, NULL, 0) ON CONFLICT DO NOTHING"
            await first.execute(income, INCOME_ACCOUNT)

            with pytest.raises(asyncpg.AssertError, match="a payment met no account"):
                await fund(f"paid to {account_id}")(first, INCOME_ACCOUNT)

    run(story())


def test_a_transfer_is_neither_changed_nor_deleted(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, _):
            for statement in (
                "UPDATE transfer SET amount_msat = 1",
                "DELETE FROM transfer",
                "TRUNCATE transfer",
            ):
                with pytest.raises(asyncpg.RaiseError, match="append-only"):
                    await first.execute(statement)

    run(story())
