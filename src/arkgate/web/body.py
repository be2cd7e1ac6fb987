"""Reads request bodies strictly: JSON objects that mean one thing, chats within stated limits."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from arkgate.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from arkgate.ports import ChatMessage

DEPTH_MAX = 32
MESSAGES_MAX = 12
MESSAGE_CHARACTERS_MAX = 4_000
CHARACTERS_MAX = 12_000
STRUCTURE_MAX = 16_384
"""Commas and opening brackets, those inside texts counted too: parsing a mebibyte of them takes 0.5 s."""
DELIMITERS_MAX = 4 * STRUCTURE_MAX
"""Quotes, closing brackets and backslashes: looking at a mebibyte of them takes 0.2 s."""
FUNDING_BYTES_MAX = 4096
AMOUNT_SATS_MAX = 1_000_000_000
_JSON_TYPES = ("application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ROLES = ("user", "assistant")
_STRUCTURE = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


def check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType for a body that is encoded, or says that it is not JSON.

    curl's default type for `-d` is let through: the body decides.
    """
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType("Send the body without Content-Encoding.")
    media_type = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
    if media_type and media_type not in _JSON_TYPES and not media_type.endswith("+json"):
        raise UnsupportedMediaType("Send a JSON object with Content-Type: application/json.")


def read_object(body: bytes) -> dict[str, object]:
    """The JSON object of a body. Raises InvalidRequest.

    Refuses what two readers could understand differently: duplicate keys, NaN, deep nesting, text
    that is not Unicode, anything after the object.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    opening, delimiters = sum(map(text.count, ",{[")), sum(map(text.count, '"\\}]'))
    if opening > STRUCTURE_MAX or delimiters > DELIMITERS_MAX:
        raise InvalidRequest("The body has more parts than any request here can have.")
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("The body holds half a character (a lone surrogate).") from None
    except InvalidRequest:
        raise
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= DEPTH_MAX:
        return
    depth = 0
    in_string = False
    for found in _STRUCTURE.finditer(text):
        character = found.group()
        if character == '"':
            in_string = not in_string
        elif in_string:
            continue
        elif character in "{[":
            depth += 1
            if depth > DEPTH_MAX:
                raise InvalidRequest(f"The body is nested deeper than {DEPTH_MAX} levels.")
        elif character in "}]":
            depth -= 1


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidRequest("The body has the same key twice.")
    return found


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not a JSON value.")


def chat_messages(request: Mapping[str, object]) -> tuple[ChatMessage, ...]:
    """Prompt and messages, in that order, within the limits. Raises InvalidRequest or PayloadTooLarge."""
    if "system_prompt" in request:
        raise InvalidRequest("system_prompt is not accepted; put what you need into the prompt.")
    messages: list[ChatMessage] = []
    prompt = request.get("prompt")
    if prompt is not None:
        messages.append(ChatMessage("user", _text(prompt, "prompt")))
    listed = request.get("messages")
    if listed is not None:
        messages += _listed(listed)
    _check_conversation(messages)
    return tuple(messages)


def _listed(listed: object) -> list[ChatMessage]:
    if not isinstance(listed, list):
        raise InvalidRequest("messages must be a list of {role, content} objects.")
    if len(listed) > MESSAGES_MAX:
        raise InvalidRequest(f"At most {MESSAGES_MAX} messages may be sent; here are {len(listed)}.")
    messages = []
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise InvalidRequest(f"messages[{number}] must be an object with role and content.")
        role = entry.get("role")
        if role not in _ROLES:
            raise InvalidRequest(f"messages[{number}].role must be user or assistant.")
        messages.append(ChatMessage(str(role), _text(entry.get("content"), f"messages[{number}].content")))
    return messages


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.")
    if not value.strip():
        raise InvalidRequest(f"{name} is empty.")
    if "\0" in value:
        raise InvalidRequest(f"{name} holds a NUL character.")
    if len(value) > MESSAGE_CHARACTERS_MAX:
        raise PayloadTooLarge(f"{name} is longer than {MESSAGE_CHARACTERS_MAX} characters.")
    return value


def _check_conversation(messages: Sequence[ChatMessage]) -> None:
    if not messages:
        raise InvalidRequest(
            'Send a prompt, like {"prompt": "How is Ark different from Lightning?"}, or messages.'
        )
    if len(messages) > MESSAGES_MAX:
        raise InvalidRequest(f"At most {MESSAGES_MAX} messages may be sent, the prompt included.")
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("At least one message must have the role user.")
    if sum(len(message.content) for message in messages) > CHARACTERS_MAX:
        raise PayloadTooLarge(f"The messages are longer than {CHARACTERS_MAX} characters in total.")


def read_amount(body: bytes, headers: Mapping[bytes, bytes]) -> int:
    """The `amount_sats` of a funding request. Raises InvalidRequest or PayloadTooLarge; not the range."""
    check_media_type(headers)
    if len(body) > FUNDING_BYTES_MAX:
        raise PayloadTooLarge(f"A funding request has at most {FUNDING_BYTES_MAX} bytes.")
    amount = read_object(body).get("amount_sats")
    if type(amount) is not int or not 0 < amount <= AMOUNT_SATS_MAX:
        raise InvalidRequest('amount_sats must be a whole number of sats, like {"amount_sats": 500}.')
    return amount
