"""`ledger liabilities`: what is owed to customers, beside what is there to pay it with."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from arkgate import app
from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import start_up_errors
from arkgate.cli.shown import sats_shown, table_lines, time_shown
from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import node_account
from arkgate.core.reports import AccountAge, AccountState, Liabilities, Owed
from arkgate.ports import Holdings, PaymentNode
from arkgate.settings import Settings
from arkgate.store import read_store
from arkgate.store.clock import SystemClock


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, amounts in msat.")
def liabilities(config_path: Path | None, *, as_json: bool) -> None:
    """Show what is owed to customers, by age and by state, and what the nodes hold beside it."""
    settings = load_settings(config_path)
    with start_up_errors():
        owed, holdings = asyncio.run(_asked(settings))
    if as_json:
        click.echo(json.dumps(_object(owed, holdings), indent=2))
        return
    for line in _text(owed, holdings):
        click.echo(line)


async def holdings_of(node: PaymentNode) -> Holdings | str:
    """What a node says that it holds, or a clause that says why it does not say."""
    try:
        holdings = await node.holdings()
    except NodeUnavailable as refusal:
        return refusal.message.rstrip(".")
    if holdings is None:
        return (
            f"the macaroon of node {node.name} may not ask for its channels' balance (it needs offchain:read)"
        )
    return holdings


async def _asked(settings: Settings) -> tuple[Liabilities, Mapping[str, Holdings | str]]:
    async with read_store(settings.store_url) as statements, statements.snapshot() as snapshot:
        owed = await snapshot.liabilities()
    async with app.open_nodes(settings, SystemClock()) as nodes:
        return owed, {node.name: await holdings_of(node) for node in nodes}


def _object(owed: Liabilities, holdings: Mapping[str, Holdings | str]) -> dict[str, object]:
    return {
        "at": time_shown(owed.taken_at_ms),
        "customers": _owed(owed.total),
        "by_age": {age.value: _owed(owed.by_age(age)) for age in AccountAge},
        "by_state": {state.value: _owed(owed.by_state(state)) for state in AccountState},
        "invoices_open": owed.invoices_open,
        "invoices_open_msat": owed.invoices_open_amount,
        "accounts_msat": {total.account_id: total.credit_less_debit for total in owed.shared},
        "nodes": {
            name: {"not_checked": answer}
            if isinstance(answer, str)
            else {"channels_msat": answer.channels, "onchain_msat": answer.onchain}
            for name, answer in holdings.items()
        },
    }


def _owed(owed: Owed) -> dict[str, int]:
    return {"accounts": owed.accounts, "owed_msat": owed.posted, "held_msat": owed.held}


def _text(owed: Liabilities, holdings: Mapping[str, Holdings | str]) -> Iterator[str]:
    yield f"Owed to customers at {time_shown(owed.taken_at_ms)}, in sats"
    yield ""
    head = ["", "accounts", "owed", "held by calls"]
    rows = [head, _row("all", owed.total)]
    rows += [["last movement", "", "", ""]]
    rows += [_row(f"  {age.value}", owed.by_age(age)) for age in AccountAge]
    rows += [["state", "", "", ""]]
    rows += [_row(f"  {state.value}", owed.by_state(state)) for state in AccountState]
    yield from table_lines(rows)
    yield ""
    asked_for = sats_shown(owed.invoices_open_amount)
    yield f"Invoices that can still be paid: {owed.invoices_open}, for {asked_for} sats."
    yield ""
    yield "What the books have beside it, in sats"
    sums = [(total.account_id, total.credit_less_debit) for total in owed.shared]
    yield from table_lines([["account", "debit", "credit"], *(_sides(*one) for one in sums)])
    yield ""
    for name, answer in holdings.items():
        if isinstance(answer, str):
            yield f"What node {name} itself says: not checked: {answer}."
        else:
            received = -owed.shared_total(node_account(name))
            yield (
                f"Node {name} says that it holds {sats_shown(answer.channels)} sats in channels and "
                f"{sats_shown(answer.onchain)} on chain; {sats_shown(received)} came in for these books."
            )


def _row(name: str, owed: Owed) -> list[str]:
    return [name, str(owed.accounts), sats_shown(owed.posted), sats_shown(owed.held)]


def _sides(account_id: str, credit_less_debit: int) -> list[str]:
    shown = sats_shown(abs(credit_less_debit))
    return [account_id, shown, ""] if credit_less_debit < 0 else [account_id, "", shown]
