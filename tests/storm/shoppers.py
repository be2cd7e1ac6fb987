"""The clients of a storm, and the journal of what they paid and got: it knows nothing of the ledger."""

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.storm.fleet import Fleet

PAUSE_SECONDS = 0.05
LARGE_SATS = 150_000
"""More than is credited over Ark before it is final."""
LEARN_SECONDS = 60.0
"""How long a fleet is asked what became of calls; each is asked for once at least."""
LOST = (httpx.TransportError, AttributeError)
"""The second: what anyio raises of a connection that was reset before httpx first looked at it."""
AGAIN = (402, 409, 429, 502, 503, 504)
"""Answered by asking again: 402, too, while a killed call still holds the balance."""


class UnexpectedAnswer(Exception):  # noqa: N818 - it is what a client met, and ends what it was about
    """An answer that no client may get; it is in the journal."""


@dataclass(slots=True)
class Purchase:
    """One call that a client tried to buy; `charged` None: it does not know."""

    request_id: str
    charged: bool | None = None


@dataclass(slots=True)
class Account:
    """What a client knows of its own account."""

    headers: dict[str, str]
    paid: dict[str, int] = field(default_factory=dict)
    """Amounts in msat by payment hash."""
    coins: dict[str, int] = field(default_factory=dict)
    """Amounts in msat by the outpoints of what was paid over Ark."""

    @property
    def token(self) -> str | None:
        """Its token; None with an L402 credential."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return value if scheme == "Bearer" else None

    @property
    def paid_msat(self) -> int:
        """All that was paid."""
        return sum(self.paid.values()) + sum(self.coins.values())

    purchases: list[Purchase] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """What all clients of a fleet know."""

    accounts: list[Account] = field(default_factory=list)
    operations: int = 0
    surprises: list[str] = field(default_factory=list)
    """Answers that no client may get."""
    deeds: Counter[str] = field(default_factory=Counter)
    """What the clients did, by name."""
    answers: Counter[str] = field(default_factory=Counter)
    """What they were told, by status and code."""


@dataclass(slots=True)
class Asking:
    """What a client asks for again and again, and what it was told last."""

    path: str
    since: float = field(default_factory=time.monotonic)
    times: int = 0
    told: str = "nothing yet"

    def __str__(self) -> str:
        seconds = time.monotonic() - self.since
        return f"POST {self.path} for {seconds:.0f} s, {self.times} times; the last answer: {self.told}"


class Shopper:
    """Funds accounts and spends them at whichever gateway answers, in every way that clients do."""

    def __init__(self, fleet: Fleet, journal: Journal, seed: int) -> None:
        self.fleet = fleet
        self.journal = journal
        self.dice = random.Random(seed)
        self.name = f"client {seed} of {fleet.name}"
        self.asking: Asking | None = None
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(10), limits=httpx.Limits(max_keepalive_connections=4)
        )

    async def run(self, over: asyncio.Event) -> None:
        """Shops until it is over; what was begun is finished."""
        async with self.http:
            while not over.is_set():
                with contextlib.suppress(UnexpectedAnswer):
                    await self.dice.choice((self.spend_a_token, self.spend_a_credential))()

    async def spend_a_token(self) -> None:
        """A session, paid at once, late or twice, and some calls."""
        calls = self.dice.randint(1, 4)
        session = await self.post(
            "/v1/sessions", {"amount_sats": 50 * calls + self.dice.randint(0, 60)}, {}, 201
        )
        account = Account({"Authorization": f"Bearer {session['token']}"})
        self.journal.accounts.append(account)
        await self.pay_somehow(account, session)
        self._did("tokens funded")
        if self.dice.random() < 0.2:
            topup = await self.post("/v1/topups", {"amount_sats": 100}, account.headers, 201)
            await self.pay_somehow(account, topup)
            self._did("top-ups")
        for _ in range(calls):
            await self.dice.choice((self.insist, self.try_once, self.leave))(account)

    async def spend_a_credential(self) -> None:
        """An L402 challenge, paid, and its one call, repeated until the answer is there."""
        challenge = await self.post("/api/ai-chat", {}, {}, 402)
        account = Account({})
        self.journal.accounts.append(account)
        preimage = await self.pay(account, challenge["invoice"])
        account.headers["Authorization"] = f"L402 {challenge['macaroon']}:{preimage}"
        self._did("credentials paid")
        await self.insist(account, key=self.dice.random() < 0.5)

    async def pay_somehow(self, account: Account, session: dict[str, Any]) -> None:
        """Over Lightning, over Ark, or both, whatever is on offer."""
        invoice, address = session["funding"]["lightning_invoice"], session["funding"]["ark_address"]
        if address is not None and (invoice is None or self.dice.random() < 0.5):
            self.pay_ark(account, address, session["amount_sats"])
            if self.dice.random() < 0.2:
                self.pay_ark(account, address, LARGE_SATS)
        if invoice is not None and (not account.coins or self.dice.random() < 0.3):
            await self.pay(account, invoice)

    def pay_ark(self, account: Account, address: str, amount_sats: int) -> None:
        """Sends a coin, at times with one that was delivered before, and writes it down."""
        wallet = self.fleet.barkd.wallet
        again = [self.dice.choice(list(wallet.purse.coins))] if wallet.purse.coins else []
        resent = again if self.dice.random() < 0.3 else []
        for outpoint in wallet.pay_ark(address, amount_sats, resent=resent):
            account.coins[outpoint] = amount_sats * 1000
        self.journal.operations += 1
        self._did("large Ark payments" if amount_sats == LARGE_SATS else "Ark payments")
        self.journal.deeds["coins delivered again"] += len(resent)

    async def pay(self, account: Account, invoice: str) -> str:
        """Pays and writes it down; gives the preimage."""
        paid = await self.fleet.simulation.pay(invoice)
        account.paid[paid.payment_hash.hex()] = paid.amount_msat
        self.journal.operations += 1
        return paid.preimage.hex()

    async def insist(self, account: Account, *, key: bool = True) -> None:
        """Asks for the same call until it is answered."""
        headers = dict(account.headers)
        if key:
            headers["Idempotency-Key"] = secrets.token_hex(8)
        tried: list[Purchase] = []
        try:
            answer = await self.post("/api/ai-chat", _question(), headers, 200, tried=tried)
        except (asyncio.CancelledError, UnexpectedAnswer):
            account.purchases += tried  # what came of them is asked afterwards
            raise
        account.purchases.append(Purchase(answer["request_id"], charged=True))
        self._did("calls insisted on")

    async def try_once(self, account: Account) -> None:
        """Asks once, and believes what it is told."""
        purchase = Purchase(secrets.token_hex(12))
        account.purchases.append(purchase)
        self._did("calls tried once")
        await self._once(account, purchase)

    async def leave(self, account: Account) -> None:
        """Asks, and leaves before the answer, at any moment."""
        purchase = Purchase(secrets.token_hex(12))
        account.purchases.append(purchase)
        asking = asyncio.create_task(self._once(account, purchase))
        await asyncio.wait({asking}, timeout=self.dice.expovariate(20))
        self._did("calls left after their answer" if asking.done() else "calls cancelled")
        asking.cancel()
        await asyncio.wait({asking})

    async def _once(self, account: Account, purchase: Purchase) -> None:
        headers = {**account.headers, "X-Request-Id": purchase.request_id}
        with contextlib.suppress(*LOST):
            answer = await self.http.post(f"{self._any()}/api/ai-chat", json=_question(), headers=headers)
            self.journal.operations += 1
            self.journal.answers[_told(answer)] += 1
            if answer.status_code == 200:
                purchase.charged = True
            elif answer.status_code in AGAIN:
                purchase.charged = None if _is_in_doubt(answer) else False
            else:
                self._surprised("/api/ai-chat", answer)

    async def learn(self) -> None:
        """Afterwards: asks what became of the calls whose end it does not know.

        What no gateway says stays unknown, and is counted as not charged.
        """
        until = time.monotonic() + LEARN_SECONDS
        async with httpx.AsyncClient(timeout=10) as http:
            for account in self.journal.accounts:
                for purchase in account.purchases:
                    if purchase.charged is None:
                        purchase.charged = await self._was_charged(http, account, purchase, until)

    async def _was_charged(
        self, http: httpx.AsyncClient, account: Account, purchase: Purchase, until: float
    ) -> bool | None:
        while True:
            with contextlib.suppress(*LOST):
                url = f"{self._any()}/v1/calls/{purchase.request_id}"
                answer = await http.get(url, headers=account.headers)
                if answer.status_code in (200, 404):
                    return answer.status_code == 200
            if time.monotonic() > until:
                return None
            await asyncio.sleep(PAUSE_SECONDS)

    async def post(
        self,
        path: str,
        body: object,
        headers: dict[str, str],
        wanted: int,
        *,
        tried: list[Purchase] | None = None,
    ) -> dict[str, Any]:
        """Asks one gateway after the other until the answer is there.

        Each attempt has an id of its own; `tried` collects those whose end is not known. Raises
        UnexpectedAnswer.
        """
        tried = [] if tried is None else tried
        self.asking = asking = Asking(path)
        while True:
            attempt = Purchase(secrets.token_hex(12))
            tried.append(attempt)
            asking.times += 1
            try:
                named = {**headers, "X-Request-Id": attempt.request_id}
                answer = await self.http.post(self._any() + path, json=body, headers=named)
            except LOST as lost:
                asking.told = repr(lost)
            else:
                asking.told = _told(answer)
                self.journal.answers[asking.told] += 1
                if answer.status_code == wanted:
                    self.journal.operations += 1
                    self.asking = None
                    found: dict[str, Any] = answer.json()
                    return found
                if answer.status_code not in AGAIN:
                    self._surprised(path, answer)
                    self.asking = None
                    raise UnexpectedAnswer(path)
                if not _is_in_doubt(answer):
                    tried.remove(attempt)
            await asyncio.sleep(PAUSE_SECONDS)

    def _any(self) -> str:
        return self.dice.choice(self.fleet.gates).url

    def _did(self, deed: str) -> None:
        self.journal.deeds[deed] += 1

    def _surprised(self, path: str, answer: httpx.Response) -> None:
        self.journal.surprises.append(f"{path} {answer.status_code} {answer.text[:300]}")


def _is_in_doubt(answer: httpx.Response) -> bool:
    """Whether a refusal leaves open what will become of the hold."""
    return _body(answer).get("refunded") is False


def _told(answer: httpx.Response) -> str:
    """An answer's status and its code."""
    return f"{answer.status_code} {_body(answer).get('code', '')}".strip()


def _body(answer: httpx.Response) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = answer.json()
        return found
    return {}


def _question() -> dict[str, str]:
    return {"prompt": f"question {secrets.token_hex(6)}"}
