"""The OpenAPI description for people: by tag and operation, as a page shows it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from arkgate.web.openapi_schemas import Json


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation."""

    method: str
    path: str
    summary: str
    cost: int | None
    """In sats; None where it is free."""
    price: str | None
    """What the cost is, as `prices.PriceKind` has it."""
    needs: bool
    """Whether a credential is needed."""
    parameters: list[Json]
    example: str | None
    """A body as JSON."""
    answers: list[tuple[str, str]]
    """Statuses and what they mean."""


@dataclass(frozen=True, slots=True)
class Tag:
    """The operations of one kind."""

    name: str
    description: str
    operations: list[Operation]


def by_tag(document: Json) -> list[Tag]:
    """The tags that have operations, in the document's order."""
    found = [(operation["tags"][0], one) for operation, one in _operations(document)]
    tags = [
        Tag(tag["name"], tag["description"], [one for name, one in found if name == tag["name"]])
        for tag in document["tags"]
    ]
    return [tag for tag in tags if tag.operations]


def _operations(document: Json) -> Iterator[tuple[Json, Operation]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (
                operation,
                Operation(
                    method.upper(),
                    path,
                    operation["summary"],
                    operation.get("x-cost-sats"),
                    operation.get("x-price-is"),
                    bool(operation.get("security", document["security"])),
                    operation.get("parameters", []),
                    _example(operation),
                    [
                        (status, _resolved(document, answer)["description"])
                        for status, answer in operation["responses"].items()
                    ],
                ),
            )


def _example(operation: Json) -> str | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return json.dumps(content["example"], indent=2) if content.get("example") else None


def _resolved(document: Json, answer: Json) -> Json:
    found: Json = answer
    if "$ref" in answer:
        found = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    return found
