"""What the tables themselves refuse, on both engines, whatever a verb might do by mistake."""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from arkgate.store import open_store
from arkgate.store.sqlite.connections import LOG_BYTES
from tests import postgres
from tests.store.books import ALICE, ENGINES, NOON, ManualClock, hash_of, new_books, run

Row = Mapping[str, Any]
Insert = Callable[[str, Row], Awaitable[str]]
"""Tries a row and takes it back: nothing where it is accepted, else the engine's words."""

# One row of each table that is as it should be, in an order in which each finds what it refers to.
ROWS: dict[str, dict[str, Any]] = {
    "account": {
        "account_id": ALICE,
        "kind": "customer",
        "posted_msat": 10,
        "held_msat": 3,
        "token_digest": hash_of("token"),
        "token_key_version": 1,
        "created_at_ms": NOON,
    },
    "transfer": {
        "transfer_id": "credit:1",
        "kind": "credit",
        "debit_account_id": "income:calls",
        "credit_account_id": ALICE,
        "amount_msat": 10,
        "at_ms": NOON,
        "detail": "topup",
    },
    "hold": {
        "call_id": "c1",
        "account_id": ALICE,
        "service": "chat",
        "state": "open",
        "amount_msat": 3,
        "cost_msat": 0,
        "day": 1,
        "calls_per_day": None,
        "taken_at_ms": NOON,
        "deadline_ms": NOON,
        "resolved_at_ms": None,
        "reason": "",
        "request_id": "r1",
        "claimed_request_id": "r1",
        "request_hash": hash_of("request"),
        "idempotency_key": b"key",
    },
    "answer": {"call_id": "c1", "status": 200, "content_type": "text", "expires_at_ms": NOON, "body": b""},
    "allowance": {"account_id": ALICE, "service": "chat", "day": 1, "used": 1, "last_settled_call_id": None},
    "invoice": {
        "payment_hash": hash_of("invoice"),
        "account_id": ALICE,
        "node": "lnd",
        "purpose": "session",
        "payment_request": "lnbc",
        "amount_msat": 10,
        "amount_paid_msat": 0,
        "state": "open",
        "created_at_ms": NOON,
        "expires_at_ms": NOON,
        "settled_at_ms": None,
        "next_lookup_ms": None,
    },
    "ark_address": {
        "address": "tark1",
        "account_id": ALICE,
        "node": "barkd",
        "purpose": "session",
        "amount_msat": 10,
        "created_at_ms": NOON,
        "expires_at_ms": NOON,
        "next_lookup_ms": None,
    },
    "ark_payment": {
        "outpoint": "t:0",
        "address": "tark1",
        "amount_msat": 10,
        "state": "waiting",
        "received_at_ms": NOON,
        "credited_at_ms": None,
    },
    "session": {
        "session_id": "s1",
        "account_id": ALICE,
        "payment_hash": hash_of("invoice"),
        "ark_address": "tark1",
    },
}
# Another row beside the first one.
OTHERS: dict[str, dict[str, Any]] = {
    "account": {"account_id": "b", "token_digest": None, "token_key_version": None},
    "transfer": {"transfer_id": "credit:2"},
    "hold": {"call_id": "c2", "request_id": "r2", "claimed_request_id": "r2", "idempotency_key": None},
    "answer": {"call_id": "c1"},
    "allowance": {"day": 2},
    "invoice": {"payment_hash": hash_of("another")},
    "ark_address": {"address": "tark2"},
    "ark_payment": {"outpoint": "t:1"},
    "session": {"session_id": "s2"},
}
SETTLED = {"state": "settled", "cost_msat": 3, "resolved_at_ms": NOON}
RELEASED = {"state": "released", "resolved_at_ms": NOON, "claimed_request_id": None}
PAID = {"state": "settled", "amount_paid_msat": 1, "settled_at_ms": NOON}
SHARED = {"kind": "asset", "posted_msat": 0, "held_msat": 0}

ACCEPTED: list[tuple[str, Row]] = [
    ("account", {}),
    ("account", {"posted_msat": 3}),
    ("account", {"posted_msat": 0, "held_msat": 0}),
    *(("account", {**SHARED, "kind": kind}) for kind in ("asset", "income", "expense", "equity")),
    ("transfer", {"kind": "charge", "amount_msat": 1}),
    ("transfer", {"kind": "fee", "transfer_id": "fee:1"}),
    ("hold", {"amount_msat": 1}),
    ("hold", {"idempotency_key": b"other"}),
    ("hold", SETTLED),
    ("hold", {**SETTLED, "cost_msat": 0, "idempotency_key": b"other"}),
    ("hold", RELEASED),
    ("allowance", {"used": 0}),
    ("invoice", {"amount_msat": 1}),
    ("invoice", PAID),
    *(("invoice", {"state": state}) for state in ("expired", "cancelled")),
    *(("invoice", {"purpose": purpose}) for purpose in ("topup", "challenge")),
    ("ark_address", {"purpose": "topup"}),
    ("ark_payment", {"amount_msat": 1}),
    ("ark_payment", {"state": "credited", "credited_at_ms": NOON}),
    ("session", {}),
    ("session", {"payment_hash": None}),
    ("session", {"ark_address": None}),
]
REFUSED: list[tuple[str, str, Row]] = [
    ("account_kind", "account", {"kind": "gift"}),
    ("account_held", "account", {"held_msat": -1}),
    ("account_available", "account", {"held_msat": 11}),
    ("account_shared", "account", {**SHARED, "posted_msat": 1}),
    ("account_token", "account", {"token_digest": b"digest"}),
    ("account_token", "account", {"token_key_version": 1}),
    ("transfer_kind", "transfer", {"kind": "gift"}),
    ("transfer_kind", "transfer", {"kind": "fee"}),
    ("transfer_amount", "transfer", {"amount_msat": 0}),
    ("transfer_amount", "transfer", {"amount_msat": -1}),
    ("transfer_moves", "transfer", {"debit_account_id": ALICE}),
    ("hold_state|hold_resolved", "hold", {"state": "lost"}),
    ("hold_state", "hold", {"state": "lost", "resolved_at_ms": NOON}),
    ("hold_amount", "hold", {"amount_msat": 0}),
    ("hold_cost", "hold", {**SETTLED, "cost_msat": 4}),
    ("hold_cost", "hold", {**SETTLED, "cost_msat": -1}),
    ("hold_charged", "hold", {"cost_msat": 1}),
    ("hold_charged", "hold", {**RELEASED, "cost_msat": 1}),
    ("hold_resolved", "hold", {"resolved_at_ms": NOON}),
    ("hold_resolved", "hold", {**SETTLED, "resolved_at_ms": None}),
    ("hold_resolved", "hold", {**RELEASED, "resolved_at_ms": None}),
    ("hold_claims", "hold", {"claimed_request_id": None}),
    ("hold_claims", "hold", {**SETTLED, "claimed_request_id": None}),
    ("hold_claims", "hold", {**RELEASED, "claimed_request_id": "r2"}),
    ("hold_claims", "hold", {**RELEASED, "idempotency_key": b"other"}),
    ("allowance_used", "allowance", {"used": -1}),
    ("invoice_hash", "invoice", {"payment_hash": bytes(31)}),
    ("invoice_hash", "invoice", {"payment_hash": bytes(33)}),
    ("invoice_purpose", "invoice", {"purpose": "gift"}),
    ("invoice_state", "invoice", {"state": "lost"}),
    ("invoice_amount", "invoice", {"amount_msat": 0}),
    ("invoice_paid", "invoice", {"amount_paid_msat": 1}),
    ("invoice_paid", "invoice", {"amount_paid_msat": -1}),
    ("invoice_paid", "invoice", {**PAID, "amount_paid_msat": 0}),
    ("invoice_settled", "invoice", {"settled_at_ms": NOON}),
    ("invoice_settled", "invoice", {**PAID, "settled_at_ms": None}),
    ("ark_address_text", "ark_address", {"address": ""}),
    ("ark_address_purpose", "ark_address", {"purpose": "challenge"}),
    ("ark_address_amount", "ark_address", {"amount_msat": 0}),
    ("ark_payment_outpoint", "ark_payment", {"outpoint": ""}),
    ("ark_payment_state|ark_payment_credited", "ark_payment", {"state": "lost"}),
    ("ark_payment_amount", "ark_payment", {"amount_msat": 0}),
    ("ark_payment_credited", "ark_payment", {"credited_at_ms": NOON}),
    ("ark_payment_credited", "ark_payment", {"state": "credited"}),
    ("session_payable", "session", {"payment_hash": None, "ark_address": None}),
    ("unique", "account", {"account_id": ALICE}),
    ("unique", "account", {"token_digest": hash_of("token"), "token_key_version": 1}),
    ("unique", "transfer", {"transfer_id": "credit:1"}),
    ("unique", "hold", {"call_id": "c1"}),
    ("unique", "hold", {"claimed_request_id": "r1"}),
    ("unique", "hold", {"idempotency_key": b"key"}),
    ("unique", "answer", {}),
    ("unique", "allowance", {"day": 1}),
    ("unique", "invoice", {"payment_hash": hash_of("invoice")}),
    ("unique", "ark_address", {"address": "tark1"}),
    ("unique", "ark_payment", {"outpoint": "t:0"}),
    ("unique", "session", {"session_id": "s1"}),
    ("foreign key", "hold", {"account_id": "nobody"}),
    ("foreign key", "answer", {"call_id": "nowhere"}),
    ("foreign key", "allowance", {"account_id": "nobody"}),
    ("foreign key", "invoice", {"account_id": "nobody"}),
    ("foreign key", "ark_address", {"account_id": "nobody"}),
    ("foreign key", "ark_payment", {"address": "nowhere"}),
    ("foreign key", "session", {"account_id": "nobody"}),
    ("foreign key", "session", {"ark_address": "nowhere"}),
    ("foreign key", "session", {"payment_hash": hash_of("nowhere")}),
]
# PostgreSQL would lock the row of the income account for each charge.
REFUSED_ON_SQLITE: list[tuple[str, str, Row]] = [
    ("foreign key", "transfer", {"debit_account_id": "nobody"}),
    ("foreign key", "transfer", {"credit_account_id": "nobody"}),
]


def _statement(table: str, row: Row, place: str) -> str:
    places = ", ".join(place.format(number) for number in range(1, len(row) + 1))
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"


async def _in_sqlite(url: str, story: Callable[[Insert], Awaitable[None]]) -> None:
    database = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    database.execute("PRAGMA foreign_keys = ON")
    for table, row in ROWS.items():
        database.execute(_statement(table, row, "?"), list(row.values()))

    async def insert(table: str, row: Row) -> str:
        database.execute("SAVEPOINT before")
        try:
            database.execute(_statement(table, row, "?"), list(row.values()))
        except sqlite3.IntegrityError as error:
            return str(error)
        finally:
            database.execute("ROLLBACK TO before")
        return ""

    await story(insert)
    database.close()


async def _in_postgres(url: str, story: Callable[[Insert], Awaitable[None]]) -> None:
    database = await asyncpg.connect(url)
    for table, row in ROWS.items():
        await database.execute(_statement(table, row, "${}"), *row.values())

    async def insert(table: str, row: Row) -> str:
        transaction = database.transaction()
        await transaction.start()
        try:
            await database.execute(_statement(table, row, "${}"), *row.values())
        except asyncpg.IntegrityConstraintViolationError as error:
            return str(error)
        finally:
            await transaction.rollback()
        return ""

    await story(insert)
    await database.close()


def _tried(engine: str, directory: Path, story: Callable[[Insert], Awaitable[None]]) -> None:
    if engine == "postgres":
        postgres.prepare()

    async def whole() -> None:
        async with new_books(engine, directory) as url:
            async with open_store(url, ManualClock(), log_bytes=LOG_BYTES):
                pass
            await (_in_sqlite if engine == "sqlite" else _in_postgres)(url, story)

    run(whole())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_tables_refuse_what_cannot_be(tmp_path: Path, engine: str) -> None:
    wrong: list[str] = []

    async def story(insert: Insert) -> None:
        for why, table, changes in REFUSED + (REFUSED_ON_SQLITE if engine == "sqlite" else []):
            said = await insert(table, {**ROWS[table], **OTHERS[table], **changes})
            if not re.search(why, said, re.IGNORECASE):
                wrong.append(f"{why} by {table} {dict(changes)}: {said or 'accepted'}")

    _tried(engine, tmp_path, story)

    assert not wrong


@pytest.mark.parametrize("engine", ENGINES)
def test_the_tables_accept_what_is_at_the_edge(tmp_path: Path, engine: str) -> None:
    wrong: list[str] = []

    async def story(insert: Insert) -> None:
        for table, changes in ACCEPTED:
            said = await insert(table, {**ROWS[table], **OTHERS[table], **changes})
            if said:
                wrong.append(f"{table} {dict(changes)}: {said}")

    _tried(engine, tmp_path, story)

    assert not wrong
