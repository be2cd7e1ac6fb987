"""A gateway that is killed once and started again, the simulation beside it, and a client that goes on."""

import asyncio
import contextlib
import multiprocessing
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

from arkgate.settings import Settings
from arkgate.settings import load as load_settings
from arkgate.simulator.barkd_wallet import ArkWallet
from arkgate.simulator.simulation import Simulation
from arkgate.store import read_store
from tests.crash import child
from tests.crash.child import Blow, Job
from tests.ports import free_port_base
from tests.stage import MODEL, eventually, write_settings

PRICE_SATS = 50
HOLD_SECONDS = 1.5
BACKEND_SECONDS = 1
PATIENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.02
QUICK: Mapping[str, float] = {
    "arkgate.gateway.fund.BACKOFF_SECONDS_MAX": 0.2,
    "arkgate.gateway.pace.LOOK_UP_FIRST_MS": 50,
    "arkgate.gateway.fund.STREAM_OPENS_WITHIN_SECONDS": 0.1,
    "arkgate.gateway.sweep.PRUNE_SECONDS": 0.2,
    "arkgate.gateway.sweep.SWEEP_SECONDS": 0.1,
}
"""How fast the background works where a test would only wait for it."""
CONNECTION_LOST = (httpx.TransportError, AttributeError)
"""The second: what anyio raises of a connection that was reset before httpx first looked at it."""
_ports_given: set[int] = set()
AGAIN = (409, 429, 500, 502, 503, 504)
"""What a client answers by asking again."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A database that the gateway keeps its books in."""

    name: str
    url: Callable[[Path, str], Awaitable[str]]
    """The URL of fresh books, by the test's folder and a word for them."""
    locked: Callable[[str], AbstractAsyncContextManager[None]]
    """Changes of the books at that URL wait while the block lasts."""
    unwritable: Callable[[str], AbstractAsyncContextManager[None]]
    """Changes of the books at that URL fail while the block lasts."""
    impatient: Mapping[str, Any]
    """The constants with which they fail soon."""


@dataclass(slots=True)
class Gateway:
    """One gateway over its deaths: killed by the blow it meets, and started again without it."""

    directory: Path
    simulation: Simulation
    engine: Engine
    config: Path
    pauses: Mapping[str, Any]
    settings: Mapping[str, Any]
    blow: Blow | None = None
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    _process: ForkServerProcess | None = None
    _keeper: asyncio.Task[None] | None = None

    @property
    def output(self) -> str:
        """What all its processes have printed so far."""
        file = self.directory / "gateway.out"
        return file.read_text() if file.exists() else ""

    @property
    def loaded(self) -> Settings:
        """Its configuration."""
        return load_settings(self.config)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps a process running until the block ends."""
        self.start()
        try:
            yield
        finally:
            await self.stop()

    def start(self) -> None:
        """Starts, and starts again after the blow."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Kills what runs, and does not start it again. Raises what kept it from running."""
        keeper, self._keeper = self._keeper, None
        assert keeper is not None
        keeper.cancel()
        (fault,) = await asyncio.gather(keeper, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            await _ended(self._process)
        if isinstance(fault, AssertionError):
            raise fault

    async def restart(self) -> None:
        """A kill at no point in particular."""
        await self.stop()
        self.start()

    def ask_to_end(self) -> None:
        """Begins an orderly end, in which only the blow may meet it."""
        assert self._process is not None
        self._process.terminate()

    async def change_books(self) -> None:
        """Lets it start with empty books and the same keys, as after a loss without a backup."""
        await configure(self.directory, self.simulation, self.engine, "later")

    async def rotate_keys(self) -> None:
        """`arkgate keys rotate`, and once more when the blow met it."""
        status = await self._done(rotates=True)
        if status == -signal.SIGKILL and not self.struck.is_set():
            self.struck.set()
            status = await self._done(rotates=True)
        assert status == 0, self.output

    async def _keep(self) -> None:
        while True:
            status = await self._done()
            assert status == -signal.SIGKILL, f"the gateway ended with {status}: {self.output}"
            assert not self.struck.is_set(), "it was killed twice"
            self.struck.set()

    async def _done(self, *, rotates: bool = False) -> int | None:
        struck = self.struck.is_set()
        job = Job(
            self.config,
            self.directory / "gateway.out",
            None if struck else self.blow,
            QUICK if struck else self.pauses,
            {"call_deadline_seconds": HOLD_SECONDS, **self.settings},
            rotates,
        )
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([child.__name__])
        process = processes.Process(target=child.main, args=(job,), daemon=True)
        process.start()
        if not rotates:
            self._process = process
        return await _ended(process)


async def _ended(process: ForkServerProcess) -> int | None:
    """Waits for the end of a process; gives its exit status."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    sentinel = process.sentinel
    loop.add_reader(sentinel, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(sentinel)
    process.join()
    return process.exitcode


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its owner knows it."""

    header: dict[str, str]
    invoice: str
    payment_hash: bytes
    ark_address: str
    path: str


@dataclass(slots=True)
class Client:
    """Asks until it has what it is promised, over all restarts, and keeps a journal of it."""

    gateway: Gateway
    http: httpx.AsyncClient
    paid_msat: int = 0
    bought: list[str] = field(default_factory=list)
    """The ids of the calls whose answers it has."""

    @property
    def simulation(self) -> Simulation:
        """What runs beside the gateway."""
        return self.gateway.simulation

    def arm(self) -> None:
        """From now on the blow falls."""
        if self.gateway.blow is not None:
            self.gateway.blow.armed.touch()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        wanted: int,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        also: Collection[int] = (),
    ) -> dict[str, Any]:
        """Asks until the answer has the wanted status; `also` names what else is asked again after."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        said = "nothing"
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(*CONNECTION_LOST):
                answer = await self.http.request(method, path, json=body, headers=headers)
                said = f"{answer.status_code} {answer.text}"
                if answer.status_code == wanted:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code in (*AGAIN, *also), f"{method} {path}: {said}"
            await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError(f"{method} {path} was answered {said} to the end, and not {wanted}")

    def pay_ark(self, address: str, amount_sats: int) -> None:
        """Sends a coin to an Ark address."""
        self.ark.pay_ark(address, amount_sats)
        self.paid_msat += amount_sats * 1000

    @property
    def ark(self) -> ArkWallet:
        """The wallet whose addresses the gateway gives out."""
        (barkd,) = self.simulation.barkds
        return barkd.wallet

    async def pay(self, invoice: str) -> str:
        """Pays; gives the preimage."""
        paid = await self.simulation.pay(invoice)
        self.paid_msat += paid.amount_msat
        return paid.preimage.hex()

    async def open_session(self, amount_sats: int = PRICE_SATS) -> "Session":
        """A session that waits."""
        body = await self.ask("POST", "/v1/sessions", wanted=201, body={"amount_sats": amount_sats})
        funding = body["funding"]
        return Session(
            {"Authorization": f"Bearer {body['token']}"},
            funding["lightning_invoice"],
            bytes.fromhex(funding["payment_hash"]),
            funding["ark_address"],
            f"/v1/sessions/{body['session_id']}",
        )

    async def has(self, header: Mapping[str, str], sats: int, *, also: Collection[int] = ()) -> None:
        """Waits until that much is available."""

        async def enough() -> bool:
            body = await self.ask("GET", "/v1/balance", wanted=200, headers=header, also=also)
            return bool(body["available_sats"] == sats)

        await eventually(enough, PATIENCE_SECONDS)

    async def fund_token(self, amount_sats: int = PRICE_SATS) -> dict[str, str]:
        """A token with that much on it."""
        session = await self.open_session(amount_sats)
        await self.pay(session.invoice)
        await self.has(session.header, amount_sats)
        return session.header

    async def challenge(self) -> tuple[str, str]:
        """A fresh challenge: macaroon and invoice."""
        body = await self.ask("POST", "/api/ai-chat", wanted=402, body={})
        return body["macaroon"], body["invoice"]

    async def buy_credential(self) -> dict[str, str]:
        """A credential that is paid for, as the header that carries it."""
        macaroon, invoice = await self.challenge()
        return {"Authorization": f"L402 {macaroon}:{await self.pay(invoice)}"}

    async def buy(self, header: Mapping[str, str], prompt: str = "How is Ark different?") -> None:
        """Buys one call, and asks for its answer again: it is the same one and costs nothing."""
        body = {"prompt": prompt}
        first = await self.ask("POST", "/api/ai-chat", wanted=200, body=body, headers=header, also=(402,))
        again = await self.ask("POST", "/api/ai-chat", wanted=200, body=body, headers=header)
        assert again["request_id"] == first["request_id"]
        assert again["data"] == first["data"]
        assert again["replayed"] is True
        self.bought.append(first["request_id"])

    async def buy_stream(self, header: Mapping[str, str]) -> None:
        """Buys one stream, and asks for it again until it is whole: it is the same one and costs nothing."""
        request_id = secrets.token_hex(8)
        body = {"messages": [{"role": "user", "content": "How is Ark different?"}], "stream": True}
        texts: list[str] = []
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while len(texts) < 2:
            assert asyncio.get_running_loop().time() < deadline, "the stream was never whole"
            with contextlib.suppress(*CONNECTION_LOST):
                answer = await self.http.post(
                    "/v1/chat/completions", json=body, headers={**header, "X-Request-Id": request_id}
                )
                if answer.status_code == 200 and "[DONE]" in answer.text:
                    texts.append(answer.text)
                    continue
                assert answer.status_code in (200, 402, *AGAIN), answer.text
            await asyncio.sleep(PAUSE_SECONDS)
        assert texts[0] == texts[1]
        self.bought.append(request_id)


def keyed(header: Mapping[str, str]) -> dict[str, str]:
    """The header with an idempotency key of its own."""
    return {**header, "Idempotency-Key": secrets.token_hex(8)}


async def configure(directory: Path, simulation: Simulation, engine: Engine, books: str = "ledger") -> Path:
    """Writes the configuration of a gateway on two free ports, or changes the books of one."""
    path = directory / "arkgate.toml"
    base = load_settings(path).listen.port if path.exists() else _new_port_base()
    extra = {
        "[store]": f'url = "{await engine.url(directory, books)}"',
        "[backend]": f"total_timeout_seconds = {BACKEND_SECONDS}\nhold_margin_seconds = 5",
        "[[services]]": "calls_per_day = 0",
    }
    return write_settings(path, simulation, port=base, operator_port=base + 1, extra=extra)


def _new_port_base() -> int:
    """Two ports that no gateway of this run has had: a free one may be another's that is being started."""
    base = free_port_base()
    while not _ports_given.isdisjoint((base, base + 1)):
        base = free_port_base()
    _ports_given.update((base, base + 1))
    return base


async def broken_rules(gateway: Gateway) -> list[str]:
    """The invariants that fail, the ninth by the backend's own list of requests."""
    async with read_store(gateway.loaded.store_url) as statements:
        requests = gateway.simulation.chat.request_ids
        findings = [*await statements.verify(), await statements.verify_requests(requests)]
    return [finding.sentence for finding in findings if not finding.holds]


@contextlib.asynccontextmanager
async def beside_simulation(directory: Path) -> AsyncIterator[Simulation]:
    """The simulation that one gateway runs beside."""
    async with Simulation.running(
        data_dir=directory / "simulator",
        durable=False,
        chat_models=(MODEL,),
        settle_delay_seconds=0.01,
        barkds=("ark",),
    ) as simulation:
        yield simulation
