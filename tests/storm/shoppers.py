"""The clients of a storm, and the journal of what they paid and got: it knows nothing of the ledger."""

import asyncio
import contextlib
import random
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.storm.fleet import Fleet

PAUSE_SECONDS = 0.05
LOST = (httpx.TransportError, AttributeError)
"""The second: what anyio raises of a connection that was reset before httpx first looked at it."""
AGAIN = (402, 409, 429, 500, 502, 503, 504)
"""Answered by asking again: 402, too, while a killed call still holds the balance."""


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
    purchases: list[Purchase] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """What all clients of a fleet know."""

    accounts: list[Account] = field(default_factory=list)
    operations: int = 0
    surprises: list[str] = field(default_factory=list)
    """Answers that no client may get."""


class Shopper:
    """Funds accounts and spends them at whichever gateway answers, in every way that clients do."""

    def __init__(self, fleet: Fleet, journal: Journal, seed: int) -> None:
        self.fleet = fleet
        self.journal = journal
        self.dice = random.Random(seed)
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(10), limits=httpx.Limits(max_keepalive_connections=4)
        )

    async def run(self, over: asyncio.Event) -> None:
        """Shops until it is over; what was begun is finished."""
        async with self.http:
            while not over.is_set():
                await self.dice.choice((self.spend_a_token, self.spend_a_credential))()

    async def spend_a_token(self) -> None:
        """A session, paid at once, late or twice, and some calls."""
        calls = self.dice.randint(1, 4)
        session = await self.post(
            "/v1/sessions", {"amount_sats": 50 * calls + self.dice.randint(0, 60)}, {}, 201
        )
        account = Account({"Authorization": f"Bearer {session['token']}"})
        self.journal.accounts.append(account)
        await self.pay(account, session["funding"]["lightning_invoice"])
        if self.dice.random() < 0.2:
            topup = await self.post("/v1/topups", {"amount_sats": 100}, account.headers, 201)
            await self.pay(account, topup["funding"]["lightning_invoice"])
        for _ in range(calls):
            await self.dice.choice((self.insist, self.try_once, self.leave))(account)

    async def spend_a_credential(self) -> None:
        """An L402 challenge, paid, and its one call, repeated until the answer is there."""
        challenge = await self.post("/api/ai-chat", {}, {}, 402)
        account = Account({})
        self.journal.accounts.append(account)
        preimage = await self.pay(account, challenge["invoice"])
        account.headers["Authorization"] = f"L402 {challenge['macaroon']}:{preimage}"
        await self.insist(account, key=self.dice.random() < 0.5)

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
        answer = await self.post("/api/ai-chat", _question(), headers, 200)
        account.purchases.append(Purchase(answer["request_id"], charged=True))

    async def try_once(self, account: Account) -> None:
        """Asks once, and believes what it is told."""
        purchase = Purchase(secrets.token_hex(12))
        account.purchases.append(purchase)
        await self._once(account, purchase)

    async def leave(self, account: Account) -> None:
        """Asks, and leaves before the answer, at any moment."""
        purchase = Purchase(secrets.token_hex(12))
        account.purchases.append(purchase)
        asking = asyncio.create_task(self._once(account, purchase))
        await asyncio.wait({asking}, timeout=self.dice.expovariate(20))
        asking.cancel()
        await asyncio.wait({asking})

    async def _once(self, account: Account, purchase: Purchase) -> None:
        headers = {**account.headers, "X-Request-Id": purchase.request_id}
        with contextlib.suppress(*LOST):
            answer = await self.http.post(f"{self._any()}/api/ai-chat", json=_question(), headers=headers)
            self.journal.operations += 1
            if answer.status_code == 200:
                purchase.charged = True
            elif answer.status_code in AGAIN:
                purchase.charged = None if answer.json().get("refunded") is False else False
            else:
                self._surprised("/api/ai-chat", answer)

    async def learn(self) -> None:
        """Afterwards: asks what became of the calls whose end it does not know."""
        async with httpx.AsyncClient(timeout=10) as http:
            for account in self.journal.accounts:
                for purchase in account.purchases:
                    if purchase.charged is None:
                        url = f"{self.fleet.gates[0].url}/v1/calls/{purchase.request_id}"
                        answer = await http.get(url, headers=account.headers)
                        purchase.charged = answer.status_code == 200

    async def post(self, path: str, body: object, headers: dict[str, str], wanted: int) -> dict[str, Any]:
        """Asks one gateway after the other until the answer is there."""
        while True:
            with contextlib.suppress(*LOST):
                answer = await self.http.post(self._any() + path, json=body, headers=headers)
                if answer.status_code == wanted:
                    self.journal.operations += 1
                    found: dict[str, Any] = answer.json()
                    return found
                if answer.status_code not in AGAIN:
                    self._surprised(path, answer)
            await asyncio.sleep(PAUSE_SECONDS)

    def _any(self) -> str:
        return self.dice.choice(self.fleet.gates).url

    def _surprised(self, path: str, answer: httpx.Response) -> None:
        self.journal.surprises.append(f"{self.fleet.name}: {path} {answer.status_code} {answer.text[:300]}")


def _question() -> dict[str, str]:
    return {"prompt": f"question {secrets.token_hex(6)}"}
