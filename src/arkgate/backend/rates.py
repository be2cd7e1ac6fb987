"""The rate at which prices are shown in another currency: fixed, or asked for at the operator's source."""

import asyncio
from dataclasses import dataclass

import httpx
import orjson
import structlog

from arkgate.core.pricing import FiatRate
from arkgate.ports import Clock

log = structlog.get_logger()
ANSWER_BYTES_MAX = 256 * 1024
TIMEOUT_SECONDS = 10.0
STALE_AFTER = 12
"""A rate older than so many refreshes is not shown."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """Where the rate comes from: a number, or a field of a JSON document."""

    currency: str
    fixed: float | None = None
    url: str | None = None
    field: tuple[str, ...] = ()
    """The way to the number through the document: names of objects, numbers of lists."""
    refresh_seconds: float = 300.0


class RateSource:
    """`ports.Rates`. Only what is shown depends on it: a source that fails is logged and asked again."""

    def __init__(self, settings: RateSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._newest: FiatRate | None = None
        self._failed = False

    def current(self) -> FiatRate | None:
        """See `ports.Rates`."""
        settings, now_ms = self._settings, self._clock.now_ms()
        if settings.fixed is not None:
            return FiatRate(settings.currency, settings.fixed, now_ms)
        newest = self._newest
        if newest is None or now_ms - newest.at_ms > STALE_AFTER * settings.refresh_seconds * 1000:
            return None
        return newest

    async def watch(self) -> None:
        """See `ports.Rates`."""
        while self._settings.url is not None:
            await self.refresh(self._settings.url)
            await asyncio.sleep(self._settings.refresh_seconds)
        await asyncio.Event().wait()  # a fixed rate stays as it is

    async def refresh(self, url: str) -> None:
        """Asks once. Does not raise."""
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
                answer = await client.get(url, headers={"Accept": "application/json"})
            answer.raise_for_status()
            per_bitcoin = _number_at(answer.content[:ANSWER_BYTES_MAX], self._settings.field)
        except (httpx.HTTPError, ValueError) as error:
            if not self._failed:
                log.warning("the rate of the currency cannot be learned", reason=str(error)[:200])
            self._failed = True
            return
        self._failed = False
        self._newest = FiatRate(self._settings.currency, per_bitcoin, self._clock.now_ms())


def _number_at(document: bytes, field: tuple[str, ...]) -> float:
    """The number at the end of a way. Raises ValueError with a sentence."""
    found = orjson.loads(document)
    for step in field:
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise ValueError(f"the answer has no {'.'.join(field)}")
    if isinstance(found, str):
        found = float(found)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < 1e15:
        raise ValueError(f"{'.'.join(field)} is no rate")
    return float(found)
