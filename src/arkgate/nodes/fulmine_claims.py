"""What a Fulmine's wallet has claimed: its coins, each with the preimage that its transaction reveals.

Fulmine has no call that says whether an invoice was paid. But it draws each invoice's preimage, tells it to
nobody, and reveals it only by claiming what was paid: in the Ark transaction that makes the coin. So a coin
of the wallet whose transaction reveals the preimage of a payment hash is that invoice's payment, whoever
says what about it (decision 6).
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from arkgate._proto.fulmine import service_pb2 as fulmine
from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import Msat, sats
from arkgate.core.virtual_tx import VirtualTx, VirtualTxError, read_virtual_tx

log = structlog.get_logger()
BATCH_TXS = 50
PATIENCE_SECONDS = 24 * 3600
"""For how long the transaction of a coin is asked for that the indexer does not give."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A coin that was claimed with a preimage."""

    payment_hash: bytes
    received: Msat
    created_at: int
    """Unix seconds."""


class Claims:
    """The claims of one wallet, as far as they were read; oldest first. `ask` is one of Fulmine's calls."""

    def __init__(self, node: str, ask: Callable[[str, object], Awaitable[object]]) -> None:
        self._node = node
        self._ask = ask
        self._read_coins: set[tuple[str, int]] = set()
        self._hidden: set[tuple[str, int]] = set()
        self._of: dict[bytes, Claim] = {}
        self._reading: asyncio.Task[NodeUnavailable | None] | None = None
        self._began_at = -float("inf")

    def of(self, payment_hash: bytes) -> Claim | None:
        """The claim by which an invoice was paid, as far as is known."""
        return self._of.get(payment_hash)

    def all(self) -> Sequence[Claim]:
        """Every claim, in the order in which they were found."""
        return list(self._of.values())

    @property
    def hidden(self) -> int:
        """How many coins there are whose transactions the Ark server does not show."""
        return len(self._hidden)

    async def read(self, *, within_seconds: float = 0.0) -> None:
        """Reads the wallet, unless that was begun so shortly ago. Raises NodeUnavailable."""
        reading, due_at = self._reading, self._began_at + within_seconds
        if reading is None or (reading.done() and (reading.result() or time.monotonic() >= due_at)):
            self._began_at = time.monotonic()
            reading = self._reading = asyncio.create_task(self._read())
        if refusal := await asyncio.shield(reading):
            raise refusal

    async def _read(self) -> NodeUnavailable | None:
        try:
            answer = await self._ask("GetVtxos", fulmine.GetVtxosRequest())
            assert isinstance(answer, fulmine.GetVtxosResponse)
            fresh = [coin for coin in answer.vtxos if _key(coin) not in self._read_coins]
            fresh.sort(key=lambda coin: coin.created_at)
            for begin in range(0, len(fresh), BATCH_TXS):
                await self._read_batch(fresh[begin : begin + BATCH_TXS])
        except NodeUnavailable as refusal:
            return refusal
        return None

    async def _read_batch(self, coins: Sequence[fulmine.Vtxo]) -> None:
        txids = list(dict.fromkeys(coin.outpoint.txid for coin in coins))
        answer = await self._ask("GetVirtualTxs", fulmine.GetVirtualTxsRequest(txids=txids))
        assert isinstance(answer, fulmine.GetVirtualTxsResponse)
        found = {tx.txid: tx for text in answer.txs if (tx := self._tx(text)) is not None}
        for coin in coins:
            tx = found.get(coin.outpoint.txid)
            if tx is None:
                self._miss(coin)
                continue
            self._note(coin, tx)
            self._read_coins.add(_key(coin))
            self._hidden.discard(_key(coin))

    def _miss(self, coin: fulmine.Vtxo) -> None:
        """A transaction that is not shown may be later; after a day that is given up, and said."""
        self._hidden.add(_key(coin))
        if time.time() - coin.created_at > PATIENCE_SECONDS:
            self._read_coins.add(_key(coin))
            log.warning(
                "the Ark server does not show what made a coin: if it is a payment, nobody is credited",
                node=self._node,
                outpoint=f"{coin.outpoint.txid}:{coin.outpoint.vout}",
            )

    def _tx(self, text: str) -> VirtualTx | None:
        try:
            return read_virtual_tx(text)
        except VirtualTxError as error:
            log.warning("a transaction of the wallet cannot be read", node=self._node, reason=str(error))
            return None

    def _note(self, coin: fulmine.Vtxo, tx: VirtualTx) -> None:
        """Notes whose payment a coin is; the amount is that of the transaction's own output."""
        output = tx.outputs[coin.outpoint.vout] if coin.outpoint.vout < len(tx.outputs) else None
        if output is None or output.script.hex() != coin.script or output.amount_sats != coin.amount:
            log.warning(
                "a coin is not what its transaction says",
                node=self._node,
                outpoint=f"{coin.outpoint.txid}:{coin.outpoint.vout}",
            )
            return
        if len(tx.preimages) != 1:
            return  # change, a payment to the address, or several swaps at once, which Fulmine never claims
        payment_hash = hashlib.sha256(tx.preimages[0]).digest()
        claim = Claim(payment_hash, sats(output.amount_sats), coin.created_at)
        known = self._of.get(payment_hash)
        # Whoever forwarded the payment knows the preimage, too, and may put it into a tiny coin of theirs.
        if known is None or known.received < claim.received:
            self._of[payment_hash] = claim

    async def close(self) -> None:
        """Reads no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def _key(coin: fulmine.Vtxo) -> tuple[str, int]:
    return coin.outpoint.txid, coin.outpoint.vout
