"""The process that is killed: the real gateway, or a rotation of its keys, and a blow at one step of it.

The interpreter's own tracing watches the one file that the step is in; nothing in it is changed.
"""

import asyncio
import contextlib
import dataclasses
import dis
import gc
import importlib
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from arkgate import app, settings
from arkgate.cli.running import run_until_stopped, set_up_logs
from arkgate.store.keyfile import rotate
from arkgate.store.sqlite.upgrade import apply_revisions
from tests.crash.points import Step

with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as _database:
    apply_revisions(_database)  # imports what a first start imports, once for all processes
gc.collect()
gc.freeze()  # or each process would look through, and thereby copy, all that it shares


@dataclass(frozen=True, slots=True)
class Blow:
    """When to die: before or after a step, at its so manieth time since the file `armed` is there."""

    step: Step
    after: bool
    armed: Path
    time: int = 1

    @property
    def name(self) -> str:
        """The crash point's name."""
        return f"{'after' if self.after else 'before'} {self.step.name}"


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to do."""

    config: Path
    output: Path
    blow: Blow | None = None
    pauses: Mapping[str, Any] = field(default_factory=dict)
    """Constants of the program that are shortened, by their dotted names."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings below what operators may choose, so that a test need not wait for them."""
    rotates: bool = False


def main(job: Job) -> None:
    """Does the job, until the blow or a signal ends it."""
    descriptor = os.open(job.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    for name, value in job.pauses.items():
        module, _, constant = name.rpartition(".")
        vars(importlib.import_module(module))[constant] = value
    loaded = dataclasses.replace(settings.load(job.config), **job.settings)
    set_up_logs("info")
    if job.blow is not None:
        Tracer(job.blow).start()
    if job.rotates:
        rotate(loaded.keys_file)
    else:
        run_until_stopped(lambda stop: _serve(loaded, stop))


async def _serve(loaded: settings.Settings, stop: asyncio.Event) -> None:
    await app.run(loaded, stop, ready=lambda: print("ready"))


class Tracer:
    """Watches the code of one file, instruction by instruction, and kills this process at a step."""

    def __init__(self, blow: Blow) -> None:
        self._blow = blow
        self._file = str(blow.step.file)
        self._left = blow.time
        self._spans: dict[CodeType, frozenset[int]] = {}
        self._inside: set[FrameType] = set()

    def start(self) -> None:
        """Watches what this thread calls from now on, and every thread that is started."""
        threading.settrace(self._called)
        sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename != self._file:
            return None
        if code not in self._spans:
            self._spans[code] = _span(code, self._blow.step)
        if not self._spans[code]:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: object) -> Any:
        """A coroutine that waits keeps its frame, so what is inside the step stays inside."""
        if event == "opcode":
            is_inside, was_inside = frame.f_lasti in self._spans[frame.f_code], frame in self._inside
            if is_inside and not was_inside:
                self._inside.add(frame)
                self._meet(after=False)
            elif was_inside and not is_inside:
                self._inside.discard(frame)
                self._meet(after=True)
        return self._stepped

    def _meet(self, *, after: bool) -> None:
        if after is self._blow.after and self._blow.armed.exists():
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _span(code: CodeType, step: Step) -> frozenset[int]:
    """The instructions of a code that make the call and wait for it: those that end where it ends.

    What takes the outcome off the stack, or leaves a function that ends there, has the same place.
    """
    inside = set()
    for instruction in dis.get_instructions(code):
        place = instruction.positions
        if place is None or place.lineno is None or place.col_offset is None:
            continue
        is_there = (place.end_lineno, place.end_col_offset) == step.end
        if is_there and (place.lineno, place.col_offset) >= step.begin:
            inside.add(instruction.offset)
    leaving = ("POP_TOP", "RETURN_VALUE", "RETURN_CONST")
    return frozenset(inside - {one.offset for one in dis.get_instructions(code) if one.opname in leaving})
