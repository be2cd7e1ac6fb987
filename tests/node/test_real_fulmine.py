"""A real Fulmine without an operator: as far as one gets, the adapter understands it, and does not end it."""

import asyncio
import os
import secrets
from pathlib import Path

import pytest

from arkgate.core.errors import NodeUnavailable
from arkgate.core.money import sats
from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.ports import Demands, Verdict
from arkgate.store.clock import SystemClock
from tests.stage import run

pytestmark = pytest.mark.node
ADDRESS, MACAROON, BOLTZ = (f"ARKGATE_TEST_FULMINE_{word}" for word in ("ADDRESS", "MACAROON", "BOLTZ"))
MISSING = f"""\
This needs a real Fulmine; it may be locked, without a wallet, and without an operator.
  {ADDRESS}    its gRPC, host:port
  {MACAROON}   its admin.macaroon, or any file while it has no wallet
  {BOLTZ}      the URL of its Boltz, which need not answer"""


@pytest.fixture
def node() -> FulmineNode:
    found = [os.environ.get(name) for name in (ADDRESS, MACAROON, BOLTZ)]
    if not all(found):
        pytest.skip(MISSING)
    address, macaroon, boltz = (str(value) for value in found)
    return FulmineNode("gate", 7, FulmineCredentials(address, Path(macaroon), boltz), SystemClock())


def test_it_says_in_words_what_it_lacks_and_is_asked_for_no_invoice(node: FulmineNode) -> None:
    async def story() -> None:
        health = await node.health()
        for amount in (50, 2_000):
            with pytest.raises(NodeUnavailable):
                await node.create_invoice(sats(amount), preimage=None, memo="", expiry_seconds=600)
        again = await node.health()
        await node.close()

        assert not health.ready
        assert health.state in ("locked", "syncing", "refused", "unreachable")
        assert again == health

    run(asyncio.wait_for(story(), 60))


def test_a_look_up_is_a_refusal_while_it_is_not_open(node: FulmineNode) -> None:
    async def story() -> None:
        with pytest.raises(NodeUnavailable):
            await node.look_up(secrets.token_bytes(32))
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_the_check_up_names_what_is_to_be_done_first(node: FulmineNode) -> None:
    async def story() -> None:
        demands = Demands(challenge=sats(1_000), largest=sats(10_000))
        lines = [line async for line in node.checkup(demands)]
        await node.close()

        failed = [line for line in lines if line.verdict is Verdict.FAILURE]
        assert failed
        assert all(line.remedy for line in failed)

    run(asyncio.wait_for(story(), 60))
