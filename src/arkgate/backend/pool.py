"""Several servers that do the same work: who is asked, and who is asked next."""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from arkgate.backend.upstream import Upstream
from arkgate.core.errors import BackendUnavailable, Overloaded, Refusal
from arkgate.core.pricing import Used
from arkgate.core.question import QuestionTokens
from arkgate.ports import ChatMessage, Completion, Health, Incoming, Outgoing


class Pool:
    """`ports.Backend` over one or several servers.

    Of the lowest priority's servers that have room the one is asked that has the fewest calls for its weight;
    on a tie chance decides. The next one is asked when it has not begun with the call: it could not be
    reached, is resting after failures, is full, or answered with a status that says so. A call that may have
    been begun is never made twice. A call waits in a queue only where none has room.
    """

    def __init__(self, upstreams: Sequence[Upstream], *, chance: Callable[[], float] = random.random) -> None:
        self._upstreams = tuple(upstreams)
        self._chance = chance

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """The servers."""
        return self._upstreams

    def check(self, model: str | None = None) -> None:
        """Raises what the first one says when none of them would take a call."""
        self._any(model, Upstream.check)

    def admit(self, model: str | None = None) -> None:
        """As `check`; `forward` asks for a probe where one is due."""
        self._any(model, Upstream.check if len(self._upstreams) > 1 else Upstream.admit)

    def _any(self, model: str | None, look: Callable[[Upstream], None]) -> None:
        worst: Refusal | None = None
        for upstream in self._upstreams:
            if not upstream.serves(model):
                continue
            try:
                look(upstream)
            except (BackendUnavailable, Overloaded) as refusal:
                if not isinstance(worst, Overloaded):  # that one is worth trying again
                    worst = refusal
            else:
                return
        raise worst or BackendUnavailable("No backend has this model now; nothing was charged.")

    async def watch(self) -> None:
        """See `ports.Backend`."""
        async with asyncio.TaskGroup() as group:
            for upstream in self._upstreams:
                group.create_task(upstream.watch())

    def forward(
        self, outgoing: Outgoing, *, call_id: str
    ) -> contextlib.AbstractAsyncContextManager[Incoming]:
        """See `ports.Backend`."""
        if len(self._upstreams) == 1:
            return self._upstreams[0].forward(outgoing, call_id=call_id)
        return self._first_of(outgoing, call_id)

    @contextlib.asynccontextmanager
    async def _first_of(self, outgoing: Outgoing, call_id: str) -> AsyncIterator[Incoming]:
        async with contextlib.AsyncExitStack() as stack:
            yield await self._entered(stack, outgoing, call_id)

    async def _entered(self, stack: contextlib.AsyncExitStack, outgoing: Outgoing, call_id: str) -> Incoming:
        last: Refusal | None = None
        for upstream in self._in_order(outgoing.model):
            try:
                upstream.admit()
                return await stack.enter_async_context(upstream.forward(outgoing, call_id=call_id))
            except Refusal as refusal:
                if not (refusal.nothing_begun or isinstance(refusal, (BackendUnavailable, Overloaded))):
                    raise
                if not isinstance(last, Overloaded):  # that one is worth trying again
                    last = refusal
        raise last or BackendUnavailable("No backend has this model now; nothing was charged.")

    def _in_order(self, model: str | None) -> Iterator[Upstream]:
        able = [upstream for upstream in self._upstreams if upstream.serves(model)]

        def load(upstream: Upstream) -> tuple[bool, bool, int, float, float]:
            settings = upstream.settings
            busy = upstream.under_way_count / settings.weight
            # The least of exponential draws falls to each in proportion to its weight.
            draw = -math.log(1.0 - self._chance()) / settings.weight
            is_full = upstream.under_way_count >= settings.concurrency_max
            return upstream.is_resting, is_full, settings.priority, busy, draw

        return iter(sorted(able, key=load))

    def count(self, outgoing: Outgoing, answer: bytes) -> Used:
        """See `ports.Backend`."""
        return self._upstreams[0].count(outgoing, answer)

    def count_question(self, outgoing: Outgoing) -> QuestionTokens:
        """See `ports.Backend`."""
        return self._upstreams[0].count_question(outgoing)

    async def chat(self, messages: Sequence[ChatMessage], *, call_id: str) -> Completion:
        """Asks the first one for one buffered completion, outside of anything that is sold."""
        return await self._upstreams[0].chat(messages, call_id=call_id)

    async def health(self) -> Health:
        """The best state of any; with the sentence of one that is not well, where all are not."""
        states = await asyncio.gather(*(upstream.health() for upstream in self._upstreams))
        return next((state for state in states if state.ready), states[0])

    async def close(self) -> None:
        """See `ports.Backend`."""
        for upstream in self._upstreams:
            await upstream.close()
