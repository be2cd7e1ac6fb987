"""The demo, and the simulator that it runs beside the gateway."""

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click

from arkgate import app, settings
from arkgate.cli.places import DATA_DIRECTORY, PLACES_FILE, Ports, data_directory, demo_ports
from arkgate.cli.running import run_until_stopped, set_up_logs
from arkgate.core.errors import StoreUnavailable
from arkgate.simulator.simulation import Simulation
from arkgate.store.lock import lock_path, writing_lock

CHAT_LOG_FILE = "backend-requests.jsonl"
CHAT_MODEL = "simulated-chat"


@click.command()
@click.option("--verbose", is_flag=True, help="Show every event, not only warnings.")
def demo(*, verbose: bool) -> None:
    """Run the real gateway against a simulated Lightning network and a simulated chat backend."""
    directory, ports = data_directory(), demo_ports()
    set_up_logs("info" if verbose else "error", for_people=True)

    async def work(stop: asyncio.Event) -> None:
        async with simulation(directory, ports) as simulated:
            loaded = settings.load(write_config(directory, ports, simulated))
            await app.run(loaded, stop, ready=lambda: click.echo(story(loaded.public_url, directory)))

    run_until_stopped(work)
    click.echo("stopped; `make run` goes on from here")


@click.command()
@click.option("--batched", is_flag=True, help="Fast, and forgetful when killed: for benchmarks.")
def simulator(*, batched: bool) -> None:
    """Run the simulated nodes and the simulated backend alone, for `arkgate serve` beside them."""
    directory, ports = data_directory(), demo_ports()
    set_up_logs("error", for_people=True)

    async def work(stop: asyncio.Event) -> None:
        async with simulation(directory, ports, durable=not batched) as simulated:
            config = write_config(directory, ports, simulated)
            click.echo(f"simulating; start the gateway with: arkgate serve --config {_quoted(config)}")
            sys.stdout.flush()
            await stop.wait()

    run_until_stopped(work)


@contextlib.asynccontextmanager
async def simulation(directory: Path, ports: Ports, *, durable: bool = True) -> AsyncIterator[Simulation]:
    """The simulated nodes and backend, with their places written down for the wallet."""
    directory.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_alone(directory))
        simulated = await stack.enter_async_context(
            Simulation.running(
                data_dir=directory / "simulator",
                gate_port=ports.gate,
                payer_port=ports.payer,
                payer_rest_port=ports.payer_rest,
                chat_port=ports.chat,
                chat_log=directory / CHAT_LOG_FILE,
                chat_models=(CHAT_MODEL,),
                durable=durable,
            )
        )
        payer = simulated.payer
        places = {
            "payer_address": payer.address,
            "payer_tls_cert": str(payer.credentials.tls_cert),
            "payer_macaroon": str(payer.credentials.admin_macaroon),
            "payer_rest": simulated.payer_rest_url,
        }
        (directory / PLACES_FILE).write_text(json.dumps(places, indent=2) + "\n")
        yield simulated


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Refuses a second simulation in a directory: both would write the same nodes' books."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writing_lock(directory / "simulator"))
        except StoreUnavailable as error:
            if error.reason != "store_locked":
                raise
            holder = lock_path(directory / "simulator").read_text().strip() or "unknown"
            raise click.ClickException(
                f"Another demo or simulator (pid {holder}) runs in {_shown(directory)}: stop it, or set "
                "ARKGATE_DATA to another directory and ARKGATE_PORT_BASE to other ports."
            ) from error
        yield


def write_config(directory: Path, ports: Ports, simulated: Simulation) -> Path:
    """Writes the configuration that the demo runs with, beside its state."""
    path = directory / settings.DEFAULT_FILE
    gate = simulated.gate
    path.write_text(f"""\
# Written by `arkgate demo` at each start.
[gateway]
listen = "127.0.0.1:{ports.gateway}"
operator_listen = "127.0.0.1:{ports.operator}"

[store]
url = "sqlite:///arkgate.db"
keys_file = "arkgate-keys.json"

[[nodes]]
kind = "lnd"
name = "gate"
address = "{gate.address}"
tls_cert_file = "{gate.credentials.tls_cert}"
macaroon_file = "{gate.credentials.invoice_macaroon}"
network = "regtest"

[backend]
url = "{simulated.chat.url}"
model = "{CHAT_MODEL}"

[limits]
sessions_per_hour_and_client = 1000
""")
    return path


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _quoted(path: Path) -> str:
    return shlex.quote(_shown(path))


def _program() -> str:
    """How this program was called, for the shell."""
    called = Path(sys.argv[0]).absolute()
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m {called.parent.name}"
    return shlex.quote(str(called)) if called.parent == Path.cwd() else _quoted(called)


def story(url: str, directory: Path) -> str:
    """What the demo prints: copy-and-paste commands that show the whole paid call."""
    data = "" if directory == Path.cwd() / DATA_DIRECTORY else f"export ARKGATE_DATA={_quoted(directory)}\n"
    return f"""\
ready: {url}

Everything below is simulated: the Lightning network is a regtest of two nodes, the answers are canned.
Copy and paste into another terminal, in this directory:

# 1. Ask without paying: 402, with an invoice and a macaroon.
{data}arkgate() {{ {_program()} "$@"; }}
url={url} json='Content-Type: application/json'
field() {{ sed 's/.*"'"$1"'": *"\\([^"]*\\)".*/\\1/'; }}
ask='{{"prompt":"How is Ark different from Lightning?"}}'
challenge=$(curl -s $url/api/ai-chat -H "$json" -d "$ask"); echo "$challenge"

# 2. Pay the invoice; the wallet gets the preimage.
paid=$(arkgate wallet pay "$(echo "$challenge" | field invoice)"); echo "$paid"

# 3. Ask again with macaroon and preimage: 200, with the answer.
credential="$(echo "$challenge" | field macaroon):$(echo "$paid" | field payment_preimage)"
curl -s $url/api/ai-chat -H "Authorization: L402 $credential" -H "$json" -d "$ask"; echo

# 4. Fund a token with 500 sats, pay its invoice, spend it, look at its balance.
session=$(curl -s $url/v1/sessions -d '{{"amount_sats":500}}'); echo "$session"
arkgate wallet pay "$(echo "$session" | field lightning_invoice)"
token=$(echo "$session" | field token)
curl -s $url/api/ai-chat -H "Authorization: Bearer $token" -H "$json" -d "$ask"; echo
curl -s $url/v1/balance -H "Authorization: Bearer $token"; echo

# 5. The same token in OpenAI's API, streamed. OpenAI's SDKs: base_url {url}/v1, the token as api_key.
hello='{{"messages":[{{"role":"user","content":"Hello"}}],"stream":true}}'
curl -sN $url/v1/chat/completions -H "Authorization: Bearer $token" -H "$json" -d "$hello"

# 6. Check the books.
arkgate ledger verify --config {_quoted(directory / settings.DEFAULT_FILE)}

# Or in a browser: {url}/fund asks for a token; pay what its page shows with
# arkgate wallet pay <the invoice>

Ctrl-C stops everything; the state stays in {_shown(directory)}."""
