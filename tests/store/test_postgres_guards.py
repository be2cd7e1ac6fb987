"""Each guard of PostgreSQL's functions, by itself: where no lock came first, and in damaged books.

The money calls of a lane lock their accounts before they look, so no verb can show that these guards hold.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from arkgate.core.ledger import INCOME_ACCOUNT, node_account
from arkgate.core.money import Msat
from arkgate.store.clock import DAY_MS, day_of
from arkgate.store.postgres.lanes import statement_of
from tests import postgres
from tests.store.books import CHAT, NODE, NOON, PRICE, hash_of, run
from tests.store.courses import HELD_UP

RESERVE = "SELECT (reserve_v1($1, $2, $3, $4, $5, $6, $7, $2, $8, NULL)).outcome"
RESOLVE = "SELECT (resolve_v1($1, $2, $3, 'backend failed', NULL, NULL, NULL, NULL)).outcome"
FUND = "SELECT (fund_v1($1, $2, $3, $4, $1, $5, 'topup', NULL, NULL)).outcome"
PLAN = "ARRAY[ROW(1, $2, $3, $4, 'chat', $5::bigint, $6::bigint, 0, 0, 0, $8::bigint, true)::planned_v2]"
TOGETHER = f"""
SELECT together_v2($1::bigint, {PLAN},
  ARRAY[$1::bigint], ARRAY[$3::text], ARRAY[$7::bytea], ARRAY[NULL::bytea],
  ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY[NULL::bigint], ARRAY[NULL::bytea])
"""
LOCKED = "SELECT FROM account WHERE account_id = $1 FOR NO KEY UPDATE NOWAIT"
Connection = Any
Calls = Sequence[tuple[str, str | None]]
Step = Callable[[Connection, str], Awaitable[Any]]
"""Something that is done in one session, to one account."""
MORNING = NOON - DAY_MS // 2
"""The first millisecond of a day."""
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
        terms = (PRICE, limit, MORNING + 60_000, hash_of(name))
        return connection.fetchval(RESERVE, MORNING, f"{name} of {account_id}", account_id, CHAT, *terms)  # type: ignore[no-any-return]

    return step


def resolve(cost: Msat | None) -> Step:
    return lambda connection, account_id: connection.fetchval(RESOLVE, MORNING, f"held of {account_id}", cost)


def together(verb: str, name: str, *, amount: int = PRICE, cost: int = 0, limit: int | None = None) -> Step:
    """A call of a plan that was made when things were otherwise."""

    def step(connection: Connection, account_id: str) -> Awaitable[Any]:
        planned = (verb, f"{name} of {account_id}", account_id, amount, cost)
        return connection.fetchval(TOGETHER, MORNING, *planned, hash_of(name), limit)  # type: ignore[no-any-return]

    return step


def fund(word: str) -> Step:
    payment = (NODE, hash_of(word), PRICE)
    return lambda connection, account_id: connection.fetchval(FUND, MORNING, *payment, account_id)


def by_hand(statement: str) -> Step:
    return lambda connection, account_id: connection.execute(f"{statement} WHERE account_id = $1", account_id)


async def elsewhere_used_up(connection: Connection, account_id: str) -> None:
    """Another account, another service and another day have had very many calls."""
    other_id, today = f"{next(_numbers):032x}", day_of(MORNING)
    await fund(f"paid to {other_id}")(connection, other_id)
    used = ((other_id, CHAT, today), (account_id, "images", today), (account_id, CHAT, today + 1))
    await connection.executemany("INSERT INTO allowance VALUES ($1, $2, $3, 99, NULL)", used)


async def crossed(one: tuple[Connection, Step, str], other: tuple[Connection, Step, str]) -> Any:
    """Runs the other step so that it looks before the one is committed and changes after it."""
    (first, early, account_id), (second, late, of_late) = one, other
    transaction = first.transaction()
    await transaction.start()
    await early(first, account_id)
    waiting = asyncio.ensure_future(late(second, of_late))
    await until_one_waits(first, waiting)
    await transaction.commit()
    return await waiting


async def until_one_waits(connection: Connection, waiting: "asyncio.Future[Any]") -> None:
    """Returns when that statement waits for a lock."""
    while not await connection.fetchval(HELD_UP):
        assert not waiting.done(), "it waits for nobody"
        await asyncio.sleep(0.001)


async def money_calls(connection: Connection, function: str, calls: Calls) -> list[str]:
    """The outcomes of reserves at one price for accounts, and of settles of calls without one."""
    columns = (
        ["reserve" if owner else "settle" for _, owner in calls],
        [name for name, _ in calls],
        [owner for _, owner in calls],
        [CHAT if owner else None for _, owner in calls],
        [PRICE] * len(calls),
        [None] * len(calls),
        [MORNING + 60_000] * len(calls),
        [name for name, _ in calls],
        [hash_of(name) for name, _ in calls],
        *([None] * len(calls) for _ in range(6)),
    )
    rows = await connection.fetch(statement_of(function), MORNING, *columns)
    return [row["outcome"] for row in sorted(rows, key=lambda row: row["place"])]


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


@pytest.mark.parametrize("function", ["calls_v1", "calls_v2"])
@pytest.mark.parametrize("by", ["its account", "its call"])
def test_what_is_refused_or_repeated_is_so_under_the_lock_of_its_account(
    url: str, function: str, by: str
) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            await resolve(PRICE)(first, account_id)
            await by_hand("UPDATE account SET posted_msat = 0")(first, account_id)
            names = [f"held of {account_id}"] * 3 if by == "its call" else [f"new {n}" for n in range(3)]
            owner = None if by == "its call" else account_id
            transaction = first.transaction()
            await transaction.start()
            outcomes = await money_calls(first, function, [(name, owner) for name in names])

            assert outcomes == ["replayed" if by == "its call" else "insufficient"] * 3
            with pytest.raises(asyncpg.LockNotAvailableError):
                await second.fetch(LOCKED, account_id)
            await transaction.rollback()

    run(story())


@pytest.mark.parametrize("function", ["calls_v1", "calls_v2"])
def test_many_calls_are_looked_at_when_what_was_under_way_is_committed(url: str, function: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            reserves: Calls = [(f"new of {account_id}", account_id), ("no call", None), ("none", None)]
            settles: Calls = [(f"held of {account_id}", None), ("no call", None), ("none", None)]

            def by(calls: Calls) -> Step:
                return lambda connection, _: money_calls(connection, function, calls)

            reserved = await crossed((first, reserve("a"), account_id), (second, by(reserves), account_id))
            settled = await crossed((first, resolve(PRICE), account_id), (second, by(settles), account_id))

            assert reserved == ["insufficient", "no_hold", "no_hold"]
            assert settled == ["replayed", "no_hold", "no_hold"]

    run(story())


@pytest.mark.parametrize("function", ["calls_v1", "calls_v2"])
def test_calls_wait_for_no_account_that_is_not_theirs(url: str, function: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, mine), account_in(url) as (third, _, other):
            transaction = third.transaction()
            await transaction.start()
            await third.fetch(LOCKED, other)
            reserves = money_calls(first, function, [(f"new {mine}", mine)] * 3)
            reserved = await asyncio.wait_for(reserves, 20)
            settles = money_calls(first, function, [(f"held of {mine}", None)] * 3)
            settled = await asyncio.wait_for(settles, 20)
            await transaction.rollback()

            assert reserved == ["reserved", "replayed", "replayed"]
            assert settled == ["settled", "replayed", "replayed"]

    run(story())


@pytest.mark.parametrize("function", ["calls_v1", "calls_v2"])
def test_accounts_are_locked_in_the_order_of_their_ids(url: str, function: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, low), account_in(url) as (third, _, high):
            transaction = third.transaction()
            await transaction.start()
            await third.fetch(LOCKED, high)
            calls = [(f"new of {high}", high), (f"new of {low}", low), (f"held of {low}", None)]
            waiting = asyncio.ensure_future(money_calls(first, function, calls))
            await until_one_waits(second, waiting)

            with pytest.raises(asyncpg.LockNotAvailableError):
                await second.fetch(LOCKED, low)
            await transaction.rollback()
            assert await waiting == ["reserved", "reserved", "settled"]

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


@pytest.mark.parametrize(
    ("before", "late", "sentence"),
    [
        (None, together("reserve", "dear", amount=PRICE + 1), "met no balance"),
        (None, together("settle", "held", amount=PRICE + 1, cost=PRICE), "met no balance"),
        (None, together("settle", "held", cost=PRICE + 1), "resolved twice"),
        (None, together("settle", "nobody's", cost=PRICE), "resolved twice"),
        (reserve("other"), together("settle", "held", cost=PRICE), None),
        (reserve("other"), together("reserve", "third"), "met no balance"),
        (None, together("reserve", "second", limit=1), "met no allowance"),
        (None, together("reserve", "second", limit=2), None),
    ],
)
def test_a_plan_that_is_not_so_any_more_is_not_done(
    url: str, before: Step | None, late: Step, sentence: str | None
) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            if before is not None:
                await before(first, account_id)
            await elsewhere_used_up(first, account_id)
            if sentence is None:
                await late(first, account_id)
            else:
                with pytest.raises(asyncpg.AssertError, match=sentence):
                    await late(first, account_id)

    run(story())


async def planned(connection: Connection, *calls: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The plan of calls: verb, call id, account, service, price, limit, request id and key of each."""
    columns = map(list, zip(*calls, strict=True))
    plan = "SELECT * FROM plan_v2($1, $2, $3, $4, $5, $6, $7, $8, $9) ORDER BY place"
    return [tuple(row) for row in await connection.fetch(plan, MORNING, *columns)]


async def same_names_elsewhere(connection: Connection, account_id: str) -> None:
    """Another account has made calls under the same names, and this one under others."""
    other_id = f"{next(_numbers):032x}"
    await fund(f"paid to {other_id}")(connection, other_id)
    for owner, key in ((other_id, b"key"), (account_id, b"another key")):
        await reserve("named")(connection, owner)
        await connection.execute(
            "UPDATE hold SET claimed_request_id = $2, idempotency_key = $3 WHERE call_id = $1",
            *(f"named of {owner}", f"{key.decode()} of {account_id}", key),
        )


def test_what_nothing_can_refuse_is_planned_to_be_done_together(url: str) -> None:
    """Down to the last msat and the last call of the day; whoever is left out of the plan is only slower."""

    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await fund(f"three of {account_id}")(first, account_id)
            await same_names_elsewhere(first, account_id)
            await elsewhere_used_up(first, account_id)
            third, names = PRICE // 4, [f"{word} of {account_id}" for word in ("a", "b", "c", "held")]
            rows = await planned(
                first,
                ("reserve", names[0], account_id, CHAT, third, None, f"key of {account_id}", b"key"),
                ("reserve", names[1], account_id, CHAT, third, 4, names[1], None),
                ("reserve", names[2], account_id, "sounds", 2 * third, 1, names[2], None),
                ("settle", names[3], None, None, PRICE, None, None, None),
            )

        posted, held = 3 * PRICE, 2 * PRICE
        assert rows == [
            (1, "reserve", names[0], account_id, CHAT, third, 0, posted, held + third, 3, None, True),
            (2, "reserve", names[1], account_id, CHAT, third, 0, posted, held + 2 * third, 4, 4, True),
            (
                3,
                "reserve",
                names[2],
                account_id,
                "sounds",
                2 * third,
                0,
                posted,
                held + 4 * third,
                1,
                1,
                True,
            ),
            (4, "settle", names[3], account_id, CHAT, PRICE, PRICE, posted - PRICE, held, 4, None, True),
        ]

    run(story())


def test_an_account_that_has_nothing_left_still_settles_together(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await by_hand("UPDATE account SET posted_msat = held_msat")(first, account_id)
            settle = ("settle", f"held of {account_id}", None, None, 7, None, None, None)

            assert [row[-1] for row in await planned(first, settle)] == [True]

    run(story())


def test_what_may_be_refused_is_not_planned_to_be_done_together(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await by_hand("UPDATE hold SET idempotency_key = 'key'")(first, account_id)
            await reserve("done")(first, account_id)
            held, done = (f"{word} of {account_id}" for word in ("held", "done"))
            await first.fetchval(RESOLVE, MORNING, done, 0)

            def reserved(name: str = "new", **changes: Any) -> tuple[Any, ...]:
                asked = {
                    "price": 1,
                    "limit": None,
                    "request": f"{name} of {account_id}",
                    "key": None,
                } | changes
                return ("reserve", f"{name} of {account_id}", account_id, CHAT, *asked.values())

            unsound = [
                [reserved(price=PRICE + 1)],
                [reserved("new", price=PRICE), reserved("newer", price=1)],
                [reserved(limit=2)],
                [reserved("new", limit=3), reserved("newer", limit=3)],
                [reserved("held", request="another")],
                [reserved(request=held)],
                [reserved(key=b"key")],
                [reserved(), reserved(request="another")],
                [reserved(request="same"), reserved("newer", request="same")],
                [reserved(key=b"same"), reserved("newer", key=b"same")],
                [("release", held, None, None, None, None, None, None)],
                [("settle", held, None, None, PRICE + 1, None, None, None)],
                [("settle", done, None, None, 1, None, None, None)],
                [("settle", "nothing", None, None, 1, None, None, None)],
            ]
            certain = [[row[-1] for row in await planned(first, *calls)] for calls in unsound]

        assert certain == [[False] * len(calls) for calls in unsound]

    run(story())


def test_a_planned_settle_does_not_settle_what_was_settled_meanwhile(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await reserve("other")(first, account_id)
            await resolve(Msat(0))(first, account_id)

            with pytest.raises(asyncpg.AssertError, match="resolved twice"):
                await together("settle", "held", cost=PRICE)(first, account_id)

    run(story())


def test_nothing_is_done_together_on_a_shared_account(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, _):
            with pytest.raises(asyncpg.AssertError, match="met no balance"):
                await together("reserve", "free", amount=0)(first, node_account(NODE))

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


def test_a_payment_whose_hash_is_given_out_meanwhile_is_looked_at_again(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            payment, other_id = hash_of(f"paid to {account_id}"), f"{next(_numbers):032x}"

            def given_out(connection: Connection, owner: str) -> Awaitable[Any]:
                added = "SELECT add_invoice_v1($1, $2, $3, $4, 'topup', 'lnbc', 9, $1, $1)"
                return connection.fetchval(added, MORNING, payment, owner, NODE)  # type: ignore[no-any-return]

            late = fund(f"paid to {account_id}")
            with pytest.raises(asyncpg.SerializationError, match="credited meanwhile"):
                await crossed((first, given_out, account_id), (second, late, other_id))

    run(story())


@pytest.mark.parametrize("purpose", ["topup", "session"])
def test_a_payment_that_came_first_takes_the_text_of_no_other_invoice(url: str, purpose: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id), account_in(url) as (_, _, other_id):
            payment = hash_of(f"one of {account_id}")
            added = "SELECT add_invoice_v1($1, $2, $3, $4, $5, 'lnbc', 9, $1, $1)"
            owner = other_id if purpose == "topup" else account_id
            said = await first.fetchval(added, MORNING, payment, owner, NODE, purpose)

            text = "SELECT payment_request FROM invoice WHERE payment_hash = $1"
            assert (said, await first.fetchval(text, payment)) == ("other_purpose", "")

    run(story())


def test_two_reports_of_one_payment_at_once_are_one_credit(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            payment = fund(f"paid to {account_id}")

            assert await crossed((first, payment, account_id), (second, payment, account_id)) == "replayed"

    run(story())


def test_two_payments_at_once_open_one_account(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, second, account_id):
            one, other = (fund(f"{word} of {account_id}") for word in ("first", "second"))
            new_id = f"{next(_numbers):032x}"

            assert await crossed((first, one, new_id), (second, other, new_id)) == "applied"

    run(story())


@pytest.mark.parametrize("said", [None, "another"])
def test_a_credited_payment_is_its_transfers_also_where_its_invoice_is_lost(
    url: str, said: str | None
) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            payment = (MORNING, NODE, hash_of(f"one of {account_id}"), PRICE)
            to_account = f"{next(_numbers):032x}" if said else None
            await by_hand("DELETE FROM invoice")(first, account_id)
            repeated = await first.fetchrow(
                "SELECT * FROM fund_v1($1, $2, $3, $4, $1, $5, '', NULL, NULL)", *payment, to_account
            )

            assert tuple(repeated) == ("replayed", account_id, 2 * PRICE, PRICE)

    run(story())


def test_an_invoice_that_is_settled_already_is_not_settled_again(url: str) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            await first.execute(
                "INSERT INTO invoice VALUES ($1, $2, $3, 'topup', '', $4, $4, 'settled', $5, $5, $5, NULL)",
                *(hash_of(f"paid to {account_id}"), account_id, NODE, PRICE, MORNING),
            )

            with pytest.raises(asyncpg.SerializationError, match="credited meanwhile"):
                await fund(f"paid to {account_id}")(first, account_id)

    run(story())


@pytest.mark.parametrize("amount", [-1, 0, 2_100_000_000_000_000_001])
def test_an_amount_that_cannot_exist_is_not_credited_by_the_database_either(url: str, amount: int) -> None:
    async def story() -> None:
        async with account_in(url) as (first, _, account_id):
            with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^lnd reports {amount} msat for "):
                await first.fetchval(FUND, MORNING, NODE, hash_of("paid"), amount, account_id)

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
