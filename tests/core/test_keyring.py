"""Keys: what is derived from them is stable, belongs to one ring, and survives a rotation."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.core.keys import Keyring, Purpose, PurposeKind, Tag, token_digest

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
ACCOUNT = "0123456789abcdef0123456789abcdef"
PURPOSE = Purpose(PurposeKind.SESSION, ACCOUNT)
HASH = secrets.token_bytes(32)
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PurposeKind), ids, st.text(max_size=40))
def test_a_tag_comes_back_as_its_purpose_whatever_stands_before_it(
    kind: PurposeKind, account_id: str, title: str
) -> None:
    ring, purpose = Keyring({1: OLD}), Purpose(kind, account_id)

    assert ring.read_tag(f"{title} {ring.tag(purpose, HASH)}", HASH) == Tag(purpose, 1)


@pytest.mark.parametrize("position", range(1, 43))
def test_a_tag_with_one_letter_changed_is_not_ours(position: int) -> None:
    ring = Keyring({1: OLD})
    tag = ring.tag(PURPOSE, HASH)
    letter = "A" if tag[position] != "A" else "g"  # differ in the first bit, which base64 always keeps

    assert ring.read_tag(tag[:position] + letter + tag[position + 1 :], HASH) is None


@pytest.mark.parametrize(
    "memo",
    ["", "[]", "another shop's order 7", "[" + "A" * 42 + "]", "[" + "A" * 41 + "]", "[" + "ä" * 42 + "]"],
)
def test_a_memo_without_our_tag_has_no_purpose(memo: str) -> None:
    assert Keyring({1: OLD}).read_tag(memo, HASH) is None


def test_a_tag_in_the_middle_of_a_memo_does_not_count() -> None:
    ring = Keyring({1: OLD})

    assert ring.read_tag(f"{ring.tag(PURPOSE, HASH)} thanks", HASH) is None


def test_a_tag_copied_to_another_payment_is_foreign() -> None:
    ring = Keyring({1: OLD})

    assert ring.read_tag(ring.tag(PURPOSE, HASH), secrets.token_bytes(32)) is None


def test_what_is_derived_from_a_key_never_changes() -> None:
    """Tokens, macaroons and invoices are out there; each of these values was given to somebody."""
    ring = Keyring({1: bytes(range(32)), 258: bytes(range(32, 64))})

    assert ring.root_key(b"id", version=1) == bytes.fromhex(
        "5f3b9cd57a9b97d738820799af55dfbf36c484a4faf8d04f20c2d00465bdc1a2"
    )
    assert ring.token(ACCOUNT, version=1) == "ak_0e844a49b2c4db68b48981763b9910d0"
    assert ring.fingerprint(1) == 14911930950820671
    assert ring.digest(b"request", b"body") == bytes.fromhex(
        "effde7eb4476d5a677f75bd8a8184df247d26dc5066900a758afa05728803e64"
    )
    assert ring.digest(b"a label of more than 16 bytes", b"") == ring.digest(b"a label of more ", b"")
    assert ring.tag(PURPOSE, bytes(32)) == "[AgECASNFZ4mrze8BI0VniavN7yz8ek-gPMhU8ec3lw]"
    assert token_digest("ak_1") == bytes.fromhex(
        "1ec43aa57b577d047b9dde937f873ce5988f9961fdb5a77a858c192f01f12223"
    )


def test_a_tag_of_a_version_above_255_comes_back() -> None:
    ring = Keyring({258: OLD})

    assert ring.read_tag(ring.tag(PURPOSE, HASH), HASH) == Tag(PURPOSE, 258)


def test_eight_different_bytes_and_the_last_version_make_a_key() -> None:
    assert Keyring({65_535: b"12345678" * 4}).current == 65_535


def test_keys_do_not_show_in_a_representation() -> None:
    assert OLD.hex() not in repr(Keyring({1: OLD}))
    assert repr(OLD) not in repr(Keyring({1: OLD}))


def test_another_rings_tag_is_foreign() -> None:
    assert Keyring({1: OLD}).read_tag(Keyring({1: NEW}).tag(PURPOSE, HASH), HASH) is None


def test_a_tag_of_a_purpose_that_this_program_does_not_know_is_foreign() -> None:
    ring = Keyring({1: OLD})
    later = Purpose(9, ACCOUNT)  # type: ignore[arg-type]  # what a later version of this program writes

    assert ring.read_tag(ring.tag(later, HASH), HASH) is None


def test_old_tags_tokens_and_root_keys_outlive_a_rotation() -> None:
    before, after = Keyring({1: OLD}), Keyring({1: OLD, 2: NEW})

    assert after.current == 2
    assert after.read_tag(before.tag(PURPOSE, HASH), HASH) == Tag(PURPOSE, 1)
    assert after.token(ACCOUNT, version=1) == before.token(ACCOUNT, version=1)
    assert after.root_key(b"id", version=1) == before.root_key(b"id", version=1)
    assert after.digest(b"request", b"body") == before.digest(b"request", b"body")


def test_new_tags_are_unreadable_without_the_new_key() -> None:
    assert Keyring({1: OLD}).read_tag(Keyring({1: OLD, 2: NEW}).tag(PURPOSE, HASH), HASH) is None


def test_a_token_is_stable_and_differs_by_account_and_by_version() -> None:
    ring = Keyring({1: OLD, 2: NEW})
    tokens = {ring.token(account, version=version) for account in (ACCOUNT, "f" * 32) for version in (1, 2)}

    assert len(tokens) == 4
    assert ring.token(ACCOUNT, version=1) == ring.token(ACCOUNT, version=1)
    assert all(token.startswith("ak_") and len(token) == 35 for token in tokens)
    assert len({token_digest(token) for token in tokens}) == 4


def test_root_keys_differ_by_identifier_and_unknown_versions_have_none() -> None:
    ring = Keyring({1: OLD})

    assert ring.root_key(b"one", version=1) != ring.root_key(b"two", version=1)
    assert ring.root_key(b"one", version=2) is None


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        ({}, "the keyring holds no key"),
        ({0: OLD}, "key version 0 is not between 1 and 65535"),
        ({65_536: OLD}, "key version 65536 is not between 1 and 65535"),
        ({1: OLD[:31]}, "key version 1 is not 32 random bytes"),
        ({1: b"\0" * 32}, "key version 1 is not 32 random bytes"),
        ({1: b"secret" * 5 + b"ab"}, "key version 1 is not 32 random bytes"),
    ],
)
def test_a_ring_without_good_keys_is_refused(versions: dict[int, bytes], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Keyring(versions)


def test_a_rings_keys_cannot_be_changed_afterwards() -> None:
    given_keys = {1: OLD}
    ring = Keyring(given_keys)
    given_keys[2] = NEW

    assert ring.current == 1
