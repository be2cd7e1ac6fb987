"""Runs the event loop of a long-lived command: signals, logs, and start-up errors as sentences."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TextIO, cast

import click
import orjson
import structlog
import uvloop

from arkgate.core.errors import Refusal
from arkgate.store.keyfile import KeyfileError
from arkgate.web.server import CannotListen


def run_until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `work` with an event that SIGINT and SIGTERM set; a second signal ends the process at once."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                os._exit(130)
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asked)
        await work(stop)

    with start_up_errors(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextlib.contextmanager
def start_up_errors() -> Iterator[None]:
    """Says what keeps a command from starting, without a traceback."""
    sentences: list[str] = []
    try:
        yield
    except* (CannotListen, KeyfileError, OSError, Refusal) as group:
        sentences += map(str, _leaves(group))
    if sentences:  # raised inside `except*`, it would become part of a group that click does not know
        raise click.ClickException("; ".join(sentences))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class LossyFile:
    """A file to log to that loses what cannot be written: no log line decides about money.

    The disk that is full may be the one that the log is on, and whoever read it may have gone.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands on what was written, where that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


def set_up_logs(level: str, *, for_people: bool = False) -> None:
    """Logs as one JSON object a line on standard error, or coloured lines for people."""
    number = getattr(logging, level.upper())
    file = LossyFile(sys.stderr)
    logging.basicConfig(level=max(number, logging.WARNING), stream=file, format="%(name)s: %(message)s")
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if for_people:
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Where rich is installed, the default shows local variables: preimages, tokens, prompts.
            exception_formatter=structlog.dev.plain_traceback,
        )
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, file)),
        cache_logger_on_first_use=True,
    )


def _json(event: Mapping[str, object], **options: Any) -> str:  # noqa: ANN401 - structlog's own options
    """One event as JSON; what is no JSON value is written as its text."""
    return orjson.dumps(event, default=str).decode()
