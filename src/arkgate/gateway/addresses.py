"""The desk where Ark addresses are given out: by the first wallet that can, or by none."""

import asyncio
from collections.abc import Sequence

from arkgate.core.errors import NodeUnavailable
from arkgate.core.keys import Purpose
from arkgate.core.ledger import AddressRecord
from arkgate.core.money import Msat
from arkgate.gateway.counter import Counter, away
from arkgate.ports import ArkWallet, Clock, Statements

PATIENCE_SECONDS = 1.5
"""How long one wallet is waited for."""
WAITING_MAX = 256


class AddressDesk:
    """Gives out Ark addresses. The wallets are asked in the order of the settings.

    One that fails or is slow is left to itself until it says that it is well, as at the desk of invoices.
    """

    def __init__(self, wallets: Sequence[ArkWallet], statements: Statements, clock: Clock) -> None:
        self._counters = [(Counter(wallet, offer="Ark addresses"), wallet) for wallet in wallets]
        self._statements = statements
        self._clock = clock
        self._waiting = 0

    @property
    def has_wallets(self) -> bool:
        """Whether any node gives out addresses at all."""
        return bool(self._counters)

    async def address(self, amount: Msat, purpose: Purpose, *, expiry_seconds: int) -> AddressRecord:
        """A fresh address for a payment. Raises NodeUnavailable when no wallet gives one now."""
        refusal = NodeUnavailable("No node gives out Ark addresses.")
        for counter, wallet in self._counters:
            try:
                address = await self._given(counter, wallet)
            except NodeUnavailable as why:
                refusal = why
                continue
            now_ms = self._clock.now_ms()
            return AddressRecord(
                address=address,
                account_id=purpose.account_id,
                node=wallet.name,
                purpose=purpose.kind.name.lower(),
                amount=amount,
                created_at_ms=now_ms,
                expires_at_ms=now_ms + expiry_seconds * 1000,
            )
        raise refusal

    async def _given(self, counter: Counter, wallet: ArkWallet) -> str:
        if self._waiting >= WAITING_MAX:
            raise away("Too many Ark addresses are asked for.")
        with counter.serving():
            self._waiting += 1
            try:
                async with asyncio.timeout(PATIENCE_SECONDS), counter.slots:
                    return await self._fresh(wallet)
            except TimeoutError:
                counter.close(f"node {wallet.name} is slow", trial=False)
                raise away(f"node {wallet.name} is slow") from None
            except NodeUnavailable as why:
                counter.close(why.message, trial=False)
                raise
            finally:
                self._waiting -= 1

    async def _fresh(self, wallet: ArkWallet) -> str:
        """An address that is in nobody's session: what comes in there would be credited to that one.

        A wallet that was made anew from its words may count its addresses from the beginning again.
        """
        address = await wallet.new_ark_address()
        if await self._statements.address(address) is not None:
            raise NodeUnavailable(f"node {wallet.name} gave out an Ark address for the second time")
        return address

    async def watch(self) -> None:
        """Background work: asks every wallet how it is, for ever. Ends at once where there is none."""
        async with asyncio.TaskGroup() as group:
            for counter, _ in self._counters:
                group.create_task(counter.watch())
