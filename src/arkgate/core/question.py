"""Where the texts, pictures and files of a question stand in a request to an AI API.

The names are those of OpenAI's chat completions and responses, and of Anthropic's messages.
"""

from collections.abc import Iterator, Mapping
from typing import Final

Part = Mapping[str, object]
HOLDERS: Final = frozenset({"messages", "input", "prompt", "system"})
"""Fields of a request that hold turns or their parts."""
INNER: Final = frozenset({"content", "output"})
"""Fields of a turn or part that hold further parts. Below any other field everything is plain text."""
PAYLOADS: Final[Mapping[str, tuple[str, ...]]] = {
    "image_url": ("image_url",),
    "input_image": ("image_url", "file_id"),
    "image": ("source",),
    "computer_screenshot": ("image_url", "file_id"),
    "image_generation_call": ("result",),
    "input_audio": ("input_audio",),
}
"""The types of parts that are pictures or sounds, and their fields that have the bytes or tell where."""


def parts_of(value: object) -> Iterator[Part | str | list[int]]:
    """Every turn and part of a field of HOLDERS: an object, a text, or a text as a list of token ids."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            if top and all(type(entry) is int for entry in top):
                yield top
            else:
                stack += reversed(top)
        elif isinstance(top, dict):
            yield top
            stack += [top[name] for name in INNER if name in top]
            source = document_source(top)
            if source is not None and source.get("type") == "content":
                stack.append(source.get("content"))


def payload_of(part: Part) -> tuple[str, ...]:
    """The fields of a part that are a picture or a sound; none where it is something else."""
    kind = part.get("type")
    names = PAYLOADS.get(kind, ()) if isinstance(kind, str) else ()
    return tuple(name for name in names if name in part)


def document_source(part: Part) -> Part | None:
    """What a `document` part of Anthropic's is made from: a text, further parts, a file, or where one is."""
    source = part.get("source") if part.get("type") == "document" else None
    return source if isinstance(source, dict) else None


def file_in(part: Part) -> Part | None:
    """The object of a part that is a file, with its `file_data`, or its `file_id` or `file_url` alone."""
    if part.get("type") == "input_file":
        return part
    inner = part.get("file") if part.get("type") == "file" else None
    return inner if isinstance(inner, dict) else None


def elsewhere(part: Part) -> str | None:
    """What a part stands for whose text is not in the request; None for one that is complete."""
    kind = part.get("type")
    if kind in (None, "item_reference") and "id" in part and "role" not in part:
        return "item_reference"  # its type may be left out
    if isinstance(part.get("audio"), dict) and part.get("role") == "assistant":
        return "audio of an earlier answer"
    source = document_source(part)
    if source is not None and source.get("type") in ("url", "file"):
        return "a document by its URL or id"
    if kind in ("video_url", "audio_url"):
        return "a video or sound of unknown length"  # vLLM's
    held = file_in(part)
    if (held is not None and not held.get("file_data")) or kind == "container_upload":
        return "a file by its URL or id"
    return None
