"""What a request to an AI API may have its backend do: no more than its price was made for."""

from collections.abc import Iterator, Mapping
from typing import Final

from arkgate.core.catalog import Model
from arkgate.core.errors import InvalidRequest, NotSupported
from arkgate.core.question import HOLDERS, elsewhere, parts_of
from arkgate.gateway.order import Length
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
_OTHER_NUMBERS: Final = ("n_cmpl",)
"""As those, for how many answers there are to be: llama.cpp's."""
_OWN_TOOLS: Final = (
    "function",
    "custom",
    "bash_",
    "text_editor_",
    "computer",
    "memory_",
    "local_shell",
    "shell",
    "apply_patch",
)
"""How the types of tools begin that the caller runs."""
_GROUP: Final = "namespace"
"""The type of a tool that is a list of tools."""
_AT_CALLER: Final[Mapping[str, tuple[str, tuple[object, ...]]]] = {
    "shell": ("environment", (None, "local")),
    "tool_search": ("execution", ("client",)),
}
"""Tools that run at the caller only with these values of a field, or of its `type`."""
_SERVER_TOOLS: Final = {
    "web_search_options": "web_search",
    "search_parameters": "web_search",  # xAI's
    "enable_search": "web_search",  # DashScope's
    "mcp_servers": "mcp",
    "compaction": "compact",
}
"""Fields that have the backend do more than answer, and the type that allows it."""
_USUAL: Final[Mapping[str, tuple[object, ...]]] = {
    "service_tier": (None, "auto", "default", "flex", "standard_only"),
    "speed": (None, "standard"),
    "inference_geo": (None, "global"),
}
"""Fields that make an answer dearer, and their values that do not."""
_NEVER: Final = (
    *("models", "fallbacks", "provider", "preset", "plugins"),  # OpenRouter's
    *("extra_body", "drop_params", "additional_drop_params", "allowed_openai_params"),  # LiteLLM's
    *("context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"),
    *("cached_content", "vector_store_ids", "prompt_id"),
    *("chat_template", "mm_processor_kwargs", "media_io_kwargs", "prompt_embeds"),  # vLLM's
    "prediction",  # OpenAI charges what of it is not used as an answer
)
"""Fields by which a server answers with another model, a search, or another question than was priced."""
_TEMPLATE_NEVER: Final = frozenset(
    {"chat_template", "messages", "conversation", "documents", "tools", "custom_tools"}
)
"""Names in vLLM's `chat_template_kwargs` by which the question is another one."""
_SEARCHING: Final = frozenset(
    {
        *("googlesearch", "googlesearchretrieval", "enterprisewebsearch", "googlemaps", "urlcontext"),
        *("codeexecution", "computeruse", "retrieval", "filesearch"),
    }
)
"""Fields of a tool by which Gemini's API, behind LiteLLM, runs it; without `_`, in lower case."""
_CACHE_TIMES: Final = (None, "5m")
"""How long a server may keep a part of the question: for an hour, it costs twice its price."""
_STATE: Final = ("previous_response_id", "conversation")
"""What brings in earlier turns that are not in the request."""


def refuse_unpriced(
    dialect: Dialect, document: Mapping[str, object], model: Model, server_tools: tuple[str, ...]
) -> None:
    """Raises NotSupported for what would cost the operator more than the caller pays."""
    for field, usual in _USUAL.items():
        if document.get(field) not in usual:
            raise NotSupported(f"This {field} is not sold here: leave it out.")
    allowed = (*_OWN_TOOLS, *server_tools)
    dear = [field for field, kind in _SERVER_TOOLS.items() if not kind.startswith(allowed)]
    for field in (*dear, *_NEVER):
        if _asks(field, document.get(field)):
            raise NotSupported(f"{field} is not sold here: leave it out.")
    kwargs = document.get("chat_template_kwargs")
    if isinstance(kwargs, dict) and not _TEMPLATE_NEVER.isdisjoint(kwargs):
        raise NotSupported("chat_template_kwargs with a question of their own are not sold here.")
    _refuse_compaction(document.get("context_management"), allowed)
    for tool in _tools_in(document):
        _refuse_server_tool(tool, allowed, server_tools)
        _refuse_long_cache(tool)
    _refuse_long_cache(document)
    for name in HOLDERS:
        for part in parts_of(document.get(name)):
            if isinstance(part, dict):
                _refuse_long_cache(part)
    if not model.tariff.by_tokens or model.context_tokens is not None:
        return
    state = brought_in(dialect, document)
    if state is not None:
        raise NotSupported(
            f"What cannot be counted is not sold at a price by tokens: {state}. Send all of the question "
            "in the request, as text."
        )


def _asks(field: str, value: object) -> bool:
    """Whether the value of such a field asks for something: an empty object may ask for the usual search."""
    if field == "search_parameters" and isinstance(value, dict):
        return value.get("mode") != "off"
    return bool(value) or (field == "web_search_options" and isinstance(value, dict))


def _tools_in(document: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Every tool: those in groups, too, and those that turns bring in, as responses' have them."""
    if not isinstance(document.get("tools"), (list, type(None))):
        raise InvalidRequest("tools must be a list of objects, each with a type.")
    stack = [document.get("tools")]
    for part in parts_of(document.get("input")):
        brought = part.get("tools") if isinstance(part, dict) else None
        if brought is not None:
            stack.append(brought)
    while stack:
        tools = stack.pop()
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict) or not isinstance(tool.get("type"), (str, type(None))):
                raise InvalidRequest("tools must be a list of objects, each with a type.")
            if tool.get("type") == _GROUP:
                stack.append(tool.get("tools"))
            else:
                yield tool


def _refuse_server_tool(
    tool: Mapping[str, object], allowed: tuple[str, ...], server_tools: tuple[str, ...]
) -> None:
    kind = str(tool.get("type") or "custom")
    if kind.startswith(server_tools):
        return
    for name in tool:
        if name.replace("_", "").lower() in _SEARCHING and not name.startswith(server_tools):
            raise NotSupported(f"Tools with {name[:80]!r} run at the backend and are not sold here.")
    runs_at_caller = kind.startswith(allowed)
    if kind in _AT_CALLER:
        field, values = _AT_CALLER[kind]
        value = tool.get(field)
        runs_at_caller = (value.get("type") if isinstance(value, dict) else value) in values
    if not runs_at_caller:
        raise NotSupported(f"Tools of type {kind[:80]!r} run at the backend and are not sold here.")


def _refuse_long_cache(holder: Mapping[str, object]) -> None:
    control = holder.get("cache_control")
    if isinstance(control, dict) and control.get("ttl") not in _CACHE_TIMES:
        raise NotSupported("A cache_control of an hour is not sold here: leave its ttl out.")


def _refuse_compaction(management: object, allowed: tuple[str, ...]) -> None:
    """Compaction has the model write a summary first, which no length bounds."""
    edits = management.get("edits") if isinstance(management, dict) else management
    for edit in edits if isinstance(edits, list) else ():
        kind = edit.get("type") if isinstance(edit, dict) else None
        if isinstance(kind, str) and kind.startswith("compact") and not kind.startswith(allowed):
            raise NotSupported("Compaction at the backend is not sold here: leave context_management out.")


def asks_for_length(dialect: Dialect, document: Mapping[str, object]) -> bool:
    """Whether a caller asks for anything that makes his answer long."""
    return any(document.get(name) for name in (*_LENGTHS[dialect], "n")) or _has_logprobs(document)


def answer_length(document: Mapping[str, object], tokens: int) -> Length:
    """How long an answer may be that has so many tokens in all of its choices."""
    modalities = document.get("modalities")
    return Length(tokens, has_sounds=isinstance(modalities, list) and "audio" in modalities)


def _has_logprobs(document: Mapping[str, object]) -> bool:
    """Whether each token of the answer comes with others that it might have been, at up to 5 KB a token."""
    included = document.get("include")
    return bool(
        document.get("logprobs")
        or document.get("top_logprobs")
        or (isinstance(included, list) and "message.output_text.logprobs" in included)
    )


def brought_in(dialect: Dialect, document: Mapping[str, object]) -> str | None:
    """By what the question holds more than is in the request; None where it does not."""
    names = (*_STATE, "prompt") if dialect is Dialect.RESPONSES else ()
    for name in names:
        if document.get(name):
            return name
    for name in HOLDERS:
        for part in parts_of(document.get(name)):
            what = elsewhere(part) if isinstance(part, dict) else None
            if what is not None:
                return what
    return None


def bounded(dialect: Dialect, document: dict[str, object], model: Model) -> int | None:
    """The longest answer in tokens, after the ceiling; told to the backend where it decides the price."""
    names = _LENGTHS[dialect]
    _refuse_other_names(document, names)
    if not names:
        return None
    given = _given_lengths(document, names)
    ceiling = model.max_tokens
    if not given:
        is_long = document.get("n") not in (None, 1) or _has_logprobs(document)
        if not (model.tariff.by_tokens or is_long) and ceiling is None:
            return None
        length = model.default_max_tokens if ceiling is None else min(ceiling, model.default_max_tokens)
        document[model.length_field if dialect is Dialect.CHAT else names[-1]] = length
        return length
    length = max(given.values())
    if ceiling is not None and length > ceiling:
        length = ceiling
        for name in given:
            document[name] = ceiling
    return length


def _refuse_other_names(document: dict[str, object], names: tuple[str, ...]) -> None:
    for name in _OTHER_NUMBERS:
        if document.pop(name, None) is not None:  # null goes, too: it may mean no limit
            raise InvalidRequest(f"{name} is no field of this API: give n.")
    for name in _OTHER_LENGTHS if names else ():
        if name not in names and document.pop(name, None) is not None:
            raise InvalidRequest(f"{name} is no field of this API: give {names[-1]}.")


def _given_lengths(document: dict[str, object], names: tuple[str, ...]) -> dict[str, int]:
    """The lengths that a caller named. Those of -1 are taken out: some clients say so that they name none."""
    given: dict[str, int] = {}
    for name in names:
        value = document.get(name)
        if value is None:
            continue
        if value == -1:
            del document[name]
        elif type(value) is int and 1 <= value <= LENGTH_MAX:
            given[name] = value
        else:
            raise InvalidRequest(f"{name} must be a whole number from 1 to {LENGTH_MAX}.")
    return given
