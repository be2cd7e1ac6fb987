"""barkd's REST: plain HTTP with a bearer token, every call with a deadline, every failure a refusal.

Source: bark-rest of bark 0.6.0. Errors are mostly 500; their bodies are JSON, text or empty.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from arkgate.core.errors import NodeUnavailable
from arkgate.nodes.channel import RETRY_AFTER_SECONDS, CredentialsRefused, CredentialsUnreadable, read_file

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A history comes whole, however long: some 800 bytes for each payment."""
CONNECT_SECONDS = 2.0
_API = "/api/v1"
_NETWORKS = {"bitcoin": "mainnet", "testnet4": "testnet", "mutinynet": "signet"}
"""The networks whose names differ from the settings'."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}\Z")


@dataclass(frozen=True, slots=True)
class BearerToken:
    """Where a node is and what opens it. The file is read anew when its token is refused."""

    address: str
    """host:port"""
    token_file: Path

    def read(self) -> str:
        """The token. Raises CredentialsUnreadable."""
        token = read_file(self.token_file, "token").decode("ascii", "replace").strip()
        if not _TOKEN.match(token):
            raise CredentialsUnreadable(f"the node's token {self.token_file} is not one line of text")
        return token


class Answered(Exception):  # noqa: N818 - an answer, which the caller may have asked for
    """barkd answered with a status that is no success; the cause of the refusal that follows from it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}")
        self.status = status
        self.words = words


class Rest:
    """One barkd's REST. A refused token is read again from its file, once for each call."""

    def __init__(self, node: str, credentials: BearerToken) -> None:
        self._node = node
        self._credentials = credentials
        self._token: str | None = None
        # Without a bound on connections: a caller that is cancelled may leave one of httpx's behind.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30)
        self._http = httpx.AsyncClient(
            base_url=f"http://{credentials.address}", trust_env=False, follow_redirects=False, limits=limits
        )

    async def ping(self, *, seconds: float) -> None:
        """Returns when barkd is there, whatever our token. Raises NodeUnavailable."""
        await self._sent("GET", "/ping", {}, "to answer", seconds=seconds)

    async def ask(
        self,
        method: str,
        path: str,
        action: str,
        *,
        seconds: float,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a success. Raises NodeUnavailable; its cause is Answered where barkd said no."""
        used = self._token = self._token or self._credentials.read()
        wanted: dict[str, Any] = {"params": query, "content": None if body is None else orjson.dumps(body)}
        try:
            return await self._sent(method, _API + path, wanted, action, seconds=seconds, token=used)
        except CredentialsRefused:
            self._token = None
            renewed = self._credentials.read()
            if renewed == used:
                raise
        self._token = renewed
        return await self._sent(method, _API + path, wanted, action, seconds=seconds, token=renewed)

    async def _sent(
        self,
        method: str,
        path: str,
        wanted: Mapping[str, Any],
        action: str,
        *,
        seconds: float,
        token: str | None = None,
    ) -> bytes:
        headers = {"Content-Type": "application/json"} if wanted.get("content") else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        timeout = httpx.Timeout(None, connect=min(seconds, CONNECT_SECONDS))
        with map_rest_errors(self._node, action):
            async with (
                asyncio.timeout(seconds),
                self._http.stream(method, path, headers=headers, timeout=timeout, **wanted) as answer,
            ):
                content = await _read(answer)
            if answer.status_code != httpx.codes.OK:
                raise Answered(answer.status_code, _words(content))
            return content

    async def close(self) -> None:
        """Gives back the connections."""
        await self._http.aclose()


async def _read(answer: httpx.Response) -> bytes:
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > ANSWER_BYTES_MAX:
            raise Answered(answer.status_code, f"more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


@contextmanager
def map_rest_errors(node: str, action: str) -> Iterator[None]:
    """Translates every failure of a call into NodeUnavailable, with barkd's own words where it has any."""
    try:
        yield
    except Answered as answered:
        kind = CredentialsRefused if answered.status == httpx.codes.UNAUTHORIZED else NodeUnavailable
        raise kind(f"node {node} failed {action}: {answered.words}", **_LATER) from answered
    except TimeoutError as error:
        raise NodeUnavailable(f"node {node} failed {action}: it did not answer in time", **_LATER) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = str(error) or type(error).__name__
        raise NodeUnavailable(f"node {node} failed {action}: {words}", **_LATER) from error


_LATER: Mapping[str, Any] = {"retry_after_seconds": RETRY_AFTER_SECONDS}


def answered(refusal: NodeUnavailable) -> Answered | None:
    """What barkd said; None when there was no answer."""
    return refusal.__cause__ if isinstance(refusal.__cause__, Answered) else None


def was_silent(refusal: NodeUnavailable) -> bool:
    """Whether barkd was reached and said nothing in time."""
    return isinstance(refusal.__cause__, TimeoutError)


def network_of(word: str) -> str:
    """The settings' word for a network of bark's."""
    return _NETWORKS.get(word, word)


def _words(content: bytes) -> str:
    """An error's sentence, from whichever form it has."""
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        said = content.decode("utf-8", "replace")
    if isinstance(said, dict):
        said = said.get("message")
    return " ".join(str(said).split())[:200] if said else "no reason given"
