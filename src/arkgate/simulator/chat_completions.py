"""OpenAI's chat completions and its older completions: their requests, answers, streams and errors."""

from collections.abc import Iterator
from dataclasses import dataclass

from arkgate.simulator.chat_answers import (
    CHOICES_MAX,
    TOKENS_PER_MESSAGE,
    Answer,
    BadWish,
    Wish,
    conversation_of,
    positive,
    sse,
)
from arkgate.simulator.chat_dialects import Dialect
from arkgate.simulator.chat_tools import Json, Tool, chosen_tool

DONE = b"data: [DONE]\n\n"
_ANY_OBJECT: Json = {"type": "object", "properties": {"answer": {"type": "string"}}}


def usage_of(answer: Answer, dialect: Dialect) -> Json:
    """The usage of both APIs."""
    usage: Json = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.total_tokens,
    }
    if answer.cached_tokens or dialect.has_details:
        usage["prompt_tokens_details"] = {"cached_tokens": answer.cached_tokens}
    return usage


def timings_of(answer: Answer) -> Json:
    """llama.cpp's measurements, of a machine that is always equally fast."""
    read, written = answer.prompt_tokens - answer.cached_tokens, answer.completion_tokens
    return {
        "cache_n": answer.cached_tokens,
        "prompt_n": read,
        "prompt_ms": read * 0.2,
        "prompt_per_token_ms": 0.2,
        "prompt_per_second": 5000.0,
        "predicted_n": written,
        "predicted_ms": written * 4.0,
        "predicted_per_token_ms": 4.0,
        "predicted_per_second": 250.0,
    }


def _model_of(body: Json) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadWish("you must provide a model parameter")
    return model


def _choices_of(body: Json) -> int:
    return min(positive(body.get("n")) or 1, CHOICES_MAX)


def _wants_usage(body: Json, dialect: Dialect) -> bool:
    options = body.get("stream_options")
    if dialect.counts_at_end or not isinstance(options, dict):
        return False
    return options.get("include_usage", dialect.wants_usage) is True


def _counts_continuously(body: Json, dialect: Dialect) -> bool:
    options = body.get("stream_options")
    wanted = isinstance(options, dict) and options.get("continuous_usage_stats") is True
    return wanted and dialect.counts_continuously and _wants_usage(body, dialect)


@dataclass(frozen=True, slots=True)
class ChatCompletions:
    """`POST /v1/chat/completions`."""

    dialect: Dialect

    def read(self, body: Json) -> Wish:
        """Needs `model` and `messages`; what else it knows: `n`, token limits, tools, formats, images."""
        model, messages = _model_of(body), body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadWish("the request is not a chat completion: it has no messages")
        said = conversation_of(messages)
        return Wish(
            model=model,
            prompt=said.prompt,
            prompt_tokens=said.tokens,
            images=said.images,
            tokens_max=positive(body.get("max_completion_tokens")) or positive(body.get("max_tokens")),
            choices=_choices_of(body),
            is_streamed=bool(body.get("stream")),
            includes_usage=_wants_usage(body, self.dialect),
            counts_continuously=_counts_continuously(body, self.dialect),
            tool=chosen_tool(_tools(body.get("tools")), body.get("tool_choice"), asked=said.asks_for_tool),
            schema=_schema(body.get("response_format")),
        )

    def whole(self, answer: Answer) -> Json:
        """A chat.completion."""
        choices = [self._choice(answer, index) for index in range(answer.wish.choices)]
        whole = {
            "id": f"chatcmpl-{answer.key}",
            "object": "chat.completion",
            "created": answer.created_at,
            "model": answer.wish.model,
            "choices": choices,
            "usage": usage_of(answer, self.dialect),
            "system_fingerprint": self.dialect.fingerprint,
            **self.dialect.whole_extra,
        }
        return {**whole, "timings": timings_of(answer)} if self.dialect.has_timings else whole

    def _choice(self, answer: Answer, index: int) -> Json:
        message: Json = {"role": "assistant", "content": answer.text, **self.dialect.message_extra}
        if answer.call is not None:
            function = {"name": answer.call.tool, "arguments": answer.call.arguments}
            call = {"id": f"call_{answer.key}{index}", "type": "function", "function": function}
            message.update(content=None, tool_calls=[call])
        choice = {"index": index, "message": message, "finish_reason": _finish(answer)}
        logprobs = {"logprobs": None} if self.dialect.has_logprobs else {}
        return {**choice, **logprobs, **self.dialect.choice_extra}

    def events(self, answer: Answer) -> Iterator[bytes]:
        """Chunks: the role, one for each token, the end, with `include_usage` the usage; then `[DONE]`."""
        *others, (written, end) = self._steps(answer)
        for number, choice in others:
            yield self._chunk(answer, [choice], written=number)
        timings = {"timings": timings_of(answer)} if self.dialect.has_timings else {}
        usage = {"usage": usage_of(answer, self.dialect)}
        if answer.wish.includes_usage:
            yield self._chunk(answer, [end], written=written)
            yield self._chunk(answer, [], last={**usage, **timings})
        else:
            last = {**usage, **timings} if self.dialect.counts_at_end else timings
            yield self._chunk(answer, [end], last=last)
        yield DONE

    def _steps(self, answer: Answer) -> Iterator[tuple[int, Json]]:
        """Every choice's changes, each with how many tokens of the choice are written."""
        indices, ends_early = range(answer.wish.choices), self.dialect.finishes_in_last_token
        for index in indices:
            yield 0, self._delta(index, self._opening(answer, index))
        for written, piece in enumerate(answer.pieces, start=1):
            is_end = ends_early and written == len(answer.pieces)
            for index in indices:
                yield written, self._delta(index, _piece(answer, piece), answer if is_end else None)
        for index in () if ends_early else indices:
            yield len(answer.pieces), self._delta(index, {}, answer)

    def _opening(self, answer: Answer, index: int) -> Json:
        if answer.call is None:
            content = None if self.dialect.opens_with_null else ""
            return {"role": "assistant", "content": content, **self.dialect.opening_extra}
        function = {"name": answer.call.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{answer.key}{index}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call], **self.dialect.opening_extra}

    def _delta(self, index: int, delta: Json, ended: Answer | None = None) -> Json:
        logprobs = {"logprobs": None} if self.dialect.has_logprobs else {}
        end: Json = {"finish_reason": None}
        if ended is not None:
            end = {"finish_reason": _finish(ended), **self.dialect.end_extra}
        return {"index": index, "delta": delta, **logprobs, **end}

    def _chunk(
        self, answer: Answer, choices: list[Json], *, written: int = 0, last: Json | None = None
    ) -> bytes:
        chunk: Json = {
            "id": f"chatcmpl-{answer.key}",
            "object": "chat.completion.chunk",
            "created": answer.created_at,
            "model": answer.wish.model,
            "choices": choices,
        }
        if self.dialect.marks_chunks:
            chunk["system_fingerprint"] = self.dialect.fingerprint
        if answer.wish.includes_usage and self.dialect.nulls_usage:
            chunk["usage"] = None
        if answer.wish.counts_continuously:
            chunk["usage"] = _usage_so_far(answer, written)
        return sse({**chunk, **(last or {})})

    def refusal(self, status: int, sentence: str) -> Json:
        """As the dialect writes it."""
        return self.dialect.refusal(status, sentence)

    def error_event(self, sentence: str) -> bytes:
        """The error's body as an event."""
        return sse(self.dialect.refusal(500, sentence))


@dataclass(frozen=True, slots=True)
class Completions:
    """`POST /v1/completions`, the older API: a prompt, or several, and text."""

    dialect: Dialect

    def read(self, body: Json) -> Wish:
        """Needs `model` and `prompt`: a string, token numbers, or a list of either."""
        model, prompts = _model_of(body), _prompts(body.get("prompt"))
        words = sum(len(prompt.split()) for prompt in prompts)
        return Wish(
            model=model,
            prompt=prompts[-1],
            prompt_tokens=words + TOKENS_PER_MESSAGE * len(prompts),
            tokens_max=positive(body.get("max_tokens")),
            choices=min(_choices_of(body) * len(prompts), CHOICES_MAX),
            is_streamed=bool(body.get("stream")),
            includes_usage=_wants_usage(body, self.dialect),
        )

    def whole(self, answer: Answer) -> Json:
        """A text_completion."""
        choices = [_text_choice(index, answer.text, _finish(answer)) for index in range(answer.wish.choices)]
        return {**self._head(answer), "choices": choices, "usage": usage_of(answer, self.dialect)}

    def events(self, answer: Answer) -> Iterator[bytes]:
        """The same object again and again: a token each, the end, with `include_usage` the usage."""
        head = {**self._head(answer), **self._usage_before_end(answer)}
        for piece in answer.pieces:
            for index in range(answer.wish.choices):
                yield sse({**head, "choices": [_text_choice(index, piece, None)]})
        for index in range(answer.wish.choices):
            yield sse({**head, "choices": [_text_choice(index, "", _finish(answer))]})
        if answer.wish.includes_usage:
            yield sse({**head, "choices": [], "usage": usage_of(answer, self.dialect)})
        yield DONE

    def _usage_before_end(self, answer: Answer) -> Json:
        if not answer.wish.includes_usage:
            return {}
        if self.dialect.zeros_usage:
            return {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
        return {"usage": None} if self.dialect.nulls_usage else {}

    def _head(self, answer: Answer) -> Json:
        return {
            "id": f"cmpl-{answer.key}",
            "object": "text_completion",
            "created": answer.created_at,
            "model": answer.wish.model,
            "system_fingerprint": self.dialect.fingerprint,
        }

    def refusal(self, status: int, sentence: str) -> Json:
        """As the dialect writes it."""
        return self.dialect.refusal(status, sentence)

    def error_event(self, sentence: str) -> bytes:
        """The error's body as an event."""
        return sse(self.dialect.refusal(500, sentence))


def _text_choice(index: int, text: str, finish_reason: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _prompts(prompt: object) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise BadWish("you must provide a prompt")
    if all(isinstance(token, int) for token in prompt):
        return [" ".join(map(str, prompt))]
    return [" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in prompt]


def _finish(answer: Answer) -> str:
    if answer.call is not None:
        return "tool_calls"
    return "length" if answer.is_cut else "stop"


def _piece(answer: Answer, piece: str) -> Json:
    if answer.call is None:
        return {"content": piece}
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def _usage_so_far(answer: Answer, written: int) -> Json:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "total_tokens": answer.prompt_tokens + written,
        "completion_tokens": written,
    }


def _tools(tools: object) -> list[Tool]:
    listed = tools if isinstance(tools, list) else []
    functions = [one.get("function") for one in listed if isinstance(one, dict)]
    return [
        Tool(str(function.get("name", "")), function.get("parameters"))
        for function in functions
        if isinstance(function, dict)
    ]


def _schema(response_format: object) -> Json | None:
    """The schema of an answer that must be JSON; any object will do for json_object."""
    if not isinstance(response_format, dict) or response_format.get("type") == "text":
        return None
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    return schema if isinstance(schema, dict) else _ANY_OBJECT
