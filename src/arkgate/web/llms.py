"""The map in words: what a model needs to read to make its first paid call."""

import json
from dataclasses import dataclass
from typing import Final

from arkgate.core.catalog import Catalog, Endpoint, Service
from arkgate.core.money import Msat, whole_sats
from arkgate.web.examples import example_of
from arkgate.web.prices import price_of, tariff_told

CREDENTIAL: Final = "Authorization: L402 <macaroon>:<preimage>"
MCP_PATH: Final = "/mcp"
USUAL_AMOUNT_SATS: Final = 500
RETRY: Final = (
    "One Idempotency-Key is one purchase: keep it with the question and send it with every attempt. After "
    "a timeout, 409, 429 or 5xx repeat the same request with the same key; never choose a new key to get "
    "around an error, and never pay a second invoice for a call whose answer you do not have yet."
)
REFUNDS: Final = (
    "A call whose backend refuses, fails or times out costs nothing: the sats go back at once and the answer "
    "says refunded."
)


@dataclass(frozen=True, slots=True)
class Means:
    """How people and programs can pay here."""

    lightning: bool
    ark: bool
    network: str | None
    minimum: Msat
    """The smallest payment into a session."""
    maximum: Msat
    ark_name: str = ""
    """Which Ark the addresses are of; empty where there are none."""
    name: str = "arkgate"
    """What pages and maps call this gateway."""
    contact: str = ""
    """How the operator is reached; empty where nobody is told."""

    @property
    def methods(self) -> list[str]:
        """Their names."""
        return [name for name, offered in (("lightning", self.lightning), ("ark", self.ark)) if offered]

    @property
    def summary(self) -> str:
        """What this is, in a sentence."""
        names = " and ".join(self.methods)
        return f"API calls sold for sats, paid over {names}, one call at a time or from a prepaid token."


def session_amount(means: Means) -> int:
    """An amount in sats that a session can be opened with."""
    return max(USUAL_AMOUNT_SATS, whole_sats(means.minimum, asked_for=True))


def short_text(catalog: Catalog, means: Means, url: str) -> str:
    """The shortest way to a paid call."""
    call = example_of(*next(catalog.offered()))
    body = json.dumps({"amount_sats": session_amount(means)})
    sold = "\n".join(_line(service, endpoint) for service, endpoint in catalog.offered())
    by_l402 = f"""\
1. Ask without a credential. The answer is 402, with `macaroon` and `invoice` in its JSON body and in its
   header `WWW-Authenticate`.
2. Pay the invoice over Lightning. Your wallet gives you the preimage.
3. Ask again with both:

    {call.curl(url, "L402 <macaroon>:<preimage>")}

Or buy a token once and spend it call by call:"""
    return f"""\
# arkgate

> {means.summary}

## Call

{by_l402 if means.lightning else "Buy a token and spend it call by call:"}

    curl {url}/v1/sessions -H "Content-Type: application/json" -d '{body}'

It answers with `token` (keep it: it is the money) and `funding`, what to pay. Then:

    {call.curl(url, "Bearer ak_…")}

## What is sold

{sold}

## Rules

- {RETRY}
- {REFUNDS}
- `POST /v1/quote?path=<endpoint>` with the body that you would send answers what it costs, for nothing.
- `GET /v1/balance` and `GET /v1/usage` with your credential answer what is left and what was spent.

## Maps

- OpenAPI: {url}/openapi.json
- Prices: {url}/v1/catalog
- L402: {url}/.well-known/l402.json
- MCP, streamable HTTP, with tools to ask, pay and call: {url}{MCP_PATH}
- All of this with an example of each endpoint: {url}/llms-full.txt
"""


def examples_text(catalog: Catalog, url: str) -> str:
    """An example of each endpoint, the models, and what refusals mean."""
    examples = "\n".join(
        f"### {endpoint.path}\n\n{endpoint.description}\n\n"
        f"    {example_of(service, endpoint).curl(url, 'Bearer ak_…')}\n"
        for service, endpoint in catalog.offered()
    )
    models = [] if catalog.chat is None else catalog.chat.models
    priced = "\n".join(f"- `{model.name}`: {json.dumps(tariff_told(model.tariff))}" for model in models)
    return f"""
## Examples

{examples}
{"## Models" if priced else ""}

{priced}

## Refusals

Every refusal is JSON with `error` (what to do), `code` and `request_id`.

- 401: the credential is damaged; paying again does not help.
- 402 with an invoice: pay it and repeat.
- 409: the same purchase is under way; repeat it after `Retry-After` with the same key.
- 429: wait for `Retry-After`; a day's allowance says when it resets.
- 502, 504: refunded; repeat with the same key.
- 503 `settlement_pending`: you have paid, do not pay again; repeat in a few seconds.
"""


def _line(service: Service, endpoint: Endpoint) -> str:
    price = price_of(service, endpoint).words
    a_day = f", {service.calls_per_day} calls a day" if service.calls_per_day else ""
    under = " and everything under it" if endpoint.is_prefix else ""
    words = f": {endpoint.description}" if endpoint.description else ""
    return f"- `{', '.join(endpoint.methods)} {endpoint.path}`{under}, {price}{a_day}{words}"
