"""What all tests share: how skips are judged, and which tests wait for a real node."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests import postgres

# The default shows every local variable of a traceback, which takes seconds and prints secrets.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# gRPC's handlers at a fork can end the child before its program starts: uvloop forks for subprocesses.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that need a real node out, unless they are asked for with `-m node`."""
    if "node" in str(config.option.markexpr):
        return
    node_tests = [item for item in items if item.get_closest_marker("node")]
    if node_tests:
        config.hook.pytest_deselected(items=node_tests)
        items[:] = [item for item in items if not item.get_closest_marker("node")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was skipped, so that nobody takes it for tested; each reason once."""
    by_reason: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        by_reason.setdefault(str(report.longrepr[-1]), []).append(report.nodeid)
    for reason, tests in by_reason.items():
        more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
        terminalreporter.write_line(f"skipped: {tests[0]}{more}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where skips count as failures (the gate), a run with skips fails; everywhere one that skipped all."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    tested = reporter.stats.get("passed", []) if reporter else []
    if skipped and exitstatus == 0 and (os.environ.get("ARKGATE_SKIPS_FAIL") or not tested):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that sets up the whole process's logs would make later ones blind to what is logged."""
    before = structlog.get_config()
    yield
    assert structlog.get_config() == before, "this test changed how the process logs"


@pytest.fixture
def project() -> Path:
    """The checkout's top folder."""
    return Path(__file__).parent.parent


@pytest.fixture
def postgres_server() -> None:
    """Starts the shared PostgreSQL before the test's event loop runs."""
    postgres.prepare()
