"""An agent that has only the address finds what is sold, pays for it and calls it; and no map lies."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from tests.stage import Stage, play
from tests.web.test_services import service

from arkgate.web.openai import PATHS

MAPS = (
    "/.well-known/l402.json",
    "/.well-known/l402",
    "/.well-known/arkapi.json",
    "/.well-known/l402-services",
    "/.well-known/l402-manifest.json",
    "/l402.json",
    "/.well-known/l402.txt",
    "/skill.md",
    "/llms.txt",
    "/llms-full.txt",
    "/AGENTS.md",
)
WITH_PRICES = (*MAPS, "/openapi.json", "/v1/catalog", "/", "/apis", "/docs", "/docs/reference", "/dashboard")
"""Whatever shows prices, to programs or to people."""
TYPES = {
    "/robots.txt": "text/plain",
    "/llms.txt": "text/markdown",
    "/llms-full.txt": "text/markdown",
    "/AGENTS.md": "text/markdown",
    "/skill.md": "text/markdown",
    "/.well-known/l402.txt": "text/plain",
}
PRICE = 73


def priced_at(price: int) -> dict[str, str]:
    return {"[[services]]": f"price_sats = {price}\ncalls_per_day = 0"}


async def asked_by_curl(line: str) -> httpx.Response:
    """Does what a line for a shell says; knows nothing but curl's options."""
    words = shlex.split(line)
    assert words.pop(0) == "curl"
    url, headers, body, method = "", {}, None, None
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word == "-X":
            method = words.pop(0)
        else:
            url = word
    async with httpx.AsyncClient() as client:
        return await client.request(method or ("POST" if body else "GET"), url, headers=headers, content=body)


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.startswith("    curl ")]


def test_the_map_of_l402_is_enough_to_find_pay_and_call(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with httpx.AsyncClient() as agent:
            found = (await agent.get(stage.url + "/.well-known/l402.json")).json()
            offer = found["endpoints"][0]
            asked = {"method": offer["method"], "url": offer["url"], "json": offer["request"]["example"]}
            challenge = (await agent.request(**asked)).json()
            paid = await stage.simulation.pay(challenge["invoice"])
            name, _, template = found["payment"]["credential"].partition(": ")
            credential = template.replace("<macaroon>", challenge["macaroon"])
            credential = credential.replace("<preimage>", paid.preimage.hex())
            answer = await agent.request(**asked, headers={name: credential})

        assert challenge["price_sats"] == offer["price_sats"] == PRICE
        assert answer.status_code == 200
        assert answer.json()["data"]["answer"]

    play(tmp_path, story, priced_at(PRICE))


def test_the_text_for_models_is_enough_to_find_pay_and_call(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with httpx.AsyncClient() as agent:
            text = (await agent.get(stage.url + "/llms.txt")).text
        by_l402, session, by_token = commands(text)
        without = re.sub(r' -H "Authorization: [^"]*"', "", by_l402)
        challenge = (await asked_by_curl(without)).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        credential = f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"
        first = await asked_by_curl(by_l402.replace("L402 <macaroon>:<preimage>", credential))

        opened = (await asked_by_curl(session)).json()
        await stage.simulation.pay(opened["funding"]["lightning_invoice"])
        second = await asked_by_curl(by_token.replace("ak_…", opened["token"]))

        assert (first.status_code, second.status_code) == (200, 200), (first.text, second.text)
        assert f"{PRICE} sats a call" in text

    play(tmp_path, story, priced_at(PRICE))


def test_every_example_is_a_request_that_is_served(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(1000)
        text = (await stage.http.get("/llms-full.txt")).text
        for line in commands(text.partition("## Examples")[2]):
            answer = await asked_by_curl(line.replace("Bearer ak_…", token["Authorization"]))
            assert answer.status_code == 200, (line, answer.text)

    play(tmp_path, story, priced_at(PRICE))


@pytest.mark.parametrize("price", [PRICE, PRICE + 1])
def test_a_price_is_the_same_on_every_map(tmp_path: Path, price: int) -> None:
    async def story(stage: Stage) -> None:
        texts = {path: (await stage.http.get(path)).text for path in WITH_PRICES}
        challenge = (await stage.chat()).json()

        assert challenge["price_sats"] == price
        for path, text in texts.items():
            found = {int(number) for number in re.findall(r"\b7[34]\b", text)}
            assert found == {price}, path

    play(tmp_path, story, priced_at(price))


def models(*lines: str) -> dict[str, str]:
    """A chat service at the usual price, and models with prices of their own."""
    tables = (f'name = "model-{number}"\n{line}' for number, line in enumerate(lines))
    names = ", ".join(f'"model-{number}" = "simulated-chat"' for number in range(len(lines)))
    return {
        **priced_at(PRICE),
        "[[models]]": "\n[[models]]\n".join(tables),
        "[backend]": f"models = {{{names}}}",
    }


BY_TOKENS = "input_sats_per_million = 1000000\noutput_sats_per_million = 1000000\ndefault_max_tokens = 300"


def lists_of(texts: dict[str, str]) -> Iterator[dict[str, tuple[int, object]]]:
    """What each list of endpoints tells of an endpoint: its amount, and what that is."""
    catalog = json.loads(texts["/v1/catalog"])["endpoints"]
    yield {one["path"]: (one["cost_sats"], one["price_is"]) for one in catalog}
    endpoints = json.loads(texts["/.well-known/l402.json"])["endpoints"]
    yield {one["path"]: (one["price_sats"], one["price_is"]) for one in endpoints}
    tools = json.loads(texts["/.well-known/arkapi.json"])["tools"]
    yield {one["path"]: (one["cost_sats"], one["price_is"]) for one in tools}
    services = json.loads(texts["/.well-known/l402-services"])["services"]
    yield {one["path"]: (one["price_sats"], one["price"]["type"]) for one in services}
    paths = json.loads(texts["/openapi.json"])["paths"]
    priced = {path: one["post"] for path, one in paths.items() if "x-cost-sats" in one.get("post", {})}
    yield {path: (one["x-cost-sats"], one["x-price-is"]) for path, one in priced.items()}


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        ([BY_TOKENS], "by_tokens", "by tokens, up to 467 sats for a short question"),
        ([BY_TOKENS, "price_sats = 7"], "by_model", "by model, up to 467 sats"),
        (["price_sats = 7", BY_TOKENS], "by_model", "by model, up to 7 sats"),
        (["price_sats = 7"], "fixed", "7 sats a call"),
        (["price_sats = 7", "price_sats = 7"], "fixed", "7 sats a call"),
        (["price_sats = 7", "price_sats = 8"], "by_model", "by model, up to 7 sats"),
    ],
)
def test_a_models_price_is_what_every_map_tells_of_openais_routes(
    tmp_path: Path, lines: list[str], kind: str, words: str
) -> None:
    async def story(stage: Stage) -> None:
        texts = {path: (await stage.http.get(path)).text for path in WITH_PRICES}
        endpoints = json.loads(texts["/.well-known/l402.json"])["endpoints"]
        for endpoint in endpoints:
            example = endpoint["request"]["example"]
            quote = (await stage.http.post(f"/v1/quote?path={endpoint['path']}", json=example)).json()
            assert endpoint["pricing"] == quote["pricing"]
            is_exact = "output_sats_per_million_tokens" not in quote["pricing"]
            assert quote["hold_sats"] <= endpoint["price_sats"]
            assert not is_exact or quote["hold_sats"] == endpoint["price_sats"]

        first, *others = lists_of(texts)
        assert first.pop("/api/ai-chat") == (PRICE, "fixed")
        assert set(first) == set(PATHS)
        assert {told_kind for _, told_kind in first.values()} == {kind}
        for other in others:
            assert other == {**first, "/api/ai-chat": (PRICE, "fixed")}
        for path in ("/", "/apis", "/docs", "/docs/reference", "/dashboard"):
            assert texts[path].count(f"{PRICE} sats a call") == 1, path
            assert texts[path].count(words) >= len(PATHS) - 1, path  # embeddings have no answer's tokens
        for path in ("/llms.txt", "/skill.md"):
            assert texts[path].count(f"{PRICE} sats a call") == 1, path

    play(tmp_path, story, models(*lines))


def test_where_the_price_depends_on_the_call_no_amount_is_offered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        paths = (await stage.http.get("/openapi.json")).json()["paths"]
        by_tokens = paths["/v1/chat/completions"]["post"]["x-payment-info"]["offers"][0]
        fixed = paths["/api/ai-chat"]["post"]["x-payment-info"]["offers"][0]

        assert (by_tokens["amount"], fixed["amount"]) == (None, str(PRICE))
        assert by_tokens["description"].startswith("by tokens, up to ")

    play(tmp_path, story, models(BY_TOKENS))


def test_maps_may_be_kept_for_minutes_and_have_their_types(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for path in (*MAPS, "/robots.txt"):
            answer = await stage.http.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(TYPES.get(path, "application/json"))
            assert answer.headers["cache-control"] == "public, max-age=300"
            assert (await stage.http.head(path)).content == b""
        robots = (await stage.http.get("/robots.txt")).text.split("\n")
        assert "Disallow: /api/ai-chat" in robots

    play(tmp_path, story)


def test_who_finds_a_fault_is_told_where_to_write_only_where_the_operator_says_so(tmp_path: Path) -> None:
    async def silent(stage: Stage) -> None:
        assert (await stage.http.get("/.well-known/security.txt")).status_code == 404

    async def told(stage: Stage) -> None:
        lines = (await stage.http.get("/.well-known/security.txt")).text.split("\n")
        fields = dict(line.split(": ", 1) for line in lines if line)
        assert fields["Contact"] == "mailto:me@example.com"
        assert fields["Canonical"] == f"{stage.url}/.well-known/security.txt"
        left = datetime.fromisoformat(fields["Expires"]) - datetime.now(UTC)
        assert timedelta(days=170) < left < timedelta(days=365)

    play(tmp_path / "silent", silent)
    play(tmp_path / "told", told, {"[gateway]": 'contact = "mailto:me@example.com"'})


def test_an_operators_name_stands_on_maps_and_pages(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert (await stage.http.get("/.well-known/l402.json")).json()["name"] == "Sats & Co"
        assert "Sats &amp; Co" in (await stage.http.get("/")).text

    play(tmp_path, story, {"[gateway]": 'name = "Sats & Co"'})


def test_the_sitemap_and_the_linkset_lead_to_what_is_there(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        sitemap = await stage.http.get("/sitemap.xml")
        pages = [place.text or "" for place in ElementTree.fromstring(sitemap.text).iter() if place.text]
        (links,) = (await stage.http.get("/.well-known/api-catalog")).json()["linkset"]
        linked = [one["href"] for name, ones in links.items() if name != "anchor" for one in ones]

        assert len(pages) >= 5
        assert len(linked) >= 4
        for address in (*pages, *linked):
            assert (await stage.http.get(address)).status_code == 200, address
        assert f"Sitemap: {stage.url}/sitemap.xml" in (await stage.http.get("/robots.txt")).text

    play(tmp_path, story)


def test_the_skill_is_the_one_that_its_index_names(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        (skill,) = (await stage.http.get("/.well-known/agent-skills/index.json")).json()["skills"]
        text = (await stage.http.get(skill["url"])).content
        plugin = (await stage.http.get("/.well-known/ai-plugin.json")).json()

        assert skill["digest"] == f"sha256:{hashlib.sha256(text).hexdigest()}"
        assert text.startswith(b"---\nname: " + skill["name"].encode())
        assert (await stage.http.get(plugin["logo_url"])).headers["content-type"] == "image/svg+xml"
        assert (await stage.http.get(plugin["api"]["url"])).json()["openapi"] == "3.1.0"

    play(tmp_path, story)


def test_no_map_names_an_address_that_is_not_there(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        named: set[str] = set()
        for path in MAPS:
            named |= set(
                re.findall(re.escape(stage.url) + r"(/[^\s\"')]*)", (await stage.http.get(path)).text)
            )
        for path in named:
            assert (await stage.http.get(path)).status_code in (200, 401, 402, 405), path

    play(tmp_path, story, service(9))


def test_another_api_is_on_the_maps_with_its_methods(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        found: dict[str, Any] = (await stage.http.get("/.well-known/l402.json")).json()
        tools = (await stage.http.get("/.well-known/arkapi.json")).json()["tools"]
        weather = found["endpoints"][-1]

        assert (weather["path"], weather["methods"], weather["price_sats"]) == (
            "/weather/",
            ["GET", "PUT"],
            3,
        )
        assert weather["pricing"] == {"call_sats": 2.5}
        assert weather["everything_under_it"]
        assert len({tool["id"] for tool in tools}) == len(tools)
        assert json.dumps(found).count("ak_") == 1

    play(tmp_path, story, service(9))


def test_a_price_is_by_model_where_only_the_lengths_of_answers_differ(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        endpoints = (await stage.http.get("/v1/catalog")).json()["endpoints"]
        told = {one["path"]: (one["price_is"], one["cost_sats"]) for one in endpoints}
        assert told["/v1/chat/completions"] == ("by_model", 467)
        assert told["/v1/embeddings"] == ("by_tokens", 167)

    play(tmp_path, story, models(BY_TOKENS, BY_TOKENS.replace("300", "400")))
