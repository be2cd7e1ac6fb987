"""What the doctor's lines say of books on each engine."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from arkgate.ports import Check, Verdict
from arkgate.store import open_store
from arkgate.store.checkup import checkup
from arkgate.store.clock import SystemClock
from tests import postgres
from tests.store.books import run

LOG_BYTES = 1024 * 1024


async def lines(url: str, keys: Path, *, mounts: Path | None = None) -> dict[str, Check]:
    options = {} if mounts is None else {"mounts": mounts}
    found = checkup(url, keys, SystemClock(), log_bytes=LOG_BYTES, free=lambda _: 10**12, **options)
    return {check.name: check async for check in found}


def troubles(found: dict[str, Check]) -> dict[str, Verdict]:
    return {name: check.verdict for name, check in found.items() if check.verdict is not Verdict.OK}


@pytest.mark.usefixtures("postgres_server")
def test_books_in_postgresql_are_read_and_their_disk_is_not(tmp_path: Path) -> None:
    async def story() -> None:
        async with postgres.database() as url:
            found = await lines(url, tmp_path / "keys.json")

            assert troubles(found) == {"free disk": Verdict.NOT_CHECKED}
            assert "revision 0006" in found["opens"].seen
            assert "The first start makes" in found["keys"].seen

    run(story())


@pytest.mark.usefixtures("postgres_server")
def test_a_postgresql_that_may_lose_what_it_acknowledged_fails(tmp_path: Path) -> None:
    async def story() -> None:
        async with postgres.database() as url:
            connection = await asyncpg.connect(url)
            await connection.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} SET synchronous_commit = off")
            await connection.close()
            found = await lines(url, tmp_path / "keys.json")

            assert found["fit for money"].verdict is Verdict.FAILURE
            assert "synchronous_commit=off" in found["fit for money"].seen

    run(story())


def test_a_postgresql_that_does_not_answer_fails_without_a_password_in_sight(tmp_path: Path) -> None:
    found = run(lines("postgresql://arkgate:secret@127.0.0.1:1/books", tmp_path / "keys.json"))

    assert troubles(found)["opens"] is Verdict.FAILURE
    assert "secret" not in str(found)


def test_a_ledger_on_a_network_file_system_fails(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n")
    found = run(lines(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "keys.json", mounts=mounts))

    assert found["fit for money"].verdict is Verdict.FAILURE
    assert "network file system (nfs4)" in found["fit for money"].seen


def test_books_are_looked_at_while_another_process_may_write_them(tmp_path: Path) -> None:
    async def story() -> None:
        url = f"sqlite:///{tmp_path}/ledger.db"
        async with open_store(url, None, log_bytes=LOG_BYTES):
            beside = await lines(url, tmp_path / "keys.json")
        alone = await lines(url, tmp_path / "keys.json")

        assert (troubles(beside), troubles(alone)) == ({}, {})

    run(story())


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, and long enough to be taken for one" * 20)
    found = run(lines(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "keys.json"))

    assert troubles(found) == {"opens": Verdict.FAILURE, "keys": Verdict.FAILURE}
