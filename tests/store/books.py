"""What the ledger's tests share: a clock set by hand, real books in a file, and short builders."""

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from arkgate.core.keys import Purpose, PurposeKind
from arkgate.core.ledger import (
    AddressRecord,
    Answer,
    ArkPayment,
    Cursor,
    Finding,
    Funded,
    InvoiceRecord,
    InvoiceState,
    Reservation,
    SessionRecord,
    Settlement,
)
from arkgate.core.money import Msat
from arkgate.store import Store, open_store
from arkgate.store.clock import DAY_MS
from arkgate.store.sqlite.connections import LOG_BYTES
from arkgate.store.sqlite.opening import SqliteStore, open_sqlite
from tests import postgres

T = TypeVar("T")
S_contra = TypeVar("S_contra", contravariant=True)
PRICE = Msat(50_000)
CHAT = "chat"
NODE = "lnd"
WALLET = "barkd"
ALICE = "a1" * 16
BOB = "b0" * 16
NOON = 20_000 * DAY_MS + DAY_MS // 2
_numbers = itertools.count(1)


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self, at_ms: int = NOON) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self.at_ms

    def pass_ms(self, milliseconds: int) -> None:
        """Lets time pass, or steps the clock back."""
        self.at_ms += milliseconds


StoryOn = Callable[[S_contra, ManualClock], Coroutine[Any, Any, None]]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end on a loop of its own."""
    return asyncio.run(coroutine)


ENGINES = ("sqlite", "postgres")


def in_books(story: StoryOn[Store]) -> Callable[[Path, str], None]:
    """A test in freshly opened books of each engine; whatever it did, every invariant holds afterwards."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test(tmp_path: Path, engine: str) -> None:
        if engine == "postgres":
            postgres.prepare()

        async def whole() -> None:
            clock = ManualClock()
            async with (
                new_books(engine, tmp_path) as url,
                open_store(url, clock, log_bytes=LOG_BYTES) as store,
            ):
                await story(store, clock)
                findings = broken(await store.statements.verify())
                assert not findings, findings

        run(whole())

    test.__name__ = story.__name__
    test.__doc__ = story.__doc__
    return test


@asynccontextmanager
async def new_books(engine: str, directory: Path) -> AsyncIterator[str]:
    """The URL of books that nobody has opened yet, on that engine."""
    if engine == "sqlite":
        yield f"sqlite:///{directory / 'ledger.db'}"
    else:
        async with postgres.database() as url:
            yield url


def in_sqlite(story: StoryOn[SqliteStore]) -> Callable[[Path], None]:
    """As `in_books`, for what only the books in a file have."""

    def test(tmp_path: Path) -> None:
        async def whole() -> None:
            clock = ManualClock()
            async with open_sqlite(tmp_path / "ledger.db", clock) as store:
                await story(store, clock)
                findings = broken(await store.statements.verify())
                assert not findings, findings

        run(whole())

    test.__name__ = story.__name__
    test.__doc__ = story.__doc__
    return test


def broken(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that say an invariant does not hold."""
    return [finding for finding in findings if not finding.holds]


def hash_of(word: str) -> bytes:
    """A payment hash."""
    return hashlib.sha256(word.encode()).digest()


def settlement(payment_hash: bytes, amount: int = PRICE, *, node: str = NODE, fee: int = 0) -> Settlement:
    """A payment as the node reports it."""
    return Settlement(node, payment_hash, Msat(amount), memo="", settled_at_ms=NOON, fee=Msat(fee))


def ark_address(
    address: str, account_id: str = ALICE, *, purpose: str = "topup", amount: int = PRICE
) -> AddressRecord:
    """An Ark address that somebody was given."""
    return AddressRecord(address, account_id, WALLET, purpose, Msat(amount), NOON, NOON + DAY_MS)


def coin(outpoint: str, address: str, amount: int = PRICE, *, final: bool = False) -> ArkPayment:
    """A coin as the wallet reports it."""
    return ArkPayment(WALLET, outpoint, address, Msat(amount), NOON, final)


FUND_BEFORE_FEES = "SELECT * FROM fund_v1($1, $2, $3, $4, $5, $6, $7, $8, $9) WHERE $10::bigint = 0"
"""What PostgreSQL is told of a payment by a program that knows no fees."""


def for_challenge(account_id: str) -> Purpose:
    """What a verified L402 credential says of a payment."""
    return Purpose(PurposeKind.CHALLENGE, account_id)


async def pay(store: Store, amount: int, account_id: str = ALICE, *, cursor: Cursor | None = None) -> Funded:
    """A new payment into an account, which it opens."""
    payment = settlement(hash_of(f"payment {next(_numbers)}"), amount)
    return await store.ledger.fund(payment, for_challenge(account_id), cursor=cursor)


def call(
    call_id: str | None = None,
    *,
    account_id: str = ALICE,
    price: int = PRICE,
    calls_per_day: int | None = None,
    request_id: str | None = None,
    body: str = "hello",
    key: str | None = None,
    service: str = CHAT,
    deadline_ms: int = NOON + 60_000,
) -> Reservation:
    """What `reserve` is asked for."""
    number = next(_numbers)
    call_id = call_id or f"{number:032x}"
    return Reservation(
        call_id=call_id,
        account_id=account_id,
        service=service,
        price=Msat(price),
        calls_per_day=calls_per_day,
        deadline_ms=deadline_ms,
        request_id=request_id or f"request-{call_id}",
        request_hash=hash_of(f"{service} {body}"),
        idempotency_key=None if key is None else hash_of(key),
    )


def answer_to(
    asked: Reservation, *, text: str = "hi", kept_ms: int = DAY_MS, cost: int | None = None
) -> Answer:
    """The stored answer of a call, kept from NOON on."""
    cost = asked.price if cost is None else cost
    body = text.encode()
    return Answer(asked.call_id, asked.request_id, 200, "application/json", body, Msat(cost), NOON + kept_ms)


async def charge(store: Store, asked: Reservation, *, kept_ms: int = DAY_MS) -> Answer:
    """Reserves a call and settles it with an answer."""
    await store.ledger.reserve(asked)
    answer = answer_to(asked, kept_ms=kept_ms)
    await store.ledger.settle(asked.call_id, asked.price, answer)
    return answer


def invoice(
    payment_hash: bytes, account_id: str = ALICE, *, purpose: str = "topup", amount: int = PRICE
) -> InvoiceRecord:
    """An open invoice of ours."""
    return InvoiceRecord(
        payment_hash=payment_hash,
        account_id=account_id,
        node=NODE,
        purpose=purpose,
        payment_request=f"lnbc{payment_hash.hex()}",
        amount=Msat(amount),
        state=InvoiceState.OPEN,
        created_at_ms=NOON,
        expires_at_ms=NOON + DAY_MS,
    )


def invoice_of(record: SessionRecord | None) -> InvoiceRecord:
    """The invoice of a session that has one."""
    assert record is not None
    assert record.invoice is not None
    return record.invoice


def session(session_id: str, account_id: str = ALICE, *, amount: int = PRICE) -> SessionRecord:
    """A funding request with its first invoice."""
    first = invoice(hash_of(session_id), account_id, purpose="session", amount=amount)
    return SessionRecord(session_id, account_id, first)


def by_hand(path: Path, *statements: str) -> None:
    """Changes a database as no verb would: without triggers, checks or foreign keys."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA foreign_keys = OFF")
    database.execute("PRAGMA ignore_check_constraints = ON")
    for verb in ("update", "delete"):
        database.execute(f"DROP TRIGGER IF EXISTS transfer_no_{verb}")
    for statement in statements:
        database.execute(statement)
    database.close()
