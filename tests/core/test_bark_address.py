"""What is read from a bark address; the addresses are those of bark's own tests."""

import pytest

from arkgate.core.bark_address import CHARSET, AddressError, BarkAddress, checksum, read_bark_address

MAINNET = (
    "ark1pwh9vsmezqqpharv69q4z8m6x364d5m5prnmcalcalq9pdmzw0y7mpveck4pcfhezqypczkrrj3lkx5ue4qrf4jc7ztpt9htdttmh2j"
    "udhqnu7aue8p0y9mqkr4cf5"
)
TESTNET = (
    "tark1pwh9vsmezqqpharv69q4z8m6x364d5m5prnmcalcalq9pdmzw0y7mpveck4pcfhezqypczkrrj3lkx5ue4qrf4jc7ztpt9htdttmh2j"
    "udhqnu7aue8p0y9mq47jn9z"
)
KEY = bytes.fromhex("037e8d9a282a23ef468eaada6e811cf78eff1df80a16ec4e793db0b338b54384df")


def test_network_and_key_are_read_in_either_case() -> None:
    assert read_bark_address(MAINNET) == BarkAddress(True, KEY)
    assert read_bark_address(TESTNET.upper()) == BarkAddress(False, KEY)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a bark address"),
        ("bc1" + MAINNET[4:], "not a bark address"),
        (MAINNET.replace("7", "b", 1), "not a bark address"),
        (MAINNET[:-1] + "q", "checksum"),
        (MAINNET[:4] + "q" + MAINNET[5:], "checksum"),
        ("t" + MAINNET, "checksum"),
        ("ark1", "checksum"),
    ],
)
def test_what_is_no_address_is_refused(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        read_bark_address(text)


def test_an_address_of_another_policy_or_implementation_is_refused() -> None:
    def spelled(words: list[int]) -> str:
        return "ark1" + "".join(CHARSET[word] for word in [*words, *checksum("ark", words)])

    with pytest.raises(AddressError, match="another Ark implementation"):
        read_bark_address(spelled([0] * 60))
    with pytest.raises(AddressError, match="not one of a single key"):
        read_bark_address(spelled([1] + [0] * 60))
