"""What an operator can ask of the books, as values: the journal, balances, and what is owed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from arkgate.core.money import Msat

PAUSED_FACT = "paused_since_ms"
"""The fact that forbids to sell, by the time since when it does; 0 when it does not any more."""
BACKUP_FACT = "restored_from_ms"
"""The fact that names the moment whose books these are: what was spent after it is not in them."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One transfer as an accountant books it: the same amount leaves one account and enters another."""

    transfer_id: str
    at_ms: int
    kind: str
    """`credit` (a payment arrived), `charge` (a call was sold) or `fee` (what a node kept of a payment)."""
    debit_account: str
    credit_account: str
    amount: Msat
    detail: str
    """The purpose of a credit, the service of a charge, the node of a fee."""


@dataclass(frozen=True, slots=True)
class AccountTotal:
    """All that one account was credited with less all that it was debited with; may be negative."""

    account_id: str
    credit_less_debit: int
    """In msat: positive for what we owe or earned, negative for what we own or spent."""


class AccountAge(Enum):
    """How long ago a customer's account last moved; one that never moved counts from its opening."""

    DAYS_30 = "under 30 days"
    DAYS_90 = "30 to 90 days"
    DAYS_365 = "90 to 365 days"
    OLDER = "365 days and more"


class AccountState(Enum):
    """What a customer's account is at the moment."""

    ACTIVE = "active"
    """Something is on it."""
    EMPTY = "empty"
    """It was paid into, and nothing is left."""
    AWAITING_PAYMENT = "awaiting payment"
    """Nothing was ever paid, and an invoice of it can still be paid."""
    EXPIRED = "expired"
    """Nothing was ever paid, and none of its invoices is open any more."""


@dataclass(frozen=True, slots=True)
class Owed:
    """What is owed to some accounts; `held` is the part of `posted` that open calls hold."""

    accounts: int = 0
    posted: Msat = Msat(0)
    held: Msat = Msat(0)


@dataclass(frozen=True, slots=True)
class OwedGroup:
    """What is owed to the accounts of one age and one state."""

    age: AccountAge
    state: AccountState
    owed: Owed


@dataclass(frozen=True, slots=True)
class Liabilities:
    """What is owed to customers at one moment, and what the books say is there to pay it with."""

    taken_at_ms: int
    groups: Sequence[OwedGroup]
    """Every age and state that any account is in."""
    invoices_open: int
    """Invoices of sessions and top-ups that can still be paid."""
    invoices_open_amount: Msat
    """What those ask for."""
    shared: Sequence[AccountTotal]
    """Every account that is no customer's."""

    @property
    def total(self) -> Owed:
        """What is owed to all customers."""
        return added_up(group.owed for group in self.groups)

    def by_age(self, age: AccountAge) -> Owed:
        """What is owed to the accounts of that age."""
        return added_up(group.owed for group in self.groups if group.age is age)

    def by_state(self, state: AccountState) -> Owed:
        """What is owed to the accounts in that state."""
        return added_up(group.owed for group in self.groups if group.state is state)

    def shared_total(self, account_id: str) -> int:
        """Credit less debit, in msat, of a shared account; 0 for one that does not exist."""
        found = (total.credit_less_debit for total in self.shared if total.account_id == account_id)
        return next(found, 0)


def added_up(parts: Iterable[Owed]) -> Owed:
    """The sum of what is owed to several groups."""
    accounts, posted, held = 0, 0, 0
    for part in parts:
        accounts, posted, held = accounts + part.accounts, posted + part.posted, held + part.held
    return Owed(accounts, Msat(posted), Msat(held))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table as an archive names it."""

    name: str
    kind: str
    """`text`, `integer` or `bytes`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the books and its columns, in the order in which rows give them."""

    name: str
    columns: Sequence[Column]
