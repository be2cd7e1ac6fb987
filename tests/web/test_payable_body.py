"""What a session or a top-up is shown as, whichever way it can be paid and whatever came in."""

from dataclasses import replace

import pytest

from arkgate.core.ledger import AddressRecord, InvoiceRecord, InvoiceState
from arkgate.core.money import Msat
from arkgate.web.funding import bip321, payable_body

NOW = 1_700_000_000_000
LATER, EARLIER = NOW + 1, NOW - 1
INVOICE = InvoiceRecord(
    bytes(32), "a", "lnd", "session", "lnbc1invoice", Msat(500_000), InvoiceState.OPEN, NOW, LATER
)
ADDRESS = AddressRecord("ark1address", "a", "barkd", "session", Msat(500_000), NOW, LATER)
SETTLED = replace(INVOICE, state=InvoiceState.SETTLED, amount_paid=Msat(500_000))
CANCELLED = replace(INVOICE, state=InvoiceState.CANCELLED)
LATE = replace(INVOICE, expires_at_ms=EARLIER)
CREDITED = replace(ADDRESS, credited=Msat(1000))
WAITING = replace(ADDRESS, waiting=Msat(9_000))
OLD = replace(ADDRESS, expires_at_ms=EARLIER)


@pytest.mark.parametrize(
    ("invoice", "address", "status"),
    [
        (INVOICE, None, "awaiting_payment"),
        (LATE, None, "expired"),
        (CANCELLED, None, "cancelled"),
        (SETTLED, None, "active"),
        (None, ADDRESS, "awaiting_payment"),
        (None, OLD, "expired"),
        (None, CREDITED, "active"),
        (None, WAITING, "awaiting_finality"),
        (INVOICE, WAITING, "awaiting_finality"),
        (SETTLED, WAITING, "active"),
        (INVOICE, CREDITED, "active"),
        (LATE, CREDITED, "active"),
        (LATE, ADDRESS, "awaiting_payment"),
        (CANCELLED, ADDRESS, "awaiting_payment"),
        (CANCELLED, OLD, "cancelled"),
        (LATE, OLD, "expired"),
        (LATE, replace(WAITING, expires_at_ms=EARLIER), "awaiting_finality"),
    ],
)
def test_what_came_in_decides_and_then_what_can_still_be_paid(
    invoice: InvoiceRecord | None, address: AddressRecord | None, status: str
) -> None:
    body = payable_body(invoice, address, NOW)

    assert body["status"] == status
    assert ("waiting_sats" in body) == bool(address is not None and address.waiting)


def test_the_uri_names_what_is_on_offer_and_the_amount_in_bitcoin() -> None:
    assert bip321(INVOICE, ADDRESS, Msat(500_000)) == (
        "bitcoin:?amount=0.00000500&ark=ark1address&lightning=lnbc1invoice"
    )
    assert bip321(None, ADDRESS, Msat(123_456_789_000)) == "bitcoin:?amount=1.23456789&ark=ark1address"
    assert bip321(INVOICE, None, Msat(1000)) == "bitcoin:?amount=0.00000001&lightning=lnbc1invoice"
