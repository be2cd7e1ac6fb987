"""Caveats: what is issued is enforced, what is repeated may only narrow, what is unknown is skipped."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.l402.caveats import CaveatError, Terms, issued, preimage_in, read_terms

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
ACCOUNT = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000
ISSUED = ("services=ai_chat:0", f"ai_chat_valid_until={NOW}")


def terms(*caveats: str) -> Terms:
    """What the issued caveats and these allow together."""
    return read_terms(
        [caveat.encode() for caveat in (*ISSUED, *caveats)],
        payment_hash=PAYMENT_HASH,
        account_id=ACCOUNT,
        known_services=("ai_chat", "images"),
    )


def test_an_issued_credential_buys_its_service_until_its_end() -> None:
    caveats = issued("ai_chat", valid_until=NOW, account_id=None)
    allowed = terms()

    assert caveats == ISSUED
    assert allowed.buys("ai_chat")
    assert not allowed.buys("images")
    assert not allowed.expired("ai_chat", NOW - 0.001)
    assert allowed.expired("ai_chat", NOW)
    assert not allowed.attenuated


def test_a_credential_bound_to_an_account_says_so() -> None:
    assert issued("ai_chat", valid_until=NOW, account_id=ACCOUNT)[2] == f"account={ACCOUNT}"
    assert not terms(f"account={ACCOUNT}").attenuated


@pytest.mark.parametrize(
    "caveat",
    [
        f"ai_chat_valid_until={NOW - 1}",
        f"ai_chat_valid_until={NOW}",
        "ai_chat_valid_until=0",
        "services=ai_chat:0",
        "services=ai_chat:1",
    ],
)
def test_a_caveat_that_narrows_is_allowed_and_remembered(caveat: str) -> None:
    assert terms(caveat).attenuated


def test_the_narrowest_end_counts() -> None:
    narrowed = terms(f"ai_chat_valid_until={NOW - 10}", f"ai_chat_valid_until={NOW - 20}")

    assert narrowed.expired("ai_chat", NOW - 20)
    assert not narrowed.expired("ai_chat", NOW - 21)


@pytest.mark.parametrize(
    "caveats",
    [
        (f"ai_chat_valid_until={NOW + 1}",),
        ("ai_chat_valid_until=5", "ai_chat_valid_until=6"),
        ("services=ai_chat:0,images:0",),
        ("services=images:0",),
        (f"account={'f' * 32}",),
        ("account=",),
    ],
)
def test_a_caveat_that_widens_is_refused(caveats: tuple[str, ...]) -> None:
    with pytest.raises(CaveatError):
        terms(*caveats)


@pytest.mark.parametrize(
    "caveat",
    [
        "services=",
        "services=ai_chat",
        "services=ai_chat:",
        "services=:0",
        "services=ai_chat:256",
        "services=ai_chat:-1",
        "services=ai_chat:٣",
        "services=ai_chat:0,",
        f"services=ai_chat:{'9' * 3000}",
        "ai_chat_valid_until=",
        "ai_chat_valid_until=soon",
        "ai_chat_valid_until=-1",
        "ai_chat_valid_until=1e9",
        "ai_chat_valid_until=٣",
        f"ai_chat_valid_until={'1' * 13}",
        "preimage=",
        "preimage=00",
        "preimage=xyz",
        f"preimage={'00' * 32}",
    ],
)
def test_an_enforced_caveat_that_cannot_be_met_is_refused(caveat: str) -> None:
    with pytest.raises(CaveatError):
        terms(caveat)


@pytest.mark.parametrize(
    "caveat",
    [
        "",
        "=",
        "=x",
        "unknown",
        "account",
        "services",
        "time < 2020-01-01",
        "ip=10.0.0.1",
        "valid_until=2023-06-01",
        "video_valid_until=never",
        "_valid_until=1",
        "ai_chat_capabilities=",
        "SERVICES=images:0",
        "expiration=1",
    ],
)
def test_an_unknown_caveat_is_skipped(caveat: str) -> None:
    assert terms(caveat) == terms()


def test_a_caveat_that_is_not_text_is_skipped() -> None:
    allowed = read_terms(
        [ISSUED[0].encode(), b"\xff\xfe=1"], payment_hash=PAYMENT_HASH, account_id=ACCOUNT, known_services=()
    )

    assert allowed.buys("ai_chat")


def test_spaces_around_the_sign_do_not_matter() -> None:
    assert terms("ai_chat_valid_until = 7").expired("ai_chat", 7)


def test_a_credential_without_services_buys_nothing() -> None:
    bare = read_terms([], payment_hash=PAYMENT_HASH, account_id=ACCOUNT, known_services=("ai_chat",))

    assert not bare.buys("ai_chat")


def test_the_right_preimage_in_a_caveat_is_no_narrowing() -> None:
    with_preimage = terms(f"preimage={PREIMAGE.hex()}")

    assert with_preimage.preimage == PREIMAGE
    assert not with_preimage.attenuated


def test_the_last_preimage_is_found_without_being_checked() -> None:
    found = preimage_in([b"preimage=" + b"1" * 64, b"preimage=zz", b"preimage=" + b"2" * 64, b"other=1"])

    assert found == bytes.fromhex("22" * 32)
    assert preimage_in([b"services=ai_chat:0", b"preimage=" + b"z" * 64]) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=30) | st.sampled_from(["services=ai_chat:0", "preimage="]), max_size=6))
def test_no_caveat_raises_anything_but_a_caveat_error_or_widens(caveats: list[str]) -> None:
    try:
        allowed = terms(*caveats)
    except CaveatError:
        return

    assert allowed.services <= {"ai_chat"}
    assert allowed.valid_until["ai_chat"] <= NOW


def test_a_credential_for_a_service_that_was_renamed_is_still_known_to_be_narrowed() -> None:
    caveats = [b"services=old_name:0", b"old_name_valid_until=2000000000", b"old_name_valid_until=1"]

    terms = read_terms(caveats, payment_hash=b"\0" * 32, account_id="0" * 32, known_services={"new_name"})

    assert terms.attenuated
    assert terms.expired("old_name", 2.0)
