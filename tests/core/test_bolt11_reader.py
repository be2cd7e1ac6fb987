"""The BOLT11 reader, held against the bolt11 library, and against garbage."""

import secrets

import bolt11
import pytest
from bolt11 import Bolt11, MilliSatoshi, TagChar, Tags
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.core.invoice import DEFAULT_EXPIRY_SECONDS, NETWORKS, InvoiceError, read_bolt11, read_created_at
from arkgate.simulator.payment_request import PaymentRequest, sign

KEY = PrivateKey(b"\x11" * 32)
AMOUNTS = (1, 10, 100, 999, 1000, 1001, 50_000, 100_000, 123_456_789, 10**8, 10**11, 21 * 10**11 + 7, 0)


def signed(currency: str = "bcrt", *, amount_msat: int = 50_000, expiry_seconds: int = 600) -> str:
    request = PaymentRequest(
        payment_hash=secrets.token_bytes(32),
        payment_secret=secrets.token_bytes(32),
        amount_msat=amount_msat,
        description="1 x /api/ai-chat",
        created_at=1_700_000_000,
        expiry_seconds=expiry_seconds,
        cltv_expiry=80,
        currency=currency,
    )
    return sign(request, KEY)


def encoded(currency: str, *, amount_msat: int, expiry_seconds: int | None) -> str:
    """An invoice that the library itself wrote."""
    tags = Tags()
    tags.add(TagChar.payment_hash, secrets.token_bytes(32).hex())
    tags.add(TagChar.payment_secret, secrets.token_bytes(32).hex())
    tags.add(TagChar.description, "a cup of coffee ☕")
    if expiry_seconds is not None:
        tags.add(TagChar.expire_time, expiry_seconds)
    amount = MilliSatoshi(amount_msat) if amount_msat else None
    invoice = Bolt11(currency=currency, date=1_600_000_000, tags=tags, amount_msat=amount)
    return str(bolt11.encode(invoice, KEY.secret.hex()))


def same(text: str) -> None:
    """The reader and the library see the same invoice."""
    ours, theirs = read_bolt11(text), bolt11.decode(text)
    assert ours.network == NETWORKS[theirs.currency]
    assert (ours.amount or 0) == (theirs.amount_msat or 0)
    assert ours.payment_hash.hex() == theirs.payment_hash
    assert ours.created_at == theirs.date
    assert ours.expiry_seconds == (theirs.expiry or DEFAULT_EXPIRY_SECONDS)
    assert ours.description == (theirs.description or "")


@pytest.mark.parametrize("amount_msat", AMOUNTS)
@pytest.mark.parametrize("currency", ["bc", "tb", "tbs", "bcrt"])
def test_an_invoice_says_what_the_library_reads_in_it(currency: str, amount_msat: int) -> None:
    same(signed(currency, amount_msat=amount_msat))
    same(encoded(currency, amount_msat=amount_msat, expiry_seconds=None))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10**13), st.integers(1, 10**7))
def test_any_amount_and_any_expiry_are_read(amount_msat: int, expiry_seconds: int) -> None:
    same(signed(amount_msat=amount_msat, expiry_seconds=expiry_seconds))
    same(encoded("bc", amount_msat=amount_msat, expiry_seconds=expiry_seconds))


def test_an_invoice_in_upper_case_is_the_same_invoice() -> None:
    text = signed()

    assert read_bolt11(text.upper()) == read_bolt11(text)


@pytest.mark.parametrize(
    ("currency", "network"),
    [("bc", "mainnet"), ("tb", "testnet"), ("tbs", "signet"), ("bcrt", "regtest"), ("sb", "simnet")],
)
def test_every_network_has_a_name(currency: str, network: str) -> None:
    assert read_bolt11(signed(currency)).network == network


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_garbage_is_never_anything_but_an_invoice_error(text: str) -> None:
    with pytest.raises(InvoiceError):
        read_bolt11(text)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["lnbc", "lnbc1p", "lntbs20m", "lnbcrt500u", "lnbc9999999999999p", "lnbc0", "lnxx"]),
    st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l1b", max_size=400),
)
def test_what_looks_like_an_invoice_is_read_or_is_an_invoice_error(head: str, data: str) -> None:
    try:
        read_bolt11(f"{head}1{data}")
    except InvoiceError:
        return


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.characters())
def test_a_damaged_invoice_is_read_or_is_an_invoice_error(start: int, length: int, letter: str) -> None:
    text = signed()
    at = start % len(text)
    for damaged in (text[:at], text[:at] + letter + text[at + 1 :], text[:at] + text[at + length % 200 :]):
        try:
            read_bolt11(damaged)
        except InvoiceError:
            continue


@pytest.mark.parametrize(
    "head", ["lnbc0", "lnbc1p", "lnbc2500x", "lnbc-1u", "lnbc01u", "LNbc", "lnbc1.5u", "ln"]
)
def test_amounts_that_no_wallet_writes_are_refused(head: str) -> None:
    data = signed("bc", amount_msat=0).removeprefix("lnbc")

    with pytest.raises(InvoiceError):
        read_bolt11(head + data)


def words(number: int, count: int) -> str:
    """A number as so many letters of bech32."""
    return "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[number >> 5 * at & 31] for at in reversed(range(count)))


END = "q" * (104 + 6)
HASH_FIELD = "pp5" + words(7 << 4, 52)  # 256 bits of the number 7, and four bits of padding


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hello", "this is not a BOLT11 invoice"),
        (f"lnbc1{words(9, 7)}{HASH_FIELD}b{END}", "the invoice holds a character that bech32 does not have"),
        (f"lnbc1{words(9, 7)}{HASH_FIELD}~{END}", "the invoice holds a character that bech32 does not have"),
        (f"lnbc1{words(9, 6)}{END}", "the invoice is cut short"),
        (f"lnbc1{words(9, 7)}{HASH_FIELD[:-1]}{END}", "the invoice is cut short"),
        (f"lnbc1{words(9, 7)}{END}", "the invoice has no payment hash"),
        (
            f"lnbc1p1{words(9, 7)}{HASH_FIELD}{END}",
            "the invoice's amount is not a whole number of millisatoshis",
        ),
    ],
)
def test_a_text_that_cannot_be_read_says_why(text: str, sentence: str) -> None:
    with pytest.raises(InvoiceError, match=f"^{sentence}$"):
        read_bolt11(text)


@pytest.mark.parametrize(
    ("fields", "expiry_seconds"),
    [
        (HASH_FIELD, DEFAULT_EXPIRY_SECONDS),
        (f"{HASH_FIELD}xqz{words(60, 2)}", 60),
        (f"{HASH_FIELD}xqq", 0),  # a field without a value at the very end
        (f"xqz{words(60, 2)}{HASH_FIELD}xqz{words(61, 2)}", 60),
        (f"{HASH_FIELD}xp", DEFAULT_EXPIRY_SECONDS),  # two words more are no field
    ],
)
def test_the_fields_of_an_invoice_are_read_to_the_last_word(fields: str, expiry_seconds: int) -> None:
    invoice = read_bolt11(f"lnbc1{words(9, 7)}{fields}{END}")

    assert (invoice.created_at, invoice.amount) == (9, None)
    assert invoice.payment_hash == (7).to_bytes(32, "big")
    assert invoice.expiry_seconds == expiry_seconds


def test_an_invoice_without_a_payment_hash_is_refused() -> None:
    text = encoded("bc", amount_msat=1000, expiry_seconds=None)
    head, _, data = text.rpartition("1")
    without = data[:7] + data[7 + 3 + 52 :]  # the payment hash comes first

    with pytest.raises(InvoiceError, match="no payment hash"):
        read_bolt11(f"{head}1{without}")


def test_a_second_payment_hash_does_not_count() -> None:
    text = encoded("bc", amount_msat=1000, expiry_seconds=None)
    head, _, data = text.rpartition("1")
    field = data[7 : 7 + 3 + 52]
    other = field[:3] + "q" * 52
    short = "pp" + "q" + "q" * 32  # a hash field of another length is skipped, as BOLT 11 asks

    assert read_bolt11(f"{head}1{data[:7]}{field}{other}{data[7:]}") == read_bolt11(text)
    assert read_bolt11(f"{head}1{data[:7]}{short}{data[7:]}") == read_bolt11(text)


@pytest.mark.parametrize("currency", NETWORKS)
def test_when_an_invoice_was_made_can_be_read_by_itself(currency: str) -> None:
    assert read_created_at(signed(currency)) == 1_700_000_000
    assert read_created_at(signed(currency).upper()) == 1_700_000_000


@pytest.mark.parametrize("text", ["", "lni1qqqqqqq", "lnbcrt1", "lnbcrt1qqqqqq", "lnbcrt1bqqqqqqq"])
def test_what_is_no_invoice_has_no_time(text: str) -> None:
    with pytest.raises(InvoiceError):
        read_created_at(text)
