"""Anthropic's Python SDK. A key goes out as `x-api-key`, since its version 1 as `Bearer`, as a token does."""

from collections.abc import Mapping
from typing import Any

import anthropic
import report
from anthropic import Anthropic

URL = report.URL.removesuffix("/v1")
TOOL = {"name": "weather", "input_schema": report.TOOL_SCHEMA}
TOKENS_MAX = 1000


def facts_of(key: str) -> dict[str, Any]:
    client = Anthropic(base_url=URL, api_key=key)
    bearer = Anthropic(base_url=URL, auth_token=key)
    return {
        "models": [model.id for model in client.models.list()],
        "buffered": buffered(client),
        "bearer": buffered(bearer),
        "streamed": streamed(client),
        "tool": tool(client),
        "streamed_tool": streamed_tool(client),
        "image": image(client),
    }


def asked(content: Any) -> dict[str, Any]:
    return {"model": report.MODEL, "max_tokens": TOKENS_MAX, "messages": report.asking(content)}


def buffered(client: Anthropic) -> dict[str, Any]:
    raw = client.messages.with_raw_response.create(**asked(report.QUESTION))
    answer = raw.parse()
    return {
        "text": answer.content[0].text,
        "finish": answer.stop_reason,
        "usage": answer.usage.model_dump(),
        "headers": report.headers_of(raw),
        "request_id": answer._request_id,
    }


def streamed(client: Anthropic) -> dict[str, Any]:
    with client.messages.stream(**asked(report.QUESTION)) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
        headers = report.headers_of(stream.response)
    return {"text": text, "usage": answer.usage.model_dump(), "headers": headers}


def tool(client: Anthropic) -> dict[str, Any]:
    answer = client.messages.create(**asked(report.TOOL_QUESTION), tools=[TOOL])
    return {"name": answer.content[0].name, "arguments": answer.content[0].input}


def streamed_tool(client: Anthropic) -> dict[str, Any]:
    with client.messages.stream(**asked(report.TOOL_QUESTION), tools=[TOOL]) as stream:
        block = stream.get_final_message().content[0]
    return {"name": block.name, "arguments": block.input}


def image(client: Anthropic) -> str:
    source = {"type": "base64", "media_type": "image/png", "data": report.PNG}
    parts = [{"type": "text", "text": report.QUESTION}, {"type": "image", "source": source}]
    return client.messages.create(**asked(parts)).content[0].text


def refuse(fields: Mapping[str, Any], sent: list[Any]) -> object:
    http = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    url = fields["url"].removesuffix("/v1")
    with Anthropic(base_url=url, api_key=fields["key"], http_client=http) as client:
        answer = client.messages.create(
            model=fields["model"],
            max_tokens=TOKENS_MAX,
            messages=fields["messages"],
            stream=fields["stream"],
        )
        return list(answer) if fields["stream"] else answer


if __name__ == "__main__":
    report.publish(sdk=f"anthropic {anthropic.__version__}", facts_of=facts_of, refuse=refuse)
