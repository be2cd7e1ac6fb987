"""LangChain's models of OpenAI's API, in front of OpenAI's Python SDK."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import openai
import report
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr


class Weather(BaseModel):
    """The weather of a place."""

    city: str
    days: int


def facts_of(key: str) -> dict[str, Any]:
    model = ChatOpenAI(base_url=report.URL, api_key=SecretStr(key), model=report.MODEL)
    return {
        "buffered": message_of(model.invoke(report.QUESTION)),
        "streamed": streamed(model, stream_usage=True),
        "streamed_without_usage": streamed(model),
        "tool": call_of(model.bind_tools([Weather]).invoke(report.TOOL_QUESTION)),
        "parsed": model.with_structured_output(Weather).invoke("How is the weather?").model_dump(),
        "json": model.with_structured_output(None, method="json_mode").invoke("Answer in JSON."),
        "image": image(model),
        "embeddings": embeddings(key),
        "responses": responses(key),
    }


def message_of(message: AIMessage) -> dict[str, Any]:
    return {"text": message.text, "usage": message.usage_metadata}


def streamed(model: ChatOpenAI, **options: Any) -> dict[str, Any]:
    chunks = list(model.stream(report.QUESTION, **options))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return message_of(whole)


def call_of(message: AIMessage) -> dict[str, Any]:
    return {"name": message.tool_calls[0]["name"], "arguments": message.tool_calls[0]["args"]}


def image(model: ChatOpenAI) -> str:
    parts = [
        {"type": "text", "text": report.QUESTION},
        {"type": "image", "base64": report.PNG, "mime_type": "image/png"},
    ]
    return model.invoke([HumanMessage(content=parts)]).text


def embeddings(key: str) -> list[int]:
    """The sizes of the vectors. The check of the length would load a tokenizer from elsewhere."""
    embedder = OpenAIEmbeddings(
        base_url=report.URL,
        api_key=SecretStr(key),
        model=report.MODEL,
        check_embedding_ctx_length=False,
    )
    return [len(vector) for vector in embedder.embed_documents(report.TEXTS)]


def responses(key: str) -> dict[str, Any]:
    model = ChatOpenAI(
        base_url=report.URL, api_key=SecretStr(key), model=report.MODEL, use_responses_api=True
    )
    return message_of(model.invoke(report.QUESTION))


def refuse(fields: Mapping[str, Any], sent: list[Any]) -> object:
    model = ChatOpenAI(
        base_url=fields["url"],
        api_key=SecretStr(fields["key"]),
        model=fields["model"],
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [sent.append]}),
    )
    return list(model.stream(fields["messages"])) if fields["stream"] else model.invoke(fields["messages"])


if __name__ == "__main__":
    sdk = f"langchain-openai {version('langchain-openai')}"
    report.publish(sdk=sdk, facts_of=facts_of, refuse=refuse)
