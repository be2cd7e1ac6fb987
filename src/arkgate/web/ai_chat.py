"""Reads requests to `/api/ai-chat`: ArkAPI's bodies, within its limits."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from arkgate.core.catalog import Service
from arkgate.core.errors import InvalidRequest, Refusal
from arkgate.gateway.order import CacheWish, Order
from arkgate.ports import Dialect, Outgoing
from arkgate.web.body import chat_messages, check_media_type, read_object
from arkgate.web.guard import BODY_BYTES_MAX
from arkgate.web.shapes import AiChatShape


@dataclass(frozen=True, slots=True)
class AiChatTerms:
    """What the operator adds to every question."""

    system_prompt: str | None = None
    max_tokens: int | None = None


class AiChatReader:
    """Reads the requests of one chat service."""

    body_bytes_max = BODY_BYTES_MAX
    takes_nothing = False

    def __init__(self, service: Service, terms: AiChatTerms) -> None:
        self._service = service
        self._model = service.models[0].name
        self._shape = AiChatShape(self._model)
        self._preamble = [{"role": "system", "content": terms.system_prompt}] if terms.system_prompt else []
        self._length = {} if terms.max_tokens is None else {"max_tokens": terms.max_tokens}

    def read(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Order:
        """See `priced.Reader`."""
        check_media_type(headers)
        return self._order(read_object(body))

    def fingerprint(self, order: Order | Refusal, body: bytes) -> bytes:
        """See `priced.Reader`."""
        return body

    def is_slow(self, body: bytes) -> bool:
        """See `priced.Reader`."""
        return False

    def _order(self, request: Mapping[str, object]) -> Order:
        turns = [{"role": turn.role, "content": turn.content} for turn in chat_messages(request)]
        stream = request.get("stream")
        if stream not in (None, True, False):
            raise InvalidRequest("stream must be true or false.")
        document: dict[str, object] = {
            "model": self._model,
            "messages": [*self._preamble, *turns],
            "stream": bool(stream),
            **self._length,
        }
        if stream:
            document["stream_options"] = {"include_usage": True}
        tariff = self._service.tariff
        return Order(
            Outgoing(Dialect.CHAT, document, self._model, stream=bool(stream), wants_usage=True),
            tariff,
            tariff.call,
            tariff.call,
            self._shape,
            is_data=True,
            cache=CacheWish(document),
        )
