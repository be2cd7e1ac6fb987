"""Makes a ledger of millions of transfers that `verify` finds sound, so that age can be measured.

    python -m bench.big_ledger DIR [--accounts 1000000] [--transfers 10000000] [--days 90]

The rows are what the verbs would have left behind, inserted in bulk: each account with one settled
invoice and its credit, most transfers as charged calls of the days before now, a few calls released, one
invoice in twenty that ended unpaid, and stored answers of the last day. Times lie before now.
"""

import argparse
import asyncio
import hashlib
import itertools
import random
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arkgate.store import open_store
from arkgate.store.clock import DAY_MS, SystemClock, day_of
from arkgate.store.sqlite.connections import LOG_BYTES

FILE = "big-ledger.db"
SERVICE, NODE, PRICE = "ai_chat", "lnd", 50_000
RELEASED_OF = 25
"""One call in so many was released."""
UNPAID_OF = 20
"""One account in so many has a session that nobody paid."""
ANSWER_BYTES = 600
PAYMENT_REQUEST = "lnbc" + "q" * 290
_BULK = ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF", "cache_size = -1000000")


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to be made, up to which moment."""

    accounts: int
    transfers: int
    days: int
    now_ms: int
    seed: int = 7

    @property
    def charges(self) -> int:
        """Every account has one credit; the other transfers are charges."""
        return self.transfers - self.accounts

    @property
    def calls(self) -> int:
        """Charged and released ones."""
        return self.charges * RELEASED_OF // (RELEASED_OF - 1)


def account_id(number: int) -> str:
    """The account of that number: as random as a real one, and the same in every ledger."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()


def make(directory: Path, size: Size) -> Path:
    """Makes the ledger in that folder. Raises FileExistsError when there is one."""
    path = directory / FILE
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(_open_once(path))
    database = sqlite3.connect(path, isolation_level=None)
    for setting in _BULK:
        database.execute(f"PRAGMA {setting}")
    indexes = _drop_indexes(database)
    for step in (_accounts, _holds, _transfers, _settle_accounts, _allowances, _answers, _unpaid):
        started = time.monotonic()
        database.execute("BEGIN")
        step(database, size)
        database.execute("COMMIT")
        _said(step.__name__, started)
    for index in indexes:
        started = time.monotonic()
        database.execute(index)
        _said(index.split(" ON ")[0], started)
    database.execute("PRAGMA journal_mode = WAL")
    database.close()
    return path


async def _open_once(path: Path) -> None:
    async with open_store(f"sqlite:///{path.resolve()}", SystemClock(), log_bytes=LOG_BYTES):
        pass


def _said(what: str, started: float) -> None:
    print(f"{what:44} {time.monotonic() - started:6.1f} s", flush=True)


def _drop_indexes(database: sqlite3.Connection) -> list[str]:
    """Indexes are made at the end, in one sort each; answers the statements that make them."""
    listed = database.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in listed:
        database.execute(f"DROP INDEX {name}")
    return [sql for _, sql in listed]


def _accounts(database: sqlite3.Connection, size: Size) -> None:
    """Customers in the order of their ids, each with a token, its paid session and the session's invoice."""
    opened = size.now_ms - (size.days + 1) * DAY_MS
    numbers = sorted((account_id(number), number) for number in range(size.accounts))
    customers = (
        (owner, "customer", 0, 0, hashlib.sha256(owner.encode()).digest(), 1, opened) for owner, _ in numbers
    )
    database.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?)", customers)
    asset = (f"asset:node:{NODE}", "asset", 0, 0, None, None, opened)
    database.execute("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?)", asset)
    # Everybody paid for twice the calls that an account makes on average, and for a hundred more.
    paid = (2 * size.calls // size.accounts + 100) * PRICE
    invoices = (_invoice(owner, "settled", paid, opened + number) for owner, number in numbers)
    database.executemany(_INVOICE, invoices)
    database.execute(
        "INSERT INTO session (session_id, account_id, payment_hash)"
        " SELECT lower(hex(randomblob(16))), account_id, payment_hash FROM invoice"
    )


_INVOICE = f"INSERT INTO invoice VALUES ({', '.join('?' * 12)})"


def _invoice(owner: str, state: str, paid: int, at_ms: int) -> tuple[object, ...]:
    payment_hash = hashlib.sha256(f"{owner} {state}".encode()).digest()
    settled_at = at_ms if state == "settled" else None
    asked = paid or PRICE
    ends = at_ms + DAY_MS
    return (
        *(payment_hash, owner, NODE, "session", PAYMENT_REQUEST),
        *(asked, paid, state, at_ms, ends, settled_at, None),
    )


def _holds(database: sqlite3.Connection, size: Size) -> None:
    """Calls in the order of time, by accounts drawn at random."""
    database.executemany(_HOLD, _calls(size))


_HOLD = f"""
INSERT INTO hold (call_id, account_id, service, state, amount_msat, cost_msat, day, calls_per_day,
  taken_at_ms, deadline_ms, resolved_at_ms, reason, request_id, claimed_request_id, request_hash,
  idempotency_key)
VALUES ({", ".join("?" * 16)})
"""


def _calls(size: Size) -> Iterator[tuple[object, ...]]:
    draw = random.Random(size.seed)
    owners = [account_id(number) for number in range(size.accounts)]
    began = size.now_ms - size.days * DAY_MS
    step = size.days * DAY_MS / (size.calls + 1)
    request_hash = secrets.token_bytes(32)
    for number in range(size.calls):
        at_ms = began + int(number * step)
        call_id = f"{at_ms:012x}{draw.getrandbits(80):020x}"
        request_id = f"{draw.getrandbits(96):024x}"
        settled = number % RELEASED_OF != 0
        yield (
            *(call_id, draw.choice(owners), SERVICE, "settled" if settled else "released"),
            *(PRICE, PRICE if settled else 0, day_of(at_ms), 1000, at_ms, at_ms + 60_000, at_ms + 900),
            *("" if settled else "backend failed", request_id, request_id if settled else None),
            *(request_hash, None),
        )


def _transfers(database: sqlite3.Connection, _size: Size) -> None:
    """Charges first and credits after them: `charge:` sorts before `credit:`, and both are made in order."""
    database.execute(
        "INSERT INTO transfer SELECT 'charge:' || call_id, 'charge', account_id, 'income:calls', cost_msat,"
        " resolved_at_ms, service FROM hold WHERE state = 'settled' ORDER BY call_id"
    )
    database.execute(
        "INSERT INTO transfer SELECT 'credit:' || lower(hex(payment_hash)), 'credit', 'asset:node:' || node,"
        " account_id, amount_paid_msat, settled_at_ms, purpose FROM invoice ORDER BY payment_hash"
    )


def _settle_accounts(database: sqlite3.Connection, _size: Size) -> None:
    """Balances are what the transfers say."""
    database.execute(
        """
        WITH movement (account_id, amount) AS (
          SELECT credit_account_id, amount_msat FROM transfer WHERE kind = 'credit'
          UNION ALL SELECT debit_account_id, -amount_msat FROM transfer WHERE kind = 'charge'
        )
        UPDATE account SET posted_msat = total.amount
        FROM (SELECT account_id, sum(amount) AS amount FROM movement GROUP BY account_id) AS total
        WHERE total.account_id = account.account_id
        """
    )


def _allowances(database: sqlite3.Connection, _size: Size) -> None:
    database.execute(
        "INSERT INTO allowance SELECT account_id, service, day, count(*), max(call_id) FROM hold"
        " WHERE state = 'settled' GROUP BY account_id, service, day"
    )


def _answers(database: sqlite3.Connection, size: Size) -> None:
    """The last day's charged calls can still be asked for again."""
    database.execute(
        "INSERT INTO answer SELECT call_id, 200, 'application/json', resolved_at_ms + ?, randomblob(?)"
        " FROM hold WHERE state = 'settled' AND call_id >= ? ORDER BY call_id",
        (DAY_MS, ANSWER_BYTES, f"{size.now_ms - DAY_MS:012x}"),
    )


def _unpaid(database: sqlite3.Connection, size: Size) -> None:
    """Sessions that nobody paid, with their empty accounts."""
    first = size.now_ms - size.days * DAY_MS
    step = max(1, size.days * DAY_MS * UNPAID_OF // size.accounts)
    numbers = itertools.count(size.accounts)
    owners = [account_id(next(numbers)) for _ in range(size.accounts // UNPAID_OF)]
    database.executemany(
        "INSERT INTO account VALUES (?, 'customer', 0, 0, ?, 1, ?)",
        ((owner, hashlib.sha256(owner.encode()).digest(), first) for owner in sorted(owners)),
    )
    made = [_invoice(owner, "expired", 0, first + at * step) for at, owner in enumerate(owners)]
    database.executemany(_INVOICE, made)
    database.executemany(
        "INSERT INTO session VALUES (lower(hex(randomblob(16))), ?, ?)", ((row[1], row[0]) for row in made)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the ledger that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.big_ledger")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--transfers", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=90)
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    now_ms = SystemClock().now_ms()
    path = make(asked.directory, Size(asked.accounts, asked.transfers, asked.days, now_ms))
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
