"""The storm's audit sees every kind of difference; one that saw none would prove nothing."""

import asyncio
import sqlite3
from pathlib import Path

from tests.stage import eventually, run
from tests.storm.audit import differences
from tests.storm.fleet import Fleet, fleet
from tests.storm.shoppers import LARGE_SATS, Account, Journal, Purchase, Shopper

UNPAID = "00" * 32


async def _agree(one: Fleet, journal: Journal) -> bool:
    return await differences(one, journal) == []


def test_the_audit_finds_what_was_changed_in_any_of_the_four(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"

    async def story() -> None:
        journal = Journal()
        async with fleet(tmp_path, "sqlite", f"sqlite:///{ledger}", 1, tmp_path) as one:
            shopper = Shopper(one, journal, 1)
            async with shopper.http:
                await shopper.spend_a_token()
                session = await shopper.post(
                    "/v1/topups", {"amount_sats": 100}, journal.accounts[0].headers, 201
                )
                await shopper.pay(journal.accounts[0], session["funding"]["lightning_invoice"])
                shopper.pay_ark(journal.accounts[0], session["funding"]["ark_address"], 100)
                shopper.pay_ark(journal.accounts[0], session["funding"]["ark_address"], LARGE_SATS)
                await shopper.spend_a_credential()
            await eventually(lambda: _agree(one, journal), 40)
            await shopper.learn()
            assert await differences(one, journal) == []

            token, credential = journal.accounts
            token.purchases.append(Purchase("never made", charged=True))
            assert len(await differences(one, journal)) >= 2
            token.purchases.pop()
            credential.purchases[0].charged = False
            assert len(await differences(one, journal)) >= 2
            credential.purchases[0].charged = True
            journal.accounts.append(Account({}, {UNPAID: 1000}))
            assert len(await differences(one, journal)) >= 3
            journal.accounts.pop()
            for payments in (token.paid, token.coins):
                paid, amount = next(iter(payments.items()))
                payments[paid] = amount + 1
                assert len(await differences(one, journal)) >= 3
                payments[paid] = amount
            one.backend_log.write_text("")
            assert len(await differences(one, journal)) >= 1
            with sqlite3.connect(ledger) as database:
                database.execute("UPDATE account SET posted_msat = posted_msat + 1 WHERE kind = 'customer'")
            assert len(await differences(one, journal)) >= 3

    run(asyncio.wait_for(story(), 100))
