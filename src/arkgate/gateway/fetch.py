"""One request to a backend, what has come of its answer, and those who wait for it.

Identical calls under way share one. Each of them is a `Follower`: it is charged or refunded on its own, and
none can end the fetch for another. A fetch ends when its answer does, when the last follower goes, or when
nobody reads it any more and the time to learn its usage is over.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from arkgate.core.errors import InternalError, Refusal, UpstreamError, UpstreamTimeout, bare
from arkgate.gateway.order import Head
from arkgate.ports import Backend, Dialect, Incoming, Outgoing, Usage

log = structlog.get_logger()
AHEAD_BYTES_MAX = 256 * 1024
"""How far the backend may be ahead of the fastest reader."""
PATIENCE_SHARE = 0.25
"""How much of an answer's time may be spent on waiting for slow readers, where the answer is kept anyway."""
JOINED_SHARE = 0.25
"""How much of an answer's time has to be left for a further call to wait for it."""
LOOK_SECONDS = 1.0
"""How often a fetch that waits looks whether its time is over."""
STALL_SECONDS = 5.0
"""A backend that has said nothing for so long is what an answer waits for, however slow its readers were."""
SOCKET_BYTES_MAX = 16 * 1024 * 1024
"""What may lie between a backend and us: who has sent more than that since a stop has gone on after it."""
PIECE_BYTES_MAX = 64 * 1024
"""What a reader is handed at once: what its connection holds of it is memory of its own."""
KEPT_BYTES = 1024 * 1024
"""How much of a RAW answer is kept for whoever asks again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete answer of a backend, as a cache keeps it."""

    head: Head
    body: bytes
    held_back: bytes
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class FetchTerms:
    """The operator's figures for answers that leave as they come."""

    heartbeat_seconds: float = 10.0
    """How often a reader hears something before the first token."""
    drain_seconds: float = 30.0
    """How long the rest of a stream that nobody reads is taken, to learn what it used."""
    total_seconds: float = 120.0
    """How long an answer may take in all, its reader's time included; a hold outlives it."""


class Bell:
    """Wakes whoever waits; a ring that nobody waits for is forgotten."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wakes all."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self, seconds: float | None = None) -> bool:
        """Waits for the next ring; False when it did not come in time."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if seconds is None:
            await waiter
            return True
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            return False
        return True


class Fetch:
    """One request to a backend and its answer so far."""

    def __init__(self, backend: Backend, outgoing: Outgoing, call_id: str, terms: FetchTerms) -> None:
        self.outgoing = outgoing
        self.parts: list[bytes] = []
        self.size = 0
        self.begun = False
        self.is_stream = False
        self.head: Head | None = None
        self.usage: Usage | None = None
        self.held_back = b""
        self.failure: Refusal | None = None
        self.is_complete = False
        self.microseconds = 0
        """How long the backend worked on it."""
        self.forgotten = 0
        """How many of the first parts are not kept any more."""
        self._backend = backend
        self._is_raw = outgoing.dialect is Dialect.RAW
        self._call_id = call_id
        self.terms = terms
        self._loop = asyncio.get_running_loop()
        self._followers: set[Follower] = set()
        self.came = Bell()
        """For readers: a piece, or the last bytes."""
        self.turned = Bell()
        """For calls: the head, the end, or a reader who left."""
        self._moved = Bell()
        self._task: asyncio.Task[None] | None = None
        self._drain: asyncio.TimerHandle | None = None
        self._heard: Callable[[], None] | None = None
        self._heard_sold: Callable[[], None] | None = None
        self._is_held_up = False
        self._held_up_since = 0.0
        self._waited_seconds = 0.0
        self._begun_at = self._ends_at = 0.0
        self._asked_at = 0.0
        """Since when the backend is waited for: its last piece, or the end of a wait for readers."""
        self._sent_at: float | None = None
        self._is_cut = False
        self._is_done = False

    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self._is_done

    @property
    def is_open(self) -> bool:
        """Whether a further call may have its answer: not one that would soon be told that it is late."""
        if self._is_done or self._is_cut:
            return self.is_complete
        left, whole = self._ends_at - self._loop.time(), self._ends_at - self._begun_at
        return self._begun_at == 0 or left >= JOINED_SHARE * whole

    @property
    def body(self) -> bytes:
        """All that has come."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    @classmethod
    def finished(cls, backend: Backend, outgoing: Outgoing, entry: Entry, terms: FetchTerms) -> Self:
        """One whose answer was kept from an earlier one."""
        fetch = cls(backend, outgoing, "", terms)
        fetch.head, fetch.usage = entry.head, entry.usage
        fetch.is_stream, fetch.parts, fetch.held_back = outgoing.stream, [entry.body], entry.held_back
        fetch.size = len(entry.body)
        fetch.begun = fetch.is_complete = fetch._is_done = True
        return fetch

    def entry(self) -> Entry:
        """The answer as it may be kept."""
        head = self.head or Head(200, "")
        return Entry(Head(head.status, head.content_type), self.body, self.held_back, self.usage)

    def start(self) -> None:
        """Runs it as a task of its own, that goes on for as long as anybody follows."""
        self._task = self._loop.create_task(self.run())

    async def run(self) -> None:
        """Asks the backend and takes the answer; never raises but when it is cancelled."""
        self._begun_at = self._asked_at = self._loop.time()
        self._ends_at = self._begun_at + self.terms.total_seconds
        try:
            async with asyncio.timeout(self.terms.total_seconds):
                await self._take()
        except TimeoutError:
            self._fail(UpstreamTimeout("The answer did not come in time."))
        except Refusal as refusal:
            self._fail(refusal)
        except asyncio.CancelledError:
            self.failure = self.failure or InternalError("The gateway gave the call up; nothing was charged.")
            raise
        except Exception as error:  # an adapter's fault must not leave anybody waiting
            log.exception("the backend adapter failed", call=self._call_id)
            self.failure = InternalError("The gateway failed; nothing was charged.")
            self.failure.__cause__ = error
            bare(self.failure)
        finally:
            self._is_done = True
            if self._sent_at is not None:
                seconds = self._loop.time() - self._sent_at - self._waited_seconds
                self.microseconds = max(0, int(seconds * 1_000_000))
            if self._drain is not None:
                self._drain.cancel()
            self.turned.ring()

    async def _take(self) -> None:
        async with self._backend.forward(self.outgoing, call_id=self._call_id) as incoming:
            self.is_stream, self._sent_at = incoming.is_stream, incoming.sent_at
            self._ends_at = min(self._ends_at, incoming.ends_at)
            headers = tuple(incoming.headers) if self._is_raw else ()  # nothing else of a known API's goes on
            self.head = Head(incoming.status, _content_type(incoming.headers), headers)
            if incoming.is_stream:
                self.turned.ring()
            async for piece in incoming:
                self.parts.append(piece)
                self.size += len(piece)
                self.begun, self.usage = incoming.begun, incoming.usage
                if incoming.is_stream:
                    self.came.ring()
                    if self._is_too_large_to_keep and self._is_left:
                        self._cut()
                    elif self._is_far_ahead():
                        await self._wait_for_readers(incoming)
                if not incoming.only_kept_open:
                    self._asked_at = self._loop.time()
            self.begun, self.usage = incoming.begun, incoming.usage
            self.held_back = incoming.held_back
            self.is_complete = True

    def _fail(self, refusal: Refusal) -> None:
        """Notes whose doing it is: the backend's, or that of followers for whom it had to wait.

        Theirs is a time that ran out as a whole, and of a RAW answer, for which a backend waits as long as it
        likes, that it broke off. What stalls is the backend's doing, however slow its readers were before.
        """
        bare(refusal)
        self.failure = refusal
        now = self._loop.time()
        short = min(STALL_SECONDS, self._patience_seconds)
        if now - self._asked_at > short and not self._is_held_up:
            return
        ran_out = isinstance(refusal, UpstreamTimeout) and now >= self._ends_at - LOOK_SECONDS
        broke_off = isinstance(refusal, UpstreamError) and not refusal.is_too_large
        if ran_out or (broke_off and self._is_raw):
            for follower in self._followers:
                was_there = self._is_held_up and follower.began_at <= self._held_up_since
                patience = short if self._is_raw else self._patience_seconds
                follower.notice_failure(now, 0.0 if ran_out and was_there else patience, in_one=broke_off)

    def when_left(self, heard: Callable[[], None]) -> None:
        """Calls back when the last call is done with it."""
        self._heard = heard

    def when_sold(self, heard: Callable[[], None]) -> None:
        """Calls back once, when the first call is charged for all of the answer."""
        self._heard_sold = heard

    def sold(self) -> None:
        """A call was charged for all of the answer."""
        heard, self._heard_sold = self._heard_sold, None
        if heard is not None:
            heard()

    def follow(self) -> "Follower":
        """A further call that waits for this answer; a context manager, because the last one ends it."""
        if self._drain is not None:  # somebody reads again
            self._drain.cancel()
            self._drain = None
        follower = Follower(self)
        self._followers.add(follower)
        return follower

    async def head_or(self, seconds: float | None) -> None:
        """Waits until the head is here or cannot come any more, or for so long."""
        loop = self._loop
        until = None if seconds is None else loop.time() + seconds
        while self.head is None and not self._is_done:
            left = None if until is None else until - loop.time()
            if (left is not None and left <= 0) or not await self.turned.wait(left):
                return

    def parts_from(self, number: int) -> list[bytes]:
        """What came from that part on, as much as a reader is handed at once; at least one part."""
        parts = self.parts[number - self.forgotten :]
        size = 0
        for count, part in enumerate(parts, 1):
            size += len(part)
            if size >= PIECE_BYTES_MAX:
                return parts[:count]
        return parts

    # What followers tell.

    def read_to(self, number: int) -> None:
        """A reader has read on, to that part. Of a large RAW answer, which nobody keeps, that much goes."""
        if self._is_too_large_to_keep and len(self._followers) == 1:
            del self.parts[: number - self.forgotten]
            self.forgotten = number
        self._moved.ring()

    def left(self) -> None:
        """A reader has left. When it was the last one, the rest is taken for a bounded time only.

        Of a RAW answer that is too large to be kept nobody would have the rest: it is not taken at all.
        """
        if self._drain is None and not self._is_done and self._is_left:
            if self._is_too_large_to_keep:
                self._cut()
            else:
                self._drain = self._loop.call_later(self.terms.drain_seconds, self._cut)
        self._moved.ring()
        self.turned.ring()

    def unfollow(self, follower: "Follower") -> None:
        """A call is done with it."""
        self._followers.discard(follower)
        if not self._followers:
            self._cut()
            if self._heard is not None:
                self._heard()

    def _cut(self) -> None:
        if self._task is not None and not self._is_done:
            self._is_cut = True
            self._task.cancel()

    @property
    def _is_left(self) -> bool:
        return all(one.has_left for one in self._followers)

    @property
    def _is_too_large_to_keep(self) -> bool:
        return self._is_raw and self.size > KEPT_BYTES

    def _is_far_ahead(self) -> bool:
        positions = [one.position_bytes for one in self._followers if one.is_reading]
        return bool(positions) and self.size - max(positions) > AHEAD_BYTES_MAX

    @property
    def _patience_seconds(self) -> float:
        return PATIENCE_SHARE * (self._ends_at - self._begun_at)

    async def _wait_for_readers(self, incoming: Incoming) -> None:
        """Its own time runs on: a reader who is slow on purpose must not outlast the hold.

        What is kept until its end anyway is not worth a timeout: after a while it is taken all the same.
        """
        began = self._held_up_since = self._loop.time()
        patience = self._patience_seconds - self._waited_seconds
        self._is_held_up = True
        try:
            while self._is_far_ahead() and (self._is_raw or self._loop.time() - began <= patience):
                if not await self._moved_on():
                    incoming.check()
        finally:
            self._asked_at = self._loop.time()
            self._waited_seconds += self._asked_at - began
        self._is_held_up = False

    async def _moved_on(self) -> bool:
        """Waits for a reader; whoever reads is so long in the way, because the fastest is too slow, too."""
        began = self._loop.time()
        slow = [one for one in self._followers if one.is_reading]
        try:
            return await self._moved.wait(LOOK_SECONDS)
        finally:
            now = self._loop.time()
            for follower in slow:
                follower.add_held_up(began, now)


class Follower:
    """One call's place at a fetch, and the way in which its reader gets the answer."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self.has_left = False
        self.was_given = False
        """Whether a first token was handed to the reader's connection."""
        self.is_reading = False
        self.position_bytes = 0
        self.has_held_up = False
        """Whether the answer failed because the backend had to wait for this reader."""
        self.began_at = fetch.now()
        self._held_up_seconds = self._held_up_until = 0.0
        self._moved_at = 0.0
        """When its connection took the last piece."""
        self._stop_seconds = 0.0
        """For how long the backend has had to wait since then."""
        self._stops: list[tuple[float, int]] = []
        """Earlier ones of a second and more, and how much had come when each was over."""
        self._closing: bytes | None = None
        self._is_broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fetch.unfollow(self)

    def leave(self) -> None:
        """The reader will read no more."""
        if not self.has_left:
            self.has_left = True
            self.is_reading = False
            self.fetch.left()
            self.fetch.came.ring()

    def add_held_up(self, began: float, now: float) -> None:
        """The backend had to wait for this reader from then until now, in the loop's time."""
        self._held_up_seconds += now - began
        self._held_up_until = now
        if self._moved_at < began:
            self._stop_seconds += now - began
            return
        stop = self._stop_seconds + self._moved_at - began
        self._stop_seconds = now - self._moved_at
        if stop >= LOOK_SECONDS:
            self._stops.append((stop, self.fetch.size))

    def notice_failure(self, now: float, patience: float, *, in_one: bool) -> None:
        """The answer failed, maybe because of this reader: not where the backend has had as long since.

        `in_one` asks for one stop of that length, not long ago: who reads on steadily is not why a backend
        breaks off.
        """
        if in_one:
            since = self.fetch.size - SOCKET_BYTES_MAX
            stops = [seconds for seconds, size in self._stops if size >= since]
            self.has_held_up = max([self._stop_seconds, *stops]) > patience
        else:
            held_up = self._held_up_seconds
            self.has_held_up = held_up > patience and now - self._held_up_until < held_up

    def close(self, closing: bytes, *, broken: bool = False) -> None:
        """The last bytes for the reader; `broken` where they are not the end of a good answer."""
        self._closing, self._is_broken = closing, broken
        self.fetch.came.ring()

    async def resolved(self) -> None:
        """Waits until it is clear whether the call is charged: the end, or a reader who left too early."""
        fetch = self.fetch
        while not fetch.is_done and not (self.has_left and not self.was_given):
            await fetch.turned.wait()

    async def pieces(self, heartbeat: bytes) -> AsyncGenerator[bytes, None]:
        """The answer as it comes, then the last bytes. Raises BrokenStream where it cannot end well.

        An empty `heartbeat` is none.
        """
        fetch, number = self.fetch, 0
        self.is_reading = True
        while not self.has_left:
            if number < fetch.forgotten + len(fetch.parts):
                parts = fetch.parts_from(number)
                number += len(parts)
                piece = parts[0] if len(parts) == 1 else b"".join(parts)
                self.was_given = self.was_given or fetch.begun
                for start in range(0, len(piece), PIECE_BYTES_MAX):
                    part = piece if len(piece) <= PIECE_BYTES_MAX else piece[start : start + PIECE_BYTES_MAX]
                    yield part
                    self.position_bytes += len(part)
                    self._moved_at = fetch.now()
                if fetch.size > AHEAD_BYTES_MAX:
                    fetch.read_to(number)
            elif self._closing is not None:
                if self._closing:
                    yield self._closing
                if self._is_broken and not self._closing:
                    raise BrokenStream
                return
            elif fetch.begun or not heartbeat:
                await fetch.came.wait()
            elif not await fetch.came.wait(fetch.terms.heartbeat_seconds):
                yield heartbeat


class BrokenStream(Exception):  # noqa: N818 - what the reader gets, not a fault of this program
    """A stream that cannot say that it failed: its connection is closed in the middle."""


def _content_type(headers: Sequence[tuple[bytes, bytes]]) -> str:
    types = [value.decode("latin-1") for name, value in headers if name.lower() == b"content-type"]
    return types[0] if types else ""
