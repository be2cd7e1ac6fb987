"""What a request to an AI API may have its backend do: no more than its price was made for."""

from collections.abc import Mapping
from typing import Final

from arkgate.core.catalog import Model
from arkgate.core.errors import InvalidRequest, NotSupported
from arkgate.ports import Dialect

LENGTH_MAX: Final = 2**31 - 1
_LENGTHS: Final = {
    Dialect.CHAT: ("max_completion_tokens", "max_tokens"),
    Dialect.COMPLETIONS: ("max_tokens",),
    Dialect.EMBEDDINGS: (),
    Dialect.RESPONSES: ("max_output_tokens",),
    Dialect.MESSAGES: ("max_tokens",),
}
_OTHER_LENGTHS: Final = (
    "n_predict",
    "num_predict",
    "max_new_tokens",
    "max_output_tokens",
    "max_completion_tokens",
    "max_tokens",
)
"""Names that some servers read beside an API's own: llama.cpp's n_predict overrides max_tokens."""
_TIERS: Final = (None, "auto", "default", "flex", "standard_only")
"""What costs no more than usual."""
_OWN_TOOLS: Final = (
    "function",
    "custom",
    "bash_",
    "text_editor_",
    "computer_",
    "memory_",
    "local_shell",
    "shell",
    "apply_patch",
)
"""How the types of tools begin that the caller runs."""
_SERVER_TOOLS: Final = {"web_search_options": "web_search", "mcp_servers": "mcp"}
"""Fields that have the backend run tools, and the type that allows it."""
_STATE: Final = ("previous_response_id", "conversation")
"""What brings in earlier turns that are not in the request."""


def refuse_unpriced(
    dialect: Dialect, document: Mapping[str, object], model: Model, server_tools: tuple[str, ...]
) -> None:
    """Raises NotSupported for what would cost the operator more than the caller pays."""
    if document.get("service_tier") not in _TIERS:
        raise NotSupported("This service_tier is not sold here: leave it out.")
    allowed = (*_OWN_TOOLS, *server_tools)
    for field, kind in _SERVER_TOOLS.items():
        if document.get(field) and not kind.startswith(allowed):
            raise NotSupported(f"{field} is not sold here: leave it out.")
    tools = document.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        of_type = (tool.get("type") or "custom") if isinstance(tool, dict) else None
        if not isinstance(of_type, str):
            raise InvalidRequest("tools must be a list of objects, each with a type.")
        if not of_type.startswith(allowed):
            raise NotSupported(f"Tools of type {of_type[:80]!r} run at the backend and are not sold here.")
    state = brought_in(dialect, document)
    if state and model.tariff.by_tokens and model.context_tokens is None:
        raise NotSupported(
            f"{state} is not sold at a price by tokens: send the whole conversation in the request."
        )


def brought_in(dialect: Dialect, document: Mapping[str, object]) -> str | None:
    """The field by which the question holds more than what is in the request."""
    names = (*_STATE, "prompt") if dialect is Dialect.RESPONSES else ()
    return next((name for name in names if document.get(name)), None)


def bounded(dialect: Dialect, document: dict[str, object], model: Model) -> int | None:
    """The longest answer in tokens, after the ceiling; told to the backend where it decides the price."""
    names = _LENGTHS[dialect]
    if not names:
        return None
    for name in _OTHER_LENGTHS:
        if name not in names and document.pop(name, None) is not None:  # null goes, too: it may mean no limit
            raise InvalidRequest(f"{name} is no field of this API: give {names[-1]}.")
    given = {name: document[name] for name in names if document.get(name) is not None}
    for name, value in given.items():
        if type(value) is not int or not 1 <= value <= LENGTH_MAX:
            raise InvalidRequest(f"{name} must be a whole number from 1 to {LENGTH_MAX}.")
    ceiling = model.max_tokens
    if not given:
        if not model.tariff.by_tokens and ceiling is None:
            return None
        length = model.default_max_tokens if ceiling is None else min(ceiling, model.default_max_tokens)
        document[model.length_field if dialect is Dialect.CHAT else names[-1]] = length
        return length
    length = max(value for value in given.values() if isinstance(value, int))
    if ceiling is not None and length > ceiling:
        length = ceiling
        for name in given:
            document[name] = ceiling
    return length
