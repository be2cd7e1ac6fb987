"""The promises of every kind of node, kept by the real daemons that the environment names."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from arkgate.nodes.barkd import BarkdNode
from arkgate.nodes.channel import NodeCredentials
from arkgate.nodes.cln import ClnNode
from arkgate.nodes.fulmine import FulmineNode
from arkgate.nodes.lnd import LndNode
from arkgate.store.clock import SystemClock
from tests.node import real_barkd, real_cln, real_fulmine
from tests.node.real import NotConfigured, configured_pair
from tests.nodes.promises import BARKD, CLN, FULMINE, LND, PROMISES, Promise, Scene, keep
from tests.stage import run

pytestmark = pytest.mark.node
SETTLING_SECONDS = 1.0
PROMISE_SECONDS = 180.0
Kind = Callable[[], Scene]


def lnd() -> Scene:
    try:
        pair = configured_pair()
    except NotConfigured as missing:
        pytest.skip(str(missing))

    async def pay(invoice: str) -> bytes:
        return (await pair.pay(invoice)).preimage

    def opened_by(secret: Path) -> LndNode:
        found = NodeCredentials(pair.node.address, pair.node.tls_cert, secret)
        return LndNode("gate", 7, found, SystemClock(), network="regtest")

    return Scene(
        node=opened_by(pair.node.macaroon),
        traits=LND,
        pay=pay,
        opened_by=opened_by,
        secret=pair.node.macaroon,
        settling_seconds=SETTLING_SECONDS,
    )


def cln() -> Scene:
    found = real_cln.configured()
    if isinstance(found, str):
        pytest.skip(found)

    def opened_by(secret: Path) -> ClnNode:
        return ClnNode(
            "gate", 7, replace(found.credentials, client_key_file=secret), SystemClock(), network="regtest"
        )

    return Scene(
        node=found.adapter(),
        traits=CLN,
        pay=found.pay,
        opened_by=opened_by,
        secret=found.credentials.client_key_file,
        settling_seconds=SETTLING_SECONDS,
    )


def barkd() -> Scene:
    found = real_barkd.configured()
    if isinstance(found, str):
        pytest.skip(found)

    def opened_by(secret: Path) -> BarkdNode:
        return replace(found, token_file=secret).adapter()

    return Scene(
        node=found.adapter(),
        traits=BARKD,
        pay=found.pay,
        opened_by=opened_by,
        secret=found.token_file,
        amount_sats=6_000,
        settling_seconds=SETTLING_SECONDS,
    )


def fulmine() -> Scene:
    found = real_fulmine.configured()
    if isinstance(found, str):
        pytest.skip(found)

    def opened_by(secret: Path) -> FulmineNode:
        return replace(found, credentials=replace(found.credentials, macaroon_file=secret)).adapter()

    return Scene(
        node=found.adapter(),
        traits=FULMINE,
        pay=found.pay,
        opened_by=opened_by,
        secret=found.credentials.macaroon_file,
        amount_sats=1_000,
        settling_seconds=SETTLING_SECONDS,
    )


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("kind", [lnd, cln, barkd, fulmine], ids=lambda kind: kind.__name__)
def test_a_real_one_keeps_its_promises(tmp_path: Path, kind: Kind, promise: Promise) -> None:
    async def story() -> None:
        scene = kind()
        try:
            await keep(promise, scene, tmp_path)
        finally:
            await scene.node.close()

    run(asyncio.wait_for(story(), PROMISE_SECONDS))
