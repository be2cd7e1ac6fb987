"""Tools that a simulated answer calls, and values that fit their schemas."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DEPTH_MAX = 8
_EXAMPLES: Json = {"string": "simulated", "integer": 1, "number": 1.5, "boolean": True, "null": None}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the answer may call."""

    name: str
    parameters: object
    """A JSON schema, if the request has one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    tool: str
    values: object

    @property
    def arguments(self) -> str:
        """The values as a JSON text, which is how OpenAI's APIs pass them."""
        return json.dumps(self.values)


def chosen_tool(tools: Sequence[Tool], choice: object, *, asked: bool) -> Tool | None:
    """The tool to call: the one that is named, the first when one must be called or is asked for, or none."""
    name = _named(choice)
    if not tools or choice == "none" or name == "none":
        return None
    for tool in tools:
        if tool.name == name:
            return tool
    return tools[0] if asked or choice in ("required", "any") or name in ("required", "any") else None


def _named(choice: object) -> str | None:
    """The tool's name in OpenAI's nested form, in its flat form and in Anthropic's; else the form's type."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    return str(name or choice.get("type"))


def example_of(schema: object) -> object:
    """A small value that a JSON schema allows, as far as tools use schemas; null below DEPTH_MAX."""
    return _example(schema, root=schema, depth=DEPTH_MAX)


def _example(schema: object, *, root: object, depth: int) -> object:
    if depth == 0 or not isinstance(schema, dict):
        return None if depth == 0 else {}
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    other = _other(schema, root)
    if other is not None:
        return _example(other, root=root, depth=depth - 1)
    return _typed(schema, root=root, depth=depth)


def _other(schema: Json, root: object) -> object:
    """The schema in whose place this one stands, or None."""
    if "$ref" not in schema:
        choices = [schema[kind] for kind in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(kind), list)]
        return choices[0][0] if choices and choices[0] else None
    found = root
    for name in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found


def _typed(schema: Json, *, root: object, depth: int) -> object:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}), root=root, depth=depth - 1)]
    if kind in _EXAMPLES:
        return _EXAMPLES[kind]
    properties = schema.get("properties")
    inner = properties.items() if isinstance(properties, dict) else ()
    return {name: _example(one, root=root, depth=depth - 1) for name, one in inner}
