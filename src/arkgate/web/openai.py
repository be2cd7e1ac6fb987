"""Reads requests to OpenAI's routes, and to Anthropic's: what is decided on is what is sent on.

The body goes on as it was read, so that the backend and the price cannot see two different requests: the
model by its own name, the length bounded, and the usage asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson
from starlette.types import Scope

from arkgate.core.catalog import Model, Service
from arkgate.core.errors import InvalidRequest, NotFound, NotSupported, Refusal
from arkgate.core.money import Msat, format_sats, sats
from arkgate.core.pricing import Used
from arkgate.core.question import QuestionTokens
from arkgate.gateway.order import CacheWish, Order, Shape
from arkgate.ports import Dialect, Outgoing
from arkgate.web.body import AMOUNT_SATS_MAX, check_media_type
from arkgate.web.bounds import answer_length, asks_for_length, bounded, brought_in, refuse_unpriced
from arkgate.web.shapes import AnthropicShape, OpenAiShape

Count = Callable[[Outgoing], QuestionTokens]
PATHS: Final = {
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/completions": Dialect.COMPLETIONS,
    "/v1/embeddings": Dialect.EMBEDDINGS,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/messages": Dialect.MESSAGES,
}
CHOICES_MAX = 16
HOLD_MAX: Final = sats(AMOUNT_SATS_MAX)
"""What a call may cost at most."""
DEPTH_MAX = 64
"""Of lists and objects: what is nested deeper costs a model, for which a template indents it, ever more."""
PARTS_MAX = 20_000
"""How many lists and objects a body may have: looking at each takes microseconds."""
EXPECTED_TOKENS = 256
"""What an answer is expected to have, for a price that is only foretold."""
VALUES_MAX = 1_000_000
"""How many commas a body may have: token ids, most likely."""
TEXTS_MAX = 250_000
"""How many names and texts, in which nothing is quoted."""
READ_ASIDE_BYTES = 16 * 1024
"""A longer body is read beside the event loop where its tokens have to be counted."""
READ_ASIDE_UNCOUNTED_BYTES = 64 * 1024
"""A longer body is read there anyway."""
READ_ASIDE_PARTS = 256
"""So is one with more lists and objects."""
_ASKED: Final = {
    Dialect.CHAT: "messages",
    Dialect.COMPLETIONS: "prompt",
    Dialect.EMBEDDINGS: "input",
    Dialect.RESPONSES: "input",
    Dialect.MESSAGES: "messages",
}
_PASSED: Final = {Dialect.MESSAGES: (b"anthropic-version", b"anthropic-beta")}
"""Headers that belong to the request's meaning."""
_WITHOUT_EFFECT: Final = frozenset({"stream_options"})
"""What does not affect the answer. `user` and `metadata` do: they stand in what Responses answer."""


@dataclass(frozen=True, slots=True)
class CacheRules:
    """Which of OpenAI's requests an earlier answer is good for."""

    temperature_max: float = 0.0
    tools: bool = False

    def allow(self, document: Mapping[str, object]) -> bool:
        """Whether the caller wants the same answer to the same question, or cannot tell the difference."""
        temperature = document.get("temperature")
        is_cool = isinstance(temperature, (int, float)) and temperature <= self.temperature_max
        if not is_cool or document.get("n") not in (None, 1):
            return False
        return self.tools or not (document.get("tools") or document.get("functions"))


class OpenAiReader:
    """Reads the requests to one route of a chat service."""

    takes_nothing = False

    def __init__(
        self,
        service: Service,
        dialect: Dialect,
        *,
        count: Count,
        cache: CacheRules,
        body_bytes_max: int,
        server_tools: tuple[str, ...] = (),
    ) -> None:
        """`server_tools` begin the types of tools that the backend may run at the operator's cost."""
        self.body_bytes_max = body_bytes_max
        self._service = service
        self._dialect = dialect
        self._count = count
        self._cache = cache
        self._server_tools = server_tools
        self._counts = any(model.tariff.by_tokens for model in service.models)

    def read(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Order:
        """See `priced.Reader`."""
        check_media_type(headers)
        return self._order(self._dialect, read_document(body), headers)

    def fingerprint(self, order: Order | Refusal, body: bytes) -> bytes:
        """See `priced.Reader`."""
        headers = () if isinstance(order, Refusal) else order.outgoing.headers
        return b"\0".join(
            [self._dialect.value.encode(), *(name + b":" + value for name, value in headers), body]
        )

    def is_slow(self, body: bytes) -> bool:
        """See `priced.Reader`."""
        most = READ_ASIDE_BYTES if self._counts else READ_ASIDE_UNCOUNTED_BYTES
        return len(body) > most or body.count(b"[") + body.count(b"{") > READ_ASIDE_PARTS

    def _order(self, dialect: Dialect, document: dict[str, object], headers: Mapping[bytes, bytes]) -> Order:
        model = self._model(document.get("model"))
        if not document.get(_ASKED[dialect]):
            raise InvalidRequest(f"{_ASKED[dialect]} is missing or empty.")
        stream = _flag(document, "stream")
        refuse_unpriced(dialect, document, model, self._server_tools)
        if document.get("service_tier") == "auto":  # the default; some servers take it for a dearer one
            del document["service_tier"]
        choices = _choices(document)
        is_asked_for = asks_for_length(dialect, document)  # before a length of ours stands there
        length = bounded(dialect, document, model)
        wants_usage = False
        if stream and dialect in (Dialect.CHAT, Dialect.COMPLETIONS):
            wants_usage = _ask_for_usage(document)
        if dialect is Dialect.RESPONSES and document.get("background"):
            raise NotSupported("background is not supported: an answer is paid when it is there.")
        passed = tuple((name, headers[name]) for name in _PASSED.get(dialect, ()) if name in headers)
        outgoing = Outgoing(
            dialect,
            document,
            model.name,
            stream=stream,
            wants_usage=wants_usage,
            choices=choices,
            headers=passed,
        )
        shape: Shape = AnthropicShape()
        if dialect is not Dialect.MESSAGES:
            shape = OpenAiShape(dialect, wants_usage=wants_usage, model=model.name)
        hold, expected = self._price(outgoing, model, length, choices)
        return Order(
            outgoing,
            model.tariff,
            hold,
            expected,
            shape,
            cache=self._cache_wish(dialect, document),
            length=answer_length(document, length * choices) if is_asked_for and length is not None else None,
        )

    def _model(self, name: object) -> Model:
        models = self._service.models
        if name is None:
            return models[0]
        if not isinstance(name, str):
            raise InvalidRequest("model must be a string.")
        model = self._service.model(name)
        if model is None:
            known = ", ".join(model.name for model in models[:5])
            raise NotFound(
                f"There is no model {name[:80]!r} here. GET /v1/models lists them: {known}.",
                code="model_not_found",
            )
        return model

    def _price(self, outgoing: Outgoing, model: Model, length: int | None, choices: int) -> tuple[Msat, Msat]:
        """What the call costs at most, and what it is expected to cost."""
        tariff = model.tariff
        if not tariff.by_tokens:
            return tariff.call, tariff.call
        asked, most = self._question(outgoing, model)
        answered = 0 if length is None else length * choices
        usual = Used(input_tokens=asked, output_tokens=min(answered, EXPECTED_TOKENS * choices))
        # A hold of nothing cannot be taken; what is charged may be less than this one.
        hold = max(Msat(1), tariff.most(most, answered))
        if hold > HOLD_MAX:
            raise InvalidRequest(
                f"This call may cost {format_sats(hold)}, and a call can be paid up to "
                f"{format_sats(HOLD_MAX)}: ask for a shorter answer, or fewer."
            )
        return hold, tariff.cost(usual)

    def _question(self, outgoing: Outgoing, model: Model) -> tuple[int, int]:
        """How many tokens the question is likely to have, and at most: never more than the model reads."""
        context = model.context_tokens
        if context is not None and brought_in(outgoing.dialect, outgoing.document or {}):
            return context, context
        counted = self._count(outgoing)
        most = counted.most + counted.pictures * model.picture_tokens
        if context is not None:
            most = min(most, context)
        return min(counted.usual, most), most

    def _cache_wish(self, dialect: Dialect, document: Mapping[str, object]) -> CacheWish | None:
        if dialect is not Dialect.EMBEDDINGS and not self._cache.allow(document):
            return None
        if document.get("conversation"):  # the backend adds the turn to it: the next answer is another one
            return None
        return CacheWish(document, _WITHOUT_EFFECT)


def read_document(body: bytes) -> dict[str, object]:
    """The JSON object of a body. Raises InvalidRequest."""
    if body.count(b",") > VALUES_MAX or body.count(b'"') - body.count(b'\\"') > 2 * TEXTS_MAX:
        raise InvalidRequest(
            f"The body has more than {VALUES_MAX:,} values or {TEXTS_MAX:,} names and texts."
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest("The body is not valid JSON.") from exc
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX:
        _check_shape(document)
    return document


def _check_shape(document: Mapping[str, object]) -> None:
    """Raises InvalidRequest for too many parts or levels."""
    level: list[object] = [document]
    parts = 0
    for _ in range(DEPTH_MAX):
        held = (inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list)))
        level = list(islice(held, PARTS_MAX + 1))
        parts += len(level)
        if not level:
            return
        if parts > PARTS_MAX:
            raise InvalidRequest(f"The body has more than {PARTS_MAX:,} lists and objects.")
    raise InvalidRequest(f"The body is nested deeper than {DEPTH_MAX} levels.")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _flag(document: Mapping[str, object], name: str) -> bool:
    value = document.get(name)
    if value not in (None, True, False):
        raise InvalidRequest(f"{name} must be true or false.")
    return bool(value)


def _choices(document: Mapping[str, object]) -> int:
    """How many answers are asked for: so many to each prompt of a list."""
    numbers = [1]
    for name in ("n", "best_of"):
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= CHOICES_MAX:
            raise InvalidRequest(f"{name} must be a whole number from 1 to {CHOICES_MAX}.")
        numbers.append(value)
    prompts = document.get("prompt")
    if not isinstance(prompts, list) or all(isinstance(entry, int) for entry in prompts):
        return max(numbers)
    return max(numbers) * len(prompts)


def _ask_for_usage(document: dict[str, object]) -> bool:
    """Has the backend tell the usage at the end of the stream; answers whether the caller asked for it."""
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object.")
    wanted = bool(options and options.get("include_usage"))
    document["stream_options"] = {**(options or {}), "include_usage": True}
    return wanted
