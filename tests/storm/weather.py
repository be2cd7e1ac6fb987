"""What breaks in a storm, one thing after the other, by a seed."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from arkgate.simulator.habits import NodeState
from tests.postgres import Server
from tests.storm.fleet import Fleet, Gate

FAULTS = (None, None, None, None, None, None, None, "500", "429", "slow 0.2", "slow 2", "reset", "empty")
CLOCK_STEPS_SECONDS = (-3600, -60, 0, 60, 3600)
SUPERVISE_SECONDS = 0.5
Event = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Weather:
    """The storm itself; it counts what it kills."""

    fleets: list[Fleet]
    server: Server
    dice: random.Random
    impossible: dict[str, str] = field(default_factory=dict)
    """Kinds of weather that cannot be made here, by the event's name, and why."""
    kills: int = 0
    events: Counter[str] = field(default_factory=Counter)
    _database: asyncio.Lock = field(default_factory=asyncio.Lock)

    def plan(self) -> list[tuple[int, Event]]:
        """Every kind of weather with its weight: most events are kills."""
        return [
            (30, self.kill_a_gateway),
            (2, self.stop_a_gateway_politely),
            (2, self.crash_or_restart_the_database),
            (2, self.restart_the_node),
            (2, self.cut_the_node_s_streams),
            (2, self.restart_the_wallet),
            (2, self.upset_the_ark_server),
            (8, self.change_the_backend),
            (1, self.fill_a_disk),
            (2, self.step_a_clock),
        ]

    async def run(self, over: asyncio.Event) -> None:
        """One event after the other until it is over."""
        possible = [(weight, one) for weight, one in self.plan() if _name(one) not in self.impossible]
        weights, events = zip(*possible, strict=True)
        while not over.is_set():
            (event,) = self.dice.choices(events, weights)
            await event()
            await asyncio.sleep(self.dice.uniform(0.2, 1.2))

    async def supervise(self) -> None:
        """For ever: starts again what ended because something that it needs to start was away."""
        while True:
            await self._start_the_database_if_it_ended()
            for fleet in self.fleets:
                for gate in fleet.gates:
                    await gate.supervise()
            await asyncio.sleep(SUPERVISE_SECONDS)

    def _gate(self) -> Gate:
        fleet = self.dice.choice(self.fleets)
        return self.dice.choice(fleet.gates)

    async def kill_a_gateway(self) -> None:
        """SIGKILL, and a new start a moment later."""
        await self._gate().restart(signal.SIGKILL, self.dice.uniform(0.0, 0.5))
        self.kills += 1
        self.events["a gateway killed"] += 1

    async def stop_a_gateway_politely(self) -> None:
        """SIGTERM: it drains."""
        await self._gate().restart(signal.SIGTERM)
        self.events["a gateway stopped politely"] += 1

    async def crash_or_restart_the_database(self) -> None:
        """PostgreSQL ends as in a crash, or goes down politely, and comes back."""
        crash = self.dice.random() < 0.7
        async with self._database:
            await asyncio.to_thread(self.server.stop, signal.SIGQUIT if crash else signal.SIGINT)
            self.kills += crash
            await asyncio.sleep(self.dice.uniform(0.0, 1.0))
            await asyncio.to_thread(self.server.start)
        self.events["PostgreSQL crashed" if crash else "PostgreSQL restarted"] += 1

    async def restart_the_node(self) -> None:
        """The node's process is gone for a moment, then it is back and locked for another."""
        node = self.dice.choice(self.fleets).simulation.gate
        await node.stop()
        node.habits.state = NodeState.LOCKED
        await asyncio.sleep(self.dice.uniform(0.0, 1.5))
        await node.start()
        await asyncio.sleep(self.dice.uniform(0.2, 1.5))
        node.habits.state = NodeState.ACTIVE
        self.events["the node restarted, locked at first"] += 1

    async def cut_the_node_s_streams(self) -> None:
        """Streams end in the middle, or stay and say nothing, or say everything twice."""
        node = self.dice.choice(self.fleets).simulation.gate
        node.habits.streams_silent = self.dice.random() < 0.2
        node.habits.duplicate_events = self.dice.random() < 0.5
        node.habits.backlog_out_of_order = self.dice.random() < 0.5
        node.cut_streams()
        self.events["the node's streams cut"] += 1
        self.events["the node's streams silent afterwards"] += node.habits.streams_silent

    async def restart_the_wallet(self) -> None:
        """barkd is gone for a moment, with its notifications."""
        barkd = self.dice.choice(self.fleets).barkd
        await barkd.stop()
        await asyncio.sleep(self.dice.uniform(0.0, 1.5))
        await barkd.start()
        self.events["barkd restarted"] += 1

    async def upset_the_ark_server(self) -> None:
        """The Ark server restarts and leaves barkd blind; from then on notifications are lost, or not."""
        barkd = self.dice.choice(self.fleets).barkd
        barkd.stop_server()
        await asyncio.sleep(self.dice.uniform(0.0, 1.5))
        barkd.start_server()
        barkd.ark.notifications_lost = self.dice.random() < 0.3
        self.events["the Ark server restarted"] += 1
        self.events["barkd's notifications lost afterwards"] += barkd.ark.notifications_lost

    async def change_the_backend(self) -> None:
        """The backend fails in another way, or works."""
        fault = self.dice.choice(FAULTS)
        self.dice.choice(self.fleets).simulation.chat.faults.always = fault
        self.events[f"the backend answers {fault}" if fault else "the backend works"] += 1

    async def fill_a_disk(self) -> None:
        """The disk of a database is full for a moment."""
        fleet = self.dice.choice(self.fleets)
        full = await asyncio.to_thread(fleet.fill_disk)
        await asyncio.sleep(self.dice.uniform(0.5, 2.0))
        fleet.free_disk()
        self.events[f"the disk of {fleet.name} {'full' if full else 'not quite full'}"] += 1

    async def step_a_clock(self) -> None:
        """One host's wall clock goes wrong, or is put right."""
        offset = self.dice.choice(CLOCK_STEPS_SECONDS)
        self._gate().set_clock(offset)
        self.events[f"a clock set {offset:+d} s off" if offset else "a clock put right"] += 1

    async def clear_up(self) -> None:
        """Everything works again; the supervisor starts what ended."""
        for fleet in self.fleets:
            fleet.free_disk()
            habits = fleet.simulation.gate.habits
            habits.state, habits.streams_silent = NodeState.ACTIVE, False
            fleet.barkd.ark.notifications_lost = False
            fleet.simulation.chat.faults.always = None
            for gate in fleet.gates:
                gate.set_clock(0)
        await self._start_the_database_if_it_ended()

    async def _start_the_database_if_it_ended(self) -> None:
        """PostgreSQL ends when it cannot write its log, and does not start before it can."""
        async with self._database:
            if not self.server.runs:
                with contextlib.suppress(RuntimeError):
                    await asyncio.to_thread(self.server.start)
                    self.events["PostgreSQL ended by itself and started again"] += 1


def _name(event: Event) -> str:
    name: str = getattr(event, "__name__")  # noqa: B009 - a callable need not have one, but a method has
    return name
