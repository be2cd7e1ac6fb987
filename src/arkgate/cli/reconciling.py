"""`ledger reconcile`: credits what the nodes know and the books missed, and counts what a restore lost."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import httpx
import orjson

from arkgate import app
from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import set_up_logs, start_up_errors
from arkgate.cli.shown import sats_shown
from arkgate.cli.spent import Spent, report_spent, spent_options
from arkgate.core.errors import NodeUnavailable, StoreUnavailable
from arkgate.settings import Settings
from arkgate.store import read_store
from arkgate.web.admin import COMMAND_HEADER, RECONCILE_PATH

SECONDS_MAX = 3600.0
"""How long the running gateway may take to ask its nodes about everything."""


@click.command()
@config_option
@spent_options
def reconcile(config_path: Path | None, log: tuple[Path, ...], backend_log: Path | None) -> None:
    """Ask the nodes about every payment that is ours, and credit what was missed. Safe at any time.

    Done by the gateway where one runs. With --log, also says what was spent and is not in the books:
    after an old backup was restored, that is the operator's loss.
    """
    settings = load_settings(config_path)
    set_up_logs("error", for_people=True)
    with start_up_errors():
        result = asyncio.run(_reconciled(settings))
        for line in _lines(result):
            click.echo(line)
        asyncio.run(report_spent(settings, Spent(log, backend_log)))
    if any(node["refused"] for node in result["nodes"]):
        raise SystemExit(1)


async def _reconciled(settings: Settings) -> Mapping[str, Any]:
    """By this process where it may write to the books, else by the gateway that does."""
    async with read_store(settings.store_url):
        pass  # books that are not there are not made
    async with contextlib.AsyncExitStack() as stack:
        try:
            reconcile = await stack.enter_async_context(app.reconciling(settings))
        except StoreUnavailable as refusal:
            if refusal.reason != "store_locked":
                raise
            return await asyncio.to_thread(_by_the_gateway, settings, refusal)
        return asdict(await reconcile.with_every_node())


def _by_the_gateway(settings: Settings, locked: StoreUnavailable) -> Mapping[str, Any]:
    listen = settings.operator_listen
    url = listen.url + RECONCILE_PATH
    try:
        answer = httpx.post(url, headers={COMMAND_HEADER: "1"}, timeout=SECONDS_MAX, trust_env=False)
        body: Mapping[str, Any] = orjson.loads(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        raise click.ClickException(
            f"{locked.message} It does not answer at {listen.host}:{listen.port} either: {error}."
        ) from error
    if answer.status_code != 200:
        raise NodeUnavailable(str(body.get("error", answer.status_code)))
    return body


def _lines(result: Mapping[str, Any]) -> list[str]:
    lines = [_line(node) for node in result["nodes"]]
    if result["resumed"]:
        lines.append("The books were paused after a restore; now calls are sold again.")
    return lines


def _line(node: Mapping[str, Any]) -> str:
    line = (
        f"{node['node']}: {node['ours']} of {node['listed']} settled invoices are ours, "
        f"{node['asked']} unpaid ones were asked about; credited {node['credited']} that the books had "
        f"missed, {sats_shown(node['amount'])} sats."
    )
    if node["put_off"]:
        line += f" {node['put_off']} could not be asked about now; a running gateway asks again."
    if node["refused"]:
        line += f" {node['refused']} cannot be credited: the gateway's log says why."
    return line
