"""What every client program shares: where it calls, what it asks, and how it says what it saw."""

import base64
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

URL = os.environ["CLIENT_URL"]
"""The base URL that OpenAI's clients want, with `/v1`."""
KEYS: Mapping[str, str] = json.loads(os.environ["CLIENT_KEYS"])
"""What may stand as `api_key`, by a name. The first makes the calls that shall fail."""
MODEL = os.environ["CLIENT_MODEL"]
QUESTION = os.environ["CLIENT_QUESTION"]
REFUSED: Mapping[str, Mapping[str, Any]] = json.loads(os.environ.get("CLIENT_REFUSED", "{}"))
"""Calls that shall fail: by a name, what of `url`, `key`, `model`, `messages` and `stream` differs."""

TOOL_QUESTION = "Please use a tool: what is the weather?"
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360f8cfc0f01f000501027f7e6d2b0a0000000049454e44ae426082"
    )
).decode()
"""A picture of one pixel."""
IMAGE = f"data:image/png;base64,{PNG}"
TEXTS = ["Ark", "Lightning"]
HEADERS = ("x-request-id", "x-cost-sats", "x-balance-sats", "x-credit-balance", "x-ratelimit-remaining")


def asking(content: Any) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]


def headers_of(response: Any) -> dict[str, str]:
    """Those of the answer's headers that buyers read."""
    return {name: response.headers[name] for name in HEADERS if name in response.headers}


def publish(
    *,
    sdk: str,
    facts_of: Callable[[str], Mapping[str, Any]],
    refuse: Callable[[Mapping[str, Any], list[Any]], object],
) -> None:
    """Prints as one JSON object what a client saw with each key, and how the calls that shall fail did.

    `refuse` makes one of them: it gets the call's fields, and a list to which it appends every HTTP request.
    """
    facts = {name: facts_of(key) for name, key in KEYS.items()}
    with ThreadPoolExecutor(max_workers=len(REFUSED) or 1) as pool:
        refused = dict(pool.map(lambda name: (name, _refusal(refuse, REFUSED[name])), REFUSED))
    print(json.dumps({"sdk": sdk, "facts": facts, "refused": refused}))


def _refusal(refuse: Callable[[Mapping[str, Any], list[Any]], object], differs: Mapping[str, Any]) -> Any:
    first_key = next(iter(KEYS.values()))
    usual = {"url": URL, "key": first_key, "model": MODEL, "messages": asking(QUESTION), "stream": False}
    sent: list[Any] = []
    try:
        refuse({**usual, **differs}, sent)
    except Exception as error:  # noqa: BLE001  # whatever a client raises is what its user meets
        return {
            "kinds": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "request_id": getattr(error, "request_id", None),
            "requests": len(sent),
        }
    return {"kinds": [], "requests": len(sent)}
