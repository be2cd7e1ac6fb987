"""What the doctor asks a barkd: each line tries one thing that a paid call needs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import format_sats
from arkgate.nodes import checkup
from arkgate.nodes.barkd_fees import Schedule, is_dear
from arkgate.nodes.barkd_rest import BearerToken, Rest, answered, network_of, was_silent
from arkgate.nodes.certificate import NO_INVOICES
from arkgate.nodes.channel import CredentialsRefused
from arkgate.ports import ArkWallet, Check, Clock, Demands, Invoice, Verdict

NEWS_SECONDS = 1.0
_SEE_LOG = "Look at barkd's log, and at the Ark server's status."


@dataclass(slots=True)
class BarkdCheckup:
    """One check-up. `node` is what the gateway uses; what that cannot ask goes over a client of its own."""

    node: ArkWallet
    credentials: BearerToken
    clock: Clock
    network: str | None
    """The network of the settings, where they name one."""
    demands: Demands
    _rest: Rest = field(init=False)
    _schedule: Schedule | None = field(default=None, init=False)
    """What its server keeps, once it has told."""

    async def run(self) -> AsyncIterator[Check]:
        """Every line in order; see `ports.PaymentNode.checkup`."""
        try:
            self.credentials.read()
        except NodeUnavailable as refusal:
            remedy = "Name barkd's auth_token in token_file; `barkd secret show` prints it."
            yield Check("token file", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
            return
        self._rest = Rest(self.node.name, self.credentials)
        try:
            async for check in checkup.until_needed(self._lines(), _NEEDED):
                yield check
        finally:
            await self._rest.close()

    async def _lines(self) -> AsyncIterator[Check]:
        yield await self._address()
        yield await self._wallet()
        async for check in self._server():
            yield check
        yield checkup.not_checked(
            "receiving capacity", "It is the Ark server's: barkd cannot say what that can receive."
        )
        if self.demands.addresses:
            yield await self._ark_address()
        if not self.demands.invoices:
            yield await self._news()
            return
        yield self._fees()
        async for check in checkup.invoice(
            self.node,
            self.clock,
            self.demands,
            preimage=None,
            removed=self._deleted,
            remedy="See the lines above; check network in [[nodes]]. The server may have no Lightning.",
        ):
            yield check
        yield await self._news()

    async def _address(self) -> Check:
        try:
            await self._rest.ping(seconds=checkup.CALL_SECONDS)
        except NodeUnavailable as refusal:
            remedy = "Start barkd; check address in [[nodes]] against its --host and --port."
            return Check("address", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
        return Check("address", Verdict.OK, f"barkd answers at {self.credentials.address}.")

    async def _wallet(self) -> Check:
        try:
            fingerprint = (await self._ask("/wallet", "to show its wallet"))["fingerprint"]
        except CredentialsRefused as refusal:
            remedy = "Copy its auth_token again, to the file that token_file names."
            return Check("wallet", Verdict.FAILURE, checkup.sentence(refusal), NO_INVOICES, remedy)
        except (NodeUnavailable, KeyError, TypeError, ValueError) as refusal:
            return Check("wallet", Verdict.FAILURE, _sentence(refusal), NO_INVOICES, _SEE_LOG)
        if not fingerprint:
            remedy = "Make one with POST /wallet/create, and keep its words."
            return Check("wallet", Verdict.FAILURE, "barkd has no wallet yet.", NO_INVOICES, remedy)
        return Check("wallet", Verdict.OK, f"The token opens the wallet {fingerprint}.")

    async def _server(self) -> AsyncIterator[Check]:
        """What barkd says of its Ark server, and whether it reaches it: its `connected` proves nothing."""
        try:
            info = await self._ask("/wallet/ark-info", "to show its Ark server")
            fees = info["fees"]["lightning_receive"]
            self._schedule = Schedule(int(fees["base_fee_sat"]), int(fees["ppm"]))
            yield checkup.network(network_of(str(info["network"])), self.network)
        except (NodeUnavailable, KeyError, TypeError, ValueError) as refusal:
            yield checkup.not_checked("network", _sentence(refusal))
        try:
            await self._rest.ask(
                "POST", "/wallet/sync/mailbox", "to reach its Ark server", seconds=checkup.CALL_SECONDS
            )
        except NodeUnavailable as refusal:
            meaning = "No invoice is made, and payments that were made are found when it is back."
            yield Check("Ark server", Verdict.FAILURE, checkup.sentence(refusal), meaning, _SEE_LOG)
        else:
            yield Check("Ark server", Verdict.OK, "barkd reaches it.")

    async def _ark_address(self) -> Check:
        name = "an Ark address"
        try:
            address = await self.node.new_ark_address()
        except NodeUnavailable as refusal:
            meaning = "Sessions are offered over Lightning only, where a node makes invoices."
            return Check(name, Verdict.FAILURE, checkup.sentence(refusal), meaning, _SEE_LOG)
        return Check(name, Verdict.OK, f"One was given out: {address[:12]}….")

    def _fees(self) -> Check:
        """What the server keeps of the smallest amounts that payers are asked for."""
        name = "fees"
        amounts = {"a challenge": self.demands.challenge, "the smallest session": self.demands.smallest}
        if self._schedule is None:
            return checkup.not_checked(name, "barkd does not tell its server's fees.")
        kept = {what: (amount, self._schedule.fee(amount)) for what, amount in amounts.items()}
        said = [
            f"{format_sats(fee)} of {what} ({format_sats(amount)})" for what, (amount, fee) in kept.items()
        ]
        seen = f"The Ark server keeps {' and '.join(said)}."
        remedy = "Raise minimum_sats in [[nodes]], price_sats or challenge_calls."
        if any(fee >= amount for amount, fee in kept.values()):
            meaning = "Such a payment brings nothing: its invoice is refused, or is the operator's loss."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        if any(is_dear(fee, of=amount) for amount, fee in kept.values()):
            meaning = "Payers notice nothing; the operator pays more than an eighth of what they pay."
            return Check(name, Verdict.WARNING, seen, meaning, remedy)
        return Check(name, Verdict.OK, seen)

    async def _deleted(self, invoice: Invoice) -> Check:
        made = f"One over {format_sats(invoice.amount)} was made"
        path = f"/lightning/receives/{invoice.payment_hash.hex()}"
        try:
            await self._rest.ask("DELETE", path, "to delete an invoice", seconds=checkup.CALL_SECONDS)
        except NodeUnavailable as refusal:
            said = answered(refusal)
            why = said.words if said else refusal.message
            seen = f"{made}; it cannot be deleted ({why}) and expires by itself."
        else:
            seen = f"{made} and deleted."
        return Check("an invoice", Verdict.OK, seen)

    async def _news(self) -> Check:
        """Whether barkd lets us wait for its notifications; that there is none is as good."""
        name = "news of payments"
        action = "to tell of payments"
        try:
            await self._rest.ask("GET", "/notifications/wait", action, seconds=NEWS_SECONDS)
        except NodeUnavailable as refusal:
            if not was_silent(refusal):
                return Check(name, Verdict.FAILURE, checkup.sentence(refusal), checkup.LATE, _SEE_LOG)
        return Check(name, Verdict.OK, "It lets us wait for them.")

    async def _ask(self, path: str, action: str) -> Any:  # noqa: ANN401 - JSON
        """An answer. Raises NodeUnavailable, and ValueError when it is no JSON."""
        return orjson.loads(await self._rest.ask("GET", path, action, seconds=checkup.CALL_SECONDS))


def _sentence(fault: Exception) -> str:
    if isinstance(fault, NodeUnavailable):
        return checkup.sentence(fault)
    return f"barkd answered something else than was asked for: {fault}."


_NEEDED = ("address", "wallet")
"""The lines without which the rest cannot be asked."""
