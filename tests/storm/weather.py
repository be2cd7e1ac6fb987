"""What breaks in a storm, one thing after the other, by a seed."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from arkgate.simulator.habits import NodeState
from tests.postgres import Server
from tests.storm.fleet import Fleet, Gate

FAULTS = (None, None, None, None, None, None, None, "500", "429", "slow 0.2", "slow 2", "reset", "empty")
CLOCK_STEPS_SECONDS = (-3600, -60, 60, 3600)


@dataclass(slots=True)
class Weather:
    """The storm itself; it counts what it kills."""

    fleets: list[Fleet]
    server: Server
    dice: random.Random
    fill_disks: bool = True
    kills: int = 0
    events: dict[str, int] = field(default_factory=dict)

    async def run(self, over: asyncio.Event) -> None:
        """One event after the other until it is over; most are kills."""
        plan: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self.kill_a_gate),
            (2, self.stop_a_gate_politely),
            (2, self.crash_the_database),
            (2, self.restart_the_node),
            (2, self.cut_the_node_s_streams),
            (8, self.change_the_backend),
            (self.fill_disks, self.fill_a_disk),
            (2, self.step_a_clock),
        ]
        weights, events = zip(*plan, strict=True)
        while not over.is_set():
            (event,) = self.dice.choices(events, weights)
            self.events[event.__name__] = self.events.get(event.__name__, 0) + 1
            await event()
            await asyncio.sleep(self.dice.uniform(0.2, 1.2))

    def _gate(self) -> Gate:
        fleet = self.dice.choice(self.fleets)
        return self.dice.choice(fleet.gates)

    async def kill_a_gate(self) -> None:
        """SIGKILL, and a new start a moment later."""
        gate = self._gate()
        await gate.stop(signal.SIGKILL)
        self.kills += 1
        await asyncio.sleep(self.dice.uniform(0.0, 0.5))
        await gate.start()

    async def stop_a_gate_politely(self) -> None:
        """SIGTERM: it drains."""
        gate = self._gate()
        await gate.stop(signal.SIGTERM)
        await gate.start()

    async def crash_the_database(self) -> None:
        """PostgreSQL ends as in a crash, or goes down politely, and comes back."""
        crash = self.dice.random() < 0.7
        await asyncio.to_thread(self.server.stop, signal.SIGQUIT if crash else signal.SIGINT)
        self.kills += crash
        await asyncio.sleep(self.dice.uniform(0.0, 1.0))
        await asyncio.to_thread(self.server.start)

    async def restart_the_node(self) -> None:
        """The node is away for a moment, then locked for another."""
        node = self.dice.choice(self.fleets).simulation.gate
        node.habits.state = NodeState.LOCKED
        node.cut_streams()
        await asyncio.sleep(self.dice.uniform(0.2, 2.0))
        node.habits.state = NodeState.ACTIVE

    async def cut_the_node_s_streams(self) -> None:
        """Streams end in the middle, or stay and say nothing, or say everything twice."""
        node = self.dice.choice(self.fleets).simulation.gate
        node.habits.streams_silent = self.dice.random() < 0.2
        node.habits.duplicate_events = self.dice.random() < 0.5
        node.habits.backlog_out_of_order = self.dice.random() < 0.5
        node.cut_streams()

    async def change_the_backend(self) -> None:
        """The backend fails in another way, or works."""
        self.dice.choice(self.fleets).simulation.chat.faults.always = self.dice.choice(FAULTS)

    async def fill_a_disk(self) -> None:
        """The disk of a database is full for a moment."""
        fleet = self.dice.choice(self.fleets)
        await asyncio.to_thread(fleet.fill_disk)
        await asyncio.sleep(self.dice.uniform(0.5, 2.0))
        fleet.free_disk()
        if not self.server.runs:  # PostgreSQL ends when it cannot write its log
            await asyncio.to_thread(self.server.start)

    async def step_a_clock(self) -> None:
        """One host's wall clock goes wrong."""
        self._gate().set_clock(self.dice.choice(CLOCK_STEPS_SECONDS))

    async def clear_up(self) -> None:
        """Everything works again."""
        for fleet in self.fleets:
            fleet.free_disk()
            habits = fleet.simulation.gate.habits
            habits.state, habits.streams_silent = NodeState.ACTIVE, False
            fleet.simulation.chat.faults.always = None
            for gate in fleet.gates:
                gate.set_clock(0)
                if gate.running is None or gate.running.process.poll() is not None:
                    await gate.stop(signal.SIGKILL)
                    await gate.start()
        if not self.server.runs:
            await asyncio.to_thread(self.server.start)
