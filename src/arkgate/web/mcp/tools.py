"""The tools: each asks the gateway over its HTTP contract and tells what came of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import orjson

from arkgate.web.mcp.arguments import (
    Arguments,
    CallArguments,
    ChatArguments,
    Credentials,
    FundingArguments,
    NoArguments,
    Purchase,
    QuoteArguments,
    SessionArguments,
)
from arkgate.web.mcp.contract import Answer, Asked, Gateway, Pairs
from arkgate.web.mcp.outcome import Outcome, Refused, Structure, failed, is_refusal, refusal, told

CHAT_PATHS: Final = ("/v1/chat/completions", "/api/ai-chat")
"""Where a chat is bought: at the first of them that is on offer."""
_ACCEPT: Final = ("accept", "*/*")
_JSON: Final = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls tools: over what they ask the gateway, and the credentials that came with the call."""

    gateway: Gateway
    credentials: Pairs = ()

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Pairs = (),
        given: Arguments | None = None,
    ) -> Answer:
        """The answer, paid from what the arguments say, else from what came with the call."""
        key = given.idempotency_key if isinstance(given, Purchase) else ""
        keyed = (("idempotency-key", key),) if key else ()
        credentials = self._credentials(given)
        return await self.gateway.ask(Asked(method, target, (_ACCEPT, *headers, *keyed, *credentials), body))

    def _credentials(self, given: Arguments | None) -> Pairs:
        if isinstance(given, Credentials):
            if given.credential:
                return (("authorization", f"L402 {given.credential}"),)
            if given.token:
                return (("authorization", f"Bearer {given.token}"),)
        return self.credentials

    async def catalog(self) -> Structure:
        """What is on offer. Raises Refused or Unreachable."""
        answer = await self.ask("GET", "/v1/catalog")
        return _expected(answer, "list_services")


@dataclass(frozen=True, slots=True)
class Target:
    """A request to an endpoint, as it goes on."""

    method: str
    path: str
    query: str
    body: bytes
    headers: Pairs

    @property
    def text(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


async def list_services(caller: Caller, given: NoArguments) -> Outcome:
    """What is sold, and for how much."""
    return told(await caller.catalog())


async def quote_call(caller: Caller, given: QuoteArguments) -> Outcome:
    """What a call would cost; charges nothing."""
    asked = {name: value for name, value in (("path", given.path), ("method", given.method.upper())) if value}
    body, headers = _body(given.body)
    answer = await caller.ask("POST", f"/v1/quote?{urlencode(asked)}", body, headers, given)
    return told(_expected(answer, "quote"))


async def chat(caller: Caller, given: ChatArguments) -> Outcome:
    """One answer of an AI model."""
    if bool(given.prompt) == bool(given.messages):
        return failed("Give a prompt, or messages: one of the two.", "invalid_request")
    offered = {endpoint["path"] for endpoint in (await caller.catalog())["endpoints"]}
    path = next((path for path in CHAT_PATHS if path in offered), None)
    if path is None:
        return failed("No AI chat is sold here: list_services says what is.", "not_found")
    body: Structure = {"messages": given.messages or [{"role": "user", "content": given.prompt}]}
    if path == CHAT_PATHS[0]:
        body |= {"model": given.model} if given.model else {}
        body |= {"max_tokens": given.max_tokens} if given.max_tokens else {}
    elif given.model or given.max_tokens:
        return failed("Here the model and its length are the operator's: leave them out.", "not_supported")
    answer = await caller.ask("POST", path, orjson.dumps(body), _JSON, given)
    document = _expected(answer, "chat")
    words, model, usage = _said(document)
    structured = {"answer": words, "model": model, "usage": usage, **_bill(answer)}
    return Outcome(structured, f"{words}\n\n({_bill_in_words(structured)})")


async def call_service(caller: Caller, given: CallArguments) -> Outcome:
    """A call of any priced endpoint."""
    target = _target(given, await caller.catalog())
    answer = await caller.ask(target.method, target.text, target.body, target.headers, given)
    if is_refusal(answer):
        return refusal(answer, "call_service")
    bill = _bill(answer)
    if not answer.is_whole:
        return failed(
            "The answer is too large for a tool. The gateway keeps it for a day: GET /v1/calls/<request_id>.",
            "answer_too_large",
            **bill,
        )
    content_type = answer.headers.get("content-type", "")
    structured = {
        "status": answer.status,
        "content_type": content_type,
        "body": _read(answer, content_type),
        **bill,
    }
    outcome = told(structured)
    return Outcome(structured, outcome.text, is_error=answer.status >= 400)


async def create_funding_invoice(caller: Caller, given: FundingArguments) -> Outcome:
    """An invoice for a new token, or for the one that there is."""
    body = orjson.dumps({"amount_sats": given.amount_sats})
    path = "/v1/topups" if given.top_up else "/v1/sessions"
    paid_in = given if given.top_up else None
    answer = await caller.ask("POST", path, body, _JSON, paid_in)
    document = _expected(answer, "create_funding_invoice")
    structured = {
        **({} if given.top_up else {"token": document["token"]}),
        **_funding(document),
    }
    words = "Pay the invoice; what is paid is credited at once. "
    words += (
        "Ask balance for it."
        if given.top_up
        else "Keep the token: it is the money. funding_status says when."
    )
    return told(structured, words)


async def funding_status(caller: Caller, given: SessionArguments) -> Outcome:
    """Whether a funding invoice was paid."""
    answer = await caller.ask("GET", f"/v1/sessions/{quote(given.session_id, safe='')}")
    return told(_funding(_expected(answer, "funding_status")))


async def balance(caller: Caller, given: Credentials) -> Outcome:
    """What is left. The token itself is not said again: what a model reads may be kept."""
    answer = await caller.ask("GET", "/v1/balance", given=given)
    document = _expected(answer, "balance")
    return told({name: value for name, value in document.items() if name != "token"})


Run = Callable[[Caller, Any], Awaitable[Outcome]]
RUNS: Final[Mapping[str, tuple[type[Arguments], Run]]] = {
    "list_services": (NoArguments, list_services),
    "quote": (QuoteArguments, quote_call),
    "chat": (ChatArguments, chat),
    "call_service": (CallArguments, call_service),
    "create_funding_invoice": (FundingArguments, create_funding_invoice),
    "funding_status": (SessionArguments, funding_status),
    "balance": (Credentials, balance),
}
"""Each tool with what it takes."""


def _expected(answer: Answer, tool: str) -> Structure:
    """The JSON object of an answer. Raises Refused for anything else."""
    document = answer.json()
    if answer.status >= 400 or not isinstance(document, dict):
        raise Refused(refusal(answer, tool))
    return document


def _target(given: CallArguments, catalog: Structure) -> Target:
    """Where a call goes: only to what is sold. Raises Refused."""
    try:
        url = httpx.URL("http://gateway" + given.path)
        if given.query:
            url = url.copy_merge_params(given.query)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise Refused(
            failed("The path or the query cannot be written as a URL.", "invalid_request")
        ) from None
    endpoint = (
        _endpoint(url.path, catalog["endpoints"]) if url.host == "gateway" and given.path[0] == "/" else None
    )
    if endpoint is None:
        sentence = "Nothing is sold at this path: list_services says what is. A path begins with a slash."
        raise Refused(failed(sentence, "not_found"))
    is_ai = endpoint["path"].startswith("/v1/") or endpoint["path"] in CHAT_PATHS
    if is_ai and isinstance(given.body, dict) and given.body.get("stream"):
        raise Refused(failed("A tool's answer comes whole: leave stream out of the body.", "not_supported"))
    body, headers = _body(given.body)
    method = given.method.upper() or endpoint["methods"][0]
    path = url.raw_path.partition(b"?")[0].decode("ascii")
    return Target(method, path, url.query.decode("ascii"), body, headers)


def _endpoint(path: str, endpoints: list[Structure]) -> Structure | None:
    """What is sold there; a path that ends in a slash stands for everything under it."""
    for endpoint in endpoints:
        sold = endpoint["path"]
        if path == sold or (sold.endswith("/") and path.startswith(sold)):
            return endpoint
    return None


def _body(given: dict[str, Any] | list[Any] | str | None) -> tuple[bytes, Pairs]:
    if given is None:
        return b"", ()
    if not isinstance(given, str):
        return orjson.dumps(given), _JSON
    content = given.encode()
    try:
        orjson.loads(content)
    except ValueError:
        return content, (("content-type", "text/plain; charset=utf-8"),)
    return content, _JSON


def _read(answer: Answer, content_type: str) -> object:
    """A body as JSON or text; what is neither is told by its size."""
    if "json" in content_type:
        document = answer.json()
        if document is not None:
            return document
    try:
        return answer.body.decode()
    except UnicodeDecodeError:
        kind = content_type or "unknown type"
        return f"({len(answer.body)} bytes of {kind}; GET /v1/calls/<request_id> of the gateway has them)"


def _said(document: Structure) -> tuple[str, object, object]:
    """Answer, model and usage, as OpenAI's route or ArkAPI's writes them."""
    if "data" in document:
        data = document["data"]
        return str(data["answer"]), data["model"], data["usage"]
    content = document["choices"][0]["message"].get("content")
    words = content if isinstance(content, str) else orjson.dumps(content).decode()
    return words, document.get("model"), document.get("usage")


def _bill(answer: Answer) -> Structure:
    return {
        "cost_sats": answer.number("x-cost-sats"),
        "balance_sats": answer.number("x-balance-sats"),
        "replayed": answer.headers.get("idempotent-replayed") == "true",
        "request_id": answer.headers.get("x-request-id", ""),
    }


def _bill_in_words(structured: Structure) -> str:
    replayed = ", bought before" if structured["replayed"] else ""
    return f"cost {structured['cost_sats']} sats{replayed}; {structured['balance_sats']} sats left"


def _funding(document: Structure) -> Structure:
    """A session or a top-up, flat."""
    funding = document["funding"]
    kept = ("session_id", "amount_sats", "status", "balance_sats", "waiting_sats", "expires_at", "pay_url")
    return {
        **{name: document[name] for name in kept if name in document},
        "invoice": funding["lightning_invoice"],
        "ark_address": funding["ark_address"],
        "bip321": funding["bip321"],
        "payment_hash": funding["payment_hash"],
    }
