"""A chat backend for benchmarks: streams at full speed or in steps, and answers that take their time."""

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

EVENTS = 200
STEPS_HELD = 3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"
WHOLE = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "model": "instant",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Ark. " * 80}}
        ],
        "usage": {"prompt_tokens": 18, "completion_tokens": 96, "total_tokens": 114},
    }
).encode()


def event(number: int, *, stamp: int = 0) -> bytes:
    """One event of some 200 bytes as a chunk; `stamp` says when it was sent."""
    delta = {"content": f" word{number:04}", "at": stamp}
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "instant",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        "usage": None,
    }
    return chunked(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def chunked(data: bytes) -> bytes:
    """A chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = {"index": 0, "delta": {}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 18, "completion_tokens": EVENTS, "total_tokens": 18 + EVENTS}
END = (
    chunked(b"data: " + json.dumps({"choices": [LAST], "usage": None}).encode() + b"\n\n")
    + chunked(b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n")
    + chunked(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)
BEGIN = HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
BURST = BEGIN + b"".join(event(number) for number in range(EVENTS)) + END


class Backend(asyncio.Protocol):
    """One connection. What is wanted stands in the question.

    `burst`: all events in one write. `flow`: each in its own, as fast as it goes. `steps MS`: each after so
    long. `hold`: three, and no more. `wait MS`: a whole answer after so long.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answers each request that is whole."""
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return
        self._received = rest[length:]
        self._answer(rest[:length])

    def _answer(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        if b"wait " in body:
            seconds = int(body.split(b"wait ")[1].split()[0]) / 1000
            answer = HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE)
            loop.call_later(seconds, self._write, answer)
        elif b"steps " in body:
            self._transport.write(BEGIN)
            self._step(0, int(body.split(b"steps ")[1].split()[0]) / 1000)
        elif b"flow " in body:
            self._transport.write(BEGIN)
            self._step(0, 0.0)
        elif b"hold " in body:
            self._transport.write(BEGIN + b"".join(event(number) for number in range(STEPS_HELD)))
        else:
            self._transport.write(BURST)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _step(self, number: int, seconds: float) -> None:
        if self._transport.is_closing():
            return
        if number == EVENTS:
            self._transport.write(END)
            return
        self._transport.write(event(number, stamp=time.monotonic_ns()))
        loop = asyncio.get_running_loop()
        if seconds:
            loop.call_later(seconds, self._step, number + 1, seconds)
        else:
            loop.call_soon(self._step, number + 1, seconds)


async def serve(port: int) -> None:
    """Serves until it is stopped."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=4096)
    print("serving", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))
