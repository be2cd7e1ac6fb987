"""How servers that say they speak OpenAI's chat API differ from OpenAI's, as switches of one format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from arkgate.simulator.chat_tools import Json

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def _openai_refusal(status: int, sentence: str) -> Json:
    kind = _KINDS.get(status, "server_error")
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One server's way of writing OpenAI's format."""

    name: str
    refusal: Callable[[int, str], Json] = _openai_refusal
    unknown_model: str | None = None
    """The words in which an unknown model is refused with 404; None: any name is taken."""
    owner: str = "arkgate"
    fingerprint: str | None = None
    has_logprobs: bool = True
    """Choices carry `"logprobs": null`."""
    nulls_usage: bool = True
    """With `include_usage`, chunks without usage say so with null."""
    has_details: bool = True
    """Usage says how much was cached also when nothing was."""
    whole_extra: Json = field(default_factory=dict)
    model_extra: Json = field(default_factory=dict)
    choice_extra: Json = field(default_factory=dict)
    message_extra: Json = field(default_factory=dict)
    opening_extra: Json = field(default_factory=dict)
    """What a stream's first delta has besides the role."""
    has_timings: bool = False
    finishes_in_last_token: bool = False
    opens_with_null: bool = False
    """The first delta's content is null, not empty."""
    counts_continuously: bool = False


OPENAI = Dialect(
    name="openai",
    message_extra={"refusal": None, "annotations": []},
    opening_extra={"refusal": None},
    whole_extra={"service_tier": "default"},
)

DIALECTS = {dialect.name: dialect for dialect in (OPENAI,)}


def reason(status: int) -> str:
    """A status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
