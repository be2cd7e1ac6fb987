"""Ark transactions are read from their PSBTs; whatever is no such thing is refused."""

import base64
import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkgate.core.virtual_tx import Output, VirtualTxError, read_virtual_tx
from arkgate.simulator.virtual_tx import claim

SCRIPT = bytes.fromhex("5120") + bytes(32)


ARK_LIBS_CLAIM = (
    "cHNidP8BAGsDAAAAAe+sXSzppJQGewIpjjKWLVlkTGpft/ICZmflOV6wur7oAAAAAAD/////AnQTAAAAAAAAIlEgJi8D/iQQ"
    "kEQqrAaon0LQu9iTeMneEkOZ4tkDk6vz2NAAAAAAAAAAAARRAk5zAAAAAAABASt0EwAAAAAAACJRIK6zJ8R1jdnoi3Cm26M3"
    "I2wGVn+GB9z1f1A/rPghwrTAQhXBUJKbdMGgSVS3i0tgNel6XgeKWg8o7JbVR7/ums6AOsDAsmOkTtTsCuE1XBTSw7Nh24AV"
    "nQZvi7a1KAFa73Bli12pFO7ir4aOtJU8u4gRcFU+Auc+FRvlh2kg9U9mT0XEvAk7MrzPy3S9+RrtYlm2XCcCbEbCMjIl2rmt"
    "IJ6fV4moh9YiNhQMpovfaZtRsEJdsgrrYqWr4f+Hcuj1rMAI3nRhcHRyZWWKAcAoAwEAQLJ1IJ6fV4moh9YiNhQMpovfaZtR"
    "sEJdsgrrYqWr4f+Hcuj1rAHAXKkU7uKvho60lTy7iBFwVT4C5z4VG+WHaSD1T2ZPRcS8CTsyvM/LdL35Gu1iWbZcJwJsRsIy"
    "MiXaua0gnp9XiaiH1iI2FAymi99pm1GwQl2yCutipavh/4dy6PWsCt5jb25kaXRpb24iASDXZFdeYUy3nRSFFQfHtuxpMRc6"
    "PR9CmMvfDOhlSOYomgAAAA=="
)
"""A claim of 4,980 sats before it is signed, as arkd's ark-lib (9246f043) builds it: `offchain.BuildTxs`."""


def test_a_claim_of_arkds_own_library_is_read() -> None:
    read = read_virtual_tx(ARK_LIBS_CLAIM)

    assert read.txid == "fe201c343a4fe8c1cef1ff29e95f30a8341f9adecb70d3afe74b57f22f99d1c0"
    assert [preimage.hex() for preimage in read.preimages] == [
        "d764575e614cb79d14851507c7b6ec6931173a3d1f4298cbdf0ce86548e6289a"
    ]
    assert read.outputs[0] == Output(
        4_980, bytes.fromhex("5120262f03fe241090442aac06a89f42d0bbd89378c9de124399e2d90393abf3d8d0")
    )


def test_a_claim_says_what_it_pays_and_reveals_its_preimage() -> None:
    preimage = secrets.token_bytes(32)
    txid, psbt = claim(4_980, SCRIPT, [preimage])

    read = read_virtual_tx(psbt)
    assert (read.txid, read.preimages) == (txid, (preimage,))
    assert read.outputs[0] == Output(4_980, SCRIPT)


def test_a_transaction_without_condition_reveals_nothing() -> None:
    assert read_virtual_tx(claim(1, SCRIPT, [])[1]).preimages == ()


def test_each_preimage_is_told_once_and_only_what_is_long_enough_is_one() -> None:
    one, other = secrets.token_bytes(32), secrets.token_bytes(32)

    found = read_virtual_tx(claim(1, SCRIPT, [one, other, one, b"short", one + other])[1])
    assert found.preimages == (one, other)


def test_an_id_is_the_one_that_the_network_would_give() -> None:
    """The genesis coinbase, which everybody knows."""
    text = (
        "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d"
        "0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66"
        "207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe55"
        "48271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba"
        "0b8d578a4c702b6bf11d5fac00000000"
    )
    unsigned = bytes.fromhex(text)
    packet = b"psbt\xff" + b"\x01\x00" + bytes((len(unsigned),)) + unsigned + b"\x00" + b"\x00" + b"\x00"

    read = read_virtual_tx(base64.b64encode(packet).decode())
    assert read.txid == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert read.outputs[0].amount_sats == 5_000_000_000


@given(st.integers(min_value=0, max_value=400), st.binary(max_size=3))
def test_whatever_is_cut_short_or_garbled_is_refused_or_reveals_no_other_preimage(
    at: int, junk: bytes
) -> None:
    preimage = hashlib.sha256(b"preimage").digest()
    packet = base64.b64decode(claim(1_000, SCRIPT, [preimage])[1])
    garbled = packet[: at % len(packet)] + junk

    try:
        found = read_virtual_tx(base64.b64encode(garbled).decode()).preimages
    except VirtualTxError:
        return
    assert found in ((), (preimage,))


@pytest.mark.parametrize(
    "text", ["", "not base64 at all", "cHNidA==", base64.b64encode(b"psbt\xff\x00").decode()]
)
def test_what_is_no_psbt_is_refused(text: str) -> None:
    with pytest.raises(VirtualTxError):
        read_virtual_tx(text)
