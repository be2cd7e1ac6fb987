"""Reads what an OpenAI-compatible server answers; knows no sockets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from arkgate.backend.events import tells_failure, usage_in
from arkgate.core.errors import BackendRejected, NotSupported, Refusal, UpstreamError
from arkgate.ports import Completion, Dialect, Usage

ERROR_CHARACTERS_MAX = 300
MODEL_CHARACTERS_MAX = 128

NOT_ACCEPTED = frozenset({401, 403, 404, 429, 503})
"""The backend's statuses that say that it did nothing: another one may be asked."""

CALLERS_MISTAKES = frozenset({400, 413, 422})
"""The backend's statuses that are passed on; every other failure is the operator's trouble."""


@dataclass(frozen=True, slots=True)
class ModelNames:
    """A model's public name, and the backend's own for it, which callers do not see."""

    public: str | None = None
    own: str | None = None

    def mapped(self, body: bytes) -> bytes:
        """A piece of an answer with the public name where the backend wrote its own.

        Inside a JSON text the quotes would be escaped, so that no answer's words are changed.
        """
        if self.own is None or self.public is None or self.own == self.public or not body:
            return body
        own, public = orjson.dumps(self.own), orjson.dumps(self.public)
        for between in (b":", b": "):  # a server writes it in one of the two ways
            told = b'"model"' + between + own
            if told in body:
                return body.replace(told, b'"model"' + between + public)
        return body


def read_whole(body: bytes, dialect: Dialect, names: ModelNames) -> tuple[bytes, Usage | None]:
    """A 2xx answer as it may go on, and what it says was used. Raises UpstreamError when it says nothing."""
    answer = load(body)
    if tells_failure(answer):
        raise UpstreamError("The backend answered with an error; nothing was charged.")
    if not _says_something(answer, dialect):
        raise UpstreamError("The backend's answer is empty; nothing was charged.")
    return names.mapped(body), usage_in(dialect, answer)


def _says_something(answer: Mapping[str, object], dialect: Dialect) -> bool:
    if dialect is Dialect.EMBEDDINGS:
        return bool(answer.get("data"))
    if dialect is Dialect.RESPONSES:
        return bool(answer.get("output")) and answer.get("status") != "failed"
    if dialect is Dialect.MESSAGES:
        return bool(answer.get("content"))
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if not isinstance(choice, dict):
            continue
        message = choice.get("message")
        if choice.get("text") or (
            isinstance(message, dict) and any(value for name, value in message.items() if name != "role")
        ):
            return True
    return False


def read_completion(body: bytes, *, default_model: str) -> Completion:
    """The completion in a 2xx answer. Raises UpstreamError when there is none."""
    answer = load(body)
    text = _text_of(answer)
    if not text.strip():
        raise UpstreamError("The backend answered without any text; nothing was charged.")
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
    if status == 501:
        return NotSupported("The backend does not offer this; nothing was charged.")
    if status not in CALLERS_MISTAKES:
        refusal = UpstreamError(f"The backend failed (status {status}); nothing was charged.")
        refusal.nothing_begun = status in NOT_ACCEPTED
        return refusal
    message = _error_message(body)
    if secret:
        message = message.replace(secret, "…")
    message = plain(message, ERROR_CHARACTERS_MAX)
    sentence = f"The backend refused the request: {message}" if message else ""
    return BackendRejected(sentence or f"The backend refused the request (status {status}).", status=status)


def read_model_names(body: bytes) -> Sequence[str]:
    """The names in an answer to GET /models; empty when it cannot be read."""
    try:
        listed = load(body).get("data")
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


def load(body: bytes) -> dict[str, object]:
    """The JSON object of an answer. Raises UpstreamError."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise UpstreamError("The backend's answer cannot be read; nothing was charged.") from exc
    if not isinstance(answer, dict):
        raise UpstreamError("The backend's answer cannot be read; nothing was charged.")
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
