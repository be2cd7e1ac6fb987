"""Prices: what a challenge sells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.core.catalog import Catalog, Endpoint, Service
from arkgate.core.money import Msat, sats
from arkgate.core.pricing import Quote, Tariff, bundle_for


def quote(price_msat: int) -> Quote:
    return Quote(service="ai_chat", price=Msat(price_msat), calls_per_day=5)


def service(name: str = "ai_chat", path: str = "/api/ai-chat") -> Service:
    endpoint = Endpoint(path, ("POST",), "AI chat.")
    return Service(name, (endpoint,), Tariff(call=sats(50)), sats(50), 5, "AI chat.")


@pytest.mark.parametrize(
    ("price_msat", "calls", "minimum_msat", "sold_calls", "amount_msat"),
    [
        (50_000, 1, 0, 1, 50_000),
        (50_000, 4, 0, 4, 200_000),
        (50_000, 0, 0, 1, 50_000),
        (50_000, 1, 50_000, 1, 50_000),
        (50_000, 1, 50_001, 2, 100_000),
        (50_000, 1, 120_000, 3, 150_000),
        (1, 1, 0, 1, 1_000),
        (1, 1, 1_000, 1000, 1_000),
        (1_500, 1, 0, 1, 2_000),
        (1_500, 2, 0, 2, 3_000),
    ],
)
def test_a_challenge_sells_whole_calls_for_whole_sats(
    price_msat: int, calls: int, minimum_msat: int, sold_calls: int, amount_msat: int
) -> None:
    bundle = bundle_for(quote(price_msat), calls=calls, minimum=Msat(minimum_msat))

    assert (bundle.calls, bundle.amount) == (sold_calls, amount_msat)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**8), st.integers(-3, 1000), st.integers(0, 10**9))
def test_what_is_asked_for_covers_every_call_sold(price_msat: int, calls: int, minimum_msat: int) -> None:
    bundle = bundle_for(quote(price_msat), calls=calls, minimum=Msat(minimum_msat))

    assert bundle.calls >= max(1, calls)
    assert bundle.amount >= max(bundle.calls * price_msat, minimum_msat)
    assert bundle.amount < bundle.calls * price_msat + 1000
    assert bundle.amount % 1000 == 0


def test_a_free_call_needs_no_invoice() -> None:
    with pytest.raises(ValueError, match=r"^a free call needs no invoice$"):
        bundle_for(quote(0), calls=1)


def test_a_service_quotes_its_own_price_and_limit() -> None:
    assert service().quote() == quote(50_000)


def test_a_catalog_finds_its_services_by_name_and_keeps_their_order() -> None:
    catalog = Catalog((service(), service("images", "/api/images")))

    assert [one.name for one in catalog] == ["ai_chat", "images"]
    assert catalog.named("images").path == "/api/images"
    with pytest.raises(KeyError, match="video"):
        catalog.named("video")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (service(path="/api/other"), "two services share a name: ai_chat, ai_chat"),
        (service("other"), "two services share a path: /api/ai-chat, /api/ai-chat"),
    ],
)
def test_two_services_share_neither_name_nor_path(other: Service, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Catalog((service(), other))
