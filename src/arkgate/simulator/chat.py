"""A simulated chat backend: several APIs' formats, answers that say what they are, and faults on demand.

It serves OpenAI's chat completions, completions, responses, embeddings and models, and Anthropic's messages.
"""

import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arkgate.simulator.chat_answers import Api, BadWish, Wish, answer_to
from arkgate.simulator.chat_completions import ChatCompletions, Completions
from arkgate.simulator.chat_delivery import Pace, Reply, refused
from arkgate.simulator.chat_dialects import DIALECTS, OPENAI, Dialect
from arkgate.simulator.chat_embeddings import Embeddings
from arkgate.simulator.chat_faults import failing
from arkgate.simulator.chat_messages import Messages
from arkgate.simulator.chat_models import listed, shown
from arkgate.simulator.chat_responses import Responses
from arkgate.simulator.chat_tools import Json
from arkgate.simulator.chat_wire import with_transport
from arkgate.simulator.serving import LOOPBACK, headers_of, serving, target_of

MODELS_DEFAULT = ("simulated-chat",)
RECEIVED_MAX = 1_000_000
CONTENTS_MAX = 10_000
KEPT_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 64 * 1024 * 1024
ANSWERED_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
)
"""Where a model works, which is what a gateway charges for."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_PREFIX = re.compile(r"\s*\[fail:([a-z0-9-]+(?: [0-9.]+)?)\]")
_EARLY = re.compile(rb"\[fail:early-answer(?: [0-9.]+)?\]")


@dataclass(slots=True)
class Faults:
    """How requests fail. `once` is used up first, one entry a request; then `always`; then the prompt.

    An entry is what stands in a prompt's prefix: `[fail:slow 3]` is `slow 3`; `none` answers well.
    """

    always: str | None = None
    once: deque[str] = field(default_factory=deque)

    def choose(self, prompt: str) -> str | None:
        """The fault of the request that has just come."""
        if self.once:
            return self.once.popleft()
        if self.always is not None:
            return self.always
        found = _PREFIX.match(prompt)
        return found.group(1) if found else None

    def early(self, begun: bytes) -> str | None:
        """The prompt that has a request answered whose body has only begun, or None."""
        said = self.once[0] if self.once else self.always
        if said is not None:
            return f"[fail:{said}]" if said.startswith("early-answer") else None
        found = _EARLY.search(begun)
        return found.group().decode() if found else None


@dataclass(frozen=True, slots=True)
class Received:
    """A request. The log keeps the first five: never a prompt."""

    request_id: str
    at_ms: int
    path: str
    model: str
    fault: str | None
    method: str = "POST"
    target: str = ""
    """The path and the query as they came."""
    headers: tuple[tuple[str, str], ...] = ()
    """All of them in their order, their names in lower case. Empty of older requests."""
    body: bytes = b""
    """Its first KEPT_BYTES_MAX. Empty of older requests."""

    def line(self) -> bytes:
        """The log's line."""
        logged = (self.request_id, self.at_ms, self.path, self.model, self.fault)
        names = ("request_id", "at_ms", "path", "model", "fault")
        return json.dumps(dict(zip(names, logged, strict=True))).encode() + b"\n"


class SimulatedChat:
    """The backend. `faults` and the pace may be set at any time; `received` and the log list what came."""

    def __init__(
        self,
        *,
        log_path: Path | None = None,
        models: Sequence[str] = MODELS_DEFAULT,
        api_key: str | None = None,
        dialect: str = OPENAI.name,
    ) -> None:
        self.faults = Faults()
        self.received: deque[Received] = deque(maxlen=RECEIVED_MAX)
        self.models = tuple(models)
        self.api_key = api_key
        """When set, requests without it are answered 401."""
        self.dialect = dialect
        """A name of chat_dialects.DIALECTS."""
        self.first_token_seconds = 0.0
        self.token_seconds = 0.0
        """The pause between two events of a stream; a whole answer takes as long as its tokens together."""
        self.words: int | None = None
        """The length of every answer, which then consists of words that differ."""
        self.contents_max = CONTENTS_MAX
        """Of so many of the newest requests, headers and body are kept."""
        self.port = 0
        self._log_path = log_path
        routes = [
            Route("/v1/chat/completions", partial(self._answer, ChatCompletions), methods=["POST"]),
            Route("/v1/completions", partial(self._answer, Completions), methods=["POST"]),
            Route("/v1/responses", partial(self._answer, Responses), methods=["POST"]),
            Route("/v1/messages", partial(self._answer, Messages), methods=["POST"]),
            Route("/v1/embeddings", partial(self._answer, Embeddings), methods=["POST"]),
            Route("/v1/models", self._list_models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._show_model, methods=["GET"]),
            Route("/{path:path}", self._know_nothing, methods=_METHODS),
        ]
        self.application = with_transport(Starlette(routes=routes))

    @property
    def url(self) -> str:
        """The base URL that OpenAI's clients want. Anthropic's want it without `/v1`."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def request_ids(self) -> list[str]:
        """The `X-Request-Id` of every request to a model so far, in the order in which they came."""
        return [
            received.request_id
            for received in self.received
            if received.method == "POST" and received.path in ANSWERED_PATHS
        ]

    @contextlib.asynccontextmanager
    async def running(self, *, port: int = 0) -> AsyncIterator["SimulatedChat"]:
        """Serves on the loopback interface until the block ends. Raises PortTaken."""
        async with serving(self.application, port=port, purpose="the simulated chat backend") as bound:
            self.port = bound
            yield self

    async def _list_models(self, request: Request) -> Response:
        self._note(request, b"")
        api = self._api_of(request)
        if not self._is_allowed(request):
            return refused(api, 401)
        return JSONResponse(listed(self.models, self._dialect, is_anthropic=isinstance(api, Messages)))

    async def _show_model(self, request: Request) -> Response:
        self._note(request, b"")
        name, api = request.path_params["model"], self._api_of(request)
        if not self._is_allowed(request):
            return refused(api, 401)
        if name not in self.models:
            return refused(api, 404, f"The model '{name}' does not exist")
        return JSONResponse(shown(name, self._dialect, is_anthropic=isinstance(api, Messages)))

    async def _know_nothing(self, request: Request) -> Response:
        """Shows in `received`, not in the log, what else is asked for."""
        arrived = await self._arrival(request)
        self._note(request, arrived.body, is_logged=False)
        return refused(self._api_of(request), 404, "no such path")

    def _api_of(self, request: Request) -> Api:
        """The API of a path that two of them have."""
        return (
            Messages(self._dialect)
            if "anthropic-version" in request.headers
            else ChatCompletions(self._dialect)
        )

    @property
    def _dialect(self) -> Dialect:
        return DIALECTS[self.dialect]

    async def _answer(self, api_of: Callable[[Dialect], Api], request: Request) -> Response:
        api, arrived = api_of(self._dialect), await self._arrival(request)
        body = arrived.read() if arrived.early is None else _early_body(self.models[0], arrived.body)
        wish, complaint = _read(api, body)
        fault = self.faults.choose(arrived.early or (wish.prompt if wish else ""))
        self._note(request, arrived.body, model=str(body.get("model", "")), fault=fault)
        if not self._is_allowed(request):
            return refused(api, 401)
        if wish is None:
            return refused(api, 400, complaint)
        unknown = self._dialect.unknown_model
        if unknown is not None and wish.model not in self.models:
            return refused(api, 404, unknown.format(wish.model))
        reply = self._reply(api, wish)
        return await (reply.response() if fault in (None, "none") else failing(str(fault), reply))

    def _reply(self, api: Api, wish: Wish) -> Reply:
        answer = answer_to(wish, words=self.words)
        return Reply(
            api=api,
            body=api.whole(answer),
            events=tuple(api.events(answer)) if wish.is_streamed else (),
            tokens=len(answer.pieces),
            pace=Pace(self.first_token_seconds, self.token_seconds),
        )

    async def _arrival(self, request: Request) -> "_Arrived":
        """The body; as much of it as has come when the answer shall not wait for the rest."""
        body = bytearray()
        early = self.faults.early(b"")
        if early is not None:
            return _Arrived(b"", early)
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                return _Arrived(b"")
            if len(body) <= KEPT_BYTES_MAX and (early := self.faults.early(bytes(body))) is not None:
                return _Arrived(bytes(body), early)
        return _Arrived(bytes(body))

    def _is_allowed(self, request: Request) -> bool:
        """With the key as OpenAI's clients send it, or as Anthropic's do where they ask."""
        if self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}":
            return True
        is_anthropic = request.url.path == "/v1/messages" or "anthropic-version" in request.headers
        return is_anthropic and request.headers.get("x-api-key") == self.api_key

    def _note(
        self,
        request: Request,
        body: bytes,
        *,
        model: str = "",
        fault: str | None = None,
        is_logged: bool = True,
    ) -> None:
        """Notes a request before it is answered, so that nothing is answered that the log does not show."""
        received = Received(
            request_id=request.headers.get("x-request-id", ""),
            at_ms=time.time_ns() // 1_000_000,
            path=request.url.path,
            model=model,
            fault=fault,
            method=request.method,
            target=target_of(request),
            headers=headers_of(request),
            body=body[:KEPT_BYTES_MAX],
        )
        self.received.append(received)
        if len(self.received) > self.contents_max:
            older = -1 - self.contents_max
            self.received[older] = replace(self.received[older], headers=(), body=b"")
        if self._log_path is not None and is_logged:
            descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, received.line())
            finally:
                os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """What has come of a body."""

    body: bytes
    early: str | None = None
    """The prompt by which the answer does not wait for the rest."""

    def read(self) -> Json:
        """The JSON object; empty when it is none, or was too long."""
        try:
            wish = json.loads(self.body)
        except ValueError:
            return {}
        return wish if isinstance(wish, dict) else {}


def _read(api: Api, body: Json) -> tuple[Wish | None, str]:
    """What is asked for, or why it cannot be read."""
    try:
        return api.read(body), ""
    except BadWish as bad:
        return None, str(bad)


def _early_body(model: str, begun: bytes) -> Json:
    """A request of any API, to answer in the place of one that is not read."""
    said = "You have not said everything yet."
    messages = [{"role": "user", "content": said}]
    stream = b'"stream":true' in begun.replace(b" ", b"")
    return {"model": model, "messages": messages, "prompt": said, "input": said, "max_tokens": 100} | {
        "stream": stream
    }


def logged_request_ids(log_path: Path) -> list[str]:
    """The `X-Request-Id` of every request to a model that a log file lists."""
    lines = log_path.read_text().splitlines() if log_path.exists() else []
    return [line["request_id"] for line in map(json.loads, lines) if line["path"] in ANSWERED_PATHS]
