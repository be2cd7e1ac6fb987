"""A simulated Fulmine: its gRPC in plain text with a macaroon, one address, and a Boltz of its own.

Sources: Fulmine b4461e8b; the texts of errors, and what it dies of, are those of the real daemon. Its coins
live in memory: they are no part of the network.
"""

# ruff: noqa: N802  the methods have Fulmine's names

import asyncio
import secrets
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc

from arkgate._proto.fulmine import service_pb2, service_pb2_grpc
from arkgate.simulator import credentials, virtual_tx
from arkgate.simulator.boltz import SimulatedBoltz
from arkgate.simulator.daemon import Context, GrpcDaemon, abort, leave, macaroons_of
from arkgate.simulator.network import Network, Refused, lying_answer
from arkgate.simulator.records import InvoiceRow, PaymentRow

VERSION = "0.3.0"
EXPIRY_SECONDS = 3600
DESCRIPTION = "Send to ARK address"
READING_SECONDS = 0.3
"""For how long after its coins were read somebody counts as following them."""
PERMISSIONS = frozenset(("wallet:access", "service:access", "notification:access"))


class Wallet(Enum):
    """How far its wallet is."""

    NONE = "none"
    LOCKED = "locked"
    """As after a restart: the store of macaroons is locked, too."""
    SYNCING = "syncing"
    OPEN = "open"
    BROKEN = "broken"
    """As after a wrong password and then the right one: it says that it is open, and dies of any call."""


@dataclass(frozen=True, slots=True)
class Coin:
    """A coin of the wallet, with the transaction that made it."""

    txid: str
    psbt: str
    amount_sats: int
    created_at: int


class SimulatedFulmine(GrpcDaemon):
    """One simulated Fulmine. A stop forgets the preimages of invoices that are not paid yet."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self.habits.version = VERSION
        self.wallet = Wallet.OPEN
        self.boltz = SimulatedBoltz()
        self.script = bytes.fromhex("5120") + secrets.token_bytes(32)
        self.coins: list[Coin] = []
        self.indexer_behind = False
        """Whether the transactions of coins cannot be had yet."""
        self.underpaid_sats = 0
        """By how much Boltz locks up less than it should."""
        self.is_dead = False
        self.batches_asked: list[int] = []
        """How many transactions each GetVirtualTxs asked for."""
        self.root_keys = {credentials.ROOT_KEY_ID: credentials.macaroon_key(self.peer.key.secret)}
        self.admin_macaroon = self.data_dir / "macaroons" / "admin.macaroon"
        self._preimages: set[bytes] = set()
        """The payment hashes whose preimages it has in memory."""
        self._read_at = -float("inf")
        self._cut = False
        self._running = False
        self._dying: set[asyncio.Task[None]] = set()
        self.make_macaroon()
        self.peer.listeners.append(self._announce)
        self.peer.taker = self._take

    def make_macaroon(self) -> None:
        """The file that appears some time after the wallet was made, for everybody to read."""
        self.admin_macaroon.parent.mkdir(parents=True, exist_ok=True)
        if not self.admin_macaroon.exists():
            key = self.root_keys[credentials.ROOT_KEY_ID]
            self.admin_macaroon.write_bytes(credentials.bake(key, PERMISSIONS, location="fulmine"))
            self.admin_macaroon.chmod(0o644)

    def add_services(self, server: grpc.aio.Server) -> None:
        """See `GrpcDaemon`."""
        service_pb2_grpc.add_ServiceServicer_to_server(_Service(self), server)
        service_pb2_grpc.add_WalletServiceServicer_to_server(_Wallet(self), server)

    async def start(self) -> None:
        """See `SimulatedDaemon`."""
        await super().start()
        self._running, self.is_dead = True, False

    async def stop(self) -> None:
        """See `SimulatedDaemon`. It forgets the preimages: nobody can pay its open invoices any more."""
        self._running = False
        self._preimages.clear()
        await super().stop()

    def die(self) -> None:
        """Ends as a process does that panics."""
        self._running, self.is_dead = False, True
        task = asyncio.get_running_loop().create_task(self.stop())
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)

    @property
    def open_streams(self) -> int:
        """See `SimulatedDaemon`: whether somebody has read its coins just now."""
        return int(time.monotonic() - self._read_at < READING_SECONDS)

    def cut_streams(self) -> int:
        """See `SimulatedDaemon`: the next reading breaks."""
        self._cut = True
        return self.open_streams

    def cut_now(self) -> bool:
        """Notes a reading; whether it is to break."""
        self._read_at = time.monotonic()
        cut, self._cut = self._cut, False
        return cut

    def receive_at_address(self, amount_sats: int, *, preimages: list[bytes] | None = None) -> Coin:
        """A payment to the wallet's one address; whoever knows a preimage may put it in."""
        txid, psbt = virtual_tx.claim(amount_sats, self.script, preimages or [])
        coin = Coin(txid, psbt, amount_sats, int(self.network.now_at(self.peer)))
        self.coins.append(coin)
        return coin

    def _announce(self, row: InvoiceRow) -> None:
        """What was added can be paid while its preimage is known; what was settled was claimed."""
        if not row.settled:
            self._preimages.add(row.payment_hash)
        elif row.is_keysend:
            self.receive_at_address(row.paid_msat // 1000)
        else:
            amount_sats = row.amount_msat // 1000
            arrives = amount_sats - self.boltz.keeps(amount_sats) - self.underpaid_sats
            self.receive_at_address(arrives, preimages=[row.preimage])

    async def _take(self, payment: PaymentRow) -> bool:
        """Boltz locks up, Fulmine claims; neither without the other."""
        ready = self._running and self.wallet is Wallet.OPEN and self.boltz.up
        return ready and payment.payment_hash in self._preimages

    # What its calls do.

    def check(self, method: str, macaroons: list[str]) -> None:
        """Refuses a call as Fulmine does; every refusal of a macaroon has code UNKNOWN."""
        if self.wallet is Wallet.LOCKED:
            raise Refused("cannot retrieve macaroon: cannot get macaroon: macaroon store is locked")
        try:
            allowed = credentials.allowed(self.root_keys, macaroons)
        except credentials.BadMacaroon as exc:
            raise Refused(str(exc)) from exc
        if "service:access" not in allowed:
            raise Refused("permission denied")
        if self.wallet is Wallet.BROKEN:
            self.die()
            raise Refused("Stream removed (Socket closed)", grpc.StatusCode.UNAVAILABLE)
        failure = self.habits.failure(method)
        if failure is not None:
            raise Refused(f"simulated failure of {method}", failure)
        if self.wallet is Wallet.NONE:
            raise Refused("service not initialized")
        if self.wallet is Wallet.SYNCING:
            raise Refused("service is syncing")

    def invoice_over(self, amount_sats: int) -> str:
        """A new invoice. Raises Refused, and may die."""
        if not amount_sats:
            raise Refused("missing amount", grpc.StatusCode.INVALID_ARGUMENT)
        if not self.boltz.up:
            raise Refused("failed to make reverse submarine swap: 503 Service Unavailable")
        if not self.boltz.submarine_least_sats <= amount_sats <= self.boltz.most_sats:
            self.die()
            raise Refused("Stream removed (Socket closed)", grpc.StatusCode.UNAVAILABLE)
        if amount_sats < self.boltz.least_sats:
            text = f"{amount_sats} is less than minimal of {self.boltz.least_sats}"
            raise Refused(f"failed to make reverse submarine swap: {text}")
        row = self.network.add_invoice(
            self.peer, amount_msat=amount_sats * 1000, memo=DESCRIPTION, expiry_seconds=EXPIRY_SECONDS
        )
        return lying_answer(self.peer, row)[1]

    def status(self) -> service_pb2.StatusResponse:
        """The answer of Status."""
        is_open = self.wallet in (Wallet.OPEN, Wallet.BROKEN)
        return service_pb2.StatusResponse(
            initialized=self.wallet is not Wallet.NONE,
            unlocked=is_open or self.wallet is Wallet.SYNCING,
            synced=is_open,
        )


async def _enter(node: SimulatedFulmine, method: str, context: Context) -> None:
    """What comes before every call: the macaroon, and the delay or failure that a test asked for."""
    await asyncio.sleep(node.habits.delay_seconds(method))
    try:
        node.check(method, macaroons_of(context))
    except Refused as refused:
        await abort(context, refused)


class _Service(service_pb2_grpc.ServiceServicer):
    def __init__(self, node: SimulatedFulmine) -> None:
        self._node = node

    async def GetInfo(
        self, request: service_pb2.GetInfoRequest, context: Context
    ) -> service_pb2.GetInfoResponse:
        await _enter(self._node, "GetInfo", context)
        build = service_pb2.BuildInfo(version=self._node.habits.version, commit="simulated")
        return service_pb2.GetInfoResponse(
            network=service_pb2.GetInfoResponse.NETWORK_REGTEST, addr_prefix="tark", build_info=build
        )

    async def GetBalance(
        self, request: service_pb2.GetBalanceRequest, context: Context
    ) -> service_pb2.GetBalanceResponse:
        await _enter(self._node, "GetBalance", context)
        return service_pb2.GetBalanceResponse(amount=sum(coin.amount_sats for coin in self._node.coins))

    async def GetInvoice(
        self, request: service_pb2.GetInvoiceRequest, context: Context
    ) -> service_pb2.GetInvoiceResponse:
        await _enter(self._node, "GetInvoice", context)
        try:
            invoice = self._node.invoice_over(request.amount)
        except Refused as refused:
            await abort(context, refused)
        await leave(self._node, "GetInvoice", context)
        return service_pb2.GetInvoiceResponse(invoice=invoice)

    async def GetVtxos(
        self, request: service_pb2.GetVtxosRequest, context: Context
    ) -> service_pb2.GetVtxosResponse:
        node = self._node
        await _enter(node, "GetVtxos", context)
        if node.cut_now():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if node.habits.streams_silent:
            return service_pb2.GetVtxosResponse()
        return service_pb2.GetVtxosResponse(
            vtxos=[
                service_pb2.Vtxo(
                    outpoint=service_pb2.Input(txid=coin.txid, vout=0),
                    created_at=coin.created_at,
                    script=node.script.hex(),
                    amount=coin.amount_sats,
                )
                for coin in reversed(node.coins)
            ]
        )

    async def GetVirtualTxs(
        self, request: service_pb2.GetVirtualTxsRequest, context: Context
    ) -> service_pb2.GetVirtualTxsResponse:
        await _enter(self._node, "GetVirtualTxs", context)
        self._node.batches_asked.append(len(request.txids))
        wanted = () if self._node.indexer_behind else set(request.txids)
        found = [coin.psbt for coin in self._node.coins if coin.txid in wanted]
        return service_pb2.GetVirtualTxsResponse(txs=found)


class _Wallet(service_pb2_grpc.WalletServiceServicer):
    def __init__(self, node: SimulatedFulmine) -> None:
        self._node = node

    async def Status(
        self, request: service_pb2.StatusRequest, context: Context
    ) -> service_pb2.StatusResponse:
        await asyncio.sleep(self._node.habits.delay_seconds("Status"))
        return self._node.status()
