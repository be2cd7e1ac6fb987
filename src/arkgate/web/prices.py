"""What calls of an endpoint cost, as every list, map and page tells it: from the tariff that is charged."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from arkgate.core.catalog import Endpoint, Model, Service, ServiceKind
from arkgate.core.money import Msat, whole_sats
from arkgate.core.pricing import Tariff
from arkgate.core.question import at_most
from arkgate.ports import Dialect
from arkgate.web.openai import PATHS
from arkgate.web.shapes import exact_sats

SHORT_QUESTION_TOKENS: Final = 100
"""How long the question is that a price by tokens is shown for."""
SHELL_TOKENS: Final = 8
"""What stands around it: a turn with its role."""


class PriceKind(Enum):
    """What the one amount of an endpoint's price means; the value is what callers are told."""

    FIXED = "fixed"
    """Each call costs it."""
    AT_MOST = "at_most"
    """A call is paid by what it uses, up to that."""
    BY_TOKENS = "by_tokens"
    """A short question, with an answer of the default length, costs at most that."""
    BY_MODEL = "by_model"
    """The models have prices of their own, and it is the first one's: by tokens, or for a call."""


@dataclass(frozen=True, slots=True)
class Price:
    """What calls of one endpoint cost."""

    kind: PriceKind
    amount: Msat
    tariff: Tariff
    """Of the model that answers when none is named; of other APIs, the service's."""

    @property
    def cost_sats(self) -> int:
        """The amount in whole sats, rounded up."""
        return whole_sats(self.amount, asked_for=True)

    @property
    def words(self) -> str:
        """It in words, for whoever reads English."""
        sats = exact_sats(self.amount)
        if self.kind is PriceKind.FIXED:
            return f"{sats} sats a call"
        if self.kind is PriceKind.AT_MOST:
            return f"up to {sats} sats a call"
        example = (
            f"up to {sats} sats for a short question" if self.tariff.by_tokens else f"{sats} sats a call"
        )
        if self.kind is PriceKind.BY_TOKENS:
            return f"by tokens, {example}"
        return f"by model (GET /v1/models), {example} with the first"


def price_of(service: Service, endpoint: Endpoint) -> Price:
    """What calls of that endpoint cost."""
    dialect = PATHS.get(endpoint.path) if service.kind is ServiceKind.CHAT else None
    if dialect is None:
        kind = PriceKind.FIXED if service.tariff.is_fixed else PriceKind.AT_MOST
        return Price(kind, service.price, service.tariff)
    first = service.models[0]
    kind = PriceKind.BY_TOKENS if first.tariff.by_tokens else PriceKind.FIXED
    example = _example(first, dialect)
    if any((model.tariff, _example(model, dialect)) != (first.tariff, example) for model in service.models):
        kind = PriceKind.BY_MODEL
    return Price(kind, example, first.tariff)


def _example(model: Model, dialect: Dialect) -> Msat:
    """A call's price; by tokens, what a short question is held for where no length is named."""
    if not model.tariff.by_tokens:
        return model.tariff.call
    length = min(model.default_max_tokens, model.max_tokens or model.default_max_tokens)
    answer = 0 if dialect is Dialect.EMBEDDINGS else length
    return max(Msat(1), model.tariff.most(at_most(SHORT_QUESTION_TOKENS + SHELL_TOKENS), answer))


def tariff_told(tariff: Tariff) -> dict[str, object]:
    """A price list: in sats, with what each part is for in its name."""
    parts = {
        "call_sats": tariff.call,
        "input_sats_per_million_tokens": tariff.input_tokens,
        "cached_sats_per_million_tokens": tariff.cached_tokens,
        "cache_write_sats_per_million_tokens": tariff.written_tokens,
        "output_sats_per_million_tokens": tariff.output_tokens,
        "second_sats": tariff.second,
        "kilobyte_sats": tariff.kilobyte,
    }
    return {name: exact_sats(amount) for name, amount in parts.items() if amount}
