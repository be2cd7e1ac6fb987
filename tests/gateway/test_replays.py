"""A purchase is made once: its answer comes again, after a restart and from another replica, on any route."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests import postgres
from tests.gateway.test_streams import ANY_NUMBER, CHAT, PRICE, at_rest, question, spent
from tests.stage import MODEL, run, staged

from arkgate.simulator.http_api import SimulatedApi
from arkgate.simulator.simulation import Simulation


def keyed(token: Mapping[str, str], key: str) -> dict[str, str]:
    return {**token, "Idempotency-Key": key}


def beside_api(url: str) -> dict[str, str]:
    service = (
        'calls_per_day = 0\n\n[[services]]\nname = "api"\nkind = "http"\npath = "/echo"\n'
        'methods = ["POST"]\nprice_sats = 1\nbackends = ["api"]'
    )
    return {"[[services]]": service, "[[backends]]": f'name = "api"\nkind = "http"\nurl = "{url}"'}


def test_a_restarted_gateway_gives_every_answer_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            SimulatedApi().running() as api,
            Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation,
        ):
            texts: list[list[str]] = []
            token: dict[str, str] = {}
            for _ in range(2):
                async with staged(tmp_path, extra=beside_api(api.url), simulation=simulation) as stage:
                    token = token or await stage.fund_token()
                    stream = await stage.http.post(CHAT, json=question(), headers=keyed(token, "1"))
                    echo = await stage.http.post("/echo", content=b"hi", headers=keyed(token, "2"))
                    chat = await stage.chat(keyed(token, "3"))
                    texts.append([stream.text, echo.text, str(chat.json()["data"])])
                    await at_rest(stage, token)
                    assert await spent(stage, token) == 2 * PRICE + 1
                    assert await stage.verify() == []
            assert texts[0] == texts[1]
            assert echo.headers["idempotent-replayed"] == "true"
            assert (len(api.received), len(simulation.chat.request_ids)) == (1, 2)

    run(asyncio.wait_for(main(), 60))


def test_replicas_give_each_others_streams_and_wait_for_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        store = f'url = "{await postgres.books_of(tmp_path)}"\nkeys_file = "{tmp_path}/keys.json"'
        extra = {**ANY_NUMBER, "[store]": store}
        async with (
            Simulation.running(data_dir=tmp_path / "simulator", chat_models=(MODEL,)) as simulation,
            staged(tmp_path / "one", extra=extra, simulation=simulation) as one,
            staged(tmp_path / "two", extra=extra, simulation=simulation) as two,
        ):
            token = await one.fund_token()
            slow, header = question("[fail:trickle 0.05] How?"), keyed(token, "1")
            under_way = asyncio.create_task(one.http.post(CHAT, json=slow, headers=header))
            while not simulation.chat.request_ids:  # noqa: ASYNC110 - another process's event has no event here
                await asyncio.sleep(0.01)
            meanwhile = await two.http.post(CHAT, json=slow, headers=header)
            whole = await under_way
            after = await two.http.post(CHAT, json=slow, headers=header)

            assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "request_in_flight")
            assert after.text == whole.text
            assert after.headers["x-cost-sats"] == "0"
            assert len(simulation.chat.request_ids) == 1
            assert await spent(two, token) == PRICE
            assert await two.verify() == []

    run(asyncio.wait_for(main(), 60))
