"""Where the texts, pictures, sounds and files of a question stand in a request to an AI API.

The names are those of OpenAI's chat completions and responses, and of Anthropic's messages; where another
server has more, the comment names it.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from arkgate.core.sound import sound_seconds

Part = Mapping[str, object]
HOLDERS: Final = frozenset({"messages", "input", "prompt", "system"})
"""Fields of a request that hold turns or their parts."""
PICTURE_TOKENS: Final = 1000
"""What a picture is taken for: one of 1024 pixels square is 765 for OpenAI and some 1,400 for Anthropic."""
INNER: Final = frozenset({"content", "output"})
"""Fields of a turn or part that hold further parts. Below any other field everything is plain text."""
_PICTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "image_url": ("image_url",),
    "input_image": ("image_url", "file_id"),
    "image": ("source",),
    "computer_screenshot": ("image_url", "file_id"),
    "image_generation_call": ("result",),
}
"""The types of parts that are pictures, and their fields that have the bytes or tell where they are."""
_OF_UNKNOWN_LENGTH: Final = frozenset(
    {"video_url", "audio_url", "video", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"}
)
"""Types of parts, and fields of those without one, that are short here and long for the model: vLLM's."""
_SEALED: Final[Mapping[object, str]] = {
    "reasoning": "encrypted_content",
    "thinking": "signature",
    "redacted_thinking": "data",
    "compaction": "encrypted_content",
}
"""The types of parts that hold what the model thought, and the field in which only its server can read it."""
_THOUGHTS: Final = frozenset({"reasoning_details", "thinking_blocks", "extra_content"})
"""Fields of messages and tool calls in which OpenRouter, LiteLLM and Gemini have such parts."""
_SEALS: Final = frozenset({"data", "signature", "thought_signature", "encrypted_content"})
"""How sealed fields are named below _THOUGHTS."""
_SEALED_TEXT: Final = re.compile(r"[A-Za-z0-9+/=_-]+")
_NO_PICTURE: Final = re.compile(r"\s*data:(?!image/)|\s*(?:data:[^,]{0,100},)?\s*JVBERi", re.IGNORECASE)
"""A `data:` URL of something else, or one that begins with base64 of `%PDF-`."""
_PARTS: Final = frozenset({str, list, dict})
_NO_TEXT: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Characters that files have and texts do not."""


@dataclass(frozen=True, slots=True)
class QuestionTokens:
    """How many tokens a question has, as far as the request tells."""

    usual: int
    """Our best guess: what is charged for where the backend tells nothing."""
    most: int
    """More than its backend is likely to find in it, its pictures apart: what is held for."""
    pictures: int = 0
    """How many pictures were taken for PICTURE_TOKENS each."""


def at_most(tokens: int) -> int:
    """How many another tokenizer than ours may find, with what a template adds to all."""
    return tokens + tokens // 4 + 32


class TokenIds(NamedTuple):
    """A text as the ids of its tokens."""

    number: int
    """How many there are."""


def parts_of(value: object) -> Iterator[Part | str | TokenIds]:
    """Every turn and part of a field of HOLDERS: an object, a text, or ids of tokens.

    What is neither text nor object nor list is taken for such an id, of whatever type it is.
    """
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            kinds = set(map(type, top))
            inner = top if kinds <= _PARTS else [entry for entry in top if type(entry) in _PARTS]
            if len(inner) < len(top):
                yield TokenIds(len(top) - len(inner))
            stack += reversed(inner)
        elif isinstance(top, dict):
            yield top
            stack += [top[name] for name in INNER if name in top]
            source = document_source(top)
            if source is not None and source.get("type") == "content":
                stack.append(source.get("content"))
        elif top is not None:
            yield TokenIds(1)


def turns_in(value: object) -> int:
    """How many turns or texts a field of HOLDERS has, ids of tokens apart."""
    if not isinstance(value, list):
        return 1
    return 0 if _PARTS.isdisjoint(map(type, value)) else sum(type(entry) in _PARTS for entry in value)


def picture_in(part: Part) -> tuple[str, ...] | None:
    """The fields of a part that have its picture, or tell where it is; None where it is no picture.

    It may have none of them: some servers keep pictures, and know them by a name.
    """
    kind = part.get("type")
    names = _PICTURES.get(kind) if isinstance(kind, str) else None
    if names is not None:
        return tuple(name for name in names if name in part)
    if kind is None:  # vLLM goes by the field where a part has no type
        return ("image_url",) if "image_url" in part else None
    return () if part.get("image_url") is not None else None


def sound_in(part: Part) -> object | None:
    """The sound of a part in base64, under `input_audio`."""
    sound = part.get("input_audio")
    return sound.get("data", sound) if isinstance(sound, dict) else sound


def unsealed(part: Part) -> tuple[Part, int]:
    """A turn or part without the thoughts that its server has sealed, and how many characters those had."""
    kept = dict(part)
    kind = part.get("type")
    seal = _SEALED.get(kind) if isinstance(kind, str) else None
    characters = len(str(kept.pop(seal))) if seal is not None and _is_sealed(part.get(seal)) else 0
    characters += _unseal_thoughts(kept)
    calls = part.get("tool_calls")
    if isinstance(calls, list):
        kept["tool_calls"] = own = [dict(call) if isinstance(call, dict) else call for call in calls]
        characters += sum(_unseal_thoughts(call) for call in own if isinstance(call, dict))
    return kept, characters


def _unseal_thoughts(holder: dict[str, object]) -> int:
    """Takes the seals out of a message's or tool call's thoughts; returns how many characters they had."""
    characters = 0
    for name in _THOUGHTS & holder.keys():
        holder[name], sealed = _unsealed_below(holder[name])
        characters += sealed
    return characters


def _unsealed_below(value: object) -> tuple[object, int]:
    """A value below _THOUGHTS without its seals, and how many characters these had."""
    if isinstance(value, list):
        read = [_unsealed_below(entry) for entry in value]
        return [entry for entry, _ in read], sum(sealed for _, sealed in read)
    if not isinstance(value, dict):
        return value, 0
    kept: dict[str, object] = {}
    characters = 0
    for name, inner in value.items():
        if name in _SEALS and isinstance(inner, str) and _is_sealed(inner):
            characters += len(inner)
        else:
            kept[name], sealed = _unsealed_below(inner)
            characters += sealed
    return kept, characters


def _is_sealed(value: object) -> bool:
    """Whether it is base64: some servers put plain thoughts there (Ollama)."""
    return isinstance(value, str) and _SEALED_TEXT.fullmatch(value) is not None


def document_source(part: Part) -> Part | None:
    """What a `document` part of Anthropic's is made from: a text, further parts, a file, or where one is."""
    source = part.get("source") if part.get("type") == "document" else None
    return source if isinstance(source, dict) else None


def file_in(part: Part) -> Part | None:
    """The object of a part that is a file, with its `file_data`, or its `file_id` or `file_url`."""
    if part.get("type") == "input_file":
        return part
    inner = part.get("file") if part.get("type") in ("file", None) else None
    return inner if isinstance(inner, dict) else None


def file_text(data: object) -> str | None:
    """The text of a file that is one, from its base64 or its `data:` URL.

    None for every other file, where it is, and what cannot be read: a PDF of a few kilobytes may unfold to a
    book, and may be written in plain ASCII.
    """
    if not isinstance(data, str):
        return None
    if data.startswith("data:"):
        head, _, data = data.partition(",")
        if not head.endswith(";base64"):
            return None
    try:
        text = base64.b64decode("".join(data.split()), validate=True).decode()
    except ValueError:
        return None
    return None if "%PDF" in text or _NO_TEXT.search(text) else text


def elsewhere(part: Part) -> str | None:
    """What a part stands for whose text is not in the request, or not to be read; None for all others."""
    kind = part.get("type")
    if kind == "item_reference" or (kind is None and "id" in part and "role" not in part):
        return "item_reference"  # its type may be left out
    if isinstance(part.get("audio"), dict) and part.get("role") == "assistant":
        return "audio of an earlier answer"
    if kind == "container_upload":
        return "a file by its id"
    if _is_of_unknown_length(part):
        return "a video or sound of unknown length"
    picture = picture_in(part)
    if picture is None:
        return _file_elsewhere(part)
    return "a file in place of a picture" if any(_is_no_picture(part[name]) for name in picture) else None


def _is_of_unknown_length(part: Part) -> bool:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _OF_UNKNOWN_LENGTH:
        return True
    if any(name in part and (kind is None or part[name] is not None) for name in _OF_UNKNOWN_LENGTH):
        return True
    sound = sound_in(part)
    return sound is not None and sound_seconds(sound) is None


def _file_elsewhere(part: Part) -> str | None:
    source, held = document_source(part), file_in(part)
    for holder in (part, held or {}):
        if holder.get("file_id") or holder.get("file_url"):
            return "a file by its URL or id"
    if source is not None:
        if source.get("type") in ("url", "file"):
            return "a document by its URL or id"
        if source.get("type") == "base64" and file_text(source.get("data")) is None:
            return "a document that is no text"
    if held is not None and file_text(held.get("file_data")) is None:
        return "a file that is no text"
    return None


def _is_no_picture(payload: object) -> bool:
    """Whether a picture's field holds another file: some servers read a PDF there."""
    if not isinstance(payload, dict):
        return isinstance(payload, str) and _NO_PICTURE.match(payload) is not None
    for name in ("media_type", "format"):  # Anthropic's, LiteLLM's
        kind = payload.get(name)
        if isinstance(kind, str) and "/" in kind and not kind.startswith("image/"):
            return True
    return any(_is_no_picture(payload.get(name)) for name in ("url", "data"))
