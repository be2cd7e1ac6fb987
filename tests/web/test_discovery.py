"""An agent that has only the address finds what is sold, pays for it and calls it; and no map lies."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stage import Stage, play
from tests.web.test_services import service

MAPS = (
    "/.well-known/l402.json",
    "/.well-known/l402",
    "/.well-known/arkapi.json",
    "/llms.txt",
    "/llms-full.txt",
)
TYPES = {"/robots.txt": "text/plain", "/llms.txt": "text/markdown", "/llms-full.txt": "text/markdown"}
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
        texts = {path: (await stage.http.get(path)).text for path in (*MAPS, "/v1/catalog", "/openapi.json")}
        challenge = (await stage.chat()).json()

        assert challenge["price_sats"] == price
        for path, text in texts.items():
            found = {int(number) for number in re.findall(r"\b7[34]\b", text)}
            assert found == {price}, path

    play(tmp_path, story, priced_at(price))


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
