"""What the doctor says of a gateway when one thing after the other is wrong with it."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from tests.ports import free_port_base
from tests.stage import MODEL, Stage, eventually, play, run, staged, write_settings

from arkgate import app, settings
from arkgate.gateway.doctor import Line, worst
from arkgate.ports import Check, Verdict
from arkgate.simulator.serving import serving
from arkgate.simulator.simulation import Simulation

GIGABYTES = 10**12
Found = dict[str, Check]


async def examined(loaded: settings.Settings, *, call: bool = False, free: int = GIGABYTES) -> Found:
    """The lines by subject and name: `backend: answers`."""
    async with app.examining(loaded, free=lambda _: free) as doctor:
        return {f"{line.subject}: {line.check.name}": line.check async for line in doctor.examine(call=call)}


def failures(found: Found) -> list[str]:
    return [name for name, check in found.items() if check.verdict is Verdict.FAILURE]


def warnings(found: Found) -> list[str]:
    return [name for name, check in found.items() if check.verdict is Verdict.WARNING]


def without_gateway(
    tmp_path: Path,
    story: Callable[[Simulation, settings.Settings], Awaitable[None]],
    extra: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """A simulation and settings; nothing is served and there are no books."""

    async def played() -> None:
        base = free_port_base()
        async with Simulation.running(
            data_dir=tmp_path / "simulator", chat_models=(MODEL,), **options
        ) as simulation:
            file = write_settings(
                tmp_path / "arkgate.toml", simulation, port=base, operator_port=base + 1, extra=extra
            )
            await story(simulation, settings.load(file))

    run(asyncio.wait_for(played(), 60))


def test_beside_a_running_gateway_nothing_fails_and_no_money_changes(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(500)
        before = await stage.balance(token)
        invoices_before = len(stage.simulation.gate.peer.invoices)
        found = await examined(stage.settings)
        made = list(stage.simulation.gate.peer.invoices.values())[invoices_before:]

        assert (failures(found), warnings(found)) == ([], [])
        assert found["public URL: request size"].verdict is Verdict.OK
        assert found["public URL: streaming"].verdict is Verdict.OK
        assert found["books: keys"].seen.endswith("and they belong to these books.")
        assert await stage.balance(token) == before
        assert [(row.amount_msat, row.canceled) for row in made] == [(50_000, True)]
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story)


def test_without_a_gateway_the_public_url_is_not_checked_and_no_file_is_made(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        found = await examined(loaded)

        assert failures(found) == []
        assert found["public URL: gateway"].verdict is Verdict.NOT_CHECKED
        assert "Start it first" in found["public URL: gateway"].remedy
        assert "public URL: public URL" not in found
        assert found["books: opens"].verdict is Verdict.NOT_CHECKED
        assert sorted(path.name for path in tmp_path.iterdir()) == ["arkgate.toml", "simulator"]

    without_gateway(tmp_path, story)


def test_the_lines_come_in_the_order_in_which_a_call_would_fail(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        subjects = list(dict.fromkeys(name.partition(": ")[0] for name in await examined(loaded)))

        assert subjects == ["settings", "books", "backend", "node gate", "public URL"]

    without_gateway(tmp_path, story)


def test_what_the_settings_warn_of_is_a_line(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        found = await examined(loaded)

        assert found["settings: settings"].verdict is Verdict.WARNING
        assert found["settings: settings"].seen == loaded.warnings[0]

    without_gateway(tmp_path, story, {"[gateway]": 'public_url = "http://api.example.com"'})


def test_a_model_that_the_backend_does_not_list_is_a_warning(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        found = await examined(loaded)

        assert found["backend: answers"].verdict is Verdict.WARNING
        assert "does not list the model other" in found["backend: answers"].seen
        assert found["backend: a call"].verdict is Verdict.NOT_CHECKED
        assert simulation.chat.request_ids == []

    without_gateway(tmp_path, story, {"[backend]": 'model = "other"'})


def test_a_url_of_the_backend_without_its_end_is_a_warning(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        bare = simulation.chat.url.removesuffix("/v1")
        file = tmp_path / "arkgate.toml"
        file.write_text(file.read_text().replace(simulation.chat.url, bare))
        check = (await examined(settings.load(file)))["backend: answers"]

        assert check.verdict is Verdict.WARNING
        assert "status 404" in check.seen
        assert "url, which usually ends in /v1" in check.remedy

    without_gateway(tmp_path, story)


def test_a_refused_key_and_a_backend_that_is_away_fail(tmp_path: Path) -> None:
    async def refused(simulation: Simulation, loaded: settings.Settings) -> None:
        found = await examined(loaded, call=True)

        assert failures(found) == ["backend: answers"]
        assert "api_key" in found["backend: answers"].remedy
        assert found["backend: a call"].verdict is Verdict.NOT_CHECKED

    async def away(simulation: Simulation, loaded: settings.Settings) -> None:
        assert failures(await examined(loaded)) == ["backend: answers"]

    without_gateway(tmp_path / "a", refused, chat_api_key="secret")
    without_gateway(tmp_path / "b", away, {"[backend]": 'url = "http://127.0.0.1:1/v1"'})


def test_a_call_that_the_backend_fails_is_found_with_call_only(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        simulation.chat.faults.always = "500"
        without, with_call = await examined(loaded), await examined(loaded, call=True)
        simulation.chat.faults.always = None
        well = await examined(loaded, call=True)

        assert failures(without) == []
        assert failures(with_call) == ["backend: a call"]
        assert well["backend: a call"].verdict is Verdict.OK
        assert "simulated-chat answered" in well["backend: a call"].seen

    without_gateway(tmp_path, story)


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (0, Verdict.FAILURE),
        (1024 * 1024 - 1, Verdict.FAILURE),
        (999_999_999, Verdict.WARNING),
        (10**9, Verdict.OK),
    ],
)
def test_free_disk_is_measured_against_the_log(tmp_path: Path, free: int, verdict: Verdict) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        assert (await examined(loaded, free=free))["books: free disk"].verdict is verdict

    without_gateway(tmp_path, story)


def test_a_check_that_breaks_off_is_a_failure_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(folder: Path) -> int:
        raise ValueError(f"nobody thought of {folder.name}")

    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        async with app.examining(loaded, free=broken) as doctor:
            lines = [line async for line in doctor.examine(call=False)]
        (failed,) = (line for line in lines if line.check.verdict is Verdict.FAILURE)

        assert failed.subject == "books"
        assert "ValueError: nobody thought of" in failed.check.seen
        assert {"backend", "node gate", "public URL"} <= {line.subject for line in lines}

    without_gateway(tmp_path, story)


def test_ten_logs_should_be_free(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        found = await examined(loaded, free=2 * 10**9)

        assert found["books: free disk"].verdict is Verdict.WARNING

    without_gateway(tmp_path, story, {"[store]": "log_megabytes = 200"})


def test_keys_that_others_may_read_or_that_are_not_these_books_fail(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        keys, verdicts = stage.settings.keys_file, {}
        kept = keys.read_bytes()
        keys.chmod(0o644)
        verdicts["open"] = (await examined(stage.settings))["books: keys"]
        keys.chmod(0o600)
        keys.write_text(json.dumps({"1": bytes(range(32)).hex()}))
        verdicts["other"] = (await examined(stage.settings))["books: keys"]
        keys.unlink()
        verdicts["missing"] = (await examined(stage.settings))["books: keys"]
        assert not keys.exists()
        keys.write_bytes(kept)
        keys.chmod(0o600)

        assert {check.verdict for check in verdicts.values()} == {Verdict.FAILURE}
        assert "chmod 600" in verdicts["open"].seen
        assert "restore the right file" in verdicts["other"].seen
        assert "is missing although the database holds accounts" in verdicts["missing"].seen

    play(tmp_path, story)


def test_tables_of_an_unknown_revision_fail_and_the_keys_are_looked_at_all_the_same(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        copy = tmp_path / "copy"
        copy.mkdir()
        with closing(sqlite3.connect(stage.database)) as database:
            database.execute("VACUUM INTO ?", (str(copy / "arkgate.db"),))
        with closing(sqlite3.connect(copy / "arkgate.db")) as database, database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
            database.execute("DELETE FROM meta WHERE name = 'revision_floor'")
        shutil.copy(stage.settings.keys_file, copy)
        (copy / "arkgate.toml").write_text((tmp_path / "arkgate.toml").read_text())
        found = await examined(settings.load(copy / "arkgate.toml"))

        assert failures(found) == ["books: opens"]
        assert "9999" in found["books: opens"].seen
        assert "was not checked" in found["books: keys"].seen

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("extra", "verdict", "word"),
    [
        ({}, Verdict.OK, "Challenges ask for 50 sats, sessions for 1 sat to 1000000 sats."),
        (
            {"[sessions]": "minimum_sats = 2000", "[[nodes]]": "maximum_sats = 1000"},
            Verdict.FAILURE,
            "at most 1000 sats",
        ),
        ({"[[nodes]]": "maximum_sats = 20"}, Verdict.FAILURE, "above the node's maximum_sats"),
        ({"[sessions]": "maximum_sats = 20"}, Verdict.WARNING, "a call costs 50 sats"),
    ],
)
def test_amounts_that_leave_nothing_to_sell_are_said(
    tmp_path: Path, extra: Mapping[str, str], verdict: Verdict, word: str
) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        check = (await examined(loaded))["node gate: amounts"]

        assert (check.verdict, word in check.seen) == (verdict, True)

    without_gateway(tmp_path, story, extra)


def test_the_node_is_asked_for_the_largest_session_on_offer(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        simulation.gate.habits.remote_sats = simulation.gate.habits.reserve_sats + 5_000
        loaded.nodes[0].files["macaroon_file"].write_bytes(
            simulation.gate.bake("invoices:read", "invoices:write", "offchain:read")
        )
        found = await examined(loaded)

        assert warnings(found) == ["node gate: receiving capacity"]
        assert "up to 6000 sats are on offer" in found["node gate: receiving capacity"].meaning

    without_gateway(tmp_path, story, {"[sessions]": "maximum_sats = 6000"})


@dataclass(slots=True)
class Proxy:
    """What stands before a gateway, with a fault."""

    target: str = ""
    body_bytes_max: int = 16 * 1024 * 1024
    drops: str = ""
    """A header that gets lost, both ways."""
    answer: Response | None = None
    """What every request gets in place of the gateway's answer."""
    catalog: Response | None = None
    buffers: bool = False
    """Whether it waits for the end of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._response(request)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        body = await request.body()
        if self.answer is not None:
            return self.answer
        if self.catalog is not None and request.url.path == "/v1/catalog":
            return self.catalog
        if len(body) > self.body_bytes_max:
            return Response("<html>413 Request Entity Too Large</html>", 413, media_type="text/html")
        headers = {name: value for name, value in request.headers.items() if name not in ("host", self.drops)}
        if not self.buffers and request.url.path == "/health/stream":
            return StreamingResponse(self._handed_on(request.url.path), media_type="text/event-stream")
        async with httpx.AsyncClient(timeout=30) as http:
            answer = await http.request(
                request.method, self.target + request.url.path, content=body, headers=headers
            )
        kept = {name: value for name, value in answer.headers.items() if name != self.drops}
        return Response(answer.content, answer.status_code, headers=kept)

    async def _handed_on(self, path: str) -> AsyncIterator[bytes]:
        async with httpx.AsyncClient(timeout=30) as http, http.stream("GET", self.target + path) as answer:
            async for part in answer.aiter_raw():
                yield part


@asynccontextmanager
async def proxied(tmp_path: Path, proxy: Proxy) -> AsyncIterator[Stage]:
    """A gateway whose public URL is the proxy's."""
    async with serving(proxy, port=0, purpose="a proxy") as port:
        public_url = f'public_url = "http://127.0.0.1:{port}"'
        async with staged(tmp_path, extra={"[gateway]": public_url}) as stage:
            proxy.target = stage.settings.listen.url
            yield stage


REDIRECT = Response(status_code=301, headers={"location": "https://www.example.com/"})


@pytest.mark.parametrize(
    ("proxy", "line", "verdict", "word"),
    [
        (Proxy(), "request size", Verdict.OK, "1048576 bytes arrive"),
        (Proxy(answer=Response("It works!")), "public URL", Verdict.FAILURE, "not as arkgate"),
        (Proxy(answer=REDIRECT), "public URL", Verdict.FAILURE, "redirects to https://www.example.com/"),
        (
            Proxy(catalog=JSONResponse({"endpoints": []})),
            "the same gateway",
            Verdict.FAILURE,
            "another catalog",
        ),
        (Proxy(drops="authorization"), "credentials", Verdict.FAILURE, "as if it had none"),
        (Proxy(drops="www-authenticate"), "credentials", Verdict.FAILURE, "WWW-Authenticate does not"),
        (Proxy(), "streaming", Verdict.OK, "arrives so"),
        (Proxy(buffers=True), "streaming", Verdict.WARNING, "arrives all at once"),
        (
            Proxy(body_bytes_max=64 * 1024),
            "request size",
            Verdict.WARNING,
            "1048576 bytes is answered with 413",
        ),
        (
            Proxy(body_bytes_max=1024 * 1024),
            "request size",
            Verdict.WARNING,
            "1048577 bytes is answered with 413",
        ),
    ],
)
def test_what_stands_before_the_gateway_is_found_out(
    tmp_path: Path, proxy: Proxy, line: str, verdict: Verdict, word: str
) -> None:
    async def story() -> None:
        async with proxied(tmp_path, proxy) as stage:
            found = await examined(stage.settings)
            check = found[f"public URL: {line}"]

            assert check.verdict is verdict
            assert word in check.seen
            assert [*failures(found), *warnings(found)] == (
                [] if verdict is Verdict.OK else [f"public URL: {line}"]
            )
            assert len(stage.simulation.gate.peer.invoices) == 1  # the node's line: the public URL makes none

    run(asyncio.wait_for(story(), 60))


def test_a_public_url_that_cannot_be_reached_is_told_apart(tmp_path: Path) -> None:
    async def seen(stage: Stage, public_url: str) -> str:
        file = tmp_path / "elsewhere.toml"
        text = (tmp_path / "arkgate.toml").read_text()
        file.write_text(text.replace("[gateway]", f'[gateway]\npublic_url = "{public_url}"'))
        found = await examined(settings.load(file))

        assert failures(found) == ["public URL: public URL"]
        return found["public URL: public URL"].seen

    async def story(stage: Stage) -> None:
        node = stage.simulation.gate.address
        local = stage.settings.listen

        assert await seen(stage, "https://no-such-host.invalid") == (
            "The name no-such-host.invalid has no address (DNS)."
        )
        assert await seen(stage, "http://127.0.0.1:1") == "Nothing listens at http://127.0.0.1:1."
        assert "certificate of 127.0.0.1 is refused: self-signed" in await seen(stage, f"https://{node}")
        assert "does not speak TLS" in await seen(stage, f"https://{local.host}:{local.port}")

    play(tmp_path, story)


def test_settings_that_the_running_gateway_has_not_read_are_said(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        file = tmp_path / "changed.toml"
        text = (tmp_path / "arkgate.toml").read_text()
        file.write_text(text.replace("[[services]]", '[[services]]\npath = "/api/other"'))
        found = await examined(settings.load(file))

        assert found["public URL: the same gateway"].verdict is Verdict.WARNING
        assert "Restart it" in found["public URL: the same gateway"].remedy

    play(tmp_path, story)


def test_a_gateway_that_is_not_ready_says_which_part_is_missing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.simulation.gate.habits.synced = False
        stage.settings.nodes[0].files["macaroon_file"].write_bytes(
            stage.simulation.gate.bake("invoices:read", "invoices:write", "info:read")
        )
        await stage.simulation.gate.stop()
        found = await examined(stage.settings)

        assert "public URL: gateway" in failures(found)
        assert "node:gate unreachable" in found["public URL: gateway"].seen
        await stage.simulation.gate.start()

    play(tmp_path, story)


def test_of_several_nodes_each_has_its_lines_and_one_is_enough_to_sell(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            Simulation.running(
                data_dir=tmp_path / "simulator", chat_models=(MODEL,), spares=("spare",)
            ) as simulation,
            staged(tmp_path, simulation=simulation, extra={"[[nodes]]": "maximum_sats = 20"}) as stage,
        ):
            well = await examined(stage.settings)
            await simulation.gate.stop()

            async def noticed() -> bool:
                parts = (await stage.http.get("/health/ready")).json()["dependencies"]
                return not parts["node:gate"]["ready"]

            await eventually(noticed)
            found = await examined(stage.settings)
            await simulation.gate.start()

        assert well["node gate: amounts"].verdict is Verdict.WARNING
        assert well["node spare: amounts"].verdict is Verdict.OK
        assert failures(found) == ["node gate: address"]
        assert found["public URL: gateway"].verdict is Verdict.WARNING
        assert "node:gate unreachable" in found["public URL: gateway"].seen
        assert found["node spare: stream of settlements"].verdict is Verdict.OK

    run(asyncio.wait_for(story(), 60))


def test_another_program_on_the_gateways_port_is_no_gateway(tmp_path: Path) -> None:
    async def story(simulation: Simulation, loaded: settings.Settings) -> None:
        async with serving(
            Proxy(answer=Response("It works!")), port=loaded.listen.port, purpose="something else"
        ):
            found = await examined(loaded)

        assert "is not arkgate" in found["public URL: gateway"].seen
        assert failures(found) == ["public URL: gateway"]

    without_gateway(tmp_path, story)


def test_the_worst_line_decides() -> None:
    def of(*verdicts: Verdict) -> Verdict:
        return worst([Line("x", Check("x", verdict, "x")) for verdict in verdicts])

    assert of() is Verdict.OK
    assert of(Verdict.OK, Verdict.NOT_CHECKED) is Verdict.OK
    assert of(Verdict.OK, Verdict.WARNING, Verdict.NOT_CHECKED) is Verdict.WARNING
    assert of(Verdict.WARNING, Verdict.FAILURE, Verdict.OK) is Verdict.FAILURE
