"""LlamaIndex's models for servers that speak OpenAI's API, in front of OpenAI's Python SDK."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import openai
import report
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather of a place."""

    city: str
    days: int


def weather(city: str, days: int) -> str:
    """The weather of a place for some days."""
    return f"{city}: rain for {days} days"


def facts_of(key: str) -> dict[str, Any]:
    model = model_of(report.URL, key, report.MODEL)
    return {
        "buffered": buffered(model),
        "streamed": streamed(model),
        "tool": tool(model),
        "parsed": parsed(model),
        "image": image(model),
        "embeddings": embeddings(key),
    }


def model_of(url: str, key: str, name: str, **options: Any) -> OpenAILike:
    return OpenAILike(
        api_base=url,
        api_key=key,
        model=name,
        is_chat_model=True,
        is_function_calling_model=True,
        **options,
    )


def buffered(model: OpenAILike) -> dict[str, Any]:
    answer = model.chat([ChatMessage(report.QUESTION)])
    return {"text": answer.message.content, "usage": answer.raw.usage.model_dump()}


def streamed(model: OpenAILike) -> dict[str, Any]:
    return {"text": "".join(chunk.delta or "" for chunk in model.stream_chat([ChatMessage(report.QUESTION)]))}


def tool(model: OpenAILike) -> dict[str, Any]:
    answer = model.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=report.TOOL_QUESTION)
    called = model.get_tool_calls_from_response(answer)[0]
    return {"name": called.tool_name, "arguments": called.tool_kwargs}


def parsed(model: OpenAILike) -> dict[str, Any]:
    program = FunctionCallingProgram.from_defaults(
        output_cls=Weather, llm=model, prompt_template_str="Please use a tool: the weather."
    )
    return program().model_dump()


def image(model: OpenAILike) -> str | None:
    picture = ImageBlock(url=report.IMAGE)
    message = ChatMessage(role="user", blocks=[TextBlock(text=report.QUESTION), picture])
    return model.chat([message]).message.content


def embeddings(key: str) -> list[int]:
    embedder = OpenAIEmbedding(api_base=report.URL, api_key=key, model_name=report.MODEL)
    return [len(vector) for vector in embedder.get_text_embedding_batch(report.TEXTS)]


def refuse(fields: Mapping[str, Any], sent: list[Any]) -> object:
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    model = model_of(fields["url"], fields["key"], fields["model"], http_client=http)
    messages = [ChatMessage(**message) for message in fields["messages"]]
    return list(model.stream_chat(messages)) if fields["stream"] else model.chat(messages)


if __name__ == "__main__":
    sdk = f"llama-index-llms-openai-like {version('llama-index-llms-openai-like')}"
    report.publish(sdk=sdk, facts_of=facts_of, refuse=refuse)
