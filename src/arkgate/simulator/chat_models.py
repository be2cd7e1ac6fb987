"""The list of models, as OpenAI and Anthropic write it."""

from collections.abc import Sequence

from arkgate.simulator.chat_dialects import Dialect
from arkgate.simulator.chat_tools import Json


def listed(models: Sequence[str], dialect: Dialect, *, is_anthropic: bool) -> Json:
    """All models."""
    data = [shown(name, dialect, is_anthropic=is_anthropic) for name in models]
    if not is_anthropic:
        return {"object": "list", "data": data}
    first, last = (models[0], models[-1]) if models else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def shown(name: str, dialect: Dialect, *, is_anthropic: bool) -> Json:
    """One model."""
    if is_anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    model = {"id": name, "object": "model", "created": 0, "owned_by": dialect.owner}
    return {**model, **dialect.model_extra}
