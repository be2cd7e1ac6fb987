"""OpenAI's Python SDK: every API it has that a gateway may sell. Runs with its versions 2 and 3."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import openai
import report
from openai import OpenAI
from pydantic import BaseModel

TOOL = {"type": "function", "function": {"name": "weather", "parameters": report.TOOL_SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": report.TOOL_SCHEMA, "strict": False}


class Weather(BaseModel):
    """What a structured answer is parsed into."""

    city: str
    days: int


def facts_of(key: str) -> dict[str, Any]:
    client = OpenAI(base_url=report.URL, api_key=key)
    return {
        "models": [model.id for model in client.models.list()],
        "buffered": buffered(client),
        "streamed": streamed(client, stream_options={"include_usage": True}),
        "streamed_without_usage": streamed(client),
        "tool": tool(client),
        "streamed_tool": streamed_tool(client),
        "tool_answered": tool_answered(client),
        "json": json_object(client),
        "parsed": parsed(client),
        "image": image(client),
        "embeddings": embeddings(client),
        "responses": responses(client),
        "responses_streamed": responses_streamed(client),
        "responses_tool": responses_tool(client),
    }


def buffered(client: OpenAI) -> dict[str, Any]:
    raw = client.chat.completions.with_raw_response.create(
        model=report.MODEL, messages=report.asking(report.QUESTION)
    )
    answer = raw.parse()
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "usage": answer.usage.model_dump(),
        "headers": report.headers_of(raw),
        "request_id": answer._request_id,
    }


def streamed(client: OpenAI, **options: Any) -> dict[str, Any]:
    raw = client.chat.completions.with_raw_response.create(
        model=report.MODEL, messages=report.asking(report.QUESTION), stream=True, **options
    )
    chunks = list(raw.parse())
    usages = [chunk.usage.model_dump() for chunk in chunks if chunk.usage]
    return {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "usage": usages[-1] if usages else None,
        "usages": len(usages),
        "chunks_without_choices": sum(not chunk.choices for chunk in chunks),
        "headers": report.headers_of(raw),
    }


def tool(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.create(
        model=report.MODEL, messages=report.asking(report.TOOL_QUESTION), tools=[TOOL]
    )
    called = answer.choices[0].message.tool_calls[0].function
    return {"name": called.name, "arguments": json.loads(called.arguments)}


def streamed_tool(client: OpenAI) -> dict[str, Any]:
    """With the SDK's own accumulator, which is strict about the order and the indexes of chunks."""
    with client.chat.completions.stream(
        model=report.MODEL, messages=report.asking(report.TOOL_QUESTION), tools=[TOOL]
    ) as stream:
        called = stream.get_final_completion().choices[0].message.tool_calls[0].function
    return {"name": called.name, "arguments": json.loads(called.arguments)}


def tool_answered(client: OpenAI) -> str | None:
    """The second half of a tool's use: its result goes back with the call."""
    question = report.asking(report.TOOL_QUESTION)
    call = client.chat.completions.create(model=report.MODEL, messages=question, tools=[TOOL])
    message = call.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    answer = client.chat.completions.create(
        model=report.MODEL, messages=[*question, message, result], tools=[TOOL]
    )
    return answer.choices[0].message.content


def json_object(client: OpenAI) -> Any:
    answer = client.chat.completions.create(
        model=report.MODEL,
        messages=report.asking("Answer in JSON."),
        response_format={"type": "json_object"},
    )
    return json.loads(answer.choices[0].message.content)


def parsed(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.parse(
        model=report.MODEL, messages=report.asking("How is the weather?"), response_format=Weather
    )
    return answer.choices[0].message.parsed.model_dump()


def image(client: OpenAI) -> str | None:
    parts = [
        {"type": "text", "text": report.QUESTION},
        {"type": "image_url", "image_url": {"url": report.IMAGE}},
    ]
    answer = client.chat.completions.create(model=report.MODEL, messages=report.asking(parts))
    return answer.choices[0].message.content


def embeddings(client: OpenAI) -> list[int]:
    """The sizes of the vectors. The SDK asks for base64 unless it is told otherwise."""
    found = client.embeddings.create(model=report.MODEL, input=report.TEXTS)
    return [len(one.embedding) for one in found.data]


def responses(client: OpenAI) -> dict[str, Any]:
    raw = client.responses.with_raw_response.create(model=report.MODEL, input=report.QUESTION)
    answer = raw.parse()
    return {
        "text": answer.output_text,
        "usage": answer.usage.model_dump(),
        "headers": report.headers_of(raw),
    }


def responses_streamed(client: OpenAI) -> dict[str, Any]:
    with client.responses.stream(model=report.MODEL, input=report.QUESTION) as stream:
        text = said(stream)
        answer = stream.get_final_response()
    return {"text": text, "usage": answer.usage.model_dump()}


def said(events: Iterable[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def responses_tool(client: OpenAI) -> dict[str, Any]:
    answer = client.responses.create(model=report.MODEL, input=report.TOOL_QUESTION, tools=[RESPONSES_TOOL])
    called = next(item for item in answer.output if item.type == "function_call")
    return {"name": called.name, "arguments": json.loads(called.arguments)}


def refuse(fields: Mapping[str, Any], sent: list[Any]) -> object:
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with OpenAI(base_url=fields["url"], api_key=fields["key"], http_client=http) as client:
        answer = client.chat.completions.create(
            model=fields["model"], messages=fields["messages"], stream=fields["stream"]
        )
        return list(answer) if fields["stream"] else answer


if __name__ == "__main__":
    report.publish(sdk=f"openai {openai.__version__}", facts_of=facts_of, refuse=refuse)
