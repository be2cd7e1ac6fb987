"""Prices in another currency: shown while a rate is known and young, and nothing else."""

import asyncio
from pathlib import Path

import pytest
from tests.backend.backend_server import Peer, always, http, serving
from tests.stage import Stage, eventually, play, run

from arkgate.backend.rates import STALE_AFTER, RateSettings, RateSource
from arkgate.core.money import Msat
from arkgate.core.pricing import FiatRate


class Time:
    now = 1_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.mark.parametrize(
    ("msat", "shown"),
    [(50_000, "0.0300"), (100_000_000_000, "60000.00"), (0, "0.00"), (1, "0.000000600"), (2_000_000, "1.20")],
)
def test_an_amount_is_shown_to_three_digits(msat: int, shown: str) -> None:
    assert FiatRate("EUR", 60_000.0, 0).of(Msat(msat)) == shown


def test_the_catalog_and_quotes_show_it_beside_sats(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        catalog = (await stage.http.get("/v1/catalog")).json()
        quote = (await stage.http.post("/v1/quote", json={"prompt": "How?"})).json()

        assert catalog["fiat"]["currency"] == "EUR"
        assert catalog["endpoints"][0]["cost_fiat"] == {"amount": "0.0300", "currency": "EUR"}
        assert (quote["hold_sats"], quote["hold_fiat"]["amount"]) == (50, "0.0300")

    play(tmp_path, story, {"[fiat]": 'currency = "EUR"\nrate = 60000'})


def test_without_a_rate_nothing_is_shown(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        catalog = (await stage.http.get("/v1/catalog")).json()
        assert "fiat" not in catalog
        assert "cost_fiat" not in catalog["endpoints"][0]

    play(tmp_path, story)


def test_a_source_is_asked_and_its_rate_is_shown_until_it_is_old() -> None:
    async def main() -> None:
        clock = Time()
        async with serving(always(http(b'{"data": [{"eur": "61000.5"}]}'))) as server:
            url = f"http://127.0.0.1:{server.port}/rates?of=bitcoin"
            source = RateSource(RateSettings("EUR", None, url, ("data", "0", "eur"), 10), clock)
            assert source.current() is None
            watching = asyncio.create_task(source.watch())

            async def known() -> bool:
                return source.current() is not None

            await eventually(known)
            assert source.current() == FiatRate("EUR", 61000.5, clock.now)
            watching.cancel()
            clock.now += STALE_AFTER * 10_000 + 1
            assert source.current() is None

    run(main())


WRONG = [
    b"not json",
    b'{"data": []}',
    b'{"data": [{"eur": "many"}]}',
    b'{"data": [{"eur": -1}]}',
    b'{"data": [{"eur": true}]}',
]


@pytest.mark.parametrize("answer", WRONG)
def test_a_source_that_answers_nonsense_changes_nothing(answer: bytes) -> None:
    async def main() -> None:
        good = http(b'{"data": [{"eur": 1000}]}')
        answers = [good, http(answer), http(status="500 Oops")]

        async def behave(peer: Peer) -> None:
            await peer.request()
            await peer.send(answers.pop(0))

        async with serving(behave) as server:
            url = f"http://127.0.0.1:{server.port}/"
            source = RateSource(RateSettings("EUR", None, url, ("data", "0", "eur")), Time())
            for _ in range(3):
                await source.refresh(url)
                assert source.current() == FiatRate("EUR", 1000.0, Time.now)

    run(main())
