"""Macaroons, byte for byte with other implementations; pymacaroons is the oracle."""

import secrets

import pymacaroons
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymacaroons.serializers import BinarySerializer

from arkgate.l402.identifier import Identifier, IdentifierError
from arkgate.l402.macaroon import (
    CAVEATS_MAX,
    LOCATION,
    MACAROON_BYTES_MAX,
    Macaroon,
    MacaroonError,
    mint,
    read,
)

ROOT_KEY = bytes(range(32))
IDENTIFIER = b"\0\0" + bytes(range(1, 33)) + bytes(range(32, 0, -1))
CAVEATS = ("services=ai_chat:0", "ai_chat_valid_until=1700000000")
caveats = st.lists(st.text(max_size=60), max_size=CAVEATS_MAX)


def by_pymacaroons(texts: list[str], *, key: bytes = ROOT_KEY, location: str = LOCATION) -> bytes:
    macaroon = pymacaroons.Macaroon(
        location=location, identifier=IDENTIFIER, key=key, version=pymacaroons.MACAROON_V2
    )
    for text in texts:
        macaroon.add_first_party_caveat(text)
    return bytes(BinarySerializer().serialize_raw(macaroon))


def attenuated(raw: bytes, *texts: str) -> bytes:
    """The macaroon as a client hands it on, narrowed by somebody who does not know the root key."""
    macaroon = BinarySerializer().deserialize_raw(raw)
    for text in texts:
        macaroon.add_first_party_caveat(text)
    return bytes(BinarySerializer().serialize_raw(macaroon))


def test_the_interop_vector_is_minted_byte_for_byte() -> None:
    expected = (
        "0201046c7361740242"
        + IDENTIFIER.hex()
        + "0000"
        + "0620"
        + "5ae55940a984fef3fa9719f8b5e83e4334a6e43842fdc182ce2822060842455b"
    )

    assert mint(ROOT_KEY, IDENTIFIER, ()).hex() == expected
    assert read(bytes.fromhex(expected)).signed_with(ROOT_KEY)


def test_the_interop_vector_with_caveats_has_its_signature() -> None:
    macaroon = read(mint(ROOT_KEY, IDENTIFIER, CAVEATS))

    assert macaroon.identifier == IDENTIFIER
    assert macaroon.caveats == tuple(caveat.encode() for caveat in CAVEATS)
    assert macaroon.signature.hex() == "b46d39c3382adf1e50b890a98295bdd98dc642c50b79d5b6d229f213ad8dc4f6"
    assert macaroon.signed_with(ROOT_KEY)


@settings(max_examples=150, deadline=None)
@given(caveats, st.binary(min_size=32, max_size=32))
def test_any_macaroon_of_the_oracle_is_read_and_verified(texts: list[str], key: bytes) -> None:
    raw = by_pymacaroons(texts, key=key)
    macaroon = read(raw)

    assert macaroon.caveats == tuple(text.encode() for text in texts)
    assert macaroon.signed_with(key)
    assert not macaroon.signed_with(secrets.token_bytes(32))
    assert mint(key, IDENTIFIER, texts) == raw


@settings(max_examples=50, deadline=None)
@given(caveats.filter(lambda texts: len(texts) < CAVEATS_MAX))
def test_the_oracle_verifies_what_is_minted_here(texts: list[str]) -> None:
    raw = mint(ROOT_KEY, IDENTIFIER, texts)
    verifier = pymacaroons.Verifier()
    verifier.satisfy_general(lambda _: True)

    assert verifier.verify(BinarySerializer().deserialize_raw(raw), ROOT_KEY)


def test_a_macaroon_narrowed_by_its_holder_still_verifies() -> None:
    macaroon = read(attenuated(mint(ROOT_KEY, IDENTIFIER, CAVEATS), "ai_chat_valid_until=5", "preimage=00"))

    assert macaroon.signed_with(ROOT_KEY)
    assert macaroon.caveats[2:] == (b"ai_chat_valid_until=5", b"preimage=00")


@pytest.mark.parametrize("change", [1, 0x80, 0xFF])
def test_a_changed_byte_is_refused_unless_nothing_depends_on_it(change: int) -> None:
    raw = mint(ROOT_KEY, IDENTIFIER, CAVEATS)
    original = read(raw)
    location = range(3, 3 + len(LOCATION))  # a hint that no implementation signs

    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= change
        try:
            macaroon = read(bytes(changed))
        except MacaroonError:
            continue
        assert macaroon.signed_with(ROOT_KEY) == (position in location), position
        if position in location:
            assert macaroon == original


def test_a_macaroon_that_is_cut_short_anywhere_is_refused() -> None:
    raw = mint(ROOT_KEY, IDENTIFIER, CAVEATS)

    for length in range(len(raw)):
        with pytest.raises(MacaroonError):
            read(raw[:length])


@pytest.mark.parametrize("rest", [b"\0", b"A", mint(ROOT_KEY, IDENTIFIER, ())])
def test_nothing_may_follow_the_signature(rest: bytes) -> None:
    with pytest.raises(MacaroonError):
        read(mint(ROOT_KEY, IDENTIFIER, CAVEATS) + rest)


def test_caveats_that_are_removed_or_reordered_break_the_signature() -> None:
    whole = read(mint(ROOT_KEY, IDENTIFIER, [*CAVEATS, "account=0"]))

    for kept in ((0, 1), (0, 2), (1, 2), (1, 0, 2), (2, 1, 0), (0,), ()):
        other = Macaroon(whole.identifier, tuple(whole.caveats[place] for place in kept), whole.signature)
        assert not other.signed_with(ROOT_KEY), kept


def test_third_party_caveats_are_refused() -> None:
    macaroon = pymacaroons.Macaroon(
        location=LOCATION, identifier=IDENTIFIER, key=ROOT_KEY, version=pymacaroons.MACAROON_V2
    )
    macaroon.add_third_party_caveat("https://elsewhere.example", "k" * 32, "who is it")
    raw = BinarySerializer().serialize_raw(macaroon)

    with pytest.raises(MacaroonError, match="third-party"):
        read(bytes(raw))


def test_other_formats_of_macaroons_are_refused() -> None:
    old = pymacaroons.Macaroon(location=LOCATION, identifier="id", key=ROOT_KEY)

    with pytest.raises(MacaroonError, match="V2"):
        read(bytes(BinarySerializer().serialize_raw(old)))
    with pytest.raises(MacaroonError, match="V2"):
        read(b'{"v":2}')


def test_sixteen_caveats_are_read_and_seventeen_refused() -> None:
    texts = ["a=b"] * CAVEATS_MAX

    assert len(read(by_pymacaroons(texts)).caveats) == CAVEATS_MAX
    with pytest.raises(MacaroonError, match="more than 16"):
        read(by_pymacaroons([*texts, "a=b"]))


def test_a_macaroon_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MacaroonError, match="longer than"):
        read(b"\x02" * (MACAROON_BYTES_MAX + 1))


def test_a_macaroon_without_location_is_read() -> None:
    raw = mint(ROOT_KEY, IDENTIFIER, CAVEATS)
    bare = raw[:1] + raw[3 + len(LOCATION) :]

    assert read(bare) == read(raw)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_never_anything_but_a_macaroon_error(noise: bytes, like_v2: bool) -> None:
    raw = mint(ROOT_KEY, IDENTIFIER, ())[: len(noise) % 80] + noise if like_v2 else noise

    with pytest.raises(MacaroonError):
        read(raw)


def test_an_identifier_comes_back_as_it_was_made() -> None:
    made = Identifier.new(b"\x07" * 32, key_version=3, node=65_535, account_id="ab" * 16)

    assert len(made.encode()) == 66
    assert Identifier.decode(made.encode()) == made
    assert Identifier.new(b"\x07" * 32, key_version=3, node=0, account_id="ab" * 16).nonce != made.nonce


@pytest.mark.parametrize("raw", [b"", b"\0" * 65, b"\0" * 67, b"\0\1" + b"\0" * 64])
def test_an_identifier_of_another_length_or_version_is_refused(raw: bytes) -> None:
    with pytest.raises(IdentifierError, match="identifier has"):
        Identifier.decode(raw)


def test_an_identifier_needs_a_whole_payment_hash() -> None:
    with pytest.raises(IdentifierError, match="32 bytes"):
        Identifier.new(b"\x07" * 31, key_version=1, node=0, account_id="ab" * 16)
