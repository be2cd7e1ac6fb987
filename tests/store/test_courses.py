"""The barrier of the races is real: what a careless verb gets wrong comes out each time."""

from pathlib import Path

import asyncpg
import pytest

from arkgate.store import Store
from tests.store.books import ALICE, PRICE, ManualClock, pay, run
from tests.store.courses import ENGINES, Manner, PostgresCourse, Verb

POSTGRES = next(engine for engine in ENGINES if engine.name == "postgres")
pytestmark = pytest.mark.usefixtures("postgres_server")


def careless(url: str, amount: int) -> Verb:
    """Takes a hold as one does who looks first and writes then."""

    async def verb(_store: Store) -> bool:
        connection = await asyncpg.connect(url)
        try:
            account = await connection.fetchrow(
                "SELECT posted_msat, held_msat FROM account WHERE account_id = $1", ALICE
            )
            if account["posted_msat"] - account["held_msat"] < amount:
                return False
            held = account["held_msat"] + amount
            await connection.execute("UPDATE account SET held_msat = $2 WHERE account_id = $1", ALICE, held)
        finally:
            await connection.close()
        return True

    return verb


@pytest.mark.parametrize("manner", [Manner.IN_TURN, Manner.TOGETHER])
def test_a_verb_that_looks_before_it_writes_spends_a_balance_twice(tmp_path: Path, manner: Manner) -> None:
    async def story() -> None:
        async with POSTGRES.opened(tmp_path, ManualClock()) as course:
            assert isinstance(course, PostgresCourse)
            await pay(course.store, PRICE)

            granted = await course.raced([careless(course.url, PRICE)] * 2, manner)

            assert granted == [True, True]

    run(story())
