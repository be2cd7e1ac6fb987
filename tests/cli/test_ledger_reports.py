"""What an operator asks of the books beside a running gateway: statements, the journal, what is owed."""

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from arkgate.core.keys import token_digest
from arkgate.settings import Settings
from arkgate.simulator.simulation import Simulation
from tests.cli.program import Ended, arkgate, configured, serving, simulated
from tests.cli.test_operator import funded, public, sold
from tests.stage import PROMPT, run


@dataclass(frozen=True, slots=True)
class Books:
    """A gateway in which something has happened, and the commands beside it."""

    directory: Path
    loaded: Settings
    simulation: Simulation
    token: str
    """Paid 500 sats; one call was charged, one refunded, a top-up of 70 sats waits."""

    async def ledger(self, *arguments: str | Path, given: str = "") -> Ended:
        """`arkgate ledger …` with this gateway's configuration."""
        return await arkgate(
            "ledger", *arguments, "--config", self.loaded.file, directory=self.directory, given=given
        )

    @property
    def account(self) -> str:
        """The token's account."""
        with sqlite3.connect(self.directory / "arkgate.db") as database:
            found = "SELECT account_id FROM account WHERE token_digest = ?"
            return str(database.execute(found, (token_digest(self.token),)).fetchone()[0])


Story = Callable[[Books], Awaitable[None]]


def beside_a_gateway(tmp_path: Path, story: Story, extra: dict[str, str] | None = None) -> None:
    """Runs the story beside a gateway that has sold to a token and to an L402 client."""

    async def whole() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation, extra)
            async with serving(loaded.file), public(loaded) as http:
                token = await _some_trade(http, simulation)
                await story(Books(tmp_path, loaded, simulation, token))

    run(whole())


async def _some_trade(http: httpx.AsyncClient, simulation: Simulation) -> str:
    header = await funded(http, simulation, 500)
    assert (await sold(http, simulation)).status_code == 200
    assert (await http.post("/api/ai-chat", json=PROMPT, headers=header)).status_code == 200
    failed = await http.post("/api/ai-chat", json={"prompt": "[fail:500] x"}, headers=header)
    assert failed.status_code == 502
    await http.post("/v1/topups", json={"amount_sats": 70}, headers=header)
    await http.post("/v1/sessions", json={"amount_sats": 30})
    return header["Authorization"].removeprefix("Bearer ")


def test_a_statement_adds_up_in_every_form_and_by_every_name(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        account = books.account
        as_json = json.loads((await books.ledger("statement", account, "--json")).output)
        text = await books.ledger("statement", account)
        as_csv = await books.ledger("statement", account, "--csv")
        by_token = await books.ledger("statement", "--json", "--token-file", "-", given=f"{books.token}\n")
        by_hash = await books.ledger("statement", "--json", as_json["lines"][0]["reference"])

        assert as_json["account"] == account
        assert [line["kind"] for line in as_json["lines"]] == ["credit", "charge", "refund"]
        assert [line["amount_msat"] for line in as_json["lines"]] == [500_000, -50_000, 0]
        assert (as_json["credited_msat"], as_json["charged_msat"]) == (500_000, 50_000)
        assert (as_json["balance_msat"], as_json["held_msat"]) == (450_000, 0)
        assert json.loads(by_token.output) == json.loads(by_hash.output) == as_json
        assert "Credited 500, charged 50 sats." in text.output
        assert "Balance 450 sats; calls under way hold 0, 450 are available." in text.output
        assert "500.000" not in text.output
        rows = list(csv.DictReader(io.StringIO(as_csv.output)))
        assert sum(int(row["amount_msat"]) for row in rows) == int(rows[-1]["balance_msat"]) == 450_000

    beside_a_gateway(tmp_path, story)


def test_a_statement_is_asked_for_in_a_way_that_shows_no_token(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        file = tmp_path / "token"
        file.write_text(books.token)
        (tmp_path / "empty").write_text("\n")
        named = await books.ledger("statement", "--token-file", file)
        shown = await books.ledger("statement", books.token)
        nobody = await books.ledger("statement", "0" * 32)
        shared = await books.ledger("statement", "income:calls")
        both = await books.ledger("statement", "0" * 32, "--token-file", file)
        empty = await books.ledger("statement", "--token-file", tmp_path / "empty")

        assert named.status == 0
        assert books.account in named.output
        assert books.token not in named.output
        assert shown.status == 2
        assert "can be read by everybody" in shown.errors
        assert (nobody.status, nobody.output) == (1, "")
        assert "no such account" in nobody.errors
        assert shared.status == both.status == 2
        assert "There is no ak_ token" in empty.errors

    beside_a_gateway(tmp_path, story)


def added_up(lines: list[dict[str, str]]) -> Counter[str]:
    """Credits less debits of each account, as somebody who knows nothing of the program adds them up."""
    sums: Counter[str] = Counter()
    for line in lines:
        if line["debit_account"]:
            sums[line["debit_account"]] -= int(line["amount_msat"])
        if line["credit_account"]:
            sums[line["credit_account"]] += int(line["amount_msat"])
    return Counter({account: amount for account, amount in sums.items() if amount})


def of_kind(lines: list[dict[str, str]], *kinds: str) -> list[dict[str, str]]:
    return [line for line in lines if line["kind"] in kinds]


def test_the_journal_adds_up_to_what_is_owed(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        exported = await books.ledger("export")
        file = tmp_path / "journal.jsonl"
        written = await books.ledger("export", "--format", "jsonl", "--output", file)
        again = await books.ledger("export", "--output", file)
        owed = json.loads((await books.ledger("liabilities", "--json")).output)
        lines = list(csv.DictReader(io.StringIO(exported.output)))

        assert list(lines[0]) == [
            "id",
            "time",
            "kind",
            "debit_account",
            "credit_account",
            "amount_msat",
            "detail",
        ]
        moved, closing = added_up(of_kind(lines, "credit", "charge")), added_up(of_kind(lines, "closing"))
        assert moved == closing
        assert sum(moved.values()) == 0
        customers = {account: amount for account, amount in moved.items() if ":" not in account}
        assert sum(customers.values()) == owed["customers"]["owed_msat"] == 450_000
        shared = {account: amount for account, amount in owed["accounts_msat"].items() if amount}
        assert {account: amount for account, amount in moved.items() if ":" in account} == shared
        assert shared == {"asset:node:gate": -550_000, "income:calls": 100_000}
        assert (written.status, written.output) == (0, "")
        jsonl = [json.loads(line) for line in file.read_text().splitlines()]
        assert [{name: str(value) for name, value in line.items()} for line in jsonl[:-3]] == lines[:-3]
        assert file.stat().st_mode & 0o777 == 0o600
        assert again.status == 1
        assert "exists and is left as it is" in again.errors

    beside_a_gateway(tmp_path, story)


def test_a_period_opens_where_the_one_before_closed(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        lines = list(csv.DictReader(io.StringIO((await books.ledger("export")).output)))
        today = lines[0]["time"][:10]
        before = (await books.ledger("export", "--until", "2020-01-01")).output.splitlines()
        now = await books.ledger("export", "--since", today, "--until", today)
        after = list(
            csv.DictReader(io.StringIO((await books.ledger("export", "--since", "2100-01-01")).output))
        )
        backwards = await books.ledger("export", "--since", "2020-01-02", "--until", "2020-01-01")

        assert len(before) == 1  # the head
        assert [line for line in csv.DictReader(io.StringIO(now.output)) if line["kind"] == "credit"] == (
            of_kind(lines, "credit")
        )
        assert of_kind(after, "credit", "charge") == []
        assert added_up(of_kind(after, "opening")) == added_up(of_kind(after, "closing"))
        assert added_up(of_kind(after, "opening")) == added_up(of_kind(lines, "closing"))
        assert backwards.status == 2

    beside_a_gateway(tmp_path, story)


def test_what_is_owed_is_told_by_age_and_state(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        owed = json.loads((await books.ledger("liabilities", "--json")).output)
        text = (await books.ledger("liabilities")).output
        nothing = {"accounts": 0, "owed_msat": 0, "held_msat": 0}

        assert owed["customers"] == {"accounts": 3, "owed_msat": 450_000, "held_msat": 0}
        assert owed["by_state"] == {
            "active": {"accounts": 1, "owed_msat": 450_000, "held_msat": 0},
            "empty": {"accounts": 1, "owed_msat": 0, "held_msat": 0},
            "awaiting payment": {"accounts": 1, "owed_msat": 0, "held_msat": 0},
            "expired": nothing,
        }
        assert owed["by_age"]["under 30 days"] == owed["customers"]
        assert owed["by_age"]["365 days and more"] == nothing
        assert (owed["invoices_open"], owed["invoices_open_msat"]) == (2, 100_000)
        assert "needs offchain:read" in owed["nodes"]["gate"]["not_checked"]
        assert "Invoices that can still be paid: 2, for 100 sats." in text
        assert "What node gate itself says: not checked: the macaroon" in text

    beside_a_gateway(tmp_path, story)


@pytest.mark.parametrize(
    ("taken_away_msat", "word", "status"),
    [(100_000, "ok  ", 0), (100_001, "FAIL", 1)],
    ids=["covered", "short"],
)
def test_a_node_that_may_be_asked_says_whether_it_covers_what_is_owed(
    tmp_path: Path, taken_away_msat: int, word: str, status: int
) -> None:
    async def story(books: Books) -> None:
        config = books.loaded.file
        credentials = books.simulation.gate.credentials
        text = config.read_text().replace(
            str(credentials.invoice_macaroon), str(credentials.readonly_macaroon)
        )
        config.write_text(text)  # what the commands use from now on
        habits = books.simulation.gate.habits
        habits.wallet_sats, habits.taken_away_msat = 0, taken_away_msat
        verified = await books.ledger("verify")
        owed = json.loads((await books.ledger("liabilities", "--json")).output)

        assert verified.status == status
        last = verified.output.splitlines()[-1]
        assert last.startswith(f"{word} 10. What the nodes hold")
        assert owed["nodes"]["gate"] == {"channels_msat": 550_000 - taken_away_msat, "onchain_msat": 0}

    beside_a_gateway(tmp_path, story)


def test_verify_lists_all_invariants_also_those_that_it_cannot_check(tmp_path: Path) -> None:
    async def story(books: Books) -> None:
        verified = await books.ledger("verify")
        await books.simulation.gate.stop()
        away = await books.ledger("verify")

        assert [line.split()[1] for line in verified.output.splitlines()] == [f"{n}." for n in range(11)]
        assert [line[:4].strip() for line in verified.output.splitlines()] == ["ok"] * 9 + ["--", "--"]
        assert all(line.endswith(".") for line in verified.output.splitlines())
        assert verified.status == away.status == 0
        assert "not checked: " in away.output.splitlines()[-1]

    beside_a_gateway(tmp_path, story)
