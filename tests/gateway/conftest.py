"""Fixtures of the gateway's stories."""

import pytest

from arkgate.gateway import counter, fund


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are asked how they are, and followed again, many times a second."""
    monkeypatch.setattr(counter, "LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(counter, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(fund, "BACKOFF_SECONDS_MAX", 0.2)
    monkeypatch.setattr(fund, "STREAM_OPENS_WITHIN_SECONDS", 0.05)
