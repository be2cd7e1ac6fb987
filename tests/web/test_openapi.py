"""The OpenAPI description says what the catalog says, and is a document that programs can follow."""

import re
from pathlib import Path
from typing import Any

from tests.stage import Stage, play
from tests.web.test_services import service

from arkgate.web.openai import PATHS


def references(value: object) -> list[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for entry in value.values() for found in references(entry)]
    return [found for entry in value for found in references(entry)] if isinstance(value, list) else []


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_every_priced_route_is_in_it_with_its_price(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        document = (await stage.http.get("/openapi.json")).json()
        catalog = (await stage.http.get("/v1/catalog")).json()["endpoints"]
        paths = document["paths"]

        assert document["openapi"] == "3.1.0"
        for endpoint in catalog:
            path = endpoint["path"] + ("{path}" if endpoint["path"].endswith("/") else "")
            assert set(paths[path]) == {method.lower() for method in endpoint["methods"]}
            for operation in paths[path].values():
                assert operation["x-cost-sats"] == endpoint["cost_sats"]
                assert operation["x-pricing"] == endpoint["pricing"]
        assert {"/api/ai-chat", "/weather/{path}", *PATHS} <= set(paths)

    play(tmp_path, story, {**service(9), "[cache]": "ttl_seconds = 0"})


def test_it_is_a_document_that_programs_can_follow(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        document = (await stage.http.get("/openapi.json")).json()

        for reference in references(document):
            found: Any = document
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]
        names = [operation["operationId"] for operation in operations(document) if "operationId" in operation]
        assert len(set(names)) == len(names)
        schemes = set(document["components"]["securitySchemes"])
        for operation in operations(document):
            assert operation["responses"]
            for needed in operation.get("security", document["security"]):
                assert set(needed) <= schemes
        for path, methods in document["paths"].items():
            for operation in methods.values():
                named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
                assert named == set(re.findall(r"{(\w+)}", path))

    play(tmp_path, story, service(9))


def test_a_refusal_is_as_it_describes_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        document = (await stage.http.get("/openapi.json")).json()
        schema = document["components"]["schemas"]["Refusal"]
        for answer in (await stage.chat(), await stage.chat({"Authorization": "Bearer ak_" + "0" * 32})):
            body = answer.json()
            assert set(schema["required"]) <= set(body)
            assert str(answer.status_code) in document["paths"]["/api/ai-chat"]["post"]["responses"]

    play(tmp_path, story)
