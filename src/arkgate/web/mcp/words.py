"""What hosts and models read of the tools: descriptions with live prices, and the shape of the answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from arkgate.web.llms import REFUNDS, RETRY
from arkgate.web.mcp.outcome import Structure
from arkgate.web.mcp.tools import CHAT_PATHS

NAME: Final = "arkgate"
TITLE: Final = "API calls for sats"
_PAY: Final = (
    "Without a token or credential the answer is an error with payment_required, an invoice and a macaroon: "
    "pay the invoice over Lightning and call the tool again with the same arguments and credential "
    '"<macaroon>:<preimage>". '
)
INSTRUCTIONS: Final = (
    "This server sells AI chat and other API calls for sats. list_services says what is sold and for how "
    "much; quote says what one call would cost, for nothing. "
    + _PAY
    + "Or pay once with create_funding_invoice and spend "
    f"its token call by call. {RETRY} Here the key is the argument idempotency_key. {REFUNDS}"
)
_UNKNOWN: Final = "list_services says the price."


@dataclass(frozen=True, slots=True)
class Label:
    """How a tool is shown."""

    title: str
    words: str
    answers: Structure
    """The JSON Schema of what it answers."""
    is_read_only: bool = True
    is_idempotent: bool = True


def labels(catalog: Structure | None) -> Mapping[str, Label]:
    """Those of all tools, with the prices of the catalog; `None` while it cannot be read."""
    chats = [] if catalog is None else [one for one in catalog["endpoints"] if one["path"] in CHAT_PATHS]
    rules = f"{REFUNDS} {RETRY} Here the key is the argument idempotency_key."
    return {
        "list_services": Label(
            "What is sold",
            "Lists the priced endpoints and models with their prices in sats, and how much can be paid in. "
            "Free.",
            _CATALOG,
        ),
        "quote": Label(
            "What a call would cost",
            "Says what a call of an endpoint with this body would cost: hold_sats are set aside while it "
            "runs, expected_sats are what it will likely be charged. Free; nothing is bought.",
            _QUOTE,
        ),
        "chat": Label(
            "Ask an AI model",
            f"Asks an AI model and gives its answer. {_chat_price(chats, catalog)} {_PAY}{rules}",
            _CHAT,
            is_read_only=False,
            is_idempotent=False,
        ),
        "call_service": Label(
            "Call a priced API",
            f"Calls any priced endpoint. {_prices(catalog)} {_PAY}{rules}",
            _CALL,
            is_read_only=False,
            is_idempotent=False,
        ),
        "create_funding_invoice": Label(
            "Pay in",
            f"Makes an invoice and a new ak_ token that holds what is paid{_range(catalog)}. Give the token "
            "to chat and call_service, or put it into the host's configuration: it is the money. With top_up "
            "the invoice pays into the token that you have. Costs nothing until the invoice is paid.",
            _INVOICE,
            is_read_only=False,
            is_idempotent=False,
        ),
        "funding_status": Label(
            "Whether it was paid",
            "Says whether the invoice of create_funding_invoice was paid: status is active then. Free.",
            _SESSION,
        ),
        "balance": Label(
            "What is left",
            "Says what the token or credential has left, what is held by calls under way, and the calls left "
            "today. Free.",
            _BALANCE,
        ),
    }


def price(endpoint: Structure) -> str:
    """What a call costs, in words."""
    parts = {name: value for name, value in endpoint["pricing"].items() if name != "call_sats"}
    a_day = f", {endpoint['calls_per_day']} calls a day" if endpoint["calls_per_day"] else ""
    if not parts:
        return f"{endpoint['pricing'].get('call_sats', 0)} sats a call{a_day}"
    by = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in parts.items())
    of = "for a short question" if endpoint.get("price_is") in ("by_tokens", "by_model") else "a call"
    return f"up to {endpoint['cost_sats']} sats {of}, by what it uses ({by}){a_day}"


def _chat_price(chats: list[Structure], catalog: Structure | None) -> str:
    if not chats or catalog is None:
        return _UNKNOWN
    chat = min(chats, key=lambda one: CHAT_PATHS.index(one["path"]))
    if chat.get("price_is") == "by_model":
        return f"Price: {price(chat)}; each model has its own, see list_services."
    return f"Price: {price(chat)}."


def _prices(catalog: Structure | None) -> str:
    if catalog is None:
        return _UNKNOWN
    shown = list(_lines(catalog["endpoints"]))
    more = f"; {len(shown) - _SHOWN_MAX} more in list_services" if len(shown) > _SHOWN_MAX else ""
    return f"Prices: {'; '.join(shown[:_SHOWN_MAX])}{more}."


_SHOWN_MAX: Final = 12


def _lines(endpoints: list[Structure]) -> Iterator[str]:
    for endpoint in endpoints:
        of = ", each model its own" if endpoint.get("price_is") == "by_model" else ""
        yield f"{' or '.join(endpoint['methods'])} {endpoint['path']} {price(endpoint)}{of}"


def _range(catalog: Structure | None) -> str:
    if catalog is None:
        return ""
    session = catalog["session"]
    return f", {session['minimum_sats']} to {session['maximum_sats']} sats"


_TEXT: Final = {"type": "string"}
_MAYBE: Final = {"type": ["string", "null"]}
_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": ["number", "null"]}
_FLAG: Final = {"type": "boolean"}
_OBJECT: Final = {"type": "object"}
_REFUSAL: Final[Structure] = {
    "error": {"type": "string", "description": "What is wrong and what to do."},
    "code": _TEXT,
    "payment_required": {
        "type": "boolean",
        "description": "True: pay invoice, then call again with credential.",
    },
    "invoice": _MAYBE,
    "macaroon": _TEXT,
    "amount_sats": _NUMBER,
    "payment_hash": _MAYBE,
    "expires_at": _MAYBE,
    "next": {"type": "array", "items": _OBJECT, "description": "What can be done, step by step."},
}
_BILL: Final[Structure] = {
    "cost_sats": _COUNT,
    "balance_sats": _COUNT,
    "replayed": {
        "type": "boolean",
        "description": "True: the stored answer of an earlier attempt; cost nothing now.",
    },
    "request_id": _TEXT,
}
_FUNDING: Final[Structure] = {
    "status": _TEXT,
    "balance_sats": _NUMBER,
    "waiting_sats": _NUMBER,
    "ark_address": _MAYBE,
    "bip321": {"type": "string", "description": "One URI for any wallet."},
    "pay_url": {"type": "string", "description": "A page with a QR for people."},
}


def _answers(properties: Structure, *required: str) -> Structure:
    """What a tool answers, or the error that says what to do: hosts check both against one schema."""
    return {
        "type": "object",
        "properties": {**_REFUSAL, **properties},
        "anyOf": [{"required": list(required)}, {"required": ["error", "code"]}],
    }


_CATALOG: Final = _answers(
    {
        "endpoints": {"type": "array", "items": _OBJECT},
        "models": {"type": "array", "items": _OBJECT},
        "session": _OBJECT,
    },
    "endpoints",
)
_QUOTE: Final = _answers(
    {
        "endpoint": _TEXT,
        "hold_sats": _NUMBER,
        "expected_sats": _NUMBER,
        "pricing": _OBJECT,
        "available_sats": _NUMBER,
        "calls_left_today": _COUNT,
    },
    "hold_sats",
    "expected_sats",
)
_CHAT: Final = _answers({"answer": _TEXT, "model": _MAYBE, "usage": {}, **_BILL}, "answer", "cost_sats")
_CALL: Final = _answers(
    {"status": _NUMBER, "content_type": _TEXT, "body": {}, **_BILL}, "status", "body", "cost_sats"
)
_INVOICE: Final = _answers(
    {"token": _TEXT, "session_id": _TEXT, **_FUNDING}, "invoice", "bip321", "amount_sats"
)
_SESSION: Final = _answers({"session_id": _TEXT, **_FUNDING}, "session_id", "status", "amount_sats")
_BALANCE: Final = _answers(
    {
        "balance_sats": _NUMBER,
        "available_sats": _NUMBER,
        "held_sats": _NUMBER,
        "status": _TEXT,
        "calls_left_today": _COUNT,
    },
    "balance_sats",
    "available_sats",
)
