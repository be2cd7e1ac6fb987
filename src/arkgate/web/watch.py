"""What becomes of a funding session, told to whoever has its id: asked for, or pushed as events."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, Final

import orjson

from arkgate.core.errors import NotFound, Overloaded, RateLimited, StoreUnavailable
from arkgate.core.ledger import AccountRecord, SessionRecord
from arkgate.core.pricing import BalanceExpiry
from arkgate.gateway.sessions import Sessions
from arkgate.ports import Clock, Statements
from arkgate.web.funding import session_body

HEARTBEAT_SECONDS: Final = 15.0
HEARTBEAT: Final = b": \n\n"
LOOK_SECONDS: Final = 1.0
"""How often a session with an Ark address is looked at: only Lightning payments wake whoever waits."""
LIFE_SECONDS: Final = 1800.0
"""How long one stream lasts; a browser opens the next one by itself."""
AGAIN: Final = b"retry: 2000\n\n"
STREAMS_MAX: Final = 1000
STREAMS_CLIENT_MAX: Final = 20
EVENTS: Final = {"active": "paid"}
"""Names of events where they are not the status itself."""


class SessionWatch:
    """Looks at sessions, and follows them for those who wait."""

    def __init__(
        self,
        sessions: Sessions,
        statements: Statements,
        clock: Clock,
        *,
        public_url: str,
        balance_expiry: BalanceExpiry,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._sessions = sessions
        self._statements = statements
        self._clock = clock
        self._public_url = public_url
        self._balance_expiry = balance_expiry
        self._heartbeat_seconds = heartbeat_seconds
        self._open: Counter[str] = Counter()
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Ends every stream: the gateway stops, and must not wait for those who only watch."""
        self._ended.set()

    def body(self, session: SessionRecord, account: AccountRecord | None) -> dict[str, object]:
        """A session as its id shows it."""
        return session_body(
            session,
            account,
            self._clock.now_ms(),
            public_url=self._public_url,
            balance_expiry=self._balance_expiry,
        )

    async def find(self, session_id: str) -> tuple[SessionRecord, AccountRecord]:
        """A session and its account. Raises NotFound."""
        session = await self._sessions.session(session_id)
        account = await self._statements.account(session.account_id)
        if account is None:
            raise NotFound("There is no such session.")
        return session, account

    async def look(self, session_id: str) -> dict[str, object]:
        """The session as it is now. Raises NotFound."""
        return self.body(*await self.find(session_id))

    async def events(self, session_id: str, *, client: str) -> AsyncGenerator[bytes, None]:
        """Server-Sent Events: the session now and after each change, until it is paid.

        Each is named by its status (`paid` for `active`); its data is what `look` answers. Raises NotFound,
        and RateLimited or Overloaded where too many are watched already: then ask `look` again and again.
        """
        await self.look(session_id)
        if self._open[client] >= STREAMS_CLIENT_MAX:
            raise RateLimited("You watch too many sessions at once: poll status_url.", retry_after_seconds=5)
        if self._open.total() >= STREAMS_MAX or self._ended.is_set():
            raise Overloaded("Too many sessions are watched at once: poll status_url.", retry_after_seconds=5)
        return self._followed(session_id, client)

    async def _followed(self, session_id: str, client: str) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        until, said_at = loop.time() + LIFE_SECONDS, 0.0
        told: dict[str, object] = {}
        self._open[client] += 1
        try:
            yield AGAIN
            while not self._ended.is_set() and loop.time() < until:
                session: SessionRecord | None = None
                body = told
                with contextlib.suppress(
                    NotFound, StoreUnavailable
                ):  # pruned, or not to be read for a moment
                    session, account = await self.find(session_id)
                    body = self.body(session, account)
                if _is_news(told, body):
                    status = str(body["status"])
                    yield b"event: %b\ndata: %b\n\n" % (
                        EVENTS.get(status, status).encode(),
                        orjson.dumps(body),
                    )
                    told, said_at = body, loop.time()
                    if status == "active":
                        return
                elif loop.time() - said_at >= self._heartbeat_seconds:
                    yield HEARTBEAT
                    said_at = loop.time()
                await self._changed(session)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    async def _changed(self, session: SessionRecord | None) -> None:
        """Returns when the session may have changed, or after a while."""
        if session is None or session.invoice is None:
            await _first(self._ended.wait(), seconds=LOOK_SECONDS)
            return
        ends = [one.expires_at_ms for one in (session.invoice, session.address) if one is not None]
        left = [(end - self._clock.now_ms()) / 1000 for end in ends]
        looks = [] if session.address is None else [LOOK_SECONDS]
        seconds = min([self._heartbeat_seconds, *looks, *(end + 0.01 for end in left if end > 0)])
        paid = self._statements.credited(session.invoice.payment_hash, within_seconds=seconds)
        await _first(paid, self._ended.wait(), seconds=seconds)


def _is_news(told: Mapping[str, object], body: Mapping[str, object]) -> bool:
    return any(told.get(name) != body.get(name) for name in ("status", "waiting_sats"))


async def _first(*waits: Coroutine[Any, Any, object], seconds: float) -> None:
    """Returns when one of them does, or after that time; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
