"""What a tool answers, structured and in words, and how the gateway's refusals look there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from arkgate.web.llms import CREDENTIAL
from arkgate.web.mcp.contract import Answer

Structure = dict[str, Any]
PAID: Final = "<macaroon>:<preimage in hex>"
_PAY: Final = (
    "Payment required: {amount} sats. Pay the invoice over Lightning, then call {tool} again with the same "
    f'arguments and credential "{PAID}".'
)
_WHOSE: Final = "Whose balance? Give a token or a credential, or configure the host with one."
_IN_TOOLS: Final = (
    ("POST /v1/topups", "create_funding_invoice and top_up"),
    ("POST /v1/sessions", "create_funding_invoice"),
    ("GET /v1/catalog", "list_services"),
    ("Authorization: Bearer <token>", "it as the argument token"),
    (CREDENTIAL, f'the argument credential "{PAID}"'),
    ("Idempotency-Key", "idempotency_key"),
)
"""How refusals over HTTP name what is to be done, and what it is called here."""
_LEFT_OUT: Final = frozenset(
    {"success", "error", "next", "priceSats", "response_ms", "type", "fund_url", "docs_url"}
)
"""What a refusal over HTTP has for readers of other kinds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool call came to."""

    structured: Structure
    text: str
    is_error: bool = False


class Refused(Exception):  # noqa: N818 - an answer, not a fault of this program
    """A tool call that came to an error."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.structured.get("code"))
        self.outcome = outcome


def told(structured: Structure, words: str = "") -> Outcome:
    """An outcome whose text is its structure, after `words`."""
    document = json.dumps(structured, ensure_ascii=False)
    return Outcome(structured, f"{words}\n\n{document}" if words else document)


def failed(sentence: str, code: str, **fields: object) -> Outcome:
    """An error that says what to do."""
    structured = {"error": sentence, "code": code, **fields}
    return Outcome(structured, f"{sentence}\n\n{json.dumps(structured, ensure_ascii=False)}", is_error=True)


def is_refusal(answer: Answer) -> bool:
    """Whether the gateway refuses, and it is not the answer of what is sold."""
    body = answer.json()
    if answer.status < 400 or not isinstance(body, dict) or body.get("success") is not False:
        return False
    return body.get("request_id") == answer.headers.get("x-request-id") is not None


def refusal(answer: Answer, tool: str) -> Outcome:
    """A refusal of the gateway, told to whoever called that tool."""
    body = answer.json()
    if not isinstance(body, dict):
        sentence = f"The answer has status {answer.status} and is not a gateway's: check the address."
        return failed(sentence, "unexpected_answer", status=answer.status)
    error = body.get("error")
    fields = {name: value for name, value in body.items() if name not in _LEFT_OUT}
    code = str(fields.pop("code", "refused"))
    sentence = str(error.get("message") if isinstance(error, dict) else error)
    if code == "payment_required":
        sentence = _PAY.format(amount=body["amount_sats"], tool=tool)
    elif code == "missing_credential":
        sentence = _WHOSE
    for over_http, here in _IN_TOOLS:
        sentence = sentence.replace(over_http, here)
    more: Structure = {"status": answer.status, **fields}
    if answer.status == 402:
        more |= {"payment_required": bool(body.get("invoice")), "next": _next(body, code, tool)}
    return failed(sentence, code, **more)


def _next(body: Mapping[str, Any], code: str, tool: str) -> list[Structure]:
    """What can be done about a 402, step by step."""
    fund: Structure = {"do": "fund_token", "tool": "create_funding_invoice"}
    if body.get("invoice"):
        again = {
            "do": "pay_invoice_then_call_again",
            "tool": tool,
            "with": "the same arguments, and credential",
            "credential": PAID,
        }
        return [again, {**fund, "arguments": {"amount_sats": int(body["amount_sats"]) * 10}}]
    if code == "awaiting_payment":
        return [{"do": "pay_the_invoice_of_this_token", "tool": "funding_status"}]
    needed = body.get("needed_sats") or body.get("price_sats") or 1
    if code == "insufficient_balance":
        return [{**fund, "do": "top_up", "arguments": {"amount_sats": needed, "top_up": True}}]
    return [{**fund, "arguments": {"amount_sats": needed}}]
