"""Money calls that PostgreSQL does together come out as if it had done them one after another."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from arkgate.core.ledger import Reservation
from arkgate.core.money import Msat
from arkgate.store.clock import DAY_MS
from arkgate.store.postgres.connections import Connection, connect
from arkgate.store.postgres.lanes import statement_of
from arkgate.store.postgres.opening import PostgresStore, open_postgres
from tests import postgres
from tests.store.books import ALICE, BOB, NOON, PRICE, broken, call, hash_of, pay, run
from tests.store.test_postgres import execute

pytestmark = pytest.mark.usefixtures("postgres_server")

TABLES = ("account", "allowance", "hold", "transfer", "answer")
STATEMENTS = 160
CALLS_MAX = 24
CAROL, STRANGER = "ca" * 16, "57" * 16
_ROWS_READ = """
SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
FROM pg_stat_xact_user_tables WHERE relname IN ('account', 'allowance', 'hold', 'transfer', 'answer')
"""
Books = Mapping[str, Sequence[Any]]


@dataclass(slots=True)
class Caller:
    """Makes calls that get into each other's way: few accounts, little money, names that come again."""

    draw: random.Random
    now_ms: int = NOON
    made: list[str] = field(default_factory=list)

    def statement(self) -> list[tuple[Any, ...]]:
        """The calls of one statement; one in four is all for one account, as when a single one is hot."""
        hot = self.draw.choice((ALICE, BOB)) if self.draw.random() < 0.25 else None
        if self.draw.random() < 0.05:
            self.now_ms += DAY_MS // 2
        return [self._call(hot) for _ in range(self.draw.randint(1, CALLS_MAX))]

    def _call(self, hot: str | None) -> tuple[Any, ...]:
        if self.made and self.draw.random() < 0.5:
            return self._resolve(self.draw.choice(self.made[-2 * CALLS_MAX :]))
        if self.made and self.draw.random() < 0.05:
            call_id = self.draw.choice(self.made)
        else:
            call_id = f"{self.now_ms:012x}{self.draw.getrandbits(80):020x}"
        self.made.append(call_id)
        account = hot or self.draw.choices((ALICE, BOB, CAROL, STRANGER), (8, 8, 8, 1))[0]
        word = f"{self.draw.choice('ab')}{len(self.made) // 40}"  # known for a while, then a new one
        rare = self.draw.random()
        request = f"request {word}" if rare < 0.2 else call_id
        key = hash_of(word) if rare > 0.88 else None
        limit = self.draw.choice((None, None, 25))
        price = self.draw.choice((1_000, 1_000, 2_500))
        named = ("reserve", call_id, account, self.draw.choice(("chat", "chat", "image")), price)
        return (*named, limit, self.now_ms + 60_000, request, hash_of(word), key, None, *[None] * 4)

    def _resolve(self, call_id: str) -> tuple[Any, ...]:
        if self.draw.random() < 0.15:
            return ("release", call_id, *[None] * 8, "backend failed", *[None] * 4)
        cost = self.draw.choices((1_000, 0, 700, 2_600), (8, 1, 1, 1))[0]
        answer = (200, "application/json", self.now_ms + DAY_MS, b"answer " + call_id.encode())
        stored = answer if self.draw.random() < 0.9 else (None,) * 4
        return ("settle", call_id, None, None, cost, *[None] * 6, *stored)


async def outcome(
    connection: Connection, function: str, now_ms: int, calls: Sequence[tuple[Any, ...]], *, kept: bool
) -> tuple[list[tuple[Any, ...]], Books]:
    """What a function answers to each call, and the tables after it; with `kept` it stays so."""
    columns = map(list, zip(*calls, strict=True))
    transaction = connection.transaction()
    await transaction.__aenter__()
    rows = await connection.fetch(statement_of(function), now_ms, *columns)
    tables = {name: await connection.fetch(f"SELECT t::text FROM {name} t ORDER BY 1") for name in TABLES}
    undone = None if kept else asyncpg.PostgresError
    await transaction.__aexit__(undone, None, None)
    return sorted(tuple(row) for row in rows), tables


def _values(asked: Reservation, *, limit: int | None = None) -> tuple[Any, ...]:
    """A reserve, as a statement has it."""
    return (
        *("reserve", asked.call_id, asked.account_id, asked.service, asked.price, limit, asked.deadline_ms),
        *(asked.request_id, asked.request_hash, asked.idempotency_key, None, None, None, None, None),
    )


async def open_with_little_money(store: PostgresStore) -> None:
    """Three accounts that can pay for some of the calls."""
    for account_id, amount in ((ALICE, 300_000), (BOB, 800_000), (CAROL, 40_000)):
        await pay(store, amount, account_id)


@pytest.mark.parametrize("seed", range(3))
def test_together_is_answer_for_answer_and_row_for_row_what_one_after_another_is(seed: int) -> None:
    async def story() -> None:
        caller = Caller(random.Random(seed))
        answers: set[str] = set()
        async with postgres.database() as url, open_postgres(url) as store:
            await open_with_little_money(store)
            connection = await connect(url)
            for _ in range(STATEMENTS):
                calls = caller.statement()
                before = caller.now_ms
                in_turn = await outcome(connection, "calls_v1", before, calls, kept=False)
                together = await outcome(connection, "calls_v2", before, calls, kept=True)
                assert together == in_turn
                answers.update(row[1] for row in together[0])
                if caller.draw.random() < 0.05:
                    await pay(store, 20_000, caller.draw.choice((ALICE, BOB, CAROL)))
            while await store.ledger.sweep(1_000):  # their deadlines are long past
                pass
            assert not broken(await store.statements.verify())
        assert {"reserved", "settled", "released", "replayed", "insufficient", "limit_reached"} <= answers
        assert {"foreign_call", "request_id_reused", "no_hold", "cost_over_hold"} <= answers

    run(story())


def test_what_is_done_together_is_told_with_the_balance_after_each() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            await pay(store, 10 * PRICE)
            connection = await connect(url)
            asked = [call(price=PRICE + place) for place in range(3)]
            calls = [_values(one, limit=5) for one in asked]
            rows, _ = await outcome(connection, "calls_v2", NOON, calls, kept=True)

        held = [row[3] for row in rows]
        assert held == [PRICE, 2 * PRICE + 1, Msat(3 * PRICE + 3)]
        assert [row[4] for row in rows] == [1, 2, 3]

    run(story())


def test_a_statement_reads_no_table_whole_however_new_the_books_are() -> None:
    async def story() -> None:
        async with postgres.database() as url, open_postgres(url) as store:
            await execute(url, *(f"ALTER TABLE {name} SET (autovacuum_enabled = off)" for name in TABLES))
            connection = await connect(url)
            await pay(store, 10_000 * PRICE)
            for _ in range(2):  # the first of them makes the plans, while there is next to nothing
                asked = [call() for _ in range(200)]
                await outcome(connection, "calls_v2", NOON, [_values(one) for one in asked], kept=True)
            asked = [call() for _ in range(8)]
            async with connection.transaction():
                before = dict(await connection.fetch(_ROWS_READ))
                columns = map(list, zip(*(_values(one) for one in asked), strict=True))
                await connection.fetch(statement_of("calls_v2"), NOON, *columns)
                read = {name: rows - before[name] for name, rows in await connection.fetch(_ROWS_READ)}

        assert max(read.values()) <= 10 * len(asked), read

    run(story())
