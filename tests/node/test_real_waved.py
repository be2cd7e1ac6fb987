"""A real waved without an operator: as far as one gets, the adapter understands it."""

import asyncio
import os
import secrets
from pathlib import Path

import pytest

from arkgate.core.errors import NodeUnavailable
from arkgate.core.ledger import Cursor
from arkgate.core.money import sats
from arkgate.nodes.channel import NodeCredentials, PermissionDenied
from arkgate.nodes.waved import WavedNode
from arkgate.ports import Demands, Verdict
from arkgate.store.clock import SystemClock
from tests.stage import run

pytestmark = pytest.mark.node
ADDRESS, FILES = "ARKGATE_TEST_WAVED_ADDRESS", "ARKGATE_TEST_WAVED_FILES"
MISSING = f"""\
This needs a real waved on regtest; it may be locked, without a wallet, and without an operator.
  {ADDRESS}   its gRPC, host:port
  {FILES}     the folder with its tls.cert, admin.macaroon and readonly.macaroon"""
STREAM_SECONDS = 2.0


def node_of(macaroon: str) -> WavedNode:
    if not (os.environ.get(ADDRESS) and os.environ.get(FILES)):
        pytest.skip(MISSING)
    files = Path(os.environ[FILES])
    found = NodeCredentials(os.environ[ADDRESS], files / "tls.cert", files / macaroon)
    return WavedNode("gate", 7, found, SystemClock(), network="regtest")


def test_it_says_in_words_what_it_lacks_and_refuses_to_make_invoices() -> None:
    async def story() -> None:
        node = node_of("admin.macaroon")
        health = await node.health()

        assert not health.ready
        assert health.state in ("locked", "syncing", "starting")
        assert health.network == "regtest"
        for amount in (50, 2_000):
            with pytest.raises(NodeUnavailable):
                await node.create_invoice(sats(amount), preimage=None, memo="a call", expiry_seconds=600)
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_what_is_known_can_be_asked_and_followed_whatever_its_state() -> None:
    async def story() -> None:
        for macaroon in ("admin.macaroon", "readonly.macaroon"):
            node = node_of(macaroon)
            assert await node.look_up(secrets.token_bytes(32)) is None
            assert [one async for one in node.settled_since(0)] == []
            following = asyncio.ensure_future(anext(aiter(node.events(Cursor(0, 1)))))
            await asyncio.sleep(STREAM_SECONDS)
            assert not following.done()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await node.close()

    run(asyncio.wait_for(story(), 60))


def test_the_macaroon_that_only_watches_makes_no_invoice() -> None:
    async def story() -> None:
        node = node_of("readonly.macaroon")
        with pytest.raises(PermissionDenied):
            await node.create_invoice(sats(2_000), preimage=None, memo="a call", expiry_seconds=600)
        await node.close()

    run(asyncio.wait_for(story(), 60))


def test_the_check_up_reads_its_certificate_and_its_state() -> None:
    async def story() -> None:
        node = node_of("admin.macaroon")
        demands = Demands(challenge=sats(1_000), largest=sats(10_000))
        lines = {line.name: line async for line in node.checkup(demands)}
        await node.close()

        assert lines["TLS certificate"].verdict is Verdict.OK
        assert lines["version"].verdict is Verdict.OK
        assert Verdict.FAILURE in {
            lines[name].verdict for name in ("wallet", "Ark operator") if name in lines
        }

    run(asyncio.wait_for(story(), 60))
