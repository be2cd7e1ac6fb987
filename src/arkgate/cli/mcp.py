"""The gateway's tools for hosts that only start programs: MCP on standard input and output."""

import asyncio
import ipaddress
import os
from urllib.parse import urlsplit

import click
import uvloop

from arkgate.cli.running import set_up_logs
from arkgate.web.mcp.contract import Remote, remote_client
from arkgate.web.mcp.tools import Caller

TOKEN_VARIABLE = "ARKGATE_TOKEN"  # noqa: S105 - where it is found


@click.command()
@click.option(
    "--url",
    required=True,
    envvar="ARKGATE_URL",
    help="The gateway's public URL, like https://pay.example.com.",
)
def mcp(url: str) -> None:
    """Serve the tools of a gateway at a URL on standard input and output.

    ARKGATE_TOKEN in the environment holds the ak_ token to pay from, or a "<macaroon>:<preimage>". It is
    not taken from the command line, which every user of a host can read.
    """
    url = url.rstrip("/").removesuffix("/mcp")
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    _check(url, token)
    set_up_logs("warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_served(url, token))


async def _served(url: str, token: str) -> None:
    from arkgate.web.mcp.server import over_stdio  # noqa: PLC0415 - half a second, only for who runs this

    credentials = (("authorization", f"Bearer {token}"),) if token else ()
    async with remote_client() as http:
        await over_stdio(Caller(Remote(http, url), credentials), url)


def _check(url: str, token: str) -> None:
    """Raises ClickException for what cannot work, and warns of a token that would travel in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.ClickException("--url must be the gateway's public URL, like https://pay.example.com.")
    if parts.username or parts.password:
        raise click.ClickException(f"--url must hold no password; the token belongs into {TOKEN_VARIABLE}.")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise click.ClickException(f'{TOKEN_VARIABLE} must be an ak_ token, or a "<macaroon>:<preimage>".')
    if token and parts.scheme == "http" and not _is_here(parts.hostname):
        click.echo("warning: --url is plain http: the token is money and travels in the clear.", err=True)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
