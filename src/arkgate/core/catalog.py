"""What is on offer: the one object that prices, challenges and documents are rendered from."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from arkgate.core.money import Msat
from arkgate.core.pricing import BalanceExpiry, Quote, Tariff


class ServiceKind(Enum):
    """What a service sells."""

    CHAT = "chat"
    """Answers of AI models, by `/api/ai-chat` and OpenAI's routes."""
    HTTP = "http"
    """Any HTTP API, forwarded as it is."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A priced path."""

    path: str
    """The exact path, or everything under it when it ends in a slash."""
    methods: tuple[str, ...]
    """The first one is named where one has to be."""
    description: str

    @property
    def is_prefix(self) -> bool:
        """Whether it is everything under its path."""
        return self.path.endswith("/")


@dataclass(frozen=True, slots=True)
class Model:
    """A model by the name that callers use, and its price."""

    name: str
    tariff: Tariff
    max_tokens: int | None = None
    """The longest answer that may be asked for, in tokens; None for no limit of ours."""
    default_max_tokens: int = 4096
    """How long an answer is held for when the caller names no limit."""
    context_tokens: int | None = None
    """What the model reads at most; shown, and held for where a request brings in what it does not hold."""
    picture_tokens: int = 1600
    """What a picture is held for."""
    length_field: str = "max_tokens"
    """Where a chat's length goes when its caller gave none: some models take `max_completion_tokens` only."""


@dataclass(frozen=True, slots=True)
class Service:
    """What one credential buys at one or several endpoints: they share its price and its allowance."""

    name: str
    """The service's name in macaroon caveats: letters, digits and underscores."""
    endpoints: tuple[Endpoint, ...]
    tariff: Tariff
    price: Msat
    """What a call costs at most where no request says more exactly: the fixed price, or the usual hold."""
    calls_per_day: int | None
    """Calls an account may make in one UTC day; None for no limit."""
    description: str
    kind: ServiceKind = ServiceKind.CHAT
    models: tuple[Model, ...] = ()
    """Of a chat service; the first one answers `/api/ai-chat`."""

    @property
    def path(self) -> str:
        """The path that stands for the service."""
        return self.endpoints[0].path

    @property
    def method(self) -> str:
        """The method that stands for the service."""
        return self.endpoints[0].methods[0]

    def quote(self, price: Msat | None = None) -> Quote:
        """What one call of this service costs at most: `price`, or the usual."""
        price = self.price if price is None else price
        return Quote(service=self.name, price=price, calls_per_day=self.calls_per_day)

    def model(self, name: str) -> Model | None:
        """The model of that name."""
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services of this gateway, in the order in which they are shown."""

    services: tuple[Service, ...]
    balance_expiry: BalanceExpiry = BalanceExpiry.NEVER
    """When a balance that nobody uses is lost; told before anybody pays."""

    def __post_init__(self) -> None:
        names = [service.name for service in self.services]
        paths = [endpoint.path for _, endpoint in self.offered()]
        for field, values in (("name", names), ("path", paths)):
            if len(values) != len(set(values)):
                raise ValueError(f"two services share a {field}: {', '.join(values)}")

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def offered(self) -> Iterator[tuple[Service, Endpoint]]:
        """Every endpoint with its service."""
        return ((service, endpoint) for service in self.services for endpoint in service.endpoints)

    @property
    def chat(self) -> Service | None:
        """The service that sells answers of AI models."""
        return next((service for service in self.services if service.kind is ServiceKind.CHAT), None)

    def named(self, name: str) -> Service:
        """The service of that name. Raises KeyError."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)
