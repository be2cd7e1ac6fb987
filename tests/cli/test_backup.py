"""A backup taken under load, lost books, a restore: no payer loses a sat, and what was spent is counted."""

import asyncio
import gzip
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from arkgate.settings import Settings
from arkgate.simulator.simulation import Simulation
from tests import postgres
from tests.cli.program import Ended, arkgate, configured, serving, simulated
from tests.cli.test_operator import funded, public
from tests.stage import eventually, run

PRICE_SATS = 50
ANY_NUMBER = {"[[services]]": "calls_per_day = 0"}


@dataclass
class Payers:
    """Clients who write down for themselves what they paid and what they got."""

    http: httpx.AsyncClient
    simulation: Simulation
    paid: dict[str, int] = field(default_factory=dict)
    """Sats by Authorization header."""
    bought: dict[str, int] = field(default_factory=dict)
    """Answers by Authorization header."""

    async def fund(self, amount_sats: int) -> str:
        """A new token, paid."""
        header = (await funded(self.http, self.simulation, amount_sats))["Authorization"]
        self.paid[header] = amount_sats
        return header

    async def top_up(self, header: str, amount_sats: int) -> None:
        """More for an account, paid."""
        asked = {"amount_sats": amount_sats}
        answer = await self.http.post("/v1/topups", json=asked, headers={"Authorization": header})
        await self.simulation.pay(answer.json()["funding"]["lightning_invoice"])
        self.paid[header] += amount_sats

    async def pay_challenge(self) -> str:
        """An L402 credential, paid and not used yet."""
        challenge = (await self.http.post("/api/ai-chat", json={"prompt": "?"})).json()
        paid = await self.simulation.pay(challenge["invoice"])
        header = f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"
        self.paid[header] = PRICE_SATS
        return header

    async def buy(self, header: str, prompt: str) -> None:
        """One answer, which must come."""
        answer = await self.http.post(
            "/api/ai-chat", json={"prompt": prompt}, headers={"Authorization": header}
        )
        assert answer.status_code == 200, answer.text
        self.bought[header] = self.bought.get(header, 0) + 1

    async def keep_buying(self, header: str, enough: asyncio.Event) -> None:
        """Calls without a pause until it is enough."""
        while not enough.is_set():
            await self.buy(header, f"question {self.bought.get(header, 0)}")

    async def balance(self, header: str) -> int:
        """What the gateway says that an account has, sats."""
        answer = await self.http.get("/v1/balance", headers={"Authorization": header})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["balance_sats"])


async def command(loaded: Settings, *arguments: str | Path) -> Ended:
    """An `arkgate` command with that configuration."""
    return await arkgate(*arguments, "--config", loaded.file, directory=loaded.file.parent)


def lose_the_books(loaded: Settings) -> None:
    """Moves the database away, as a broken disk would."""
    for file in loaded.file.parent.glob("arkgate.db*"):
        file.rename(file.with_name(f"lost-{file.name}"))


def archived_charges(archive: Path) -> int:
    """How many calls the archive's books have charged."""
    with gzip.open(archive, "rt") as lines:
        return sum(line.startswith('["transfer"') and '"charge"' in line for line in lines)


async def trade_and_back_up(payers: Payers, loaded: Settings, archive: Path) -> Ended:
    """Load before, during and after a backup; sessions, top-ups and challenges that it does not know."""
    old = [await payers.fund(100_000) for _ in range(3)]
    enough = asyncio.Event()
    load = [asyncio.create_task(payers.keep_buying(header, enough)) for header in old]

    async def going() -> bool:
        return sum(payers.bought.values()) > 20

    await eventually(going)
    backed_up = await command(loaded, "backup", archive)
    new = [await payers.fund(1000 + number) for number in range(3)]
    await payers.top_up(old[0], 77)
    used = await payers.pay_challenge()
    await payers.buy(used, "by L402")
    await payers.pay_challenge()  # its payer comes back after the restore only
    for header in new[:2]:
        await payers.buy(header, "by a new token")
    enough.set()
    await asyncio.gather(*load)
    return backed_up


async def check_paused(payers: Payers, old: str) -> None:
    """Nothing is sold, and everybody can look at the account that the books know."""
    http = payers.http
    for headers in ({}, {"Authorization": old}):
        refusal = await http.post("/api/ai-chat", json={"prompt": "?"}, headers=headers)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "paused")
        assert int(refusal.headers["retry-after"]) > 0
    assert (await http.post("/v1/sessions", json={"amount_sats": 5})).json()["code"] == "paused"
    ready = (await http.get("/health/ready")).json()["dependencies"]
    assert ready["gateway"]["state"] == "paused"
    assert await payers.balance(old) > 0


async def check_everything_is_back(payers: Payers, lost: int) -> None:
    """Every payer has all that was paid, less what the restored books charged."""
    balances = {header: await payers.balance(header) for header in payers.paid}
    answers = sum(payers.bought.values())
    assert sum(balances.values()) == sum(payers.paid.values()) - PRICE_SATS * (answers - lost)
    for header, balance in balances.items():
        most, least = payers.paid[header], payers.paid[header] - PRICE_SATS * payers.bought.get(header, 0)
        assert least <= balance <= most


def test_a_restored_ledger_finds_every_payment_and_counts_what_was_spent(tmp_path: Path) -> None:
    async def story() -> None:
        archive = tmp_path / "backup.jsonl.gz"
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation, ANY_NUMBER)
            async with public(loaded) as http:
                payers = Payers(http, simulation)
                async with serving(loaded.file) as gateway:
                    backed_up = await trade_and_back_up(payers, loaded, archive)
                    gateway.process.send_signal(signal.SIGTERM)
                    await gateway.ended()
                    log = gateway.errors_file
                assert backed_up.status == 0, backed_up.errors
                assert "back up " + str(loaded.keys_file) in backed_up.output
                lost = sum(payers.bought.values()) - archived_charges(archive)
                assert lost >= 3
                lose_the_books(loaded)
                restored = await command(loaded, "restore", archive, "--log", log)
                simulation.gate.habits.failures["ListInvoices"] = grpc.StatusCode.UNAVAILABLE
                async with serving(loaded.file):
                    await check_paused(payers, next(iter(payers.paid)))
                    simulation.gate.habits.failures.clear()
                    reconciled = await command(loaded, "ledger", "reconcile", "--log", log)
                    await check_everything_is_back(payers, lost)
                    for header in payers.paid:
                        await payers.buy(header, "after the restore")
                    requests = tmp_path / "backend-requests.jsonl"
                    counted = await command(
                        loaded, "ledger", "reconcile", "--log", log, "--backend-log", requests
                    )
                    verified = await command(loaded, "ledger", "verify")

        spent = f"and not in the books: {lost} calls, {lost * PRICE_SATS} sats."
        assert restored.status == 0, restored.errors
        for ended in (restored, reconciled, counted):
            assert spent in ended.output, ended
        assert "They are paused" in restored.output
        assert reconciled.status == counted.status == 0, reconciled
        assert "gate: 9 of 9 settled invoices are ours" in reconciled.output
        unknown = re.search(r"the books do not know: (\d+), at most (\d+) sats", counted.output)
        assert unknown is not None
        assert 0 < int(unknown[1]) <= lost  # those that were open in the backup are known to it
        assert verified.status == 0, verified.output

    run(asyncio.wait_for(story(), 100))


def test_a_backup_is_refused_where_it_would_harm(tmp_path: Path) -> None:
    async def story() -> None:
        archive = tmp_path / "backup.gz"
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            nothing = await command(loaded, "backup", archive)
            async with serving(loaded.file), public(loaded) as http:
                await funded(http, simulation, 100)
                first = await command(loaded, "backup", archive)
                again = await command(loaded, "backup", archive)
                running = await command(loaded, "restore", archive)
            used = await command(loaded, "restore", archive)
            lose_the_books(loaded)
            keys = loaded.keys_file.read_bytes()
            loaded.keys_file.unlink()
            keyless = await command(loaded, "restore", archive)
            loaded.keys_file.write_bytes(keys)
            archive.write_bytes(archive.read_bytes()[:-20])
            cut = await command(loaded, "restore", archive)
            absent = await command(loaded, "restore", tmp_path / "nothing.gz")

        assert first.status == 0
        assert not (tmp_path / "arkgate.db").exists()  # nothing was made by what was refused
        for ended, sentence in (
            (nothing, "cannot be opened"),
            (again, "exists and is left as it is"),
            (running, "Another process"),
            (used, "is not empty"),
            (keyless, "is missing although"),
            (cut, "cut short or damaged"),
            (absent, "No such file"),
        ):
            assert ended.status == 1, ended
            assert sentence in ended.errors
            assert "Traceback" not in ended.errors

    run(story())


def credited(output: str) -> int:
    """How many payments a reconcile says that it found."""
    found = re.search(r"credited (\d+) that the books had missed", output)
    assert found is not None, output
    return int(found[1])


async def _missed_payment(http: httpx.AsyncClient, simulation: Simulation) -> Mapping[str, str]:
    """A paid challenge that nobody tells the gateway of: no row, no event, and the payer stays away."""
    simulation.gate.habits.settlements_hidden = True
    challenge = (await http.post("/api/ai-chat", json={"prompt": "?"})).json()
    paid = await simulation.pay(challenge["invoice"])
    return {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}


def test_a_reconcile_credits_what_was_missed_with_and_without_a_gateway(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            simulation.gate.add_foreign_invoice(5000)
            absent = await command(loaded, "ledger", "reconcile")
            async with serving(loaded.file), public(loaded) as http:
                await asyncio.sleep(3.5)  # the looks behind the new stream are done
                await _missed_payment(http, simulation)
                beside = await command(loaded, "ledger", "reconcile")
                again = await command(loaded, "ledger", "reconcile")
                await _missed_payment(http, simulation)
            alone = await command(loaded, "ledger", "reconcile")
            repeated = await command(loaded, "ledger", "reconcile")
            await simulation.gate.stop()
            away = await command(loaded, "ledger", "reconcile")
            verified = await command(loaded, "ledger", "verify")

        assert absent.status == 1
        assert not absent.output
        assert (credited(beside.output), credited(again.output)) == (1, 0)
        assert (credited(alone.output), credited(repeated.output)) == (1, 0)
        assert "50 sats" in alone.output
        assert away.status == 1
        assert "node gate" in away.errors
        assert verified.status == 0

    run(asyncio.wait_for(story(), 100))


def test_a_reconcile_without_a_gateway_ends_the_pause(tmp_path: Path) -> None:
    async def story() -> None:
        archive = tmp_path / "backup.gz"
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file), public(loaded) as http:
                header = await funded(http, simulation, 100)
                await command(loaded, "backup", archive)
            lose_the_books(loaded)
            await command(loaded, "restore", archive)
            reconciled = await command(loaded, "ledger", "reconcile")
            async with serving(loaded.file), public(loaded) as http:
                answer = await http.post("/api/ai-chat", json={"prompt": "?"}, headers=header)

        assert "now calls are sold again" in reconciled.output
        assert answer.status_code == 200

    run(story())


def test_logs_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    async def story() -> None:
        log = tmp_path / "gateway.log"
        event = {"event": "call finished", "outcome": "charged", "cost_msat": 50_000}
        lines = [
            json.dumps({**event, "call": "unknown-1"}),
            "Nov 22 host arkgate[7]: " + json.dumps({**event, "call": "unknown-2", "cost_msat": 250}),
            json.dumps({**event, "call": "unknown-1"}),
            json.dumps({**event, "call": "free", "outcome": "upstream_error", "cost_msat": 0}),
            json.dumps({"event": "payment credited"}),
            '{"event": "call finished", "outcome": "char',
            "\x00 not a log at all",
        ]
        log.write_text("\n".join(lines))
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file):
                pass
            ended = await command(loaded, "ledger", "reconcile", "--log", log)

        assert "Spent and not in the books: 2 calls, 50.250 sats." in ended.output, ended

    run(story())


def test_books_of_one_postgresql_are_backed_up_and_restored_into_another(tmp_path: Path) -> None:
    postgres.prepare()

    async def story() -> None:
        archive = tmp_path / "backup.gz"
        async with (
            simulated(tmp_path) as simulation,
            postgres.database() as lost,
            postgres.database() as new,
        ):
            loaded = configured(tmp_path, simulation, {"[store]": f'url = "{lost}"'})
            async with serving(loaded.file) as gateway, public(loaded) as http:
                payers = Payers(http, simulation)
                old = await payers.fund(200)
                backed_up = await command(loaded, "backup", archive)
                since = await payers.fund(100)
                await payers.buy(since, "after the backup")
                used = await command(loaded, "restore", archive)
                log = gateway.errors_file
            loaded = configured(tmp_path, simulation, {"[store]": f'url = "{new}"'})
            restored = await command(loaded, "restore", archive)
            async with serving(loaded.file), public(loaded) as http:
                payers.http = http
                reconciled = await command(loaded, "ledger", "reconcile", "--log", log)

                async def is_sold() -> bool:
                    answer = await http.post("/api/ai-chat", json={"prompt": "?"})
                    return answer.status_code == 402

                await eventually(is_sold, 20)
                balances = [await payers.balance(header) for header in (old, since)]
                exported = await command(loaded, "ledger", "export")
                owed = json.loads((await command(loaded, "ledger", "liabilities", "--json")).output)
                verified = await command(loaded, "ledger", "verify")

        assert backed_up.status == restored.status == 0, (backed_up, restored)
        assert used.status == 1
        assert "is not empty" in used.errors
        assert balances == [200, 100]
        assert "1 calls, 50 sats" in reconciled.output
        assert owed["customers"]["owed_msat"] == 300_000
        assert exported.output.count(",credit,") == 2
        assert verified.status == 0, verified.output

    run(asyncio.wait_for(story(), 100))
