"""Reads what an OpenAI-compatible server answers; knows no sockets."""

from collections.abc import Sequence

import orjson

from arkgate.core.errors import BackendRejected, Refusal, UpstreamError
from arkgate.ports import Completion

ERROR_CHARACTERS_MAX = 300
MODEL_CHARACTERS_MAX = 128

CALLERS_MISTAKES = frozenset({400, 413, 422})
"""The backend's statuses that are passed on; every other failure is the operator's trouble."""


def read_completion(body: bytes, *, default_model: str) -> Completion:
    """The completion in a 2xx answer. Raises UpstreamError when there is none."""
    answer = _load(body)
    text = _text_of(answer)
    if not text.strip():
        raise UpstreamError("The chat backend answered without any text; nothing was charged.")
    model = answer.get("model")
    usage = answer.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt_tokens = _count(counts.get("prompt_tokens"))
    completion_tokens = _count(counts.get("completion_tokens"))
    return Completion(
        text=text,
        model=plain(model, MODEL_CHARACTERS_MAX) if isinstance(model, str) and model else default_model,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=_count(counts.get("total_tokens")) or prompt_tokens + completion_tokens,
    )


def read_refusal(status: int, body: bytes, *, secret: str | None) -> Refusal:
    """What a failed answer means for the caller. Says nothing of the backend's address or key."""
    if status not in CALLERS_MISTAKES:
        return UpstreamError(f"The chat backend failed (status {status}); nothing was charged.")
    message = _error_message(body)
    if secret:
        message = message.replace(secret, "…")
    message = plain(message, ERROR_CHARACTERS_MAX)
    sentence = f"The chat backend refused the request: {message}" if message else ""
    return BackendRejected(
        sentence or f"The chat backend refused the request (status {status}).", status=status
    )


def read_model_names(body: bytes) -> Sequence[str]:
    """The names in an answer to GET /models; empty when it cannot be read."""
    try:
        listed = _load(body).get("data")
    except UpstreamError:
        return ()
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)]


def plain(text: str, characters_max: int) -> str:
    """One line without control or formatting characters, cut to a length."""
    printable = "".join(
        character if character.isprintable() else " " for character in text[: 4 * characters_max]
    )
    line = " ".join(printable.split())
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def _load(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise UpstreamError("The chat backend's answer cannot be read; nothing was charged.") from exc
    if not isinstance(answer, dict):
        raise UpstreamError("The chat backend's answer cannot be read; nothing was charged.")
    return answer


def _text_of(answer: dict[str, object]) -> str:
    """`choices[0].message.content`, a string or a list of text parts; empty when it is neither."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _error_message(body: bytes) -> str:
    """The message where OpenAI, vLLM, Ollama and FastAPI put it; empty when there is none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    for key in ("error", "message", "detail"):
        found = answer.get(key) if isinstance(answer, dict) else None
        if isinstance(found, list) and found:  # FastAPI's list of what was wrong; the first is enough
            found = found[0]
        if isinstance(found, dict):
            found = found.get("message") or found.get("msg")
        if isinstance(found, str) and found:
            return found
    return ""
