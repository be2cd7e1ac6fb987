"""Where races are run: verbs are held at a barrier, so that their order is forced and not hoped for."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from arkgate.store import Store
from arkgate.store.sqlite.opening import SqliteStore, open_sqlite
from tests.store.books import ManualClock

Verb = Callable[[Store], Awaitable[Any]]
"""One verb that takes part in a race, on the books of whoever runs it."""


class Manner(Enum):
    """How close verbs come to each other."""

    APART = "each is answered before the next one is asked for"
    IN_TURN = "all have been asked for when the first one begins; each has a transaction of its own"
    TOGETHER = "all have been asked for when the first one begins; they may share a transaction"


class Course(Protocol):
    """Open books of one engine. Several gateways may share them: each racer has books of its own."""

    @property
    def store(self) -> Store:
        """The books for what is not raced."""
        ...

    async def raced(self, verbs: Sequence[Verb], manner: Manner) -> list[Any]:
        """Runs the verbs in this order and in that manner; what each answered, in the same order."""
        ...


class SqliteCourse:
    """One process writes, so racers are tasks, and the barrier is a verb that keeps the writer busy."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    async def raced(self, verbs: Sequence[Verb], manner: Manner) -> list[Any]:
        """See `Course`."""
        if manner is Manner.APART:
            return [await verb(self.store) for verb in verbs]
        writer = self.store.writer
        reached, opened = threading.Event(), threading.Event()

        def barrier(*_: object) -> None:
            reached.set()
            assert opened.wait(10)

        held = asyncio.create_task(writer.run(barrier))
        await asyncio.to_thread(reached.wait, 10)
        usual, writer._batch_max = writer._batch_max, 1 if manner is Manner.IN_TURN else writer._batch_max
        racers = []
        for number, verb in enumerate(verbs, start=1):
            racers.append(asyncio.ensure_future(verb(self.store)))
            while writer._queue.qsize() < number:  # noqa: ASYNC110 - the queue is the writer's own
                await asyncio.sleep(0)
        opened.set()
        answers = await asyncio.gather(held, *racers)
        writer._batch_max = usual
        return answers[1:]


@asynccontextmanager
async def _sqlite(directory: Path, clock: ManualClock) -> AsyncIterator[Course]:
    async with open_sqlite(directory / "ledger.db", clock) as store:
        yield SqliteCourse(store)


@dataclass(frozen=True, slots=True)
class Racing:
    """An engine that races are run on."""

    name: str
    opened: Callable[[Path, ManualClock], AbstractAsyncContextManager[Course]]


ENGINES = [Racing("sqlite", _sqlite)]
