"""Real nodes of one gateway, side by side: a Lightning node with a spare, and one with an Ark wallet."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from arkgate.core.invoice import read_bolt11
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import Paid, PaymentFailed
from tests.node import real_barkd, real_cln
from tests.node.real import START, STOP, NotConfigured, Pair, configured_pair
from tests.node.real_barkd import RealBarkd
from tests.node.real_cln import RealCln
from tests.node.staged_real import run_command
from tests.stage import MODEL, Credential, Stage, eventually, run, staged

pytestmark = pytest.mark.node


@dataclass(slots=True)
class Payments(Simulation):
    """A simulation of which only the chat is used: the LND's payer pays invoices."""

    pair: Pair

    async def pay(self, payment_request: str) -> Paid:
        """Pays an invoice of the real LND."""
        return await self.pair.pay(payment_request)


def lnd() -> Pair:
    """The LND and its payer; skips where the environment names none."""
    try:
        return configured_pair()
    except NotConfigured as missing:
        pytest.skip(str(missing))


@contextlib.asynccontextmanager
async def both(pair: Pair, kind: str, second: RealBarkd | RealCln, directory: Path) -> AsyncIterator[Stage]:
    """A gateway with the LND first, and the other one second."""
    lines = (
        f'name = "lnd"\nnumber = 0\n{pair.node.settings}\n'
        f'[[nodes]]\nkind = "{kind}"\nnumber = 1\n{second.settings}'
    )
    async with Simulation.running(data_dir=directory / "simulator", chat_models=(MODEL,)) as simulated:
        parts = {part.name: getattr(simulated, part.name) for part in fields(simulated)}
        async with staged(
            directory, extra={"[[nodes]]": lines}, simulation=Payments(pair=pair, **parts)
        ) as stage:
            yield stage


def test_a_session_is_paid_at_both_and_a_challenge_at_the_first(tmp_path: Path) -> None:
    pair, barkd = lnd(), real_barkd.configured()
    if isinstance(barkd, str):
        pytest.skip(barkd)

    async def story() -> None:
        async with both(pair, "barkd", barkd, tmp_path) as stage:
            credential = await stage.buy_credential()
            opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 5_000})).json()
            token, funding = {"Authorization": f"Bearer {opened['token']}"}, opened["funding"]
            await barkd.run("PAY_ARK", funding["ark_address"], "700")
            await has(stage, token, 700)
            await pair.pay(funding["lightning_invoice"])
            await has(stage, token, 5_700)
            ready = (await stage.http.get("/health/ready")).json()["dependencies"]

            assert (await stage.chat(credential.header)).status_code == 200
            assert (await stage.chat(token)).status_code == 200
            assert read_bolt11(funding["lightning_invoice"]).amount == 5_000_000
            assert (ready["node:lnd"]["ready"], ready["node:gate"]["ready"]) == (True, True)
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 120))


def test_losing_the_first_node_costs_nothing_that_was_paid_and_the_spare_sells_on(tmp_path: Path) -> None:
    pair, cln = lnd(), real_cln.configured()
    if isinstance(cln, str):
        pytest.skip(cln)
    if not (os.environ.get(STOP) and os.environ.get(START)):
        pytest.skip(f"{STOP} and {START} are not set")

    async def story() -> None:
        async with both(pair, "cln", cln, tmp_path) as stage:
            paid_before = await stage.buy_credential()
            opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
            token = {"Authorization": f"Bearer {opened['token']}"}
            await run_command(shlex.split(os.environ[STOP]))
            try:
                challenge = await challenged(stage)
                preimage = await cln.pay(challenge["invoice"])
                by_spare = Credential(challenge["macaroon"], preimage.hex(), challenge["invoice"])
                assert (await stage.chat(by_spare.header)).status_code == 200
            finally:
                await run_command(shlex.split(os.environ[START]))
            await pays(pair, opened["funding"]["lightning_invoice"])

            await has(stage, token, 500)
            assert (await stage.chat(paid_before.header)).status_code == 200
            assert await stage.verify() == []

    run(asyncio.wait_for(story(), 240))


async def challenged(stage: Stage) -> dict[str, str]:
    """A challenge, asked for until a node makes one."""
    found: list[dict[str, str]] = []

    async def so() -> bool:
        answer = await stage.chat()
        if answer.status_code == 402:
            found.append(answer.json())
        return bool(found)

    await eventually(so, 60)
    return found[0]


async def pays(pair: Pair, invoice: str) -> None:
    """Pays once the payer has found the node again."""

    async def so() -> bool:
        try:
            await pair.pay(invoice)
        except PaymentFailed:  # there is no route yet
            await asyncio.sleep(1)
            return False
        return True

    await eventually(so, 90)


async def has(stage: Stage, token: dict[str, str], balance_sats: int) -> None:
    async def so() -> bool:
        return bool((await stage.balance(token))["balance_sats"] == balance_sats)

    await eventually(so, 60)
