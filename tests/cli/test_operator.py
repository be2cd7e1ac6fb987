"""An operator sets the gateway up, runs it, checks its books and ends it."""

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from arkgate.cli import main
from arkgate.cli.template import TEMPLATE
from arkgate.settings import Settings
from arkgate.simulator.simulation import Simulation
from tests.cli.program import arkgate, configured, serving, simulated, started
from tests.ports import free_port_base
from tests.stage import MODEL, PROMPT, eventually, run

MAINNET_INVOICE = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsy"
    "qcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353"
    "s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
)
"""An example of BOLT 11: 250,000 sats on mainnet."""


def called(*arguments: str | Path) -> Result:
    """A command that needs no process of its own."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def filled_in(template: str, simulation: Simulation, port: int) -> str:
    """What an operator types into the template."""
    gate = simulation.gate
    for before, after in {
        "127.0.0.1:8402": f"127.0.0.1:{port}",
        "127.0.0.1:8403": f"127.0.0.1:{port + 1}",
        "127.0.0.1:10009": gate.address,
        'tls_cert_file = ""': f'tls_cert_file = "{gate.credentials.tls_cert}"',
        'macaroon_file = ""': f'macaroon_file = "{gate.credentials.invoice_macaroon}"',
        'url = ""': f'url = "{simulation.chat.url}"',
        'model = ""': f'model = "{MODEL}"',
    }.items():
        assert before in template
        template = template.replace(before, after, 1)
    return template


async def beside(*arguments: str | Path) -> Result:
    """The same, beside a running event loop."""
    return await asyncio.to_thread(called, *arguments)


async def sold(http: httpx.AsyncClient, simulation: Simulation) -> httpx.Response:
    """The answer to a call that was bought with L402."""
    challenge = (await http.post("/api/ai-chat", json=PROMPT)).json()
    paid = await simulation.pay(challenge["invoice"])
    header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
    return await http.post("/api/ai-chat", json=PROMPT, headers=header)


async def funded(http: httpx.AsyncClient, simulation: Simulation, amount_sats: int) -> dict[str, str]:
    """The Authorization header of a token whose invoice is paid."""
    session = (await http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
    await simulation.pay(session["funding"]["lightning_invoice"])
    header = {"Authorization": f"Bearer {session['token']}"}

    async def paid() -> bool:
        return bool((await http.get("/v1/balance", headers=header)).json()["status"] == "active")

    await eventually(paid)
    return header


def public(loaded: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=loaded.public_url, timeout=30)


def test_init_writes_the_template_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "arkgate.toml"
    first, again = called("init", path), called("init", path)

    assert first.exit_code == 0
    assert "arkgate config check" in first.output
    assert path.read_text() == TEMPLATE
    assert again.exit_code == 1
    assert "exists and is left as it is" in again.output


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    ended = called("init", tmp_path / "nowhere" / "arkgate.toml")

    assert ended.exit_code == 1
    assert "cannot be written: No such file or directory" in ended.output


def test_config_check_of_the_untouched_template_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "arkgate.toml"
    called("init", path)
    ended = called("config", "check", "--config", path)

    assert ended.exit_code == 1
    assert [line.strip() for line in ended.output.splitlines()[1:]] == [
        "- [[nodes]] tls_cert_file must be a text in quotes, and not empty.",
        "- [[nodes]] macaroon_file must be a text in quotes, and not empty.",
        "- [backend] url must be a text in quotes, and not empty.",
        "- [backend] model must be a text in quotes, and not empty.",
    ]


def test_a_command_without_a_configuration_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARKGATE_DATA", raising=False)
    for command in (("serve",), ("config", "check"), ("ledger", "verify"), ("keys", "rotate")):
        ended = called(*command)

        assert ended.exit_code == 1
        assert "`arkgate init` writes one" in ended.output


def test_the_template_filled_in_is_checked_and_sells(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            port = free_port_base()
            path = tmp_path / "arkgate.toml"
            called("init", path)
            path.write_text(filled_in(path.read_text(), simulation, port))
            checked = called("config", "check", "--config", path)
            async with (
                serving(path) as running,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
            ):
                answer = await sold(http, simulation)
                ready = await http.get("/health/ready")
                running.process.send_signal(signal.SIGTERM)
                status = await running.ended()

            assert checked.exit_code == 0, checked.output
            assert "can be used" in checked.output
            assert answer.status_code == 200
            assert ready.json()["status"] == "ready"
            assert status == 0
            assert running.output == f"ready: http://127.0.0.1:{port}\n"
            assert all(json.loads(line)["event"] for line in running.errors.splitlines())
            assert (tmp_path / "arkgate-keys.json").stat().st_mode & 0o777 == 0o600

    run(story())


def test_the_ledger_is_verified_beside_a_running_gateway_and_with_the_backends_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            log = tmp_path / "backend-requests.jsonl"
            async with serving(loaded.file), public(loaded) as http:
                await sold(http, simulation)
                await http.get("/health/ready")  # asks the backend for its models, outside any hold
                verify = ("ledger", "verify", "--config", loaded.file, "--backend-log", log)
                sound = await beside(*verify)
                with log.open("a") as file:
                    file.write('{"request_id": "nobodys", "path": "/v1/chat/completions"}\n')
                foreign = await beside(*verify)

            assert sound.exit_code == 0, sound.output
            assert [line[:8] for line in sound.output.splitlines()[:10]] == [f"ok   {n}. " for n in range(10)]
            assert sound.output.splitlines()[10].startswith("--   10. What the nodes hold")
            assert foreign.exit_code == 1
            assert (
                "FAIL 9. Every request to a backend belongs to a committed hold: broken 1 times, at nobodys"
                in (foreign.output)
            )

    run(story())


def test_damaged_books_are_found(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file), public(loaded) as http:
                await sold(http, simulation)

            with sqlite3.connect(tmp_path / "arkgate.db") as database:
                database.execute("UPDATE account SET posted_msat = posted_msat + 1 WHERE kind = 'customer'")
            database.close()
            ended = await beside("ledger", "verify", "--config", loaded.file)
            assert ended.exit_code == 1
            assert ended.output.count("FAIL") == 2
            assert "FAIL 1. " in ended.output
            assert "FAIL 3. " in ended.output

    run(story())


def test_books_that_are_not_there_cannot_be_verified(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            ended = await beside("ledger", "verify", "--config", loaded.file)

            assert ended.exit_code == 1
            assert "cannot be opened" in ended.output
            assert "Traceback" not in ended.output
            assert not (tmp_path / "arkgate.db").exists()

    run(story())


def test_a_backend_log_that_is_none_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file):
                pass
            log = tmp_path / "log"
            log.write_text("not JSON\n")
            ended = await beside("ledger", "verify", "--config", loaded.file, "--backend-log", log)

            assert ended.exit_code == 1
            assert f"Error: {log} is not the simulated backend's request log." in ended.output

    run(story())


def test_rotated_keys_leave_old_tokens_and_credentials_valid(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file), public(loaded) as http:
                header = await funded(http, simulation, 500)
                challenge = (await http.post("/api/ai-chat", json=PROMPT)).json()
            rotated = called("keys", "rotate", "--config", loaded.file)
            async with serving(loaded.file), public(loaded) as http:
                paid = await simulation.pay(challenge["invoice"])
                credential = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
                answers = [
                    await http.post("/api/ai-chat", json=PROMPT, headers=h) for h in (header, credential)
                ]
                newer = await sold(http, simulation)

            assert rotated.exit_code == 0
            assert "Added key version 2" in rotated.output
            assert set(json.loads(loaded.keys_file.read_text())) == {"1", "2"}
            assert loaded.keys_file.stat().st_mode & 0o777 == 0o600
            assert [answer.status_code for answer in (*answers, newer)] == [200, 200, 200]

    run(story())


def test_keys_are_not_rotated_where_there_are_none(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            ended = called("keys", "rotate", "--config", loaded.file)

            assert ended.exit_code == 1
            assert f"the key file {loaded.keys_file} cannot be read: No such file" in ended.output

    run(story())


def test_books_without_their_keys_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file):
                pass
            loaded.keys_file.unlink()
            ended = await arkgate("serve", "--config", loaded.file, directory=tmp_path)

            assert ended.status == 1
            assert "is missing although the database holds accounts: restore it" in ended.errors
            assert len(ended.errors.splitlines()) == 1
            assert not loaded.keys_file.exists()

    run(story())


def test_a_second_gateway_on_one_database_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file) as running:
                base = free_port_base()
                other = tmp_path / "other.toml"
                text = loaded.file.read_text()
                for listen, offset in ((loaded.listen, 0), (loaded.operator_listen, 1)):
                    text = text.replace(f":{listen.port}", f":{base + offset}")
                other.write_text(text)
                ended = await arkgate("serve", "--config", other, directory=tmp_path)

            assert ended.status == 1
            assert f"Another process (pid {running.process.pid}) is writing to this ledger" in ended.errors
            assert len(ended.errors.splitlines()) == 1

    run(story())


def test_a_taken_port_is_named_and_no_books_are_made(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file):
                copy = tmp_path / "elsewhere"
                copy.mkdir()
                shutil.copy(loaded.file, copy)
                ended = await arkgate("serve", "--config", copy / loaded.file.name, directory=copy)

            assert ended.status == 1
            assert f"port {loaded.listen.port} on 127.0.0.1 is taken" in ended.errors
            assert not (copy / "arkgate.db").exists()
            assert not (copy / "arkgate-keys.json").exists()

    run(story())


async def _with_an_open_call(
    tmp_path: Path, simulation: Simulation, signals: int
) -> tuple[int, float, httpx.Response | None, Mapping[str, str]]:
    """Exit status, seconds to the end, and the answer of a call that was open when the signals came."""
    loaded = configured(tmp_path, simulation)
    loop = asyncio.get_running_loop()
    async with serving(loaded.file) as running, public(loaded) as http:
        header = await funded(http, simulation, 500)
        slow = {"prompt": "[fail:slow 2] How?"}
        call = asyncio.create_task(http.post("/api/ai-chat", json=slow, headers=header))

        async def forwarded() -> bool:
            return len(simulation.chat.request_ids) == 1

        await eventually(forwarded)
        began = loop.time()
        for _ in range(signals):
            running.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
        status = await running.ended()
        seconds = loop.time() - began
        (answer,) = await asyncio.gather(call, return_exceptions=True)
    assert "Traceback" not in running.errors
    return status, seconds, answer if isinstance(answer, httpx.Response) else None, header


def test_a_terminated_gateway_answers_and_charges_the_open_call_first(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            status, seconds, answer, header = await _with_an_open_call(tmp_path, simulation, signals=1)
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file), public(loaded) as http:
                balance = (await http.get("/v1/balance", headers=header)).json()

            assert status == 0
            assert 1 < seconds < 5
            assert answer is not None
            assert answer.status_code == 200
            assert (balance["balance_sats"], balance["held_sats"]) == (450, 0)

    run(story())


def test_a_second_signal_ends_at_once_and_charges_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            status, seconds, answer, header = await _with_an_open_call(tmp_path, simulation, signals=2)
            loaded = configured(tmp_path, simulation)
            async with serving(loaded.file), public(loaded) as http:
                balance = (await http.get("/v1/balance", headers=header)).json()

            assert status == 130
            assert seconds < 1.5
            assert answer is None
            assert (balance["balance_sats"], balance["held_sats"]) == (500, 0)  # the next start gave it back

    run(story())


def test_a_gateway_starts_while_its_node_and_its_backend_are_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
        async with serving(loaded.file), public(loaded) as http:
            ready = await http.get("/health/ready")
            unpaid = await http.post("/api/ai-chat", json=PROMPT)

        assert ready.status_code == 503
        assert not ready.json()["dependencies"]["backend"]["ready"]
        assert not ready.json()["dependencies"]["node:gate"]["ready"]
        assert unpaid.status_code == 503
        assert int(unpaid.headers["retry-after"]) > 0

    run(story())


@pytest.mark.parametrize(
    ("invoice", "sentence"),
    [
        (MAINNET_INVOICE, "This is a mainnet invoice; the simulated wallet pays regtest only."),
        (f"LIGHTNING:{MAINNET_INVOICE.upper()}", "This is a mainnet invoice"),
        ("garbage", "This cannot be paid: this is not a BOLT11 invoice."),
        ("", "This cannot be paid"),
        (MAINNET_INVOICE[:-1], "This cannot be paid"),
    ],
    ids=["mainnet", "a mainnet link", "garbage", "nothing", "cut off"],
)
def test_the_wallet_pays_no_real_invoice_and_no_garbage(invoice: str, sentence: str) -> None:
    ended = called("wallet", "pay", invoice)

    assert ended.exit_code == 1
    assert sentence in ended.output


def test_the_wallet_pays_from_the_payer_that_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with simulated(tmp_path) as simulation:
            loaded = configured(tmp_path, simulation)
            payer = simulation.payer
            options = (
                *("--address", payer.address),
                *("--tls-cert", payer.credentials.tls_cert),
                *("--macaroon", payer.credentials.admin_macaroon),
            )
            async with serving(loaded.file), public(loaded) as http:
                invoice = (await http.post("/api/ai-chat", json=PROMPT)).json()["invoice"]
                paid = await arkgate("wallet", "pay", invoice, *options, directory=tmp_path)
                again = await arkgate("wallet", "pay", invoice, *options, directory=tmp_path)
                half = called("wallet", "pay", invoice, *options[:2])
                nobody = await arkgate("wallet", "pay", invoice, directory=tmp_path)

            assert paid.status == 0, paid
            assert len(json.loads(paid.output)["payment_preimage"]) == 64
            assert (again.status, again.output) == (1, "")
            assert "already paid" in again.errors
            assert half.exit_code == 2
            assert "give all three" in half.output
            assert nobody.status == 1
            assert "No demo runs here" in nobody.errors

    run(story())


def test_the_simulator_runs_beside_a_gateway_of_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        base = free_port_base((2, 3, 10, 11, 12, 20))
        variables = {"ARKGATE_PORT_BASE": str(base)}
        async with started("simulator", directory=tmp_path, **variables) as simulator:

            async def simulating() -> bool:
                assert simulator.process.poll() is None, simulator.errors
                return "start the gateway with" in simulator.output

            await eventually(simulating, 20)
            config = tmp_path / simulator.output.rpartition("--config ")[2].strip()
            url = f"http://127.0.0.1:{base + 2}"
            async with serving(config), httpx.AsyncClient(base_url=url) as http:
                challenge = (await http.post("/api/ai-chat", json=PROMPT)).json()
                paid = await arkgate("wallet", "pay", challenge["invoice"], directory=tmp_path)
                preimage = json.loads(paid.output)["payment_preimage"]
                header = {"Authorization": f"L402 {challenge['macaroon']}:{preimage}"}
                answer = await http.post("/api/ai-chat", json=PROMPT, headers=header)
            simulator.process.send_signal(signal.SIGINT)

            assert answer.status_code == 200
            assert await simulator.ended() == 0
            assert simulator.errors == ""

    run(story())
