"""Fetches that several follow, and readers who are slow on purpose."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.backend.backend_server import Peer, serving
from tests.gateway.test_streams import CHAT, at_rest, question, reading, spent, until
from tests.stage import Stage, eventually, run, staged
from tests.web.test_hostile_clients import _stalled

from arkgate.web.protocol import ProtocolLimits

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def extra(url: str, more: str = "", cache: str = "ttl_seconds = 0") -> dict[str, str]:
    backend = f'url = "{url}"\nmodel = "m"\nidle_timeout_seconds = 5\n{more}'
    return {"[[services]]": "calls_per_day = 0", "[backend]": backend, "[cache]": cache}


async def send_much(peer: Peer, times: int) -> None:
    """The head of a stream, and 60 KB of words so many times."""
    await peer.request()
    await peer.send(HEAD)
    for _ in range(times):
        await peer.send(chunk(EVENT * 700))


async def read_after(stage: Stage, token: Mapping[str, str], seconds: float) -> str:
    """What a reader has of a stream who stops for so long at its beginning."""
    read = ""
    async with reading(stage, token, question()) as answer:
        async for text in answer.aiter_text():
            if not read:
                await asyncio.sleep(seconds)
            read += text
    return read


def test_who_reads_so_slowly_that_the_time_runs_out_pays_for_what_came(tmp_path: Path) -> None:
    """Or a long stream could be had for nothing by reading it slowly and being refunded for the timeout."""

    async def large(peer: Peer) -> None:
        await send_much(peer, 60)
        await peer.send(chunk(LAST) + b"0\r\n\r\n")

    async def main() -> None:
        limits = ProtocolLimits(write_timeout_seconds=30)
        async with serving(large) as server:
            settings = extra(server.url, "total_timeout_seconds = 2")
            async with staged(tmp_path, extra=settings, limits=limits) as stage:
                token = await stage.fund_token()
                client = await _stalled(
                    stage, CHAT, token, b'{"messages":[{"role":"user","content":"x"}],"stream":true}'
                )
                await asyncio.sleep(0.2)
                assert (await stage.balance(token))["held_sats"] == 50
                await at_rest(stage, token)
                client.close()

                assert await spent(stage, token) == 50
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_it_is_the_time_of_the_backend_that_answers_that_runs_out(tmp_path: Path) -> None:
    """Or a reader who stops before the end would be refunded wherever another backend has more time."""

    async def large(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        for _ in range(1024):
            await peer.send(b"x" * 65536)

    async def main() -> None:
        from tests.web.test_services import service  # noqa: PLC0415

        limits = ProtocolLimits(write_timeout_seconds=30)
        async with serving(large) as server:
            settings = service(server.port, price_sats=1)
            short = settings["[[backends]]"].replace("total_timeout_seconds = 5", "total_timeout_seconds = 2")
            settings["[[backends]]"] = short + "\nstream_bytes_max = 100000000"
            async with staged(tmp_path, extra=settings, limits=limits) as stage:
                assert stage.settings.offers.total_timeout_seconds > 100
                token = await stage.fund_token(100)
                client = await _stalled(stage, "/weather/large", token, b"")
                await asyncio.sleep(0.2)
                assert (await stage.balance(token))["held_sats"] == 1
                await at_rest(stage, token)
                client.close()

                assert (await stage.balance(token))["balance_sats"] == 99
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_backend_that_stalls_costs_nothing_also_when_its_reader_was_slow_once(tmp_path: Path) -> None:
    async def stalling(peer: Peer) -> None:
        await send_much(peer, 100)
        await peer.send(chunk(EVENT.replace(b"word", b"last")))
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(stalling) as server:
            settings = extra(server.url, "total_timeout_seconds = 60")
            settings["[backend]"] = settings["[backend]"].replace("seconds = 5", "seconds = 1")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token()
                read = await read_after(stage, token, 0.5)
                await at_rest(stage, token)

                assert "last" in read
                assert "nothing was charged" in read
                assert await spent(stage, token) == 0
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_backend_that_stalls_until_all_time_is_over_costs_nothing_however_slow_its_reader_was(
    tmp_path: Path,
) -> None:
    """The idle time may be longer than what was left of the total."""

    async def stalling(peer: Peer) -> None:
        await send_much(peer, 100)
        await peer.send(chunk(EVENT.replace(b"word", b"last")))
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(stalling) as server:
            settings = extra(server.url, "total_timeout_seconds = 4")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token()
                read = await read_after(stage, token, 1.5)
                await at_rest(stage, token)

                assert "last" in read
                assert '"refunded":true' in read
                assert await spent(stage, token) == 0
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_comments_do_not_hide_that_a_backend_stalls(tmp_path: Path) -> None:
    """Its reader was slow before, and the backend kept the connection open until all time was over."""

    async def stalling(peer: Peer) -> None:
        await send_much(peer, 100)
        for _ in range(100):
            await peer.send(chunk(b": PROCESSING\n\n"))
            await asyncio.sleep(0.2)

    async def main() -> None:
        async with serving(stalling) as server:
            settings = extra(server.url, "total_timeout_seconds = 4")
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token()
                read = await read_after(stage, token, 1.5)
                await at_rest(stage, token)

                assert "PROCESSING" in read
                assert '"refunded":true' in read
                assert await spent(stage, token) == 0
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_buffered_call_that_a_restart_gives_up_is_told_so(tmp_path: Path) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(30)

    async def main() -> None:
        async with (
            serving(silent) as server,
            staged(tmp_path, extra=extra(server.url, "total_timeout_seconds = 60")) as stage,
        ):
            token = await stage.fund_token()
            body = {**question(), "stream": False}
            asked = asyncio.create_task(stage.http.post(CHAT, json=body, headers=token))

            async def under_way() -> bool:
                return len(stage.app.calls) == 1

            await eventually(under_way)
            assert await stage.app.calls.drain(0.1) == 1
            answer = await asked

            assert (answer.status_code, answer.json()["code"]) == (503, "draining")
            assert answer.headers["retry-after"] == "5"
            assert await spent(stage, token) == 0
            assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_download_that_is_left_is_not_taken_to_its_end(tmp_path: Path) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(chunk(b"x" * 65536))
            sent += 65536

    async def main() -> None:
        from tests.web.test_services import service  # noqa: PLC0415

        async with serving(endless) as server:
            settings = service(server.port, price_sats=1)
            settings["[[backends]]"] += "\nstream_bytes_max = 10000000000"
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token(100)
                async with stage.http.stream("GET", "/weather/endless", headers=token) as answer:
                    async for _ in answer.aiter_raw():
                        break
                await at_rest(stage, token)
                before = sent
                await asyncio.sleep(0.3)

                assert sent == before < 64 * 1024 * 1024
                assert (await stage.balance(token))["balance_sats"] == 99
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_a_small_download_that_is_left_is_taken_and_given_to_whoever_asks_again(tmp_path: Path) -> None:
    async def two_pieces(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(chunk(b"one "))
        await asyncio.sleep(0.3)
        await peer.send(chunk(b"two") + b"0\r\n\r\n")

    async def main() -> None:
        from tests.web.test_services import service  # noqa: PLC0415

        async with serving(two_pieces) as server, staged(tmp_path, extra=service(server.port)) as stage:
            token = await stage.fund_token(100)
            keyed = {**token, "Idempotency-Key": "once"}
            async with stage.http.stream("GET", "/weather/small", headers=keyed) as answer:
                async for _ in answer.aiter_raw():
                    break
            await at_rest(stage, token)
            again = await stage.http.get("/weather/small", headers=keyed)

            assert (again.status_code, again.text) == (200, "one two")
            assert (await stage.balance(token))["balance_sats"] == 97
            assert len(server.requests) == 1
            assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))


def test_waiting_for_a_turn_is_part_of_a_calls_time(tmp_path: Path) -> None:
    """Or a queue could make a call outlast its hold."""

    async def never(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(never) as server:
            more = "total_timeout_seconds = 2\nconcurrency_max = 1\nqueue_max = 8\nqueue_timeout_seconds = 60"
            async with staged(tmp_path, extra=extra(server.url, more)) as stage:
                token = await stage.fund_token()
                began = asyncio.get_running_loop().time()
                answers = await asyncio.gather(
                    *(stage.http.post(CHAT, json=question(user=str(n)), headers=token) for n in range(3))
                )

                assert [answer.status_code for answer in answers] == [504] * 3
                assert asyncio.get_running_loop().time() - began < 2.9
                assert await spent(stage, token) == 0

    run(asyncio.wait_for(main(), 60))


def test_who_joins_while_the_rest_is_taken_gets_all_of_it(tmp_path: Path) -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        for _ in range(12):
            await peer.send(chunk(EVENT))
            await asyncio.sleep(0.1)
        await peer.send(chunk(LAST) + b"0\r\n\r\n")

    async def main() -> None:
        async with serving(slow) as server:
            settings = extra(server.url, "drain_seconds = 0.5", "ttl_seconds = 60")
            async with staged(tmp_path, extra=settings) as stage:
                one, other = await stage.fund_token(), await stage.fund_token()
                asked = question(temperature=0)
                async with reading(stage, one, asked) as answer:
                    await until(answer, "word")
                await asyncio.sleep(0.2)
                whole = await stage.http.post(CHAT, json=asked, headers=other)
                await at_rest(stage, one)

                assert whole.text.endswith("data: [DONE]\n\n")
                assert whole.text.count("word") == 12
                assert len(server.requests) == 1
                assert (await spent(stage, one), await spent(stage, other)) == (50, 50)

    run(asyncio.wait_for(main(), 60))


def test_a_large_download_is_not_kept_in_memory(tmp_path: Path) -> None:
    size, piece = 64 * 1024 * 1024, b"x" * 65536

    async def large(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await peer.send(piece)

    async def main() -> None:
        from tests.gateway.test_hostile_backend import resident_bytes  # noqa: PLC0415
        from tests.web.test_services import service  # noqa: PLC0415

        async with serving(large) as server:
            settings = service(server.port, price_sats=1)
            settings["[[backends]]"] += "\nstream_bytes_max = 100000000"
            async with staged(tmp_path, extra=settings) as stage:
                token = await stage.fund_token(100)
                before, most, read = resident_bytes(), 0, 0
                async with stage.http.stream("GET", "/weather/large", headers=token) as answer:
                    async for data in answer.aiter_raw():
                        read += len(data)
                        most = max(most, resident_bytes())

                assert read == size
                assert most - before < 16 * 1024 * 1024

                async def charged() -> bool:
                    return bool((await stage.balance(token))["balance_sats"] == 99)

                await eventually(charged)
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 60))
