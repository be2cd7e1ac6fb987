"""The verbs of Ark addresses: who was given one, and the coins that come in at it."""

from arkgate.core.ledger import (
    AddressRecord,
    ArkPayment,
    Balance,
    Cursor,
    Funded,
    FundOutcome,
    ark_credit_id,
    node_account,
)
from arkgate.core.money import Msat
from arkgate.store import rules
from arkgate.store.sqlite import queries
from arkgate.store.sqlite.connections import Executing

_FOREIGN = Funded(outcome=FundOutcome.FOREIGN, account_id=None, balance=None)


def add_address(database: Executing, now_ms: int, record: AddressRecord) -> None:
    """Records an address, due for a look-up at once."""
    if database.execute(queries.BALANCE, (record.account_id,)).fetchone() is None:
        raise LookupError(f"no account {record.account_id}")
    owner = database.execute(queries.ADDRESS_OWNER, (record.address,)).fetchone()
    if owner not in (None, (record.account_id, record.purpose)):
        raise ValueError(f"address {record.address} was given out for something else")
    asked = (record.amount, record.created_at_ms, record.expires_at_ms)
    whose = (record.address, record.account_id, record.node, record.purpose)
    database.execute(queries.ADD_ADDRESS, (*whose, *asked, now_ms))


def fund_ark(
    database: Executing, now_ms: int, payment: ArkPayment, instant_max: Msat, cursor: Cursor | None
) -> Funded:
    """Credits a coin once, or notes that it waits; saves the cursor whatever it is."""
    if cursor is not None:
        database.execute(queries.ADVANCE, (payment.node, cursor.add_index, cursor.settle_index))
    owner = database.execute(queries.ADDRESS_OWNER, (payment.address,)).fetchone()
    if owner is None:
        return _FOREIGN
    account_id, detail = owner
    credited = database.execute(queries.CREDITED_TO, (ark_credit_id(payment.outpoint),)).fetchone()
    if credited is not None:
        return Funded(FundOutcome.REPLAYED, credited[0], _balance(database, credited[0]))
    rules.coin(payment)
    _note(database, payment)
    if not payment.final and payment.amount_paid + _credited_there(database, payment.address) > instant_max:
        return Funded(FundOutcome.WAITING, account_id, _balance(database, account_id))
    _credit(database, now_ms, payment, account_id, detail)
    return Funded(FundOutcome.APPLIED, account_id, _balance(database, account_id))


def _note(database: Executing, payment: ArkPayment) -> None:
    """The coin is in the books. Raises ValueError when they have it with another amount or address."""
    coin = (payment.outpoint, payment.address, payment.amount_paid, payment.received_at_ms)
    database.execute(queries.ADD_COIN, coin)
    if database.execute(queries.COIN, (payment.outpoint,)).fetchone() != (
        payment.address,
        payment.amount_paid,
    ):
        raise ValueError(f"{payment.node} reported another amount or address for {payment.outpoint}")


def _credited_there(database: Executing, address: str) -> int:
    row = database.execute(queries.CREDITED_AT_ADDRESS, (address,)).fetchone()
    return int(row[0])


def _credit(database: Executing, now_ms: int, payment: ArkPayment, account_id: str, detail: str) -> None:
    asset = node_account(payment.node)
    database.execute(queries.OPEN_ACCOUNT, (asset, "asset", now_ms))
    credited = database.execute(queries.CREDIT_COIN, (now_ms, payment.outpoint)).rowcount
    assert credited == 1, "a coin that was not credited was waiting"
    transfer = (
        ark_credit_id(payment.outpoint),
        "credit",
        asset,
        account_id,
        payment.amount_paid,
        now_ms,
        detail,
    )
    database.execute(queries.ADD_TRANSFER, transfer)
    database.execute(queries.CREDIT_ACCOUNT, (payment.amount_paid, account_id))


def mark_address_looked_up(
    database: Executing, _now_ms: int, address: str, next_lookup_ms: int | None
) -> None:
    """Notes when an address is due next."""
    database.execute(queries.MARK_ADDRESS_LOOKED_UP, (next_lookup_ms, address))


def _balance(database: Executing, account_id: str) -> Balance:
    return Balance(*database.execute(queries.BALANCE, (account_id,)).fetchone())
