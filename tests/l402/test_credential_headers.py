"""The credential reader: every form in which clients send a credential, and garbage."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.l402.header import (
    CREDENTIAL_BYTES_MAX,
    MACAROONS_MAX,
    Credential,
    Presented,
    Token,
    Unreadable,
    read_credentials,
)
from arkgate.l402.macaroon import CAVEATS_MAX, mint, read

PREIMAGE = hashlib.sha256(b"a preimage whose hex holds letters").digest()
IDENTIFIER = b"\0\0" + hashlib.sha256(PREIMAGE).digest() + b"\x3f" * 32
RAW = mint(b"\x01" * 32, IDENTIFIER, ["services=ai_chat:0", "note=??>>~~"])
MACAROON = base64.b64encode(RAW).decode()
HEX = PREIMAGE.hex()
TOKEN = "ak_" + "0f" * 16


def one(*authorization: str, macaroon: tuple[str, ...] = ()) -> Presented:
    """The only credential that was read."""
    (presented,) = read_credentials(authorization, macaroon)
    return presented


def raw_of(length_residue: int) -> bytes:
    """A macaroon whose length leaves that rest when divided by three."""
    for padding in range(3):
        raw = mint(b"\x01" * 32, IDENTIFIER, ["n=" + "x" * padding])
        if len(raw) % 3 == length_residue:
            return raw
    raise AssertionError("three lengths in a row have all rests")


@pytest.mark.parametrize(
    "value",
    [
        f"L402 {MACAROON}:{HEX}",
        f"LSAT {MACAROON}:{HEX}",
        f"l402 {MACAROON}:{HEX}",
        f"lsat {MACAROON}:{HEX}",
        f"L402   {MACAROON}:{HEX} ",
        f"  LsAt {MACAROON} : {HEX}",
        f"Bearer {MACAROON}:{HEX}",
        f"bearer {MACAROON}:{HEX}",
        f"L402 {MACAROON}:{HEX.upper()}",
        f"L402 {MACAROON.rstrip('=')}:{HEX}",
        f"L402 {base64.urlsafe_b64encode(RAW).decode()}:{HEX}",
        f"L402 {base64.urlsafe_b64encode(RAW).decode().rstrip('=')}:{HEX}",
    ],
)
def test_every_way_to_write_a_credential_is_the_same_credential(value: str) -> None:
    presented = one(value)

    assert isinstance(presented, Credential)
    assert presented.macaroons == (read(RAW),)
    assert presented.preimage == PREIMAGE
    assert not presented.reencoded_preimage


@pytest.mark.parametrize("residue", [0, 1, 2])
def test_every_length_of_base64_padding_is_read(residue: int) -> None:
    raw = raw_of(residue)
    encoded = base64.b64encode(raw).decode()

    for text in {encoded, encoded.rstrip("=")}:
        presented = one(f"L402 {text}:{HEX}")
        assert isinstance(presented, Credential)
        assert presented.macaroons == (read(raw),)


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"BEARER {TOKEN} "])
def test_a_token_is_read_in_any_case_of_its_scheme(value: str) -> None:
    assert one(value) == Token(TOKEN)


@pytest.mark.parametrize(
    "text", ["ak_", "ak_123", "ak_" + "0F" * 16, TOKEN + "g", "ak_" + "0" * 129, TOKEN + " x"]
)
def test_what_was_meant_as_a_token_and_is_none_says_so(text: str) -> None:
    presented = one(f"Bearer {text}")

    assert isinstance(presented, Unreadable)
    assert presented.is_token


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Basic dXNlcjpwYXNz",
        "Digest a:b",
        "L402",
        "L402 ",
        "L402 :",
        "LSAT  : ",
        "Bearer",
        "Bearer sk-abc",
    ],
)
def test_another_scheme_and_an_empty_one_are_no_credential(value: str) -> None:
    assert read_credentials([value]) == ()


def test_several_lines_are_read_in_their_order() -> None:
    presented = read_credentials(
        ["Basic eDp5", f"L402 {MACAROON}:{HEX}", f"Bearer {TOKEN}", "L402 x:y"], [RAW.hex()]
    )

    assert [type(found) for found in presented] == [Credential, Token, Unreadable, Unreadable]


def test_a_list_of_macaroons_is_read_whole() -> None:
    other = mint(b"\x01" * 32, IDENTIFIER, ["services=other:0"])
    presented = one(f"L402 {MACAROON},{base64.b64encode(other).decode()}:{HEX}")

    assert isinstance(presented, Credential)
    assert presented.macaroons == (read(RAW), read(other))


@pytest.mark.parametrize(
    "listed", [f"{MACAROON},", f",{MACAROON}", f"{MACAROON},x", f"{MACAROON},,{MACAROON}"]
)
def test_a_list_with_anything_but_macaroons_is_unreadable(listed: str) -> None:
    assert isinstance(one(f"L402 {listed}:{HEX}"), Unreadable)


def test_a_list_has_a_stated_length() -> None:
    small = base64.b64encode(mint(b"\x01" * 32, IDENTIFIER, [])).decode()

    assert isinstance(one(f"L402 {','.join([small] * MACAROONS_MAX)}:{HEX}"), Credential)
    assert isinstance(one(f"L402 {','.join([small] * (MACAROONS_MAX + 1))}:{HEX}"), Unreadable)


def test_a_preimage_that_was_decoded_once_too_often_is_read_and_noted() -> None:
    ninety_six = base64.b64decode(HEX).hex()
    presented = one(f"L402 {MACAROON}:{ninety_six}")

    assert len(ninety_six) == 96
    assert isinstance(presented, Credential)
    assert presented.preimage == PREIMAGE
    assert presented.reencoded_preimage


@pytest.mark.parametrize("proof", ["", "0", HEX[:-1], HEX + "0", "g" * 64, "f" * 96, HEX + HEX, "٣" * 64])
def test_a_preimage_of_another_shape_is_unreadable(proof: str) -> None:
    assert isinstance(one(f"L402 {MACAROON}:{proof}"), Unreadable)


@pytest.mark.parametrize(
    "encoded",
    [
        "AA",
        "A",
        "====",
        "AAAA=A",
        f"{MACAROON}!",
        f"{MACAROON}\n",
        f"{MACAROON[:40]} {MACAROON[40:]}",
        "ä" * 8,
    ],
)
def test_a_macaroon_that_is_not_strict_base64_is_unreadable(encoded: str) -> None:
    assert isinstance(one(f"L402 {encoded}x:{HEX}"), Unreadable)


def test_a_credential_without_preimage_says_what_is_missing() -> None:
    presented = one(f"L402 {MACAROON}")

    assert isinstance(presented, Unreadable)
    assert "no preimage" in presented.reason


def test_bytes_after_the_macaroon_are_refused() -> None:
    assert isinstance(one(f"L402 {base64.b64encode(RAW + RAW).decode()}:{HEX}"), Unreadable)


def test_a_hex_macaroon_carries_its_preimage_in_a_caveat() -> None:
    raw = mint(b"\x01" * 32, IDENTIFIER, ["services=ai_chat:0", f"preimage={HEX}"])

    for text in (raw.hex(), raw.hex().upper(), f" {raw.hex()} "):
        presented = one(macaroon=(text,))
        assert isinstance(presented, Credential)
        assert presented.preimage == PREIMAGE
        assert presented.macaroons == (read(raw),)


@pytest.mark.parametrize("text", ["zz", "0", "abc", RAW.hex(), MACAROON, RAW.hex() + "00", "ff" * 5000])
def test_a_macaroon_header_without_hex_or_without_preimage_is_unreadable(text: str) -> None:
    assert isinstance(one(macaroon=(text,)), Unreadable)


def test_an_empty_macaroon_header_is_no_credential() -> None:
    assert read_credentials([], ["", "  "]) == ()


def test_a_credential_over_four_kib_is_not_looked_at() -> None:
    presented = one("L402 " + "A" * CREDENTIAL_BYTES_MAX + f":{HEX}")

    assert isinstance(presented, Unreadable)
    assert "longer than" in presented.reason


def test_a_credential_with_too_many_caveats_is_unreadable() -> None:
    raw = mint(b"\x01" * 32, IDENTIFIER, ["a=b"] * (CAVEATS_MAX + 1))

    assert isinstance(one(f"L402 {base64.b64encode(raw).decode()}:{HEX}"), Unreadable)


pieces = st.sampled_from(
    ["L402 ", "LSAT ", "Bearer ", "ak_", MACAROON, HEX, ":", ",", " ", "=", "\0", "\xff"]
)
garbage = st.text(max_size=80) | st.lists(pieces, max_size=8).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(garbage, max_size=3), st.lists(garbage | st.binary(max_size=80).map(bytes.hex), max_size=2))
def test_no_header_ever_raises(authorization: list[str], macaroon: list[str]) -> None:
    for presented in read_credentials(authorization, macaroon):
        assert isinstance(presented, (Token, Credential, Unreadable))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_damaged_macaroon_never_raises(noise: bytes, at: int) -> None:
    damaged = RAW[:at] + noise + RAW[at + len(noise) :]

    presented = one(f"L402 {base64.b64encode(damaged).decode() or 'A'}:{HEX}")

    assert isinstance(presented, (Credential, Unreadable))
