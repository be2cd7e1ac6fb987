"""A real LND and a real barkd of one gateway, side by side: each is paid in its own way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from arkgate.core.invoice import read_bolt11
from arkgate.simulator.simulation import Simulation
from arkgate.simulator.wallet import Paid
from tests.node import real_barkd
from tests.node.real import NotConfigured, Pair, configured_pair
from tests.node.real_barkd import RealBarkd
from tests.stage import MODEL, Stage, eventually, run, staged

pytestmark = pytest.mark.node


@dataclass(slots=True)
class Payments(Simulation):
    """A simulation of which only the chat is used: the LND's payer pays invoices."""

    pair: Pair

    async def pay(self, payment_request: str) -> Paid:
        """Pays an invoice of the real LND."""
        return await self.pair.pay(payment_request)


@contextlib.asynccontextmanager
async def both(pair: Pair, barkd: RealBarkd, directory: Path) -> AsyncIterator[Stage]:
    """A gateway with the LND first and the barkd second."""
    node = pair.node
    lines = (
        f'name = "lnd"\nnumber = 0\naddress = "{node.address}"\n'
        f'tls_cert_file = "{node.tls_cert}"\nmacaroon_file = "{node.macaroon}"\n'
        f'[[nodes]]\nkind = "barkd"\nnumber = 1\n{barkd.settings}'
    )
    async with Simulation.running(data_dir=directory / "simulator", chat_models=(MODEL,)) as simulated:
        parts = {part.name: getattr(simulated, part.name) for part in fields(simulated)}
        async with staged(
            directory, extra={"[[nodes]]": lines}, simulation=Payments(pair=pair, **parts)
        ) as stage:
            yield stage


def test_a_session_is_paid_at_both_and_a_challenge_at_the_first(tmp_path: Path) -> None:
    barkd = real_barkd.configured()
    try:
        pair = configured_pair()
    except NotConfigured as missing:
        pytest.skip(str(missing))
    if isinstance(barkd, str):
        pytest.skip(barkd)

    async def story() -> None:
        async with both(pair, barkd, tmp_path) as stage:
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


async def has(stage: Stage, token: dict[str, str], balance_sats: int) -> None:
    async def so() -> bool:
        return bool((await stage.balance(token))["balance_sats"] == balance_sats)

    await eventually(so, 60)
