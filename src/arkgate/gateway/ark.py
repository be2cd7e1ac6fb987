"""Ark payments: a coin that came in at an address of ours is credited once, at once or when it is final."""

from collections.abc import Mapping

import structlog

from arkgate.core.errors import NodeUnavailable, StoreUnavailable
from arkgate.core.ledger import AddressRecord, ArkPayment, Cursor, Funded, FundOutcome
from arkgate.core.money import Msat
from arkgate.gateway.pace import DUE_HALF, Pace, is_given_up, look_up_again_ms
from arkgate.ports import ArkWallet, Clock, Ledger, Observer, Statements

log = structlog.get_logger()
WAITING_PAUSE_MS = 10_000
"""How soon a coin is looked up after it was found to wait for its finality."""


class ArkFunding:
    """Credits coins from a wallet's events and listings, and looks up the addresses that were given out."""

    def __init__(
        self,
        ledger: Ledger,
        statements: Statements,
        wallets: Mapping[str, ArkWallet],
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._ledger = ledger
        self._statements = statements
        self._wallets = wallets
        self._clock = clock
        self._observer = observer

    async def credit(self, payment: ArkPayment, *, reported_by: str, cursor: Cursor | None = None) -> Funded:
        """`Ledger.fund_ark`, and what makes a coin final where it waits for that."""
        wallet = self._wallets[payment.node]
        funded = await self._ledger.fund_ark(payment, instant_max=wallet.ark_instant_max, cursor=cursor)
        fields = {
            "node": payment.node,
            "outpoint": payment.outpoint,
            "amount_msat": payment.amount_paid,
            "account": funded.account_id,
            "reported_by": reported_by,
        }
        if funded.outcome is FundOutcome.APPLIED:
            self._observer.payment_credited(payment.amount_paid)
            log.info("payment credited", **fields)
        elif funded.outcome is FundOutcome.WAITING:
            log.info("an Ark payment is credited when it is final", **fields)
            await self._await_finality(wallet, payment)
        return funded

    async def _await_finality(self, wallet: ArkWallet, payment: ArkPayment) -> None:
        again = self._clock.now_ms() + WAITING_PAUSE_MS
        await self._ledger.mark_address_looked_up(payment.address, again)
        try:
            await wallet.make_final(payment.outpoint)
        except NodeUnavailable as refusal:
            log.warning(
                "what makes an Ark payment final could not be asked for",
                node=payment.node,
                outpoint=payment.outpoint,
                reason=refusal.message,
            )

    async def look_up_due(self, node: str, pace: Pace) -> None:
        """Asks the wallet about a batch of addresses that are due, half of them those that became so last.

        Does nothing for a node without addresses. Raises NodeUnavailable and StoreUnavailable.
        """
        wallet = self._wallets.get(node)
        if wallet is None:
            return
        due = [
            *await self._statements.addresses_to_look_up(node, limit=DUE_HALF, newest=True),
            *await self._statements.addresses_to_look_up(node, limit=DUE_HALF),
        ]
        for record in {record.address: record for record in due}.values():
            await pace.turn()
            try:
                await self._look_up(wallet, record)
            except StoreUnavailable:
                raise
            except Exception as fault:
                # Whatever it is, it is put off, and the next address is another payer's.
                await self._later_if_at_all(record, waiting=record.waiting)
                if isinstance(fault, NodeUnavailable) and fault.is_away:
                    raise
                self._observer.alarm("look_up_failed")
                log.exception("a look-up failed", node=node, address=record.address)

    async def _look_up(self, wallet: ArkWallet, record: AddressRecord) -> None:
        """Credits what came in at an address, and notes when to ask again."""
        waiting = Msat(0)
        for payment in await wallet.ark_payments(record.address):
            funded = await self.credit(payment, reported_by="look-up")
            if funded.outcome is FundOutcome.WAITING:
                waiting = Msat(waiting + payment.amount_paid)
        await self._later_if_at_all(record, waiting=waiting)

    async def _later_if_at_all(self, record: AddressRecord, *, waiting: Msat) -> None:
        """An address where something waits is looked at until that is final; others for a day longer."""
        now = self._clock.now_ms()
        again = look_up_again_ms(now, record.created_at_ms)
        if is_given_up(now, record.expires_at_ms) and not waiting:
            await self._ledger.mark_address_looked_up(record.address, None)
        else:
            await self._ledger.mark_address_looked_up(record.address, again)
