"""What every adapter does with invoices: checks a new one before a payer sees it, and looks back in time."""

from arkgate.core.errors import NodeUnavailable
from arkgate.core.invoice import InvoiceError, read_bolt11
from arkgate.core.money import Msat
from arkgate.nodes.channel import RETRY_AFTER_SECONDS
from arkgate.nodes.clock_offset import ClockOffset
from arkgate.ports import Clock, Invoice

MEMO_BYTES_MAX = 639
"""What the description of a BOLT11 invoice holds."""

LISTED_BEYOND_SECONDS = 24 * 3600
"""How much further back than asked for a listing looks, for a node whose clock was set meanwhile."""


def cut(memo: str) -> str:
    """A memo that BOLT11 can hold; its end, where the tag stands, survives."""
    return (
        memo
        if len(memo.encode()) <= MEMO_BYTES_MAX
        else memo.encode()[-MEMO_BYTES_MAX:].decode(errors="ignore")
    )


class InvoiceCheck:
    """Compares a node's invoices with what it was asked for, and knows its network from the first one."""

    def __init__(self, node: str, clock: Clock, network: str | None) -> None:
        self._node = node
        self._clock = clock
        self.network = network
        """The network of the settings; without one, that of the first invoice."""
        self.clock_offset = ClockOffset(node, clock)

    def checked(
        self,
        payment_request: str,
        *,
        amount: Msat,
        stated_hash: bytes | None = None,
        payment_hash: bytes | None = None,
        expiry_seconds: int | None = None,
    ) -> Invoice:
        """The invoice, if it is what was asked for: a payer would pay whatever its text says.

        `stated_hash` is the node's own word beside the text, where it has one; `payment_hash` and
        `expiry_seconds` what was asked for, unless the node decides it. Raises NodeUnavailable.
        """
        try:
            bolt11 = read_bolt11(payment_request)
        except InvoiceError as error:
            raise self.refused(f"returned an invoice that cannot be read: {error}") from error
        if {stated_hash, payment_hash} - {None, bolt11.payment_hash}:
            raise self.refused("returned an invoice for another payment hash")
        if bolt11.amount != amount:
            raise self.refused(f"returned an invoice for {bolt11.amount} msat instead of {amount}")
        if self.network not in (None, bolt11.network):
            raise self.refused(f"returned an invoice for {bolt11.network} instead of {self.network}")
        self.network = bolt11.network
        # A node whose clock is off counts the expiry from now on all the same, by that clock.
        now_ms, dated_ms = self._clock.now_ms(), bolt11.created_at * 1000
        begins_ms = dated_ms if self.clock_offset.check(dated_ms) else now_ms
        lives_seconds = bolt11.expiry_seconds if expiry_seconds is None else expiry_seconds
        return Invoice(
            node=self._node,
            payment_hash=bolt11.payment_hash,
            payment_request=payment_request,
            amount=amount,
            created_at_ms=min(begins_ms, now_ms),
            expires_at_ms=begins_ms + lives_seconds * 1000,
        )

    def refused(self, sentence: str) -> NodeUnavailable:
        """The refusal that follows from an answer which cannot be true."""
        return NodeUnavailable(f"node {self._node} {sentence}", retry_after_seconds=RETRY_AFTER_SECONDS)
