"""What the job needs from the world. Each docstring is a promise that every adapter must keep."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from arkgate.core.keys import Purpose
from arkgate.core.ledger import (
    AccountRecord,
    AddressRecord,
    AllowanceState,
    Answer,
    ArkPayment,
    CallRecord,
    Cursor,
    Finding,
    Funded,
    InvoiceRecord,
    InvoiceState,
    Payment,
    Reservation,
    Reserved,
    Resolved,
    SessionRecord,
    Settlement,
    StatementLine,
    Swept,
    Totals,
)
from arkgate.core.money import Msat
from arkgate.core.pricing import FiatRate, Quote, Used
from arkgate.core.question import QuestionTokens
from arkgate.core.reports import AccountTotal, JournalEntry, Liabilities, Table


class Clock(Protocol):
    """Wall-clock time. With a database that several hosts share, the database's clock."""

    def now_ms(self) -> int:
        """Unix time in milliseconds; never goes back by more than the host's clock is set back."""
        ...


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as the node made it; hash, amount and network were checked against its text."""

    node: str
    payment_hash: bytes
    payment_request: str
    """BOLT11, lower case."""
    amount: Msat
    created_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class InvoiceStatus:
    """What the node says of an invoice now. `settlement` is there exactly when state is SETTLED."""

    state: InvoiceState
    settlement: Settlement | None = None


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """A payment, and how far the stream has been read with it. Of neither kind: nothing was settled."""

    settlement: Settlement | None
    cursor: Cursor
    coin: ArkPayment | None = None

    @property
    def payment(self) -> Payment | None:
        """Whichever came in."""
        return self.settlement or self.coin


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a dependency can do its part, in a word and a sentence."""

    ready: bool
    state: str
    """`ready`, `locked`, `starting`, `syncing`, `unreachable`, `refused` (credentials), `unlisted`
    (ready; a backend whose list of models lacks ours)."""
    sentence: str
    version: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a node says that it owns, in msat."""

    channels: Msat
    """Our side of its channels, or what an Ark wallet has."""
    onchain: Msat = Msat(0)
    """Its wallet; 0 where it may not be asked."""

    @property
    def total(self) -> Msat:
        """All of it."""
        return Msat(self.channels + self.onchain)


class Verdict(Enum):
    """What a check found, for people and programs."""

    OK = "ok"
    WARNING = "warning"
    """Calls are sold; something should be looked at."""
    FAILURE = "failure"
    """Some or all payers cannot buy, or money is in danger."""
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a paid call needs, and whether it is there."""

    name: str
    """What was looked at, in a few words; the same whatever was found."""
    verdict: Verdict
    seen: str
    """What was found, as a sentence."""
    meaning: str = ""
    """What that means for payers, as a sentence; empty when all is well."""
    remedy: str = ""
    """What to do, as sentences; a command stands in backquotes."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What the gateway will ask of a node."""

    challenge: Msat
    """The smallest invoice of a challenge: a node that cannot receive it sells nothing."""
    largest: Msat
    """The largest invoice that anybody may ask for."""
    smallest: Msat = Msat(1000)
    """The smallest invoice of a session: what a service keeps of it may be all of it."""
    invoices: bool = True
    """Whether it makes any."""
    addresses: bool = False
    """Whether it gives out Ark addresses."""


class PaymentNode(Protocol):
    """A node that makes BOLT11 invoices and tells when they are paid.

    Every method may be called concurrently, has a deadline of its own, and raises NodeUnavailable
    when the node cannot be asked; it never raises anything of the transport's.
    """

    name: str
    """The node's name in the settings and the ledger."""
    number: int
    """The node's number in macaroon identifiers, 0 to 65535; never reused for another node."""
    invoice_minimum: Msat
    """The smallest invoice that makes sense here."""
    invoice_maximum: Msat
    draws_preimages: bool
    """Whether the node draws each invoice's preimage itself.

    Then its invoices carry no tag, because a tag names the payment hash. Whose payment it is stands only
    in our books or in the credential that the payer brings: books that are restored from a backup do not
    find payments to invoices that were made after it.
    """

    async def create_invoice(
        self, amount: Msat, *, preimage: bytes | None, memo: str, expiry_seconds: int
    ) -> Invoice:
        """A new invoice for exactly that amount.

        Its payment hash is the SHA-256 of `preimage`, or of one that the node draws where there is none:
        a node that draws its preimages takes no other, and raises ValueError. Where the node's service
        decides how long invoices live, `expires_at_ms` is not what was asked for.

        Not retried: a lost answer leaves a harmless orphan.

        Raises NodeUnavailable also when what the node returned does not match what was asked for.
        """
        ...

    async def look_up(self, payment_hash: bytes) -> InvoiceStatus | None:
        """What the node says of the invoice; None when it knows no such hash, or has forgotten it.

        A node that forgets what was cancelled or expired unpaid says None of it, and not CANCELLED. One that
        counts in sats tells a payer's part of a sat above the invoice's amount as nothing, and one whose
        service keeps what is paid above it tells the invoice's amount.
        """
        ...

    def events(self, since: Cursor) -> AsyncIterator[NodeEvent]:
        """Settlements after `since`, then new ones as they happen; may repeat, may come out of order.

        A node without a cursor tells its newest ones again, whatever `since` is, and hands that back.
        Ends or raises NodeUnavailable when the stream breaks. What a stream missed is found by
        look-ups and `settled_since`.
        """
        ...

    def settled_since(self, created_after_ms: int) -> AsyncIterator[Payment]:
        """Every settled invoice that was created after that time (the node's clock), once, in any order.

        Of a node with Ark addresses also every coin that came in after it.

        Reads no more than a day's invoices beyond it, however many the node holds, unless the node knows
        only the whole of its history. Payments to older invoices may be among them. The order is free
        because `Ledger.fund` credits each hash once: what a broken listing has told stays credited, and
        whoever notes how far they got does so after the last one only.
        """
        ...

    async def holdings(self) -> Holdings | None:
        """What the node itself says that it owns; None when our credentials may not ask that."""
        ...

    async def health(self) -> Health:
        """The node's state now. Does not raise."""
        ...

    def checkup(self, demands: Demands) -> AsyncIterator[Check]:
        """Tries everything that a paid call needs of the node, one line after the other, in seconds.

        Moves no money and leaves nothing behind but one small invoice that nobody was shown, cancelled
        where that is possible and expired as soon as its service lets it where not. What our credentials
        may not ask is NOT_CHECKED, and so is what cannot be asked because of an earlier line. Does not raise.
        """
        ...

    async def close(self) -> None:
        """Gives back connections; the node is not used afterwards."""
        ...


@runtime_checkable
class ArkWallet(PaymentNode, Protocol):
    """A node that also gives out Ark addresses. Its events and listings tell the coins that come in at them.

    A coin is told for each of its outpoints, with its own amount, and for an address only when it can be
    spent by that address's key alone: what a sender or the Ark server says of amounts and addresses
    counts for nothing. It may be told again, as final the second time.
    """

    ark_instant_max: Msat
    """Up to how much that comes in at one address is credited before it is final."""

    async def new_ark_address(self) -> str:
        """A fresh address, lower case, that was given to nobody before and lasts as long as the wallet.

        Not retried: a lost answer leaves an address that nobody knows.
        """
        ...

    async def ark_payments(self, address: str) -> Sequence[ArkPayment]:
        """Every coin that ever came in at one of our addresses, in any order."""
        ...

    async def make_final(self, outpoint: str) -> None:
        """Asks for what makes a coin final, where that is not under way; it may take hours.

        The coin stays the wallet's; what the Ark server takes for it is the operator's.
        """
        ...


class Ledger(Protocol):
    """The books. Each verb is one transaction, durable when it returns, and safe to repeat.

    Cancelling the caller does not undo a verb. Raises StoreUnavailable when the outcome could not
    be made durable; repeating the same verb with the same id then says what happened.
    """

    async def open_session(self, session: SessionRecord, *, token_digest: bytes, key_version: int) -> None:
        """Opens a customer account with its token, a session, and where it may be paid first.

        An open invoice, an Ark address, or both.
        """
        ...

    async def add_invoice(self, invoice: InvoiceRecord) -> None:
        """Records an open top-up invoice of an existing account, so that look-ups follow it."""
        ...

    async def add_address(self, address: AddressRecord) -> None:
        """Records an Ark address of an existing account, for ever, so that what comes in there is its.

        Raises LookupError when there is no such account, ValueError when the address is another's.
        """
        ...

    async def set_token(self, account_id: str, *, token_digest: bytes, key_version: int) -> int:
        """Gives an account its token, unless it has one; answers the key version that counts.

        Raises LookupError when there is no such account.
        """
        ...

    async def fund(
        self, settlement: Settlement, purpose: Purpose | None, *, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a settled payment once, whoever reports it, with the amount that arrived.

        Our own record of the hash outranks `purpose`; with neither the payment is FOREIGN. Opens the
        account when an L402 payment comes first. Saves `cursor` in the same transaction, also for a
        foreign or repeated payment, and never moves it back.
        """
        ...

    async def fund_ark(
        self, payment: ArkPayment, *, instant_max: Msat, cursor: Cursor | None = None
    ) -> Funded:
        """Credits a coin that came in at an Ark address of ours, once by its outpoint, whoever reports it.

        Until it is final it is WAITING, unless it and all that was credited at its address before are
        together `instant_max` at most. FOREIGN at an address that is not ours. Saves `cursor` in the same
        transaction whatever it is. Raises ValueError when the coin is known with another amount or address.
        """
        ...

    async def advance(self, node: str, cursor: Cursor) -> None:
        """Saves how far a node's stream was read when nothing was settled; never moves it back."""
        ...

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Takes the hold and one unit of the day's allowance, or neither.

        Answers by the order of `ReserveOutcome`. Without an idempotency key, an account that cannot
        buy another call (balance or allowance) and repeats the body of its last charged call of the
        service is ANSWERED, and IN_FLIGHT while a call with that body is under way.
        """
        ...

    async def settle(self, call_id: str, cost: Msat, answer: Answer | None) -> Resolved:
        """Charges an open hold, at most what it holds, and stores the answer in the same transaction.

        Raises LookupError when there is no such hold, ValueError when `cost` is over the hold.
        """
        ...

    async def release(self, call_id: str, reason: str) -> Resolved:
        """Gives an open hold's balance and allowance back, to the day the hold was taken on.

        Frees its idempotency key and request id. Raises LookupError when there is no such hold.
        """
        ...

    async def sweep(self, limit: int) -> Sequence[Swept]:
        """Releases at most `limit` open holds whose deadline has passed, oldest first.

        With several processes also those with a deadline further away than any call lives, once this one
        has seen them open for longer than any call lives.
        """
        ...

    async def prune_answers(self, limit: int) -> int:
        """Forgets at most `limit` stored answers that are past their time; answers how many."""
        ...

    async def prune_invoices(self, limit: int, *, grace_ms: int) -> int:
        """Forgets at most `limit` invoices that ended unpaid, longest ended first; answers how many.

        Only those that were marked EXPIRED or CANCELLED, are not looked up any more, and expired more
        than `grace_ms` ago; a session goes with its first invoice. Accounts and tokens stay, so that a
        payment that comes all the same is credited to the same account by its invoice's tag, where it has
        one, and the token goes on working. Raises ValueError when `grace_ms` is below `GRACE_MS_MIN`.
        """
        ...

    async def mark_invoice(self, payment_hash: bytes, state: InvoiceState) -> None:
        """Notes that an invoice ended EXPIRED or CANCELLED and cannot be paid: no look-up follows it.

        A settled one stays settled, and a payment that comes all the same is credited.
        """
        ...

    async def mark_looked_up(self, payment_hash: bytes, next_lookup_ms: int | None) -> None:
        """Notes when an open invoice is to be looked up next; None: never again on our own account."""
        ...

    async def mark_address_looked_up(self, address: str, next_lookup_ms: int | None) -> None:
        """Notes when an Ark address is to be looked up next; None: never again on our own account."""
        ...

    async def note(self, fact: str, value: int) -> None:
        """Notes a fact about these books, in place of what was noted under that name before."""
        ...

    async def note_once(self, fact: str, value: int) -> int:
        """Notes a fact unless one is noted under that name already; answers the one that stands."""
        ...

    def check(self) -> None:
        """Raises StoreUnavailable while the last change could not be made durable.

        Quick enough for the event loop: ask it before anything is sold. Says nothing of a disk that
        nobody has written to since it became full; `probe` finds that out.
        """
        ...

    async def probe(self) -> None:
        """A small durable change that means nothing: finds out whether the books can be written.

        Raises StoreUnavailable when they cannot; afterwards `check` says the same.
        """
        ...


class Statements(Protocol):
    """Reads for admission, pages and APIs. Every balance shown anywhere comes from `account`.

    Reads see everything that was acknowledged before they began. Raises StoreUnavailable.
    """

    async def account_by_token(self, token_digest: bytes) -> str | None:
        """The account id of a token."""
        ...

    async def account_by_payment(self, payment_hash: bytes) -> str | None:
        """The account that a payment hash was credited to."""
        ...

    async def credited(self, payment_hash: bytes, *, within_seconds: float) -> str | None:
        """As `account_by_payment`; waits that long for any process on these books to credit it."""
        ...

    async def account(self, account_id: str) -> AccountRecord | None:
        """An account with its balance."""
        ...

    async def allowance(self, account_id: str, service: str, calls_per_day: int | None) -> AllowanceState:
        """What an account has used of today's allowance."""
        ...

    async def replay(
        self, account_id: str, quote: Quote, request_hash: bytes, idempotency_key: bytes | None
    ) -> Reserved | None:
        """What `reserve` would say where it says ANSWERED, ANSWER_GONE, IN_FLIGHT or KEY_REUSED; else None.

        `reserve` decides the same again, so a race costs nothing.
        """
        ...

    async def session(self, session_id: str) -> SessionRecord | None:
        """A session with its first invoice and its Ark address as we know them; None once it was pruned."""
        ...

    async def call(self, account_id: str, request_id: str) -> CallRecord | None:
        """The newest call of that account under that request id."""
        ...

    async def statement(
        self, account_id: str, *, offset: int, limit: int, newest_first: bool = False
    ) -> Sequence[StatementLine]:
        """Lines of the account's statement, oldest first unless asked otherwise, from `offset`."""
        ...

    async def cursor(self, node: str) -> Cursor:
        """How far the node's stream was read; zeros at first."""
        ...

    async def invoices_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[InvoiceRecord]:
        """Invoices of that node that may be paid and are due for a look-up, longest due first.

        `newest` takes those that became due last.
        """
        ...

    async def invoices_awaited(self, node: str, *, after: bytes, limit: int) -> Sequence[InvoiceRecord]:
        """Invoices of that node that may be paid, due or not: those after a payment hash, in its order.

        `b""` begins; the last hash of a page asks for the next one.
        """
        ...

    async def address(self, address: str) -> AddressRecord | None:
        """An Ark address that was given out, with what came in there."""
        ...

    async def addresses_to_look_up(
        self, node: str, *, limit: int, newest: bool = False
    ) -> Sequence[AddressRecord]:
        """Ark addresses of that node that are due for a look-up, longest due first.

        `newest` takes those that became due last.
        """
        ...

    async def facts(self) -> Mapping[str, int]:
        """Everything that is noted about these books, by name; `opened_at_ms` is always there."""
        ...

    async def totals(self) -> Totals:
        """Sums over the whole ledger, for metrics."""
        ...

    async def verify(self) -> Sequence[Finding]:
        """Checks the invariants on the live database without blocking writers; repairs nothing."""
        ...

    async def verify_requests(self, call_ids: Sequence[str]) -> Finding:
        """Whether every request that a backend saw belongs to a committed hold (invariant 9)."""
        ...

    async def missing_calls(self, call_ids: Sequence[str], *, charged: bool) -> Sequence[str]:
        """Those of the calls that have no hold here, in the order in which they were given.

        With `charged`, also those whose hold is open or released: these books did not charge them.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager["Snapshot"]:
        """One moment of the books, kept for as long as the block runs; no writer waits for it."""
        ...


class Snapshot(Protocol):
    """One moment of the books: however long they take, all its reads see the same state.

    One read at a time. What may be many rows comes in batches of bounded size, so that it never is in
    memory as a whole. Raises StoreUnavailable.
    """

    taken_at_ms: int
    """The books' time when it was taken (Unix milliseconds)."""
    revision: str
    """The revision of the tables."""

    async def facts(self) -> Mapping[str, int]:
        """As `Statements.facts`."""
        ...

    async def account(self, account_id: str) -> AccountRecord | None:
        """As `Statements.account`."""
        ...

    def statement(self, account_id: str) -> AsyncIterator[Sequence[StatementLine]]:
        """The whole statement of an account, oldest first; the last balance is the posted one."""
        ...

    def journal(self, since_ms: int, until_ms: int) -> AsyncIterator[Sequence[JournalEntry]]:
        """Every transfer from `since_ms` on and before `until_ms`, oldest first."""
        ...

    def totals_before(self, at_ms: int) -> AsyncIterator[Sequence[AccountTotal]]:
        """Every account whose transfers before that time do not cancel out, by its id.

        Added up from the transfers alone; together they are zero.
        """
        ...

    async def liabilities(self) -> Liabilities:
        """What is owed to customers now, by age and by state, and what the books have beside it."""
        ...

    @property
    def tables(self) -> Sequence[Table]:
        """Every table of the books; one comes after those that it refers to."""
        ...

    def rows(self, table: Table) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """All rows of a table: text, integers, bytes or None, in the order of its columns."""
        ...


class Duties(Protocol):
    """Work that one process at a time does for all that share the books.

    It saves the node and the database work and no more: what is done under a duty must be right also
    while two processes do it.
    """

    async def alone(self, duty: str, work: Callable[[], Awaitable[None]]) -> None:
        """Waits until no other process has the duty, then does the work until it ends.

        When this process loses the duty, the work is cancelled. Another takes over within seconds of this
        one's end. Raises StoreUnavailable when the duty cannot be asked for or was lost, and what the
        work raises.
        """
        ...


class Observer(Protocol):
    """Counts what happens, for the operator. Quick, never raises, gets no secret and no prompt."""

    def challenge_issued(self, service: str) -> None:
        """An invoice was made for an unpaid request."""
        ...

    def session_opened(self) -> None:
        """A funding request or a top-up got its invoice."""
        ...

    def payment_credited(self, amount: Msat) -> None:
        """A payment entered an account."""
        ...

    def call_finished(self, service: str, outcome: str, *, held: Msat, charged: Msat, seconds: float) -> None:
        """A call ended: `charged`, `replayed`, or the code of its refusal after a hold was taken."""
        ...

    def alarm(self, kind: str) -> None:
        """Something happened that a person must look at."""
        ...


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A backend's complete answer to a chat."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Dialect(Enum):
    """How the two sides of a request are written; the values are the paths under the API's base."""

    CHAT = "/chat/completions"
    COMPLETIONS = "/completions"
    EMBEDDINGS = "/embeddings"
    RESPONSES = "/responses"
    MESSAGES = "/messages"
    """Anthropic's."""
    RAW = ""
    """Any HTTP API: bytes that nobody here looks into."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request for a backend, with everything of the client's taken off that it must not see."""

    dialect: Dialect
    document: Mapping[str, object] | None = None
    """The body as JSON, with the model by its public name; a backend has names of its own."""
    model: str | None = None
    """The public name of the model."""
    stream: bool = False
    """Whether the answer is wanted as Server-Sent Events."""
    wants_usage: bool = False
    """Whether the caller asked to be told in the stream what was used."""
    choices: int = 1
    """How many answers were asked for."""
    method: str = "POST"
    target: bytes = b""
    """Of a RAW request: path and query after the API's base, as they go on the wire."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Those of the client's that may pass."""
    body: bytes = b""
    """Of a RAW request."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a backend says that a call used."""

    used: Used
    document: Mapping[str, object]
    """As the backend wrote it."""


class Incoming(Protocol):
    """A backend's answer while it arrives: iterating gives the bytes that may go on to the caller.

    They come as they arrive, whole events of a stream together. What tells of usage and of the end is held
    back: it is `held_back` once the iteration has ended, which it does only at the answer's true end. It
    raises UpstreamError or UpstreamTimeout when the answer breaks off, stalls, cannot be read, tells of a
    failure, or is over a limit.
    """

    @property
    def status(self) -> int:
        """The answer's status."""
        ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """All of the answer's, names as they came."""
        ...

    @property
    def sent_at(self) -> float:
        """When the request was sent, in the event loop's time: the backend's work begins there."""
        ...

    @property
    def ends_at(self) -> float:
        """When the time that this backend has for its whole answer is over, in the event loop's time."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether pieces should leave as they come; else the one piece is the whole answer."""
        ...

    @property
    def begun(self) -> bool:
        """Whether a first token, or a first byte of a RAW answer, was among the pieces."""
        ...

    @property
    def only_kept_open(self) -> bool:
        """Whether the last piece says nothing, and came to keep the connection open."""
        ...

    @property
    def usage(self) -> Usage | None:
        """Once it is known."""
        ...

    @property
    def held_back(self) -> bytes:
        """The last events of a stream."""
        ...

    def check(self) -> None:
        """Raises what the answer has failed with meanwhile, for whoever waits before reading on."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Backend(Protocol):
    """What does the work that is sold. May be called concurrently up to its bound.

    Refuses with UpstreamError when the backend refuses or breaks off, and answers emptily, unreadably or too
    much; with UpstreamTimeout when it does not answer in time; with BackendRejected for what it finds wrong
    with the caller's request.
    """

    def check(self, model: str | None = None) -> None:
        """Raises Overloaded or BackendUnavailable when no call should be sold now: before a challenge."""
        ...

    def admit(self, model: str | None = None) -> None:
        """As `check`, before a paid call: after a pause it lets one through to a backend that failed."""
        ...

    async def watch(self) -> None:
        """Background work: finds out, for ever, when a backend that failed is back."""
        ...

    def forward(self, outgoing: Outgoing, *, call_id: str) -> AbstractAsyncContextManager[Incoming]:
        """Sends a request; the block begins when the answer's head is here and is good.

        Leaving the block early ends the request. Another backend is tried only while none has accepted it.
        Survives cancellation without leaking a connection.
        """
        ...

    def count(self, outgoing: Outgoing, answer: bytes) -> Used:
        """Our own count of what a call used: where nobody else tells.

        Takes time that grows with the texts, a millisecond for some ten thousand characters.
        """
        ...

    def count_question(self, outgoing: Outgoing) -> QuestionTokens:
        """What a request to an AI API is likely to use, and at most; takes as long as `count`."""
        ...

    async def chat(self, messages: Sequence[ChatMessage], *, call_id: str) -> Completion:
        """Asks a chat backend for one buffered completion, outside of anything that is sold."""
        ...

    async def health(self) -> Health:
        """The backend's state now. Does not raise."""
        ...

    async def close(self) -> None:
        """Gives back connections; the backend is not used afterwards."""
        ...


class Rates(Protocol):
    """What a bitcoin is worth in the operator's currency, for showing only."""

    def current(self) -> FiatRate | None:
        """The newest rate; None while none is known that is young enough to be shown."""
        ...

    async def watch(self) -> None:
        """Background work: keeps the rate young, for ever."""
        ...


class Cache(Protocol):
    """Keeps answers for a while. Losing it, or all that it holds, costs time and nothing else.

    Never raises and never makes anybody wait for long: a cache that is away, slow or full has nothing. A
    value comes back whole or not at all. Keys are keyed hashes: nothing that anybody asked can be read here.
    """

    async def get(self, key: bytes) -> bytes | None:
        """The value that was put under that key, while it lives."""
        ...

    async def put(self, key: bytes, value: bytes, *, ttl_seconds: float) -> None:
        """Keeps a value for so long, or shorter."""
        ...

    async def close(self) -> None:
        """Gives back connections; the cache is not used afterwards."""
        ...
