"""The books open for one writer, keep what was in them, and refuse tables they do not know."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import arkgate.store.migrations
from arkgate.core.errors import NotSupported, StoreUnavailable
from arkgate.core.ledger import Balance, Cursor, FundOutcome, ReserveOutcome
from arkgate.core.money import Msat
from arkgate.store import open_store, revisions
from arkgate.store.lock import lock_path
from arkgate.store.sqlite.connections import LOG_BYTES
from arkgate.store.sqlite.disk import refuse_shared
from arkgate.store.sqlite.opening import open_sqlite, open_sqlite_readonly
from arkgate.store.sqlite.schema import upgrade
from arkgate.store.sqlite.upgrade import apply_revisions
from arkgate.store.tables import metadata
from tests.store.books import (
    ALICE,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    answer_to,
    broken,
    by_hand,
    call,
    for_challenge,
    hash_of,
    pay,
    run,
    session,
    settlement,
)

HOLDER = """
import sys, time
from pathlib import Path
from arkgate.store.lock import writing_lock
with writing_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.db", ManualClock()
    asked, open_call = call(key="k"), call()

    async def before() -> None:
        async with open_sqlite(path, clock) as store:
            await store.ledger.open_session(session("s"), token_digest=b"d" * 32, key_version=1)
            await store.ledger.fund(settlement(hash_of("s"), 3 * PRICE), None, cursor=Cursor(4, 2))
            await store.ledger.reserve(asked)
            await store.ledger.settle(asked.call_id, PRICE, answer_to(asked))
            await store.ledger.reserve(open_call)

    async def after() -> None:
        clock.pass_ms(1000)
        async with open_sqlite(path, clock) as store:
            account = await store.statements.account(ALICE)
            again = await store.ledger.fund(settlement(hash_of("s"), 3 * PRICE), for_challenge(ALICE))
            repeated = await store.ledger.reserve(call(key="k"))

            assert account is not None
            assert account.balance == Balance(Msat(2 * PRICE), PRICE)
            assert again.outcome is FundOutcome.REPLAYED
            assert repeated.answer == answer_to(asked)
            assert (await store.ledger.reserve(open_call)).outcome is ReserveOutcome.REPLAYED
            assert await store.statements.cursor(NODE) == Cursor(4, 2)
            assert (await store.statements.facts())["opened_at_ms"] == NOON
            assert broken(await store.statements.verify()) == []

    run(before())
    run(after())


@pytest.mark.parametrize("ahead_ms", [0, 3_600_000], ids=["right clock", "clock an hour ahead"])
def test_what_a_dead_process_held_is_given_back_at_the_next_start(tmp_path: Path, ahead_ms: int) -> None:
    path, asked = tmp_path / "ledger.db", call(key="k", deadline_ms=NOON + ahead_ms + 60_000)

    async def before() -> None:
        async with open_sqlite(path, ManualClock(NOON + ahead_ms)) as store:
            await pay(store, PRICE)
            await store.ledger.reserve(asked)

    async def after() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            swept = await store.ledger.sweep(10)
            again = await store.ledger.reserve(call(key="k"))

            assert [hold.call_id for hold in swept] == [asked.call_id]
            assert again.outcome is ReserveOutcome.RESERVED
            assert broken(await store.statements.verify()) == []

    run(before())
    run(after())


def test_a_second_process_is_refused_with_the_first_ones_id(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def open_and_pay() -> FundOutcome:
        async with open_sqlite(path, ManualClock()) as store:
            return (await pay(store, PRICE)).outcome

    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreUnavailable) as refused:
            run(open_and_pay())
        holder.send_signal(signal.SIGKILL)
    after_the_kill = run(open_and_pay())

    assert f"pid {holder.pid}" in str(refused.value)
    assert str(lock_path(path)) in str(refused.value)
    assert after_the_kill is FundOutcome.APPLIED


def test_the_same_process_cannot_open_the_books_twice(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as first:
            with pytest.raises(StoreUnavailable, match=f"pid {os.getpid()}") as refused:
                async with open_sqlite(tmp_path / "ledger.db", ManualClock()):
                    pass
            assert refused.value.reason == "store_locked"
            await pay(first, PRICE)

    run(story())


def test_tables_of_an_unknown_revision_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def open_once() -> None:
        async with open_sqlite(path, ManualClock()):
            pass

    run(open_once())
    by_hand(
        path,
        "UPDATE alembic_version SET version_num = '0999'",
        "UPDATE meta SET value = 999 WHERE name = 'revision_floor'",
    )

    with pytest.raises(StoreUnavailable, match="revision 0999, which this version") as refused:
        run(open_once())
    with (
        pytest.raises(StoreUnavailable, match="revision 0999"),
        open_sqlite_readonly(path, ManualClock()),
    ):
        pass
    assert refused.value.reason == "store_schema"


def test_an_upgrade_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cursor (in_the_way INTEGER)")

    async def open_once() -> None:
        async with open_sqlite(path, ManualClock()):
            pass

    with pytest.raises(StoreUnavailable, match="cannot be upgraded"):
        run(open_once())

    with sqlite3.connect(path) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master")]
    assert tables == ["cursor"]


def test_what_is_not_a_ledger_is_refused(tmp_path: Path) -> None:
    garbage, nowhere, empty = tmp_path / "garbage", tmp_path / "no" / "ledger.db", tmp_path / "empty.db"
    garbage.write_bytes(b"garbage" * 1000)
    sqlite3.connect(empty).execute("CREATE TABLE t (a)").connection.close()

    async def open_once(path: Path) -> None:
        async with open_sqlite(path, ManualClock()):
            pass

    for path in (garbage, nowhere):
        with pytest.raises(StoreUnavailable, match=re.escape(str(path))):
            run(open_once(path))
    for path in (garbage, nowhere, empty):
        with pytest.raises(StoreUnavailable), open_sqlite_readonly(path, ManualClock()):
            pass


def test_the_migrated_tables_are_the_declared_ones(tmp_path: Path) -> None:
    migrated = sqlite3.connect(tmp_path / "migrated.db", isolation_level=None)
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")

    upgrade(migrated)
    metadata.create_all(declared)

    with declared.connect() as connection:
        rows = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master").all()
    wanted = {(kind, name): _parts(sql) for kind, name, sql in rows}
    made = {
        (kind, name): _parts(sql)
        for kind, name, sql in migrated.execute("SELECT type, name, sql FROM sqlite_master")
        if "alembic_version" not in name
    }
    assert made == wanted
    migrated.close()
    with create_engine(f"sqlite:///{tmp_path / 'migrated.db'}").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def _parts(sql: str | None) -> list[str]:
    """A statement's lines, in any order of its constraints."""
    return sorted(line.strip().rstrip(",") for line in (sql or "").splitlines())


def test_every_table_is_strict(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    upgrade(database)

    listed = database.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").fetchall()

    loose = {name for name, strict in listed if not strict and not name.startswith("sqlite_")}
    assert loose == {"alembic_version"}
    database.close()


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(arkgate.store.migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)

    known = tuple(script.revision for script in scripts.walk_revisions())[::-1]

    assert known == revisions.REVISIONS
    assert scripts.get_heads() == [revisions.REVISIONS[-1]]


def test_books_are_read_beside_a_gateway_and_after_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def story() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            await pay(store, PRICE)
            with open_sqlite_readonly(path, ManualClock()) as beside:
                await pay(store, PRICE)
                account = await beside.account(ALICE)
                assert account is not None
                assert account.balance.posted == 2 * PRICE
                assert broken(await beside.verify()) == []
        with open_sqlite_readonly(path, ManualClock()) as after:
            assert (await after.totals()).customers == 2 * PRICE

    run(story())


def test_a_long_read_makes_no_writer_wait(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as store:
            reader = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM account").fetchone()

            started = time.monotonic()
            await pay(store, PRICE)

            assert time.monotonic() - started < 2
            reader.close()

    run(story())


def test_closed_books_refuse_and_what_waited_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def story() -> None:
        async with open_sqlite(path, ManualClock()) as store:
            await pay(store, 9 * PRICE)
            waiting = [asyncio.create_task(store.ledger.reserve(call())) for _ in range(9)]
            await asyncio.sleep(0)
        answers = await asyncio.gather(*waiting)
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.ledger.reserve(call())

        assert {answer.outcome for answer in answers} == {ReserveOutcome.RESERVED}
        with open_sqlite_readonly(path, ManualClock()) as after:
            assert (await after.totals()).held == 9 * PRICE
        assert (
            not path.with_name("ledger.db-wal").exists()
            or path.with_name("ledger.db-wal").stat().st_size == 0
        )

    run(story())


def test_the_books_are_their_owners_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "ledger.db", ManualClock()) as store:
            await pay(store, PRICE)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
            assert set(modes.values()) == {0o600}, modes

    run(story())


def test_a_url_names_the_engine(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_store(f"sqlite:///{tmp_path}/ledger.db", ManualClock(), log_bytes=LOG_BYTES) as store:
            await pay(store, PRICE)

    run(story())

    assert (tmp_path / "ledger.db").exists()
    for url in ("mysql:///x", "ledger.db", "sqlite:///"):
        with pytest.raises(NotSupported, match="or PostgreSQL"):
            open_store(url, ManualClock(), log_bytes=LOG_BYTES)


def test_the_log_has_its_size_before_the_first_change(tmp_path: Path) -> None:
    path, log_bytes = tmp_path / "ledger.db", 8 * 1024 * 1024

    async def story() -> tuple[int, int, int]:
        async with open_sqlite(path, ManualClock(), log_bytes=log_bytes) as store:
            before = (tmp_path / "ledger.db-wal").stat().st_size
            await pay(store, PRICE)
            return before, (tmp_path / "ledger.db-wal").stat().st_size, path.stat().st_size

    before, after, database = run(story())

    assert before >= log_bytes
    assert after == before
    assert database < log_bytes


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    lines = (
        "/dev/vda / ext4 rw",
        r"server:/data /srv/my\040data nfs4 rw",
        r"/dev/vdb /srv/my\040data/local ext4 rw",
    )
    mounts.write_text("\n".join(lines))

    refuse_shared(Path("/srv/ledger.db"), mounts)
    refuse_shared(Path("/srv/my data/local/ledger.db"), mounts)
    with pytest.raises(StoreUnavailable, match="nfs4") as refused:
        refuse_shared(Path("/srv/my data/books/ledger.db"), mounts)
    assert refused.value.reason == "store_unfit"


_OF_THE_FIRST_REVISION = (
    "INSERT INTO account VALUES ('a', 'customer', 0, 0, NULL, NULL, 1)",
    "INSERT INTO invoice VALUES (zeroblob(32), 'a', 'lnd', 'session', '', 1, 0, 'open', 1, 2, NULL, NULL)",
    "INSERT INTO session (session_id, account_id, payment_hash) VALUES ('s', 'a', zeroblob(32))",
)


def test_books_of_the_first_revision_are_upgraded_and_its_programs_may_go_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def open_once() -> dict[str, int]:
        async with open_sqlite(path, ManualClock()) as store:
            return dict(await store.statements.facts())

    first = sqlite3.connect(path, isolation_level=None)
    apply_revisions(first, up_to="0001")
    for row in _OF_THE_FIRST_REVISION:
        first.execute(row)
    first.close()

    facts = run(open_once())

    assert facts[revisions.FLOOR_FACT] == 1
    with sqlite3.connect(path) as database:
        indexes = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        sessions = database.execute("SELECT session_id, account_id, payment_hash FROM session").fetchall()
    assert {"invoice_ended", "session_invoice"} <= indexes
    assert sessions == [("s", "a", bytes(32))]
