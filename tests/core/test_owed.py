"""What is owed adds up, by age, by state and in all."""

from arkgate.core.money import Msat
from arkgate.core.reports import (
    AccountAge,
    AccountState,
    AccountTotal,
    Liabilities,
    Owed,
    OwedGroup,
    added_up,
)


def group(age: AccountAge, state: AccountState, *, accounts: int, posted: int, held: int) -> OwedGroup:
    return OwedGroup(age, state, Owed(accounts, Msat(posted), Msat(held)))


LIABILITIES = Liabilities(
    taken_at_ms=1,
    groups=(
        group(AccountAge.DAYS_30, AccountState.ACTIVE, accounts=2, posted=70, held=20),
        group(AccountAge.DAYS_30, AccountState.EMPTY, accounts=1, posted=0, held=0),
        group(AccountAge.OLDER, AccountState.ACTIVE, accounts=4, posted=500, held=3),
    ),
    invoices_open=0,
    invoices_open_amount=Msat(0),
    shared=(AccountTotal("income:calls", 30), AccountTotal("asset:node:lnd", -600)),
)


def test_what_is_owed_is_the_sum_of_its_groups() -> None:
    assert LIABILITIES.total == Owed(7, Msat(570), Msat(23))
    assert LIABILITIES.by_age(AccountAge.DAYS_30) == Owed(3, Msat(70), Msat(20))
    assert LIABILITIES.by_age(AccountAge.DAYS_90) == Owed(0, Msat(0), Msat(0))
    assert LIABILITIES.by_state(AccountState.ACTIVE) == Owed(6, Msat(570), Msat(23))
    assert LIABILITIES.by_state(AccountState.EMPTY) == Owed(1, Msat(0), Msat(0))


def test_nobody_is_owed_nothing() -> None:
    assert added_up(()) == Owed() == Owed(0, Msat(0), Msat(0))


def test_a_shared_account_that_does_not_exist_stands_at_zero() -> None:
    assert LIABILITIES.shared_total("income:calls") == 30
    assert LIABILITIES.shared_total("asset:node:lnd") == -600
    assert LIABILITIES.shared_total("expense:fees") == 0
