"""Money: integer millisatoshis, and the only rounding there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.core.money import SATS_MAX, Msat, format_sats, sats, whole_sats


def test_sats_are_a_thousand_msat() -> None:
    assert sats(50) == 50_000


def test_nothing_and_every_bitcoin_there_will_be_are_amounts() -> None:
    assert sats(0) == 0
    assert sats(SATS_MAX) == 2_100_000_000_000_000_000


@pytest.mark.parametrize("amount", [-1, SATS_MAX + 1])
def test_an_amount_that_cannot_exist_is_refused(amount: int) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        sats(amount)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, SATS_MAX * 1000))
def test_a_balance_is_rounded_down_and_an_invoice_up(amount: int) -> None:
    shown, asked = whole_sats(Msat(amount)), whole_sats(Msat(amount), asked_for=True)

    assert shown * 1000 <= amount <= asked * 1000
    assert asked - shown == bool(amount % 1000)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 sats"),
        (1, "0.001 sats"),
        (500, "0.5 sats"),
        (1000, "1 sat"),
        (1500, "1.5 sats"),
        (50_000, "50 sats"),
    ],
)
def test_amounts_are_written_for_people(amount: int, text: str) -> None:
    assert format_sats(Msat(amount)) == text
