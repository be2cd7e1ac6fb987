"""An archive holds all of the books, and one that is cut, changed or foreign restores nothing."""

import contextlib
import gzip
import json
import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from arkgate.core.errors import StoreUnavailable
from arkgate.core.keys import KEY_BYTES, Keyring
from arkgate.core.ledger import Cursor, InvoiceState, ReserveOutcome
from arkgate.core.reports import BACKUP_FACT, PAUSED_FACT
from arkgate.store import Store, open_store, read_store, restore_store
from arkgate.store.archive import Archive, ArchiveError, archived_rows, read_archive, write_archive
from arkgate.store.keyfile import KEY_FACT, KeyfileError, load_or_create_keyring
from arkgate.store.restoring import refuse_other_keys
from arkgate.store.sqlite.connections import LOG_BYTES
from tests import postgres
from tests.store.books import (
    ALICE,
    BOB,
    ENGINES,
    NOON,
    PRICE,
    ManualClock,
    ark_address,
    broken,
    call,
    charge,
    coin,
    hash_of,
    invoice,
    new_books,
    pay,
    run,
    session,
)

Story = Callable[[Store], Awaitable[None]]


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def every_kind_of_row(store: Store) -> None:
    """At least one row in each table, and every state of holds and invoices."""
    await pay(store, 9 * PRICE)
    await charge(store, call("c1", calls_per_day=5, key="key"))
    await store.ledger.reserve(call("c2", calls_per_day=5))
    await store.ledger.reserve(call("c3", calls_per_day=5))
    await store.ledger.release("c3", "the backend “failed”")
    await store.ledger.open_session(session("s1", BOB), token_digest=hash_of("token"), key_version=1)
    await store.ledger.add_invoice(invoice(hash_of("top-up")))
    await store.ledger.add_address(ark_address("tark1"))
    await store.ledger.fund_ark(coin("t:0", "tark1"), instant_max=PRICE)
    await store.ledger.mark_invoice(hash_of("top-up"), InvoiceState.EXPIRED)
    await store.ledger.advance("lnd", Cursor(7, 3))


async def archived(directory: Path, story: Story = every_kind_of_row) -> Path:
    """An archive of books in which the story happened."""
    async with open_store(url(directory / "books.db"), ManualClock(), log_bytes=LOG_BYTES) as store:
        await story(store)
        async with store.statements.snapshot() as snapshot:
            await write_archive(snapshot, directory / "backup.gz")
    return directory / "backup.gz"


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with sqlite3.connect(path) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(database.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names
        }


async def restored(directory: Path, archive: Path) -> Path:
    await restore_store(url(directory / "new.db"), read_archive(archive))
    return directory / "new.db"


def test_restored_books_are_the_archived_ones_and_paused(tmp_path: Path) -> None:
    new = run(restored(tmp_path, run(archived(tmp_path))))
    before, after = content(tmp_path / "books.db"), content(new)
    facts = dict(after.pop("meta"))

    assert facts.pop(PAUSED_FACT)
    assert facts.pop(BACKUP_FACT) == NOON
    assert facts == dict(before.pop("meta"))
    assert all(rows for rows in before.values())
    assert after == before


def test_restored_books_go_on_where_the_archived_ones_were(tmp_path: Path) -> None:
    async def story() -> None:
        new = await restored(tmp_path, await archived(tmp_path))
        async with open_store(url(new), ManualClock(), log_bytes=LOG_BYTES) as store:
            account = await store.statements.account(ALICE)
            assert account is not None
            assert account.balance.available == 8 * PRICE
            again = await store.ledger.reserve(call("c4", calls_per_day=5, key="key"))
            assert again.outcome is ReserveOutcome.ANSWERED
            assert not broken(await store.statements.verify())

    run(story())


def test_an_archive_is_of_one_moment_while_the_books_change(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_store(url(tmp_path / "books.db"), ManualClock(), log_bytes=LOG_BYTES) as store:
            await pay(store, PRICE)
            async with store.statements.snapshot() as snapshot:
                await pay(store, PRICE, BOB)
                counts = await write_archive(snapshot, tmp_path / "backup.gz")
                owed = await snapshot.liabilities()
                assert await snapshot.account(BOB) is None
        assert (counts["transfer"], owed.total.posted) == (1, PRICE)
        assert read_archive(tmp_path / "backup.gz").row_counts == counts

    run(story())


def test_an_archive_is_its_owners_and_takes_no_files_place(tmp_path: Path) -> None:
    archive = run(archived(tmp_path))

    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    (tmp_path / "second").mkdir()
    archive.replace(tmp_path / "second" / "backup.gz")
    kept = (tmp_path / "second" / "backup.gz").read_bytes()
    with pytest.raises(ArchiveError, match="exists and is left as it is"):
        run(archived(tmp_path / "second"))
    assert (tmp_path / "second" / "backup.gz").read_bytes() == kept
    assert not [name for name in os.listdir(tmp_path / "second") if name.startswith(".")]


def lines_of(archive: Path) -> list[bytes]:
    return gzip.decompress(archive.read_bytes()).splitlines(keepends=True)


def without_a_row(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if b"charge:c1" not in line]


def with_more_money(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b"450000", b"950000") for line in lines]


def with_a_row_more(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[1]]


def without_an_end(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def of_format_two(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b'"arkgate_backup":1', b'"arkgate_backup":2'), *lines[1:]]


def of_a_later_revision(lines: list[bytes]) -> list[bytes]:
    head = json.loads(lines[0])
    return [json.dumps({**head, "revision": "9999"}).encode() + b"\n", *lines[1:]]


def nothing(lines: list[bytes]) -> list[bytes]:
    return []


def something_else(lines: list[bytes]) -> list[bytes]:
    return [b"name,amount\n", b"alice,1\n"]


DAMAGE = {
    "a row is missing": (without_a_row, "damaged"),
    "a figure was changed": (with_more_money, "damaged"),
    "something follows the end": (with_a_row_more, "damaged"),
    "the end is missing": (without_an_end, "cut short"),
    "another format": (of_format_two, "format 2"),
    "an unknown revision": (of_a_later_revision, "revision 9999, which this version"),
    "an empty file": (nothing, "damaged"),
    "another program's file": (something_else, "no archive of a ledger"),
}


@pytest.mark.parametrize(("change", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_a_changed_archive_is_refused(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], sentence: str
) -> None:
    archive = run(archived(tmp_path))
    lines = change(lines_of(archive))
    assert lines != lines_of(archive)
    archive.write_bytes(gzip.compress(b"".join(lines)))

    with pytest.raises(ArchiveError, match=sentence):
        read_archive(archive)


def test_a_file_that_is_cut_or_flipped_anywhere_reads_as_nothing_else(tmp_path: Path) -> None:
    archive = run(archived(tmp_path))
    whole, lines = archive.read_bytes(), lines_of(archive)
    assert len(whole) > 500
    for place in range(10, len(whole) - 8, 7):
        archive.write_bytes(whole[:place])
        with pytest.raises(ArchiveError):
            read_archive(archive)
        archive.write_bytes(whole[:place] + bytes((whole[place] ^ 0x10,)) + whole[place + 1 :])
        with contextlib.suppress(ArchiveError):
            read_archive(archive)
            assert lines_of(archive) == lines  # a few bits mean nothing to gzip


async def a_payment(store: Store) -> None:
    await pay(store, PRICE)


async def a_session(store: Store) -> None:
    await store.ledger.open_session(session("s2", BOB), token_digest=hash_of("2"), key_version=1)


@pytest.mark.parametrize("story", [a_payment, a_session])
def test_books_in_which_anything_happened_are_not_restored_into(tmp_path: Path, story: Story) -> None:
    async def whole() -> None:
        checked = read_archive(await archived(tmp_path))
        async with open_store(url(tmp_path / "new.db"), ManualClock(), log_bytes=LOG_BYTES) as store:
            await story(store)
        before = content(tmp_path / "new.db")
        with pytest.raises(StoreUnavailable, match="is not empty"):
            await restore_store(url(tmp_path / "new.db"), checked)
        assert content(tmp_path / "new.db") == before

    run(whole())


def test_books_that_were_only_opened_are_restored_into(tmp_path: Path) -> None:
    async def story() -> None:
        checked = read_archive(await archived(tmp_path))
        async with open_store(url(tmp_path / "new.db"), ManualClock(), log_bytes=LOG_BYTES) as store:
            with pytest.raises(StoreUnavailable, match="Another process"):
                await restore_store(url(tmp_path / "new.db"), checked)
            await store.ledger.probe()
        await restore_store(url(tmp_path / "new.db"), checked)
        async with read_store(url(tmp_path / "new.db")) as statements:
            assert (await statements.totals()).customers == 9 * PRICE

    run(story())


def with_keys(archive: Archive, keyring: Keyring) -> Archive:
    facts = {**archive.facts, f"{KEY_FACT}1": keyring.fingerprint(1)}
    return Archive(
        archive.path, archive.revision, archive.taken_at_ms, archive.tables, archive.row_counts, facts
    )


def test_another_key_file_is_refused_and_none_is_made(tmp_path: Path) -> None:
    plain = read_archive(run(archived(tmp_path)))
    ours = load_or_create_keyring(tmp_path / "ours.json", books_exist=False)
    load_or_create_keyring(tmp_path / "theirs.json", books_exist=False)
    archive = with_keys(plain, ours)

    assert len(ours.versions[1]) == KEY_BYTES
    refuse_other_keys(archive, tmp_path / "ours.json")
    refuse_other_keys(plain, tmp_path / "none.json")
    with pytest.raises(KeyfileError, match="another key version 1"):
        refuse_other_keys(archive, tmp_path / "theirs.json")
    with pytest.raises(KeyfileError, match="missing although"):
        refuse_other_keys(archive, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_rows_come_back_in_batches_of_one_table(tmp_path: Path) -> None:
    async def many(store: Store) -> None:
        for number in range(2500):
            await store.ledger.note(f"fact {number}", number)

    archive = read_archive(run(archived(tmp_path, many)))
    sizes = [len(rows) for table, rows in archived_rows(archive) if table.name == "meta"]

    assert sum(sizes) == archive.row_counts["meta"] > 2500
    assert max(sizes) == 1000


async def archived_again(address: str, path: Path) -> list[bytes]:
    """The rows of books as an archive has them, in an order that engines do not decide."""
    async with read_store(address) as statements, statements.snapshot() as snapshot:
        await write_archive(snapshot, path)
    facts = (PAUSED_FACT.encode(), BACKUP_FACT.encode())
    return sorted(line for line in lines_of(path)[1:-1] if not any(fact in line for fact in facts))


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("target", ENGINES)
def test_books_move_from_any_engine_to_any_other(tmp_path: Path, source: str, target: str) -> None:
    postgres.prepare()
    for name in ("source", "target"):
        (tmp_path / name).mkdir()

    async def story() -> None:
        async with (
            new_books(source, tmp_path / "source") as old,
            new_books(target, tmp_path / "target") as new,
        ):
            async with open_store(old, ManualClock(), log_bytes=LOG_BYTES) as store:
                await every_kind_of_row(store)
            before = await archived_again(old, tmp_path / "old.gz")
            checked = read_archive(tmp_path / "old.gz")
            async with open_store(new, ManualClock(), log_bytes=LOG_BYTES) as store:
                await store.ledger.probe()
            await restore_store(new, checked)
            assert await archived_again(new, tmp_path / "new.gz") == before
            async with open_store(new, ManualClock(), log_bytes=LOG_BYTES) as store:
                assert not broken(await store.statements.verify())
                assert (await store.statements.facts())[BACKUP_FACT] == checked.taken_at_ms
                again = await store.ledger.reserve(call("c4", calls_per_day=5, key="key"))
                assert again.outcome is ReserveOutcome.ANSWERED
                await pay(store, PRICE)
            with pytest.raises(StoreUnavailable, match="is not empty"):
                await restore_store(new, checked)

    run(story())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_restore_that_fails_half_way_leaves_the_books_empty(tmp_path: Path, engine: str) -> None:
    postgres.prepare()

    async def story() -> None:
        checked = read_archive(await archived(tmp_path))
        lines = lines_of(checked.path)
        checked.path.write_bytes(gzip.compress(b"".join(with_more_money(lines))))
        (tmp_path / "target").mkdir()
        async with new_books(engine, tmp_path / "target") as new:
            with pytest.raises(ArchiveError, match="damaged"):
                await restore_store(new, checked)
            async with open_store(new, ManualClock(), log_bytes=LOG_BYTES) as store:
                assert (await store.statements.totals()).customers == 0
                assert PAUSED_FACT not in await store.statements.facts()
            checked.path.write_bytes(gzip.compress(b"".join(lines)))
            await restore_store(new, checked)

    run(story())
