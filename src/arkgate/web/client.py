"""Who a request comes from, for limits: the peer, or what a trusted proxy says of it."""

import functools
import ipaddress
import re
from collections.abc import Sequence

from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPV6_PREFIX = 64
_WITH_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?\Z")


class ClientAddress:
    """Reads client addresses. X-Forwarded-For counts only from trusted proxies, from its right end."""

    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted = tuple(trusted_proxies)

    def of(self, scope: Scope) -> str:
        """The client as limits count it: an IPv4 address, or the /64 network of an IPv6 address."""
        peer = scope.get("client")
        address = peer[0] if peer else "unknown"
        if not self._trusted or not self._is_trusted(address):
            return _bucket(address)
        for hop in reversed(_forwarded_for(scope)):
            address = hop
            if not self._is_trusted(hop):
                break
        return _bucket(address)

    def _is_trusted(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


def _forwarded_for(scope: Scope) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return [hop.strip() for value in values for hop in value.split(",") if hop.strip()][-16:]


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in what a proxy or a socket says: maybe with a port, maybe IPv4 inside IPv6."""
    with_port = _WITH_PORT.match(address)
    try:
        parsed = ipaddress.ip_address(with_port.group(1) or with_port.group(2) if with_port else address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


@functools.lru_cache(maxsize=4096)
def _bucket(address: str) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)
