"""Whom limits count against: a matrix of what clients and proxies write, true or not."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkgate.web.client import ClientAddress

PROXIES = tuple(ipaddress.ip_network(text) for text in ("127.0.0.1", "10.0.0.0/8", "fd00::/8"))


def client(peer: str | None, *forwarded: str, trusted: bool = True) -> str:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in forwarded)]
    scope = {"type": "http", "client": (peer, 5) if peer else None, "headers": headers}
    return ClientAddress(PROXIES if trusted else ()).of(scope)


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        # nobody stands between us
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),
        ("203.0.113.7", ("127.0.0.1",), "203.0.113.7"),
        # one proxy of ours: the right end is what it saw
        ("127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("127.0.0.1", ("6.6.6.6, 198.51.100.1",), "198.51.100.1"),
        ("127.0.0.1", ("127.0.0.1, 198.51.100.1",), "198.51.100.1"),
        ("127.0.0.1", ("6.6.6.6", "198.51.100.1"), "198.51.100.1"),
        ("127.0.0.1", ("198.51.100.1", "127.0.0.1"), "198.51.100.1"),
        # two proxies of ours
        ("127.0.0.1", ("6.6.6.6, 198.51.100.1, 10.1.2.3",), "198.51.100.1"),
        ("10.9.9.9", ("198.51.100.1,10.1.2.3 , 10.1.2.4",), "198.51.100.1"),
        # only proxies: the first of them
        ("127.0.0.1", ("10.1.2.3, 10.1.2.4",), "10.1.2.3"),
        # what is not an address is a client of its own, of bounded length
        ("127.0.0.1", ("198.51.100.1, unknown",), "unknown"),
        ("127.0.0.1", ("x" * 500,), "x" * 64),
        ("127.0.0.1", (" , ,",), "127.0.0.1"),
        # one network of IPv6 is one client
        ("2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ("127.0.0.1", ("2001:db8:1:2::9",), "2001:db8:1:2::/64"),
        ("fd00::1", ("2001:db8:1:2::9",), "2001:db8:1:2::/64"),
        # an IPv4 address that came over an IPv6 socket is that IPv4 address
        ("::ffff:203.0.113.7", (), "203.0.113.7"),
        ("::ffff:127.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("127.0.0.1", ("198.51.100.1, ::ffff:10.1.2.3",), "198.51.100.1"),
        # some proxies add the port: a client does not become another one with each connection
        ("127.0.0.1", ("198.51.100.1:40312",), "198.51.100.1"),
        ("127.0.0.1", ("[2001:db8:1:2::9]:40312",), "2001:db8:1:2::/64"),
        ("127.0.0.1", ("[2001:db8:1:2::9]",), "2001:db8:1:2::/64"),
        (None, (), "unknown"),
    ],
)
def test_a_client_is_whom_a_trusted_proxy_saw(
    peer: str | None, forwarded: tuple[str, ...], counted: str
) -> None:
    assert client(peer, *forwarded) == counted


def test_without_trusted_proxies_nothing_that_is_forwarded_counts() -> None:
    assert client("127.0.0.1", "198.51.100.1", trusted=False) == "127.0.0.1"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=4))
def test_whatever_a_client_writes_before_its_address_changes_nothing(lines: list[str]) -> None:
    assert client("127.0.0.1", *lines, "198.51.100.1") == "198.51.100.1"
    assert len(client("127.0.0.1", *lines)) <= 64
