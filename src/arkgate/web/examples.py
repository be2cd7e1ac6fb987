"""One request to each priced endpoint that anybody can copy, for every page and map that shows one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from arkgate.core.catalog import Endpoint, Service, ServiceKind

_QUESTION: Final = "How is Ark different from Lightning?"
_BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": _QUESTION}]},
    "/v1/completions": {"prompt": _QUESTION},
    "/v1/embeddings": {"input": _QUESTION},
    "/v1/responses": {"input": _QUESTION},
    "/v1/messages": {"messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 256},
}


@dataclass(frozen=True, slots=True)
class Example:
    """A request without its credential."""

    method: str
    path: str
    body: Mapping[str, Any] | None

    def curl(self, public_url: str, credential: str) -> str:
        """The line for a shell."""
        parts = ["curl", f"{public_url}{self.path}", f'-H "Authorization: {credential}"']
        if self.body is not None:
            parts += ['-H "Content-Type: application/json"', f"-d '{json.dumps(self.body)}'"]
        elif self.method != "GET":
            parts.insert(1, f"-X {self.method}")
        return " ".join(parts)


def example_of(service: Service, endpoint: Endpoint) -> Example:
    """The request that shows an endpoint; of other APIs only method and path are known here."""
    method = endpoint.methods[0]
    if service.kind is ServiceKind.HTTP:
        return Example(method, endpoint.path, None)
    body = _BODIES.get(endpoint.path)
    if body is None:
        return Example(method, endpoint.path, {"prompt": _QUESTION})
    return Example(method, endpoint.path, {"model": service.models[0].name, **body})
