"""Who a request comes from, for limits: the peer, or what a trusted proxy says of it."""

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPV6_PREFIX = 64


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
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def _forwarded_for(scope: Scope) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return [hop.strip() for value in values for hop in value.split(",") if hop.strip()][-16:]


def _bucket(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address
