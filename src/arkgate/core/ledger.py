"""Accounts, invoices, holds and calls as values, and what each verb of the ledger can answer."""

from dataclasses import dataclass
from enum import Enum

from arkgate.core.money import Msat

# Ids of the shared accounts. A customer's account id is 32 lower-case hex digits.
INCOME_ACCOUNT = "income:calls"
EXPENSE_ACCOUNT = "expense:fees"
EQUITY_ACCOUNT = "equity:operator"


GRACE_MS_MIN = 30 * 86_400_000
"""How long after its expiry an unpaid invoice is kept at least, in milliseconds."""


def node_account(node: str) -> str:
    """The asset account of a node: what its channels hold for us."""
    return f"asset:node:{node}"


def credit_id(payment_hash: bytes) -> str:
    """The id of the transfer that credits a payment; the id is the idempotency key."""
    return f"credit:{payment_hash.hex()}"


def ark_credit_id(outpoint: str) -> str:
    """The id of the transfer that credits a coin which came in at an Ark address."""
    return f"credit:{outpoint}"


def fee_id(payment_hash: bytes) -> str:
    """The id of the transfer that books what the node kept of a payment."""
    return f"fee:{payment_hash.hex()}"


def charge_id(call_id: str) -> str:
    """The id of the transfer that charges a call."""
    return f"charge:{call_id}"


class InvoiceState(Enum):
    """An invoice's life. SETTLED is final; a late payment may follow EXPIRED."""

    OPEN = "open"
    SETTLED = "settled"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class HoldState(Enum):
    """A hold's life: it leaves OPEN exactly once."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"


class FundOutcome(Enum):
    """What `fund` did with a settled payment."""

    APPLIED = "applied"
    """The payment was credited now."""
    REPLAYED = "replayed"
    """The payment had been credited before; nothing changed."""
    FOREIGN = "foreign"
    """The payment is not for us; nothing was credited."""
    WAITING = "waiting"
    """A coin at an Ark address of ours is noted; it is credited when it is final."""


class ReserveOutcome(Enum):
    """What `reserve` did. Listed in the order in which they outrank each other."""

    UNKNOWN_ACCOUNT = "unknown_account"
    """No such account; nothing was taken."""
    REPLAYED = "replayed"
    """This call id was reserved before; the hold is as it was."""
    IN_FLIGHT = "in_flight"
    """A call with this idempotency key is under way, or with this body and no funds for another."""
    KEY_REUSED = "key_reused"
    """The idempotency key was used for another request."""
    ANSWERED = "answered"
    """The call was made and charged before; its stored answer comes back."""
    ANSWER_GONE = "answer_gone"
    """The call was made and charged before; no answer of it is stored, or no longer."""
    REQUEST_ID_REUSED = "request_id_reused"
    """The request id names another call of this account."""
    LIMIT_REACHED = "limit_reached"
    """The day's allowance is used up."""
    INSUFFICIENT = "insufficient"
    """The balance that is not held does not cover the price."""
    RESERVED = "reserved"
    """The hold and one unit of the day's allowance are taken."""


class SettleOutcome(Enum):
    """What `settle` did."""

    SETTLED = "settled"
    """Charged now."""
    REPLAYED = "replayed"
    """Charged before; nothing changed."""
    RELEASED = "released"
    """The hold had been released or swept; nothing was charged and the answer must not be given."""


class ReleaseOutcome(Enum):
    """What `release` did."""

    RELEASED = "released"
    """Balance and allowance are given back now."""
    REPLAYED = "replayed"
    """They had been given back before; nothing changed."""
    SETTLED = "settled"
    """The call had been charged; nothing changed."""


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's money: `posted` is what was credited minus what was charged."""

    posted: Msat
    held: Msat

    @property
    def available(self) -> Msat:
        """What a new call may use."""
        return Msat(self.posted - self.held)


@dataclass(frozen=True, slots=True)
class Settlement:
    """A payment as the node reports it: settled, with the amount that was really paid."""

    node: str
    payment_hash: bytes
    amount_paid: Msat
    memo: str
    settled_at_ms: int
    fee: Msat = Msat(0)
    """What the node's service kept of it: the operator's expense, never the payer's loss."""

    @property
    def reference(self) -> str:
        """What names the payment in a statement."""
        return self.payment_hash.hex()


@dataclass(frozen=True, slots=True)
class ArkPayment:
    """A coin (VTXO) that came in at an Ark address, as the wallet reports it."""

    node: str
    outpoint: str
    """`<txid>:<output index>`: no other coin has it, and by it each is credited once."""
    address: str
    amount_paid: Msat
    """All of the coin."""
    received_at_ms: int
    final: bool
    """Whether sender and Ark server together cannot take it back any more."""

    @property
    def reference(self) -> str:
        """What names the payment in a statement."""
        return self.outpoint


Payment = Settlement | ArkPayment
"""Money that came in at a node, by either way."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the node's stream of events has been read (LND: add_index and settle_index)."""

    add_index: int = 0
    settle_index: int = 0


@dataclass(frozen=True, slots=True)
class Funded:
    """The answer of `fund` and `fund_ark`; `account_id` and `balance` are None when FOREIGN."""

    outcome: FundOutcome
    account_id: str | None
    balance: Balance | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What `reserve` is asked for."""

    call_id: str
    """Unique for ever and ordered by time."""
    account_id: str
    service: str
    price: Msat
    calls_per_day: int | None
    deadline_ms: int
    """After this time (Unix milliseconds) the sweep may release the hold."""
    request_id: str
    """The call's name for its owner; unique per account among calls that were not released."""
    request_hash: bytes
    """A keyed digest of the service and the body."""
    idempotency_key: bytes | None = None
    """A keyed digest of the caller's key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was charged and is kept for whoever asks again."""

    call_id: str
    request_id: str
    status: int
    content_type: str
    body: bytes
    cost: Msat
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class AllowanceState:
    """An account's calls of this UTC day: `limit` None means any number."""

    used: int
    limit: int | None
    resets_at_ms: int

    @property
    def left(self) -> int | None:
        """Calls that may still be made today."""
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How fast an account may call, and how often at once, as it is with this call."""

    per_minute: int
    left: int
    """Calls that may be made at once in time before they have to wait for each other."""
    full_in_seconds: float
    """When `left` is `per_minute` again, if no more calls come."""
    at_once: int
    at_once_left: int
    """Further calls that may be under way beside this one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller is told of its account with every metered answer."""

    balance: Balance
    allowance: AllowanceState
    limits: CallLimits | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """The answer of `reserve`. `answer` is there when ANSWERED."""

    outcome: ReserveOutcome
    balance: Balance
    allowance: AllowanceState
    answer: Answer | None = None
    funded: bool = True
    """Whether any payment ever entered the account."""

    @property
    def standing(self) -> Standing:
        """Balance and allowance together."""
        return Standing(self.balance, self.allowance)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer of `settle` and `release`: what happened, and the balance and allowance after it."""

    outcome: SettleOutcome | ReleaseOutcome
    balance: Balance
    allowance: AllowanceState

    @property
    def standing(self) -> Standing:
        """Balance and allowance together."""
        return Standing(self.balance, self.allowance)


@dataclass(frozen=True, slots=True)
class Swept:
    """A hold that the sweep released because its deadline had passed."""

    call_id: str
    account_id: str
    amount: Msat


@dataclass(frozen=True, slots=True)
class InvoiceRecord:
    """An invoice of ours that a session or a top-up waits for."""

    payment_hash: bytes
    account_id: str
    node: str
    purpose: str
    """`session`, `topup` or `challenge` (the last only after it was paid)."""
    payment_request: str
    amount: Msat
    state: InvoiceState
    created_at_ms: int
    expires_at_ms: int
    amount_paid: Msat = Msat(0)


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """An Ark address that a session or a top-up waits at. It keeps its account for ever."""

    address: str
    account_id: str
    node: str
    purpose: str
    """`session` or `topup`."""
    amount: Msat
    """What was asked for; what comes in is credited, whatever it is."""
    created_at_ms: int
    expires_at_ms: int
    """Until when a payment is expected; a later one is credited as well."""
    credited: Msat = Msat(0)
    """What came in and was credited."""
    waiting: Msat = Msat(0)
    """What came in and is credited when it is final."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A funding request: its account, and where it may be paid first. One of the two is there."""

    session_id: str
    account_id: str
    invoice: InvoiceRecord | None
    address: AddressRecord | None = None


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """A customer's account as pages and APIs show it: all figures come from one query."""

    account_id: str
    balance: Balance
    funded: bool
    """Whether any payment ever entered it."""
    token_key_version: int | None
    """The key version of its `ak_` token; None while it has none."""
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One line of an account's statement, oldest first; the running balance adds up exactly.

    A refund is a line of amount zero: the call was held and released, no money moved.
    """

    at_ms: int
    kind: str
    """`credit`, `charge` or `refund`."""
    amount: Msat
    """Credits positive, charges negative."""
    balance: Msat
    """The balance after this line, counting credits and charges."""
    reference: str
    """The payment hash of a credit, the request id of a call."""
    detail: str
    """The service of a call, the purpose of a credit, the reason of a refund."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call of an account, by its request id."""

    call_id: str
    request_id: str
    service: str
    state: HoldState
    cost: Msat
    reason: str
    answer: Answer | None
    """None while the hold is open, after a release, and when no answer is stored, or no longer."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole ledger, for metrics."""

    customers: Msat
    held: Msat
    credited: Msat
    charged: Msat
    open_holds: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant of the ledger: its number, whether it holds, and a sentence that says so."""

    invariant: int
    holds: bool
    sentence: str
    checked: bool = True
    """False where it could not be looked at: then `holds` says nothing and the sentence says why."""
