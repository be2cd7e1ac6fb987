"""A simulated chat backend: OpenAI's wire format, answers that say what they are, and faults on demand."""

import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arkgate.simulator.chat_answers import answer_to, prompt_of, read_request, streamed
from arkgate.simulator.chat_faults import error, failing, with_transport
from arkgate.simulator.serving import LOOPBACK, serving

MODELS_DEFAULT = ("simulated-chat",)
RECEIVED_MAX = 1_000_000
_PREFIX = re.compile(r"\s*\[fail:([a-z0-9-]+(?: [0-9.]+)?)\]")


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


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the log keeps it: never with a prompt."""

    request_id: str
    at_ms: int
    path: str
    model: str
    fault: str | None


class SimulatedChat:
    """The backend. `faults` may be set at any time; `received` and the log file list what came."""

    def __init__(
        self,
        *,
        log_path: Path | None = None,
        models: Sequence[str] = MODELS_DEFAULT,
        api_key: str | None = None,
    ) -> None:
        self.faults = Faults()
        self.received: deque[Received] = deque(maxlen=RECEIVED_MAX)
        self.models = tuple(models)
        self.api_key = api_key
        """When set, requests without it are answered 401."""
        self.port = 0
        self._log_path = log_path
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._list_models, methods=["GET"]),
        ]
        self.application = with_transport(Starlette(routes=routes))

    @property
    def url(self) -> str:
        """The base URL that OpenAI's clients want."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def request_ids(self) -> list[str]:
        """The `X-Request-Id` of every chat request so far, in the order in which they came."""
        return [received.request_id for received in self.received if received.path.endswith("/completions")]

    @contextlib.asynccontextmanager
    async def running(self, *, port: int = 0) -> AsyncIterator["SimulatedChat"]:
        """Serves on the loopback interface until the block ends. Raises PortTaken."""
        async with serving(self.application, port=port, purpose="the simulated chat backend") as bound:
            self.port = bound
            yield self

    async def _list_models(self, request: Request) -> Response:
        self._note(request, model="", fault=None)
        if not self._is_allowed(request):
            return error(401)
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "arkgate"} for name in self.models
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _complete(self, request: Request) -> Response:
        wish = await read_request(request)
        prompt = prompt_of(wish)
        fault = self.faults.choose(prompt)
        model = str(wish.get("model", ""))
        self._note(request, model=model, fault=fault)
        if not self._is_allowed(request):
            return error(401)
        if not model or not isinstance(wish.get("messages"), list) or not wish["messages"]:
            return error(400)
        answer = answer_to(wish, prompt)
        if fault is not None and fault != "none":
            return await failing(fault, answer, stream=bool(wish.get("stream")))
        return streamed(answer) if wish.get("stream") else JSONResponse(answer)

    def _is_allowed(self, request: Request) -> bool:
        return self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}"

    def _note(self, request: Request, *, model: str, fault: str | None) -> None:
        """Logs a request before it is answered, so that nothing is answered that the log does not show."""
        received = Received(
            request_id=request.headers.get("x-request-id", ""),
            at_ms=time.time_ns() // 1_000_000,
            path=request.url.path,
            model=model,
            fault=fault,
        )
        self.received.append(received)
        if self._log_path is not None:
            descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, json.dumps(asdict(received)).encode() + b"\n")
            finally:
                os.close(descriptor)


def logged_request_ids(log_path: Path) -> list[str]:
    """The `X-Request-Id` of every chat request that a log file lists."""
    lines = log_path.read_text().splitlines() if log_path.exists() else []
    return [line["request_id"] for line in map(json.loads, lines) if line["path"].endswith("/completions")]
