"""Any HTTP API behind the same 402, tokens and refunds: what passes, what is charged, what never passes."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from tests.backend.backend_server import BackendServer, Behaviour, Peer, always, http, serving
from tests.stage import Stage, eventually, run, staged

from arkgate.gateway import serve

JSON = b'{"degrees": 21}'
Story = Callable[[Stage, BackendServer], Awaitable[None]]


def service(port: int, **changes: object) -> dict[str, str]:
    """A chat service, and beside it one that sells everything under /weather/."""
    lines = {
        "name": '"weather"',
        "kind": '"http"',
        "path": '"/weather/"',
        "methods": '["GET", "PUT"]',
        "price_sats": "2.5",
        "backends": '["weather"]',
        "description": '"The weather."',
        **changes,
    }
    text = "\n".join(f"{name} = {value}" for name, value in lines.items())
    backend = (
        f'name = "weather"\nkind = "http"\nurl = "http://127.0.0.1:{port}/base"\napi_key = "sk-operators"\n'
        "idle_timeout_seconds = 0.4\ntotal_timeout_seconds = 5"
    )
    return {"[[services]]": f"calls_per_day = 5\n\n[[services]]\n{text}", "[[backends]]": backend}


def play(tmp_path: Path, behave: Behaviour, story: Story, **changes: object) -> None:
    async def played() -> None:
        async with (
            serving(behave) as server,
            staged(tmp_path, extra=service(server.port, **changes)) as stage,
        ):
            await story(stage, server)
            assert await stage.verify() == []

    run(asyncio.wait_for(played(), 60))


def answering(body: bytes = JSON, *headers: str, status: str = "200 OK") -> Behaviour:
    return always(http(body, status=status, headers=("Content-Type: application/json", *headers)))


async def available(stage: Stage, token: dict[str, str]) -> float:
    lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
    return float(lines[-1]["balance_sats"])


def test_a_get_is_challenged_paid_and_forwarded_as_it_is(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        path = "/weather/today%20?city=M%C3%BCnchen&x=1"
        challenge = await stage.http.get(path)
        assert (challenge.status_code, challenge.json()["price_sats"]) == (402, 3)
        assert "repeat the request as GET /weather/… with" in challenge.json()["error"]
        assert "repeat the request as PUT /weather/… with" in (await stage.http.put(path)).json()["error"]
        assert "GET /weather/" in challenge.json()["error"]
        paid = await stage.simulation.pay(challenge.json()["invoice"])
        header = {"Authorization": f"L402 {challenge.json()['macaroon']}:{paid.preimage.hex()}"}
        answer = await stage.http.get(path, headers=header)

        assert (answer.status_code, answer.content) == (200, JSON)
        assert answer.headers["x-cost-sats"] == "3"
        head = server.requests[0][0].split(b"\r\n")
        assert head[0] == b"GET /base/weather/today%20?city=M%C3%BCnchen&x=1 HTTP/1.1"
        assert await available(stage, header) == 0.5

    play(tmp_path, answering(), story)


def test_no_credential_and_no_hop_by_hop_header_passes_in_either_direction(tmp_path: Path) -> None:
    told = (
        "Set-Cookie: a=b",
        "Server: secret/1",
        "X-Internal: 10.0.0.1",
        'ETag: "1"',
        "Keep-Alive: timeout=5",
    )

    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        sent = {
            **token,
            "X-Api-Key": token["Authorization"].removeprefix("Bearer "),
            "Cookie": "session=1",
            "Connection": "keep-alive, X-Private",
            "X-Private": "1",
            "X-Forwarded-For": "1.2.3.4",
            "TE": "trailers",
            "Proxy-Authorization": "Basic x",
            "Accept-Language": "de",
            "User-Agent": "spy",
            "Idempotency-Key": "weather-1",
        }
        answer = await stage.http.get("/weather/now", headers=sent)

        names = {line.split(b":")[0].lower() for line in server.requests[0][0].split(b"\r\n")[1:] if line}
        assert names == {
            b"host", b"accept-encoding", b"user-agent", b"authorization", b"accept", b"accept-language",
            b"x-request-id",
        }  # fmt: skip
        assert b"Authorization: Bearer sk-operators\r\n" in server.requests[0][0]
        assert b"User-Agent: arkgate\r\n" in server.requests[0][0]
        assert token["Authorization"].encode() not in server.requests[0][0]
        assert answer.headers["etag"] == '"1"'
        for name in ("set-cookie", "server", "x-internal", "keep-alive"):
            assert name not in answer.headers

    play(tmp_path, answering(JSON, *told), story)


PASSED_ON = {404: "404 Not Found", 400: "400 Bad Request", 422: "422 Unprocessable", 409: "409 Conflict"}


@pytest.mark.parametrize("status", PASSED_ON.values(), ids=PASSED_ON)
def test_the_apis_own_refusals_go_on_as_they_are_and_cost_nothing(tmp_path: Path, status: str) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        answer = await stage.http.get("/weather/nowhere", headers=token)

        assert (answer.status_code, answer.content) == (int(status[:3]), b'{"why": "no"}')
        assert answer.headers["x-cost-sats"] == "0"
        assert (await stage.balance(token))["available_sats"] == 100

    play(tmp_path, answering(b'{"why": "no"}', status=status), story)


def test_a_refusal_of_unknown_length_goes_on_whole_and_costs_nothing(tmp_path: Path) -> None:
    body = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"

    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        answer = await asyncio.wait_for(stage.http.get("/weather/nowhere", headers=token), 5)

        assert (answer.status_code, answer.content) == (404, b"no")
        assert answer.headers["x-cost-sats"] == "0"
        assert (await stage.balance(token))["available_sats"] == 100

    play(tmp_path, always(body), story)


OPERATORS = (
    "401 Unauthorized",
    "403 Forbidden",
    "429 Too Many",
    "500 Oops",
    "503 No",
    "302 Found",
    "407 Auth",
)


@pytest.mark.parametrize("status", OPERATORS)
def test_the_operators_trouble_is_502_and_costs_nothing(tmp_path: Path, status: str) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        answer = await stage.http.get("/weather/now", headers=token)

        assert answer.status_code == 502
        assert answer.json()["refunded"] is True
        assert "secret" not in answer.text
        assert (await stage.balance(token))["available_sats"] == 100

    play(tmp_path, answering(b'{"secret": 1}', "Location: http://10.0.0.1/", status=status), story)


def test_a_retry_with_its_key_is_answered_from_the_books_with_its_headers(tmp_path: Path) -> None:
    told = ('Content-Disposition: attachment; filename="a.json"',)

    async def story(stage: Stage, server: BackendServer) -> None:
        token = {**await stage.fund_token(100), "Idempotency-Key": "once"}
        first = await stage.http.get("/weather/now?a=1", headers=token)
        again = await stage.http.get("/weather/now?a=1", headers=token)
        other = await stage.http.get("/weather/now?a=2", headers=token)

        assert again.content == first.content == JSON
        assert again.headers["content-disposition"] == 'attachment; filename="a.json"'
        assert again.headers["idempotent-replayed"] == "true"
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert len(server.requests) == 1

    play(tmp_path, answering(JSON, *told), story)


def test_an_upload_reaches_the_api_and_one_that_is_too_large_is_refused_before_anything(
    tmp_path: Path,
) -> None:
    body = bytes(range(256)) * 800

    async def story(stage: Stage, server: BackendServer) -> None:
        token = {**await stage.fund_token(100), "Content-Type": "application/octet-stream"}
        answer = await stage.http.put("/weather/picture", headers=token, content=body)
        large = await stage.http.put("/weather/picture", headers=token, content=body + b"x" * 4000)

        assert answer.status_code == 200
        assert server.requests[0][1] == body
        assert b"Content-Type: application/octet-stream" in server.requests[0][0].replace(
            b"content-type", b"Content-Type"
        )
        assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
        assert len(server.requests) == 1
        assert await available(stage, token) == 97.5

    play(tmp_path, answering(), story, request_bytes_max=len(body) + 1000)


async def chunked(peer: Peer, *parts: bytes, pause_seconds: float = 0.0, ends: bool = True) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n")
    for part in parts:
        await peer.send(b"%x\r\n%b\r\n" % (len(part), part))
        await asyncio.sleep(pause_seconds)
    if ends:
        await peer.send(b"0\r\n\r\n")


def test_an_answer_that_comes_piece_by_piece_leaves_piece_by_piece(tmp_path: Path) -> None:
    async def behave(peer: Peer) -> None:
        await chunked(peer, b"one ", b"two ", b"three", pause_seconds=0.15)

    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        times, loop = [], asyncio.get_running_loop()
        async with stage.http.stream("GET", "/weather/live", headers=token) as answer:
            pieces = []
            async for piece in answer.aiter_raw():
                pieces.append(piece)
                times.append(loop.time())

        assert pieces == [b"one ", b"two ", b"three"]
        assert times[2] - times[0] > 0.2
        assert await available(stage, token) == 97.5

    play(tmp_path, behave, story)


def test_an_answer_that_breaks_off_is_cut_off_and_costs_nothing(tmp_path: Path) -> None:
    async def behave(peer: Peer) -> None:
        await chunked(peer, b"one ", ends=False)

    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
        head = f"GET /weather/live HTTP/1.1\r\nHost: x\r\nAuthorization: {token['Authorization']}\r\n\r\n"
        writer.write(head.encode())
        read = await asyncio.wait_for(reader.read(), 5)
        writer.close()

        assert b"one " in read
        assert not read.endswith(b"0\r\n\r\n")

        async def refunded() -> bool:
            return bool((await stage.balance(token))["available_sats"] == 100)

        await eventually(refunded)

    play(tmp_path, behave, story)


def test_what_a_call_uses_is_charged_up_to_the_hold(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(1000)
        small = await stage.http.get("/weather/now", headers=token)
        assert small.status_code == 200
        assert await available(stage, token) == 1000 - 10.25  # ten sats, and a quarter for a quarter of a KiB

    play(
        tmp_path, answering(b"x" * 256), story,
        price_sats=10, kilobyte_sats=1, hold_sats=20, calls_per_day=0,
    )  # fmt: skip


PATHS = [
    "/weather/../admin",
    "/weather/%2e%2e/admin",
    "/weather/a%2fb",
    "/weather/..;/x",
    "/weather/%00",
    "/weather/a%5cb",
    "/weather//now",
    "/weather/now;v=1",
    "/weather",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_could_be_read_in_two_ways_is_not_forwarded(tmp_path: Path, path: str) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.settings.listen.port)
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token['Authorization']}\r\n\r\n"
        writer.write(head.encode())
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()

        assert line.split()[1] in (b"400", b"404")
        assert server.requests == []

    play(tmp_path, answering(), story)


def test_a_dearer_part_of_an_api_is_not_had_at_the_price_of_the_whole(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        for path, price in [("/weather/now", 3), ("/weather/dear", 20), ("/weather/deep/x", 30)]:
            challenge = await stage.http.get(path)
            quote = (await stage.http.post(f"/v1/quote?path={path}&method=GET")).json()
            assert challenge.json()["price_sats"] == quote["hold_sats"] == price, path
        token = await stage.fund_token(100)
        for path in ("/weather/dear", "/weather/deep/x"):  # sold under /weather/ by this method, and not here
            refused = await stage.http.put(path, headers=token)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
            assert (await stage.http.post(f"/v1/quote?path={path}&method=PUT")).status_code == 405
        assert server.requests == []
        for path in ("/weather/dear/", "/weather/deep"):
            refused = await stage.http.get(path)
            assert refused.status_code == 404
            assert "write it so" in refused.text

    dear = 'kind = "http"\nbackends = ["weather"]\nname = "{}"\nprice_sats = {}\npath = "{}"\n'
    parts = [dear.format("dear", 20, "/weather/dear"), dear.format("deep", 30, "/weather/deep/")]
    text = '"Parts of it."\n[[services]]\n' + "\n[[services]]\n".join(parts)
    play(tmp_path, answering(), story, description=text)


def test_methods_are_the_services_and_its_path_may_be_taken_off(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        refused = await stage.http.post("/weather/now", headers=token, content=b"x")
        probed = await stage.http.head("/weather/now")
        await stage.http.get("/weather/now", headers=token)

        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, PUT")
        assert (await stage.http.get("/%77eather/now", headers=token)).status_code == 404
        assert probed.status_code == 402
        assert server.requests[0][0].startswith(b"GET /base/now HTTP/1.1")

    play(tmp_path, answering(), story, strip_path="true")


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "POST"])
def test_a_method_that_is_not_sold_names_those_that_are(tmp_path: Path, method: str) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        for path, allowed in (("/weather/now", "GET, PUT"), ("/v1/chat/completions", "POST")):
            if method == allowed:
                continue
            answer = await stage.http.request(method, path, headers=token)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
            assert allowed in answer.text
            assert "HEAD" not in answer.text

    play(tmp_path, answering(), story)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_ends_with_its_head_has_no_length(tmp_path: Path, status: str) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        token = await stage.fund_token(100)
        keyed = {**token, "Idempotency-Key": "one"}
        for _ in range(3):
            answer = await stage.http.get("/weather/now", headers=keyed)
            assert (answer.status_code, answer.content) == (int(status[:3]), b"")
            assert not {"content-length", "transfer-encoding"} & set(answer.headers)

    head = f'HTTP/1.1 {status}\r\nETag: "1"\r\n\r\n'
    play(tmp_path, always(head.encode()), story)


def test_a_balance_tells_the_price_of_what_its_credential_buys(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        challenge = (await stage.http.get("/weather/now")).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        weather = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        chat = await stage.buy_credential()
        token = await stage.fund_token(100)
        told = [await stage.balance(header) for header in (weather, chat.header, token)]

        assert [body["price_sats"] for body in told] == [3, 50, 50]
        assert [body["calls_left_today"] for body in told] == [2, 5, 5]

    play(tmp_path, answering(), story, calls_per_day=2)


def test_it_is_in_the_catalog_has_a_quote_and_an_allowance_of_its_own(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        catalog = (await stage.http.get("/v1/catalog")).json()["endpoints"]
        quote = (await stage.http.post("/v1/quote?path=/weather/now&method=GET")).json()
        token = await stage.fund_token(100)
        statuses = [(await stage.http.get(f"/weather/{day}", headers=token)).status_code for day in range(3)]
        chat = await stage.chat(token)

        assert catalog[-1]["path"] == "/weather/"
        assert catalog[-1]["pricing"] == {"call_sats": 2.5}
        assert (quote["hold_msat"], quote["service"]) == (2500, "weather")
        assert statuses == [200, 200, 429]
        assert chat.status_code == 200

    play(tmp_path, answering(), story, calls_per_day=2)


def test_a_credential_for_one_service_does_not_buy_another(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        credential = await stage.buy_credential()
        answer = await stage.http.get("/weather/now", headers=credential.header)

        assert (answer.status_code, answer.json()["code"]) == (402, "wrong_service")
        assert server.requests == []

    play(tmp_path, answering(), story)


def test_while_the_api_is_away_nobody_is_asked_to_pay_for_it(tmp_path: Path) -> None:
    async def played() -> None:
        async with staged(tmp_path, extra=service(9)) as stage:
            token = await stage.fund_token(100)
            failures = [await stage.http.get("/weather/now", headers=token) for _ in range(3)]
            refused = await stage.http.get("/weather/now")
            chat = await stage.chat()

            assert {answer.status_code for answer in failures} == {502}
            assert (refused.status_code, refused.json()["code"]) == (503, "backend_unavailable")
            assert chat.status_code == 402
            ready = (await stage.http.get("/health/ready")).json()
            assert ready["dependencies"]["backend:weather"]["ready"] is False

    run(asyncio.wait_for(played(), 60))


def test_nothing_is_written_into_an_answer_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    async def late(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.5)
        await peer.send(b"4\r\n\x89PNG\r\n0\r\n\r\n")

    async def story(stage: Stage, server: BackendServer) -> None:
        token = {**await stage.fund_token(100), "Idempotency-Key": "picture-1"}
        answers = [await stage.http.get("/weather/map", headers=token) for _ in range(2)]

        assert [answer.content for answer in answers] == [b"\x89PNG", b"\x89PNG"]
        assert {answer.headers["content-type"] for answer in answers} == {"application/octet-stream"}

    async def played() -> None:
        async with serving(late) as server:
            extra = {**service(server.port), "[backend]": "heartbeat_seconds = 0.1"}
            extra["[[backends]]"] = extra["[[backends]]"].replace("idle_timeout_seconds = 0.4\n", "")
            async with staged(tmp_path, extra=extra) as stage:
                await story(stage, server)

    run(asyncio.wait_for(played(), 60))


def test_a_get_that_cannot_be_paid_is_a_repetition_for_a_while_and_then_has_its_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        challenge = (await stage.http.get("/weather/now")).json()
        paid = await stage.simulation.pay(challenge["invoice"])
        header = {"Authorization": f"L402 {challenge['macaroon']}:{paid.preimage.hex()}"}
        first, again = [await stage.http.get("/weather/now", headers=header) for _ in range(2)]
        assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
        assert again.headers["idempotent-replayed"] == "true"

        monkeypatch.setattr(serve, "REPEATED_GET_SECONDS", -1)
        later = await stage.http.get("/weather/now", headers=header)
        told = await stage.http.get("/weather/now", headers={**header, "X-Stainless-Retry-Count": "1"})
        assert (later.status_code, later.json()["code"]) == (402, "insufficient_balance")
        assert (told.status_code, told.content) == (200, first.content)
        assert len(server.requests) == 1

    play(tmp_path, answering(), story)


def test_what_is_over_the_limit_of_whole_answers_leaves_as_it_comes(tmp_path: Path) -> None:
    body = bytes(50_000)

    async def story(stage: Stage) -> None:
        answer = await stage.http.get("/weather/map", headers=await stage.fund_token(100))
        assert (answer.status_code, answer.content) == (200, body)

    async def played() -> None:
        async with serving(answering(body)) as server:
            extra = service(server.port)
            extra["[[backends]]"] += "\nanswer_bytes_max = 20000"
            async with staged(tmp_path, extra=extra) as stage:
                await story(stage)

    run(asyncio.wait_for(played(), 60))


def test_the_log_says_why_a_backend_failed(tmp_path: Path) -> None:
    async def story(stage: Stage, server: BackendServer) -> None:
        with structlog.testing.capture_logs() as logs:
            answer = await stage.http.get("/weather/now", headers=await stage.fund_token(100))
        assert answer.status_code == 502
        (finished,) = [line for line in logs if line["event"] == "call finished"]
        assert "the answer does not say where it ends" in finished["why"]

    play(
        tmp_path, always(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nsunny", then_close=True), story
    )
