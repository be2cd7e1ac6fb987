"""How servers that say they speak OpenAI's chat API differ from OpenAI's, as switches of one format.

Read in the sources of Ollama (August 2026), vLLM (its versions of 2024 to 2026) and llama.cpp (2025 and
2026).

**Ollama.** Chunks without usage have no `usage` at all, with `include_usage` as without; older completions
are the exception and count zeros in every chunk. Its counts have no details. `system_fingerprint` is
`fp_ollama`, no choice has `logprobs`. A model that is not there is refused with 404 and `model 'x' not
found`; the error's `type` is `api_error` for whatever is neither 400 nor 404. A `keep_alive` is taken and
does nothing on /v1.

**vLLM.** Chunks without usage have no `usage`. `stream_options` without `include_usage` mean that it is
wanted. With `continuous_usage_stats` every chunk counts what was written so far. The end comes with the
last token, and beside it a `stop_reason`. A whole answer spells out every field that it does not use.
Errors have a number for `code` and `BadRequestError` and the like for `type`; earlier versions did not wrap
them in `error` (`vllm-old`). A missing key is answered with a text in the place of the error's object.

**llama.cpp.** The last chunk carries `timings`, and so does a whole answer. A stream opens with null for
content. Usage comes in a chunk of its own when it is wanted; until some build of 2025 it stood in the chunk
of the end, asked for or not (`llama.cpp-old`). Any model's name is taken. Errors have a number for `code`
and no `param`.

Seen in no source: the text with which vLLM answers a missing key, and llama.cpp's `owned_by`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


_OLLAMA_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
_LLAMA_KINDS = {**_KINDS, 501: "not_supported_error", 503: "unavailable_error"}


def _openai_refusal(status: int, sentence: str) -> Json:
    kind = _KINDS.get(status, "server_error")
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


def _ollama_refusal(status: int, sentence: str) -> Json:
    kind = _OLLAMA_KINDS.get(status, "api_error")
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


def _vllm_error(status: int, sentence: str) -> Json:
    words = reason(status).replace(" ", "").removesuffix("Error")
    return {"message": sentence, "type": f"{words}Error", "param": None, "code": status}


def _vllm_refusal(status: int, sentence: str) -> Json:
    return {"error": "Unauthorized" if status == 401 else _vllm_error(status, sentence)}


def _old_vllm_refusal(status: int, sentence: str) -> Json:
    if status == 401:
        return _vllm_refusal(status, sentence)
    return {"object": "error", **_vllm_error(status, sentence)}


def _llama_refusal(status: int, sentence: str) -> Json:
    return {"error": {"code": status, "message": sentence, "type": _LLAMA_KINDS.get(status, "server_error")}}


def reason(status: int) -> str:
    """A status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One server's way of writing OpenAI's format."""

    name: str
    refusal: Callable[[int, str], Json] = _openai_refusal
    unknown_model: str | None = None
    """The words in which an unknown model is refused with 404; None: any name is taken."""
    owner: str = "arkgate"
    fingerprint: str | None = None
    marks_chunks: bool = True
    """Chunks carry the `system_fingerprint`."""
    has_logprobs: bool = True
    """Choices carry `"logprobs": null`."""
    nulls_usage: bool = True
    """With `include_usage`, chunks without usage say so with null."""
    has_details: bool = True
    """Usage says how much was cached also when nothing was."""
    whole_extra: Json = field(default_factory=dict)
    model_extra: Json = field(default_factory=dict)
    choice_extra: Json = field(default_factory=dict)
    end_extra: Json = field(default_factory=dict)
    """What a stream's last choice has besides the reason for its end."""
    message_extra: Json = field(default_factory=dict)
    opening_extra: Json = field(default_factory=dict)
    """What a stream's first delta has besides the role."""
    has_timings: bool = False
    """llama.cpp's measurements are in the last chunk and in whole answers."""
    finishes_in_last_token: bool = False
    """The last token's chunk says why it is the last."""
    opens_with_null: bool = False
    """The first delta's content is null, not empty."""
    counts_continuously: bool = False
    """Knows `continuous_usage_stats`."""
    wants_usage: bool = False
    """Whether `stream_options` without `include_usage` ask for usage."""
    zeros_usage: bool = False
    """Older completions count zeros in chunks that have no usage yet."""
    counts_at_end: bool = False
    """Usage stands in the chunk of the end, asked for or not, and never in one of its own."""


OPENAI = Dialect(
    name="openai",
    message_extra={"refusal": None, "annotations": []},
    opening_extra={"refusal": None},
    whole_extra={"service_tier": "default"},
)

OLLAMA = Dialect(
    name="ollama",
    refusal=_ollama_refusal,
    unknown_model="model '{}' not found",
    owner="library",
    fingerprint="fp_ollama",
    has_logprobs=False,
    nulls_usage=False,
    has_details=False,
    zeros_usage=True,
)

VLLM = Dialect(
    name="vllm",
    refusal=_vllm_refusal,
    unknown_model="The model `{}` does not exist.",
    owner="vllm",
    nulls_usage=False,
    has_details=False,
    whole_extra={
        "service_tier": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    },
    model_extra={"root": None, "parent": None, "max_model_len": 32768, "permission": []},
    choice_extra={"stop_reason": None, "token_ids": None},
    message_extra={
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning_content": None,
    },
    end_extra={"stop_reason": None},
    marks_chunks=False,
    finishes_in_last_token=True,
    counts_continuously=True,
    wants_usage=True,
)

LLAMA = Dialect(
    name="llama.cpp",
    refusal=_llama_refusal,
    owner="llamacpp",
    fingerprint="b6881-8b11deea4",
    has_logprobs=False,
    nulls_usage=False,
    has_details=False,
    has_timings=True,
    opens_with_null=True,
)

_ALL = (
    OPENAI,
    OLLAMA,
    VLLM,
    replace(VLLM, name="vllm-old", refusal=_old_vllm_refusal),
    LLAMA,
    replace(LLAMA, name="llama.cpp-old", counts_at_end=True),
)
DIALECTS = {dialect.name: dialect for dialect in _ALL}
