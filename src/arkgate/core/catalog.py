"""What is on offer: the one object that prices, challenges and documents are rendered from."""

from collections.abc import Iterator
from dataclasses import dataclass

from arkgate.core.money import Msat
from arkgate.core.pricing import BalanceExpiry, Quote


@dataclass(frozen=True, slots=True)
class Service:
    """A priced endpoint."""

    name: str
    """The service's name in macaroon caveats: letters, digits and underscores."""
    method: str
    path: str
    price: Msat
    calls_per_day: int | None
    """Calls an account may make in one UTC day; None for no limit."""
    description: str

    def quote(self) -> Quote:
        """What one call of this service costs at most."""
        return Quote(service=self.name, price=self.price, calls_per_day=self.calls_per_day)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services of this gateway, in the order in which they are shown."""

    services: tuple[Service, ...]
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER
    """When a balance that nobody uses is lost; told before anybody pays."""

    def __post_init__(self) -> None:
        for field in ("name", "path"):
            values = [getattr(service, field) for service in self.services]
            if len(values) != len(set(values)):
                raise ValueError(f"two services share a {field}: {', '.join(values)}")

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def named(self, name: str) -> Service:
        """The service of that name. Raises KeyError."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)
