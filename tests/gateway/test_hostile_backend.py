"""A backend that means harm: the gateway stays up and small, charges nothing and gives back what it holds."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.backend.backend_server import Peer, always, http, serving
from tests.gateway.test_streams import CHAT, at_rest, events, question
from tests.stage import Stage, play, run, staged

LIES = ("", "-huge", "-negative", "-text", "-float", "-nested", "-null", "-bool", "-zero")
SHORT = (
    "idle_timeout_seconds = 0.3\nfirst_byte_timeout_seconds = 0.6\ntotal_timeout_seconds = 2\n"
    "answer_bytes_max = 200000\nstream_bytes_max = 300000\nheartbeat_seconds = 0.2\ndrain_seconds = 0.5"
)
HARSH = {"[[services]]": "calls_per_day = 0", "[backend]": SHORT}
BY_TOKENS = {
    **HARSH,
    "[[models]]": 'name = "small"\ninput_sats_per_million = 1000\noutput_sats_per_million = 100000\n'
    "default_max_tokens = 100",
}
BROKEN = (
    "half-status",
    "bad-chunk",
    "two-lengths",
    "gzip-bomb 1000000",
    "endless 1000000000",
    "endless-headers",
    "endless-hints",
    "byte-a-minute 60",
    "head-byte-a-minute 60",
    "never-done",
    "error-after-token",
    "cut-at 10",
    "cut-at 200",
    "early-answer 503",
    "reset",
    "hang",
    "huge",
)
STREAMED_ONLY = {"never-done"}


def asked(text: str, *, stream: bool) -> dict[str, Any]:
    return question(text) if stream else {"messages": [{"role": "user", "content": text}]}


async def balance(stage: Stage, token: Mapping[str, str]) -> float:
    lines = (await stage.http.get("/v1/usage", headers=token)).json()["lines"]
    return float(lines[-1]["balance_sats"])


@contextlib.asynccontextmanager
async def before(tmp_path: Path, answer: bytes, extra: Mapping[str, str]) -> AsyncIterator[Stage]:
    """A gateway before a backend that always answers with the same bytes."""
    async with serving(always(answer)) as server:
        lines = f'{extra["[backend]"]}\nurl = "{server.url}"\nmodel = "raw"'
        async with staged(tmp_path, extra={**extra, "[backend]": lines}) as stage:
            yield stage
            assert await stage.verify() == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_whatever_it_does_nothing_is_charged_and_the_next_call_works(tmp_path: Path, stream: bool) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(2000)
        faults = [fault for fault in BROKEN if stream or fault not in STREAMED_ONLY]
        answers = await asyncio.gather(
            *(
                stage.http.post(CHAT, json=asked(f"[fail:{fault}] How?", stream=stream), headers=token)
                for fault in faults
            )
        )
        await at_rest(stage, token)

        for fault, answer in zip(faults, answers, strict=True):
            if answer.status_code == 200:  # the stream had begun
                body = events(answer.text)[-1]
                assert "[DONE]" not in answer.text, fault
            else:
                assert answer.status_code in (502, 504), fault
                body = answer.json()
            assert body["refunded"] is True, fault
            assert body["error"]["message"].endswith("."), fault
            assert "127.0.0.1" not in answer.text, fault
        assert await balance(stage, token) == 2000
        assert (await stage.chat(token)).status_code == 200

    play(tmp_path, story, HARSH)


def test_what_is_only_odd_is_a_good_answer(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        answer = await stage.http.post(CHAT, json=question("[fail:double-done] How?"), headers=token)
        early = await stage.http.post(
            CHAT, json=asked("[fail:early-answer] How?", stream=False), headers=token
        )
        await at_rest(stage, token)

        assert answer.text.count("[DONE]") == 1
        assert early.status_code == 200
        assert await balance(stage, token) == 400

    play(tmp_path, story, HARSH)


def test_invalid_text_is_refunded_or_passed_on_and_never_a_fault_of_ours(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        whole = await stage.http.post(CHAT, json=asked("[fail:bad-utf8] How?", stream=False), headers=token)
        streamed = await stage.http.post(CHAT, json=question("[fail:bad-utf8] How?"), headers=token)
        await at_rest(stage, token)

        assert whole.status_code == 502
        assert streamed.status_code in (200, 502)
        charged = 50 if streamed.status_code == 200 and b"[DONE]" in streamed.content else 0
        assert await balance(stage, token) == 500 - charged

    play(tmp_path, story, HARSH)


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_a_reset_at_any_byte_of_an_answer_costs_nothing(tmp_path: Path, stream: bool) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token(5000)
        whole = await stage.http.post(CHAT, json=asked("How?", stream=stream), headers=token)
        length = len(whole.content) + (400 if stream else 100)  # the head, and the framing of chunks
        before = await balance(stage, token)
        step = 7 if stream else 2
        paid = 0
        for start in range(1, length, 16 * step):
            cuts = range(start, min(start + 16 * step, length), step)
            answers = await asyncio.gather(
                *(
                    stage.http.post(
                        CHAT, json=asked(f"[fail:cut-at {cut}] How?", stream=stream), headers=token
                    )
                    for cut in cuts
                )
            )
            paid += sum(
                1
                for answer in answers
                if answer.status_code == 200 and (not stream or "[DONE]" in answer.text)
            )
            assert {answer.status_code for answer in answers} <= {200, 502}
        await at_rest(stage, token)

        assert paid < length / step / 4  # those whose cut came after the end
        assert await balance(stage, token) == before - 50 * paid

    play(tmp_path, story, {**HARSH, "[limits]": "calls_per_minute_and_account = 100000"})


@pytest.mark.parametrize("lie", [f"lying-usage{name}" for name in LIES])
def test_usage_that_lies_never_costs_more_than_was_held(tmp_path: Path, lie: str) -> None:
    async def story(stage: Stage) -> None:
        token = await stage.fund_token()
        body = asked(f"[fail:{lie}] How?", stream=False)
        quote = (await stage.http.post(f"/v1/quote?path={CHAT}", json=body)).json()
        whole = await stage.http.post(CHAT, json=body, headers=token)
        streamed = await stage.http.post(CHAT, json=question(f"[fail:{lie}] How?"), headers=token)
        await at_rest(stage, token)

        assert (whole.status_code, streamed.status_code) == (200, 200)
        cost = whole.json()["usage"]["cost"]
        assert 0 <= cost <= quote["hold_msat"] / 1000
        spent = 500 - await balance(stage, token)
        assert 0 <= spent <= 2.2 * quote["hold_msat"] / 1000

    play(tmp_path, story, BY_TOKENS)


DEEP = "[" * 400 + "]" * 400
COUNTED = '{"prompt_tokens": 1, "completion_tokens": 1'
WHOLE = '{"choices": [{"message": {"content": "x"}}], '
TOKEN = 'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n'
LAST = TOKEN + 'data: {"choices": [], "usage": ' + COUNTED
DONE = "data: [DONE]\n\n"
DEEPLY = {
    "an answer": WHOLE + f'"y": {DEEP}}}',
    "the usage": WHOLE + f'"usage": {COUNTED}, "y": {DEEP}}}}}',
    "a stream's answer": LAST + f'}}, "y": {DEEP}}}\n\n' + DONE,
    "a stream's usage": LAST + f', "y": {DEEP}}}}}\n\n' + DONE,
}


@pytest.mark.parametrize("kept_seconds", [0, 60])
@pytest.mark.parametrize("words", DEEPLY)
def test_what_is_nested_too_deeply_leaves_no_hold_and_nobody_waiting(
    tmp_path: Path, words: str, kept_seconds: int
) -> None:
    stream = DEEPLY[words].startswith("data: ")
    kind = "text/event-stream" if stream else "application/json"
    answer = http(DEEPLY[words].encode(), headers=(f"Content-Type: {kind}",))

    async def main() -> None:
        extra = {**HARSH, "[cache]": f"ttl_seconds = {kept_seconds}"}
        async with before(tmp_path, answer, extra) as stage:
            token = await stage.fund_token()
            more = {"temperature": 0, **({"stream_options": {"include_usage": True}} if stream else {})}
            body = {**asked("How?", stream=stream), **more}
            answered = await asyncio.wait_for(stage.http.post(CHAT, json=body, headers=token), 5)
            await at_rest(stage, token)

            if "usage" in words:
                assert answered.status_code == 200
                assert await balance(stage, token) == 450
            else:
                assert "nested too deeply" in answered.text
                assert await balance(stage, token) == 500

    run(asyncio.wait_for(main(), 60))


def test_two_hundred_endless_answers_leave_memory_as_it_was(tmp_path: Path) -> None:
    """The backend is a raw socket that writes what it has already, so that the memory is the gateway's."""
    event = (
        b'data: {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": null}]}\n\n' * 700
    )
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"

    async def endless(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(head)
            for _ in range(10_000):
                await peer.send(chunk)

    async def played() -> None:
        async with serving(endless) as server:
            backend = f'{SHORT}\nurl = "{server.url}"\nmodel = "endless"'
            async with staged(tmp_path, extra={**HARSH, "[backend]": backend}) as stage:
                token = await stage.fund_token()

                async def once() -> None:
                    answer = await stage.http.post(CHAT, json=question(), headers=token)
                    assert events(answer.text)[-1]["error"]["code"] == "upstream_error"

                await asyncio.gather(*(once() for _ in range(5)))
                before = resident_bytes()
                for _ in range(20):
                    await asyncio.gather(*(once() for _ in range(10)))
                await at_rest(stage, token)
                assert resident_bytes() - before < 32 * 1024 * 1024
                assert await balance(stage, token) == 500

    run(asyncio.wait_for(played(), 100))
