"""The tools as a server of the official SDK: the one importer of it. Importing this takes half a second."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

import mcp_types as types
import orjson
import structlog
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from starlette.types import ASGIApp, Scope

from arkgate.web.mcp.arguments import NoArguments, problem, schema_of
from arkgate.web.mcp.contract import CREDENTIALS, Inside, Unreachable
from arkgate.web.mcp.outcome import Outcome, Refused, failed
from arkgate.web.mcp.tools import RUNS, Caller
from arkgate.web.mcp.words import INSTRUCTIONS, NAME, TITLE, Label, labels

log = structlog.get_logger()
Context = Any
"""The SDK's context of a request; generic over what we do not use."""

SCHEMAS = {name: schema_of(arguments) for name, (arguments, _) in RUNS.items()}


def server_for(caller_of: Callable[[Scope | None], Caller], url: str) -> Server[Any]:
    """A server for whoever `caller_of` makes of a request's scope; it is None where there is no HTTP."""
    # The SDK's own log writes what clients sent, which holds credentials; ours says what failed.
    logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)

    def caller(context: Context) -> Caller:
        return caller_of(None if context.request is None else context.request.scope)

    async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        try:
            catalog = await caller(context).catalog()
        except (Refused, Unreachable):
            catalog = None  # the tools are the same; only their prices are not known now
        return types.ListToolsResult(tools=[_tool(name, label) for name, label in labels(catalog).items()])

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in RUNS:
            known = ", ".join(RUNS)
            raise MCPError(types.INVALID_PARAMS, f"There is no such tool here; there are {known}.")
        outcome = await _outcome(caller(context), params.name, params.arguments or {})
        return types.CallToolResult(
            content=[types.TextContent(text=outcome.text)],
            structured_content=outcome.structured,
            is_error=outcome.is_error,
        )

    return Server(
        NAME,
        version=version("arkgate"),
        title=TITLE,
        instructions=INSTRUCTIONS,
        website_url=url,
        get_tool_input_schema=SCHEMAS.get,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


@contextlib.asynccontextmanager
async def over_http(inside: ASGIApp, url: str) -> AsyncIterator[ASGIApp]:
    """The server as an ASGI application, until the block ends: nothing is kept between two requests.

    The tools ask `inside`, the public application with its guard, on behalf of whoever sent the request.

    Who may ask was decided before (`door`), and how large a body may be.
    """

    def caller(scope: Scope | None) -> Caller:
        assert scope is not None
        sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        return Caller(Inside(inside, scope), tuple(pair for pair in sent if pair[0] in CREDENTIALS))

    manager = StreamableHTTPSessionManager(server_for(caller, url), json_response=True, stateless=True)
    async with manager.run():
        yield manager.handle_request


async def over_stdio(caller: Caller, url: str) -> None:
    """The server on standard input and output, until the input ends."""
    server = server_for(lambda _: caller, url)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


async def _outcome(caller: Caller, name: str, arguments: dict[str, Any]) -> Outcome:
    """What a tool comes to; a fault of ours, too, is an answer that says what to do."""
    takes, run = RUNS[name]
    try:
        return await run(caller, takes.model_validate(arguments))
    except ValidationError as error:
        return failed(problem(error), "invalid_request")
    except (UnicodeEncodeError, orjson.JSONEncodeError):
        return failed("The arguments hold what is neither JSON nor a URL: change them.", "invalid_request")
    except Refused as error:
        return error.outcome
    except Unreachable as error:
        return failed(str(error), "no_answer")
    except Exception as error:  # the SDK would hand its text to the client
        log.exception("a tool failed", tool=name, error=type(error).__name__)
        return failed(
            "The gateway failed. If this was a purchase, repeat it with the same idempotency_key: it is not "
            "charged twice.",
            "internal_error",
        )


def _tool(name: str, label: Label) -> types.Tool:
    return types.Tool(
        name=name,
        title=label.title,
        description=label.words,
        input_schema=SCHEMAS[name],
        output_schema=label.answers,
        annotations=types.ToolAnnotations(
            title=label.title,
            read_only_hint=label.is_read_only,
            destructive_hint=False,
            idempotent_hint=label.is_idempotent,
            open_world_hint=RUNS[name][0] is not NoArguments,
        ),
    )
