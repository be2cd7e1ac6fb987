"""The audit from outside: the clients' journal, the node, the backend's log and the ledger must agree."""

from arkgate.core.keys import token_digest
from arkgate.ports import Statements
from arkgate.simulator.chat import logged_request_ids
from arkgate.store import read_store
from tests.storm.fleet import PRICE_MSAT, Fleet
from tests.storm.shoppers import Account, Journal


async def differences(fleet: Fleet, journal: Journal) -> list[str]:
    """One sentence for each thing on which two of the four disagree."""
    found = list(journal.surprises)
    asked = logged_request_ids(fleet.backend_log)
    found += _node_against_journal(fleet, journal)
    async with read_store(fleet.store_url) as books:
        findings = [*await books.verify(), await books.verify_requests(asked)]
        found += [finding.sentence for finding in findings if not finding.holds]
        for account in journal.accounts:
            found += await _account_against_books(account, books)
        found += await _totals_against_journal(books, journal, asked)
    return [f"{fleet.name}: {sentence}" for sentence in found]


def _node_against_journal(fleet: Fleet, journal: Journal) -> list[str]:
    paid = {hash_: amount for account in journal.accounts for hash_, amount in account.paid.items()}
    paid |= {outpoint: amount for account in journal.accounts for outpoint, amount in account.coins.items()}
    settled = {
        row.payment_hash.hex(): row.paid_msat
        for node in (fleet.simulation.gate, fleet.barkd)
        for row in node.peer.invoices.values()
        if row.settled
    }
    settled |= {coin.outpoint: coin.amount_sats * 1000 for coin in fleet.barkd.wallet.purse.coins.values()}
    return [
        f"payment {hash_}: the payer says {paid.get(hash_)} msat, the node {settled.get(hash_)}"
        for hash_ in paid.keys() | settled.keys()
        if paid.get(hash_) != settled.get(hash_)
    ]


async def _account_against_books(account: Account, books: Statements) -> list[str]:
    owners = {await books.account_by_payment(bytes.fromhex(hash_)) for hash_ in account.paid}
    if account.token is not None:
        owners.add(await books.account_by_token(token_digest(account.token)))
    if len(owners) != 1 or None in owners:
        return [f"payments {sorted(account.paid)} of one account were credited to {owners}"]
    (owner,) = owners
    assert owner is not None
    record = await books.account(owner)
    assert record is not None
    charged = sum(PRICE_MSAT for purchase in account.purchases if purchase.charged)
    expected = account.paid_msat - charged
    if (record.balance.posted, record.balance.held) == (expected, 0):
        return []
    ids = [purchase.request_id for purchase in account.purchases]
    return [f"account {owner}: its owner counts {expected} msat, the books {record.balance}; calls {ids}"]


async def _totals_against_journal(books: Statements, journal: Journal, asked: list[str]) -> list[str]:
    totals = await books.totals()
    paid = sum(account.paid_msat for account in journal.accounts)
    calls = sum(bool(one.charged) for account in journal.accounts for one in account.purchases)
    found = []
    if totals.credited != paid:
        found.append(f"{paid} msat were paid and {totals.credited} credited")
    if totals.charged != calls * PRICE_MSAT:
        found.append(f"{calls} calls were bought and {totals.charged} msat charged")
    if totals.open_holds:
        found.append(f"{totals.open_holds} holds are still open")
    if len(set(asked)) < calls:
        found.append(f"{calls} calls were answered and the backend saw {len(set(asked))}")
    return found
