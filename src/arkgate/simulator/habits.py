"""What can be wrong with a simulated node: switches that tests turn while it runs."""

from dataclasses import dataclass, field
from enum import Enum

import grpc

VERSION = "0.20.0-beta"
"""The LND that is simulated, unless a test says otherwise."""


class NodeState(Enum):
    """How far the node has started: its State service says so, and other calls fail with the text."""

    WAITING = "waiting"
    LOCKED = "locked"
    STARTING = "starting"
    ACTIVE = "active"


class Lie(Enum):
    """In which point the answer with a new invoice is not what was asked for."""

    NONE = "none"
    PAYMENT_HASH = "payment_hash"
    """`r_hash` names another payment than the invoice's text."""
    AMOUNT = "amount"
    """The text asks for 1 sat more."""
    NETWORK = "network"
    """The text is for mainnet."""


@dataclass(slots=True)
class Habits:
    """A healthy node by default; every field may be set at any time."""

    state: NodeState = NodeState.ACTIVE
    synced: bool = True
    version: str = VERSION
    lie: Lie = Lie.NONE
    delays_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by which answers are late, by method name (`AddInvoice`); `*` stands for every method."""
    failures: dict[str, grpc.StatusCode] = field(default_factory=dict)
    """Codes that methods fail with, by method name or `*`, after nothing was done."""
    lost_answers: set[str] = field(default_factory=set)
    """Methods that do their work and then fail with UNAVAILABLE: AddInvoice, SendPaymentV2."""
    duplicate_events: bool = False
    """Every event of a stream comes twice."""
    backlog_out_of_order: bool = False
    """Past settlements come newest first."""
    streams_silent: bool = False
    """Streams stay open and say nothing; what happens meanwhile is lost on them."""
    settlements_hidden: bool = False
    """Settlements that happen now never show on a stream, not in a later backlog either."""
    stream_lag_seconds: float = 0.0
    """How much later than everything else streams tell what happened."""
    settlement_lag_seconds: float = 0.0
    """Payee: how long after the payer has the preimage the invoice becomes SETTLED."""
    settle_delay_seconds: float = 0.05
    """Payer: how long a payment is in flight."""
    clock_off_seconds: float = 0.0
    """How far the node's clock is ahead of everybody else's (negative: behind)."""
    taken_away_msat: int = 0
    """What the node's owner has spent of what it received over its channels."""
    wallet_sats: int = 10_000_000
    """What the node's wallet holds."""
    remote_sats: int = 20_000_000
    """What the peer has of the node's one channel, its reserve included: what can be received over it."""
    reserve_sats: int = 200_000
    """What the peer must keep of it."""
    connected: bool = True
    """Whether the channel's peer is there. What is simulated gets through all the same."""
    parts_missing: set[str] = field(default_factory=set)
    """Services that this LND was built without: `invoicesrpc`."""
    overpay_msat: int = 0
    """Payer: how much is paid above what the invoice asks for (negative: less)."""
    overpaid_times_max: int = 0
    """Payee: a payment of more than so many times the invoice is failed; 0 takes anything."""
    parts: int = 1
    """Payer: in how many HTLCs a payment arrives."""

    def delay_seconds(self, method: str) -> float:
        """How late that method answers."""
        return self.delays_seconds.get(method, self.delays_seconds.get("*", 0.0))

    def failure(self, method: str) -> grpc.StatusCode | None:
        """The code that method fails with, if any."""
        return self.failures.get(method, self.failures.get("*"))
