"""What the tools take. An empty text is the same as none: some models fill every argument."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Printable = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]
"""What can stand in a header."""


class Arguments(BaseModel):
    """The arguments of a tool."""

    model_config = ConfigDict(extra="forbid")


class NoArguments(Arguments):
    """Nothing."""


class Credentials(Arguments):
    """Who pays."""

    token: Printable = Field(
        "",
        max_length=4096,
        description="An ak_ token to pay from. Leave it out to use the one that the host is configured with.",
    )
    credential: Printable = Field(
        "",
        max_length=8192,
        description='A paid invoice, as "<macaroon>:<preimage in hex>"; the macaroon came with the invoice.',
    )


class Purchase(Credentials):
    """What is paid for."""

    idempotency_key: Printable = Field(
        "",
        max_length=255,
        description="Names this purchase: choose one when you decide to ask, and send it with every attempt.",
    )


class ChatArguments(Purchase):
    """A question to an AI model."""

    prompt: str = Field("", description="The question. Give this or messages.")
    messages: list[dict[str, Any]] = Field(
        [], description='A conversation, as [{"role": "user", "content": "…"}, …]. Give this or prompt.'
    )
    model: str = Field("", description="A model of list_services; without it the first of them.")
    max_tokens: int = Field(
        0, ge=0, description="The longest answer in tokens; 0 leaves it to the gateway. Bounds what is held."
    )


class Request(Arguments):
    """A request to a priced endpoint."""

    path: str = Field("", max_length=8192, description="A path of list_services; a query may follow a ?.")
    method: str = Field(
        "", pattern=r"^[A-Za-z]{0,16}$", description="The HTTP method; without it the endpoint's first."
    )
    body: dict[str, Any] | list[Any] | str | None = Field(
        None, description="The body: an object or a list goes as JSON, a text as it is."
    )


class QuoteArguments(Credentials, Request):
    """What a request would cost."""


class CallArguments(Purchase, Request):
    """A call of any priced endpoint."""

    path: str = Field(min_length=1, max_length=8192, description="A path of list_services, or one under it.")
    query: dict[str, Any] = Field({}, description="What goes into the URL's query.")


class FundingArguments(Credentials):
    """How much to pay in."""

    amount_sats: int = Field(description="How many sats to pay in.")
    top_up: bool = Field(
        False,
        description="True pays into the account of the token that you have, instead of opening a new one.",
    )


class SessionArguments(Arguments):
    """Which session is asked about."""

    session_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="From create_funding_invoice.")


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """The JSON Schema of the arguments, without the titles that say the names again."""
    schema = arguments.model_json_schema()
    schema.pop("title")
    schema.pop("description", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema


def problem(error: ValidationError) -> str:
    """What is wrong with arguments, without their values: those may be secrets."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the arguments"
    return f"{where}: {first['msg']}. Change the arguments and call the tool again; nothing was charged."
