"""The running gateway as a payer sees it: asked over its public URL, through whatever stands before it."""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from arkgate.core.catalog import Catalog
from arkgate.ports import Check, Verdict
from arkgate.web.guard import BODY_BYTES_MAX
from arkgate.web.respond import STREAM_PAUSE_SECONDS, STREAM_TICKS

TIMEOUT_SECONDS = 15.0
NOBODY_BUYS = "Payers cannot reach the gateway: nobody can buy."
_HEALTH, _READY, _CATALOG, _BALANCE = "/health", "/health/ready", "/v1/catalog", "/v1/balance"
_STREAM = "/health/stream"
_UNKNOWN_TOKEN = "ak_" + 32 * "0"
_NEVER_SERVED = b'{"system_prompt": "%b"}'
"""A body that is refused whoever sends it, before an invoice is made for it."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Looks at a gateway from outside; asks for nothing that makes an invoice."""

    public_url: str
    local_url: str
    """Where the same gateway listens on this host."""
    catalog: Catalog

    async def checkup(self) -> AsyncIterator[Check]:
        """The lines of the running gateway; NOT_CHECKED while none runs on this host. Does not raise."""
        async with httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False
        ) as http:
            readiness = await self._readiness(http)
            yield self._running(readiness)
            if not readiness:
                return
            for look in (self._reached, self._same, self._credentials, self._sizes, self._streams):
                check = await look(http)
                yield check
                if look in (self._reached, self._same) and check.verdict is Verdict.FAILURE:
                    seen = "It needs the line above."
                    yield Check("everything else", Verdict.NOT_CHECKED, seen)
                    return

    async def _readiness(self, http: httpx.AsyncClient) -> dict[str, Any] | None:
        """What the gateway on this host says of itself; empty: it is no gateway; None: nobody answers."""
        try:
            answer = await http.get(f"{self.local_url}{_READY}")
        except httpx.HTTPError:
            return None
        body = _json(answer)
        parts = body.get("dependencies")
        ours = isinstance(parts, dict) and all(isinstance(state, dict) for state in parts.values())
        return body if ours else {}

    def _running(self, readiness: dict[str, Any] | None) -> Check:
        name = "gateway"
        if readiness is None:
            seen = f"No gateway answers at {self.local_url}, so the public URL is not looked at."
            return Check(name, Verdict.NOT_CHECKED, seen, remedy="Start it first: `arkgate serve`")
        if not readiness:
            seen = f"What answers at {self.local_url} is not arkgate."
            remedy = "Stop it, or change listen in [gateway]; then start the gateway."
            return Check(name, Verdict.FAILURE, seen, NOBODY_BUYS, remedy)
        parts = readiness["dependencies"].items()
        waiting = ", ".join(f"{part} {state.get('state')}" for part, state in parts if not state.get("ready"))
        remedy = "See the lines above and the gateway's log."
        if readiness.get("status") != "ready":
            seen = f"It runs at {self.local_url} and is not ready: {waiting}."
            meaning = "What needs these parts is answered with 503."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        if waiting:
            seen = f"It runs at {self.local_url} and sells without all of its parts: {waiting}."
            return Check(name, Verdict.WARNING, seen, "Payers notice nothing while the others work.", remedy)
        return Check(name, Verdict.OK, f"It runs at {self.local_url} and is ready.")

    async def _reached(self, http: httpx.AsyncClient) -> Check:
        name = "public URL"
        try:
            answer = await http.get(self.public_url + _HEALTH)
        except httpx.HTTPError as error:
            seen, remedy = _trouble(error, self.public_url)
            return Check(name, Verdict.FAILURE, seen, NOBODY_BUYS, remedy)
        if answer.is_redirect:
            to = answer.headers.get("location", "nowhere")
            seen = f"{self.public_url} redirects to {to}."
            meaning = (
                "Clients lose the body or the credential of a request on a redirect, or do not follow it."
            )
            return Check(name, Verdict.FAILURE, seen, meaning, "Set public_url to where it redirects to.")
        if answer.status_code != 200 or _json(answer).get("status") != "ok":
            seen = f"{self.public_url}{_HEALTH} answers with status {answer.status_code}, and not as arkgate."
            remedy = "Let the proxy hand every path to the gateway's listen address."
            return Check(name, Verdict.FAILURE, seen, NOBODY_BUYS, remedy)
        return Check(name, Verdict.OK, f"{self.public_url} answers.")

    async def _same(self, http: httpx.AsyncClient) -> Check:
        """Whether the catalog is the one that this gateway shows and these settings name."""
        name = "the same gateway"
        try:
            here = _json(await http.get(self.local_url + _CATALOG))
            there = _json(await http.get(self.public_url + _CATALOG))
        except httpx.HTTPError as error:
            seen, remedy = _trouble(error, self.public_url)
            return Check(name, Verdict.FAILURE, seen, NOBODY_BUYS, remedy)
        if not here or here != there:
            seen = f"{self.public_url}{_CATALOG} shows another catalog than {self.local_url}."
            meaning = "Payers are at another gateway, or see old prices."
            remedy = "Point the proxy at this gateway; let it keep no copies of answers."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        sold = [endpoint.get("path") for endpoint in here.get("endpoints", [])]
        if sold != [endpoint.path for _, endpoint in self.catalog.offered()]:
            seen = "The running gateway sells other endpoints than the settings name."
            remedy = "Restart it to take up the settings."
            return Check(name, Verdict.WARNING, seen, "Payers see what it was started with.", remedy)
        return Check(name, Verdict.OK, "It shows the catalog of the gateway on this host.")

    async def _credentials(self, http: httpx.AsyncClient) -> Check:
        """Whether Authorization gets in and WWW-Authenticate gets out."""
        name = "credentials"
        headers = {"Authorization": f"Bearer {_UNKNOWN_TOKEN}"}
        try:
            answer = await http.get(self.public_url + _BALANCE, headers=headers)
        except httpx.HTTPError as error:
            seen, remedy = _trouble(error, self.public_url)
            return Check(name, Verdict.FAILURE, seen, NOBODY_BUYS, remedy)
        if _json(answer).get("code") != "invalid_token":
            seen = (
                f"A request with Authorization is answered as if it had none (status {answer.status_code})."
            )
            meaning = "Payers pay, and their credentials do not arrive."
            remedy = "Let the proxy hand the Authorization header on, and ask for none of its own."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        if "www-authenticate" not in answer.headers:
            seen = "The header WWW-Authenticate does not come back."
            meaning = "L402 clients do not find the invoice of a 402."
            remedy = "Let the proxy hand that header on."
            return Check(name, Verdict.FAILURE, seen, meaning, remedy)
        return Check(name, Verdict.OK, "Authorization gets in, and WWW-Authenticate gets out.")

    async def _sizes(self, http: httpx.AsyncClient) -> Check:
        name = "request size"
        url = self.public_url + next(iter(self.catalog)).path
        remedy = "Let the proxy take bodies of 2 MiB (nginx: `client_max_body_size 2m;`)"
        for size, wanted in ((BODY_BYTES_MAX, "invalid_request"), (BODY_BYTES_MAX + 1, "payload_too_large")):
            try:
                answer = await http.post(
                    url, content=_body(size), headers={"Content-Type": "application/json"}
                )
            except httpx.HTTPError as error:
                seen = f"A body of {size} bytes breaks off: {_trouble(error, self.public_url)[0]}"
                meaning = "Payers with large requests get no answer."
                return Check(name, Verdict.WARNING, seen, meaning, f"{remedy}.")
            if _json(answer).get("code") != wanted:
                status = answer.status_code
                seen = f"A body of {size} bytes is answered with {status}, and not by the gateway."
                meaning = "Payers with large requests get an answer that their clients cannot read."
                return Check(name, Verdict.WARNING, seen, meaning, f"{remedy}.")
        seen = f"Bodies up to {BODY_BYTES_MAX} bytes arrive; the gateway itself refuses larger ones."
        return Check(name, Verdict.OK, seen)

    async def _streams(self, http: httpx.AsyncClient) -> Check:
        """Whether what the gateway sends piece by piece arrives piece by piece."""
        name = "streaming"
        arrived: list[float] = []
        content = b""
        try:
            async with http.stream("GET", self.public_url + _STREAM) as answer:
                async for part in answer.aiter_raw():
                    arrived.append(time.monotonic())
                    content += part
        except httpx.HTTPError as error:
            seen = f"A streamed answer breaks off: {_trouble(error, self.public_url)[0]}"
            return Check(name, Verdict.WARNING, seen, _STREAMS_LATE, _UNBUFFERED)
        if answer.status_code != 200 or content.count(b"data:") != STREAM_TICKS:
            seen = (
                f"{self.public_url}{_STREAM} answers with status {answer.status_code}, and not with events."
            )
            return Check(name, Verdict.WARNING, seen, _STREAMS_LATE, _UNBUFFERED)
        spread = arrived[-1] - arrived[0]
        if spread < (STREAM_TICKS - 1) * STREAM_PAUSE_SECONDS / 2:
            seen = "An answer that is sent piece by piece arrives all at once."
            return Check(name, Verdict.WARNING, seen, _STREAMS_LATE, _UNBUFFERED)
        return Check(name, Verdict.OK, "An answer that is sent piece by piece arrives so.")


_STREAMS_LATE = "Whoever wants to read an answer while it is written waits for all of it."
_UNBUFFERED = "Let the proxy hand answers on as they come (nginx: `proxy_buffering off;`, no compression)."


def _body(size: int) -> bytes:
    return _NEVER_SERVED % (b"x" * (size - len(_NEVER_SERVED) + 2))


def _json(answer: httpx.Response) -> dict[str, Any]:
    """The object of an answer; empty when it has none."""
    try:
        value = orjson.loads(answer.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _trouble(error: httpx.HTTPError, url: str) -> tuple[str, str]:
    """What kept a request from its answer, and what to do: httpx says ConnectError to most of it."""
    causes = list(_causes(error))
    parts = httpx.URL(url)
    name = _first(causes, socket.gaierror)
    if name is not None:
        return f"The name {parts.host} has no address (DNS).", "Check public_url, and the name's DNS record."
    refused = _first(causes, ssl.SSLCertVerificationError)
    if isinstance(refused, ssl.SSLCertVerificationError):
        seen = f"The certificate of {parts.host} is refused: {refused.verify_message.rstrip('.')}."
        return seen, "Give the proxy a certificate for this name that public clients trust, with its chain."
    if _first(causes, ssl.SSLError) is not None:
        return f"{url} does not speak TLS.", "Check public_url: https, and the proxy's port."
    if isinstance(error, httpx.TimeoutException):
        seen = f"{parts.host} does not answer within {TIMEOUT_SECONDS:.0f} s."
        return seen, "Look for a firewall, or a proxy that cannot reach the gateway."
    if _first(causes, ConnectionRefusedError) is not None:
        return f"Nothing listens at {url}.", "Start the proxy, or correct public_url."
    reason = f"{error}".rstrip(".") or type(error).__name__
    return f"{url} cannot be asked: {reason}.", "Check public_url and the proxy."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first(causes: Sequence[BaseException], kind: type[BaseException]) -> BaseException | None:
    return next((cause for cause in causes if isinstance(cause, kind)), None)
