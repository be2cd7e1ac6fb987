"""curl, as a script would use it: what stands in the answers, to the byte."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import report


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl printed."""

    status: int
    headers: dict[str, str]
    body: str


def curl(url: str, key: str, body: object = None) -> Answer:
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--include", url]
    command += ["--header", f"Authorization: Bearer {key}"]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    printed = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout.decode()
    head, _, rest = printed.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    named = [line.partition(":") for line in lines]
    return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in named}, rest)


def facts_of(key: str) -> dict[str, Any]:
    return {
        "models": [model["id"] for model in json.loads(curl(f"{report.URL}/models", key).body)["data"]],
        "buffered": buffered(key),
        "streamed": streamed(key, stream_options={"include_usage": True}),
        "streamed_without_usage": streamed(key),
    }


def chat(key: str, **fields: Any) -> Answer:
    wish = {"model": report.MODEL, "messages": report.asking(report.QUESTION), **fields}
    return curl(f"{report.URL}/chat/completions", key, wish)


def buffered(key: str) -> dict[str, Any]:
    answer = chat(key)
    said = json.loads(answer.body)
    return {
        "text": said["choices"][0]["message"]["content"],
        "finish": said["choices"][0]["finish_reason"],
        "usage": said["usage"],
        "headers": report.headers_of(answer),
    }


def streamed(key: str, **options: Any) -> dict[str, Any]:
    """Fails unless every event is one line of data and the last one is `[DONE]`."""
    answer = chat(key, stream=True, **options)
    *events, done, rest = answer.body.split("\n\n")
    assert (done, rest) == ("data: [DONE]", ""), answer.body[-200:]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {
        "text": "".join(
            chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]
        ),
        "usage": usages[-1] if usages else None,
        "usages": len(usages),
        "chunks_without_choices": sum(not chunk["choices"] for chunk in chunks),
        "headers": report.headers_of(answer),
    }


class Refused(Exception):  # noqa: N818
    """An answer that is an error, or a stream with an error in it."""

    def __init__(self, answer: Answer, error: Mapping[str, Any]) -> None:
        super().__init__(error["message"])
        self.status_code = answer.status
        self.code = error["code"]
        self.request_id = answer.headers.get("x-request-id")


def refuse(fields: Mapping[str, Any], sent: list[Any]) -> None:
    wish = {name: fields[name] for name in ("model", "messages", "stream")}
    sent.append(wish)
    answer = curl(f"{fields['url']}/chat/completions", fields["key"], wish)
    if answer.status != 200:
        raise Refused(answer, json.loads(answer.body)["error"])
    for event in answer.body.split("\n\n"):
        if event.startswith('data: {"error"'):
            raise Refused(answer, json.loads(event.removeprefix("data: "))["error"])


if __name__ == "__main__":
    report.publish(sdk="curl", facts_of=facts_of, refuse=refuse)
