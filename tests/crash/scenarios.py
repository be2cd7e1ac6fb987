"""What leads to each durable step: stories of a client, and the table of which story reaches which step."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arkgate.core.ledger import InvoiceState
from arkgate.core.money import sats
from arkgate.core.reports import PAUSED_FACT
from arkgate.gateway.sessions import SessionTerms
from arkgate.store import open_store, read_store
from arkgate.store.sqlite.connections import LOG_BYTES
from tests.crash.gateways import (
    CONNECTION_LOST,
    HOLD_SECONDS,
    PATIENCE_SECONDS,
    PRICE_SATS,
    QUICK,
    Client,
    keyed,
)
from tests.stage import PROMPT, eventually

CANCELLED = InvoiceState.CANCELLED
LARGE_SATS = 200_000
"""More than is credited over Ark before it is final."""
OVERPAID_MSAT = 22_000_000 * 100_000_000 * 1000
"""More bitcoin than there can be."""
SLOW_REQUEST = (
    b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b'Content-Length: 19\r\n\r\n{"amount_sats": 50}'
)
BROKEN_REQUEST = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
FUND = "arkgate.gateway.fund."
SWEEP = "arkgate.gateway.sweep."


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story that reaches a step, and how the gateway has to be for it."""

    story: Callable[[Client], Awaitable[None]]
    time: int = 1
    """At which of the times that it is reached the blow falls."""
    pauses: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    at_start: bool = False
    """Whether the blow may fall before the story begins."""
    impatient: bool = False
    """Whether changes that cannot be made fail soon."""

    @property
    def name(self) -> str:
        """For people."""
        return self.story.__name__ + (f" {self.time}" if self.time > 1 else "")


async def a_token_pays(client: Client) -> None:
    header = keyed(await client.fund_token(2 * PRICE_SATS))
    client.arm()
    await client.buy(header)


async def a_token_buys_a_stream(client: Client) -> None:
    client.simulation.chat.token_seconds = 0.01
    header = keyed(await client.fund_token(2 * PRICE_SATS))
    client.arm()
    await client.buy_stream(header)


async def a_proof_comes_first(client: Client) -> None:
    client.simulation.gate.habits.streams_silent = True
    credential = await client.buy_credential()
    client.arm()
    await client.buy(credential)


async def a_credential_is_asked_for(client: Client) -> None:
    client.arm()
    await client.buy(await client.buy_credential())


async def somebody_pays_without_an_invoice(client: Client) -> None:
    await client.fund_token()  # the stream is open
    client.arm()
    client.simulation.gate.receive_keysend(1000)
    session = await client.open_session()
    await client.pay(session.invoice)
    await client.has(session.header, PRICE_SATS)


async def a_payer_never_comes_back(client: Client) -> None:
    _, invoice = await client.challenge()
    client.arm()
    await client.pay(invoice)


async def a_session_is_paid(client: Client) -> None:
    client.arm()
    await client.buy(keyed(await client.fund_token()))


async def an_open_session_is_paid(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    await client.pay(session.invoice)
    await client.has(session.header, PRICE_SATS)


async def a_look_up_finds_the_payment(client: Client) -> None:
    client.simulation.gate.habits.settlements_hidden = True
    await an_open_session_is_paid(client)


async def a_payment_came_while_it_was_down(client: Client) -> None:
    session = await client.open_session()
    _, invoice = await client.challenge()
    await client.gateway.stop()
    await client.pay(session.invoice)
    await client.pay(invoice)
    client.arm()
    client.gateway.start()
    await client.has(session.header, PRICE_SATS)


async def a_token_is_topped_up(client: Client) -> None:
    header = await client.fund_token()
    client.arm()
    body = await client.ask(
        "POST", "/v1/topups", wanted=201, body={"amount_sats": PRICE_SATS}, headers=header
    )
    await client.pay(body["funding"]["lightning_invoice"])
    await client.has(header, 2 * PRICE_SATS)


async def a_credential_becomes_a_token(client: Client) -> None:
    credential = await client.buy_credential()
    await client.has(credential, PRICE_SATS)
    client.arm()
    first = await client.ask("POST", "/v1/tokens", wanted=200, headers=credential)
    again = await client.ask("POST", "/v1/tokens", wanted=200, headers=credential)
    assert first["token"] == again["token"]
    await client.buy(keyed({"Authorization": f"Bearer {first['token']}"}))


async def the_backend_fails(client: Client) -> None:
    header = keyed(await client.fund_token())
    client.arm()
    body = {"prompt": "[fail:500] How is Ark different?"}
    await client.ask("POST", "/api/ai-chat", wanted=502, body=body, headers=header, also=(402,))
    await client.has(header, PRICE_SATS)


async def a_call_is_given_up(client: Client) -> None:
    header = keyed(await client.fund_token())
    async with client.gateway.engine.locked(client.gateway.loaded.store_url):
        call = asyncio.create_task(client.buy(header))
        await asyncio.sleep(0.3)  # it waits for its hold
        client.arm()
        client.gateway.ask_to_end()
        await asyncio.sleep(HOLD_SECONDS + 1.5)  # so long it waits for open calls
    await call


async def a_hold_was_left_behind(client: Client) -> None:
    header = keyed(await client.fund_token())
    client.simulation.chat.faults.once.append("slow 1")
    call = asyncio.create_task(client.buy(header))
    await eventually(lambda: _received(client))
    await client.gateway.stop()
    await asyncio.sleep(HOLD_SECONDS)
    client.arm()
    client.gateway.start()
    await call


async def _received(client: Client) -> bool:
    return bool(client.simulation.chat.request_ids)


async def an_answer_is_forgotten(client: Client) -> None:
    header = keyed(await client.fund_token(2 * PRICE_SATS))
    await client.buy(header)
    client.arm()
    await client.gateway.struck.wait()
    await eventually(lambda: _is_gone(client, header))
    await client.has(header, PRICE_SATS)


async def _is_gone(client: Client, header: Mapping[str, str]) -> bool:
    with contextlib.suppress(*CONNECTION_LOST):
        answer = await client.http.post("/api/ai-chat", json=PROMPT, headers=header)
        return answer.status_code in (410, 422)
    return False


async def an_invoice_is_cancelled(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    client.simulation.network.cancel(client.simulation.gate.peer, session.payment_hash)

    async def noted() -> bool:
        # The session goes on: its Ark address can be paid.
        async with read_store(client.gateway.loaded.store_url) as statements:
            record = await statements.session(session.path.rpartition("/")[2])
        return record is not None and record.invoice is not None and record.invoice.state is CANCELLED

    await eventually(noted)
    assert (await client.ask("GET", session.path, wanted=200))["status"] == "awaiting_payment"


async def an_invoice_is_forgotten_by_the_node(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    peer = client.simulation.gate.peer
    client.simulation.network.cancel(peer, session.payment_hash)
    client.simulation.network.collect_garbage(peer)
    await client.gateway.struck.wait()
    await _ends(client, session.path, "expired")


async def _ends(client: Client, path: str, status: str) -> None:
    async def ended() -> bool:
        return bool((await client.ask("GET", path, wanted=200))["status"] == status)

    await eventually(ended)


async def an_invoice_waits(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    await client.gateway.struck.wait()
    await client.pay(session.invoice)
    await client.has(session.header, PRICE_SATS)


async def an_address_is_paid(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    client.pay_ark(session.ark_address, PRICE_SATS)
    await client.has(session.header, PRICE_SATS)
    await client.buy(keyed(session.header))


async def an_address_waits(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    await client.gateway.struck.wait()
    client.pay_ark(session.ark_address, PRICE_SATS)
    await client.has(session.header, PRICE_SATS)


async def a_large_payment_waits_for_its_round(client: Client) -> None:
    session = await client.open_session()
    client.arm()
    client.pay_ark(session.ark_address, LARGE_SATS)

    async def registered() -> bool:
        return [[outpoint] for outpoint in client.ark.purse.coins] == client.ark.participations

    await eventually(registered, PATIENCE_SECONDS)
    client.ark.hold_round()
    await client.has(session.header, LARGE_SATS)


async def its_books_are_older_than_a_session(client: Client) -> None:
    session = await client.open_session()
    await client.gateway.stop()
    await client.gateway.change_books()
    client.arm()
    client.gateway.start()
    await client.pay(session.invoice)
    await client.has(session.header, PRICE_SATS, also=(401,))
    await client.buy(keyed(session.header))


async def its_books_were_restored(client: Client) -> None:
    session = await client.open_session()
    await client.gateway.stop()
    await client.pay(session.invoice)
    async with open_store(client.gateway.loaded.store_url, None, log_bytes=LOG_BYTES) as store:
        await store.ledger.note(PAUSED_FACT, 1)
    client.arm()
    client.gateway.start()
    await client.has(session.header, PRICE_SATS)
    await client.buy(keyed(session.header))


async def it_runs(client: Client) -> None:
    header = await client.fund_token(2 * PRICE_SATS)
    client.arm()
    await client.gateway.struck.wait()
    await client.buy(keyed(header))


async def its_books_cannot_be_written(client: Client) -> None:
    header = await client.fund_token()
    async with client.gateway.engine.unwritable(client.gateway.loaded.store_url):
        client.arm()
        asking = asyncio.create_task(it_asks_in_vain(client))
        # Once it is killed they must be writable soon, or the next one does not start: nobody waits for
        # an answer that tries to connect again and again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await client.gateway.struck.wait()
        asking.cancel()
    (fault,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(fault, asyncio.CancelledError), fault
    await client.gateway.struck.wait()
    await client.buy(keyed(header))


async def it_asks_in_vain(client: Client) -> None:
    """Asks for sessions for ever."""
    while True:
        with contextlib.suppress(*CONNECTION_LOST):
            answer = await client.http.post("/v1/sessions", json={"amount_sats": 1})
            assert answer.status_code == 503, answer.text
        await asyncio.sleep(0.1)


async def it_starts_for_the_first_time(client: Client) -> None:
    header = await client.fund_token(2 * PRICE_SATS)
    await client.buy(keyed(header))
    await client.gateway.restart()
    await client.buy(keyed(header))


async def its_keys_are_rotated(client: Client) -> None:
    header = await client.fund_token(2 * PRICE_SATS)
    await client.buy(keyed(header))
    await client.gateway.stop()
    client.arm()
    await client.gateway.rotate_keys()
    client.gateway.start()
    await client.buy(keyed(header))
    await client.buy(keyed(await client.fund_token()))


async def a_payment_is_beyond_belief(client: Client) -> None:
    header = await client.fund_token()
    _, invoice = await client.challenge()
    client.arm()
    habits = client.simulation.payer.habits
    habits.overpay_msat, usual = OVERPAID_MSAT, habits.overpay_msat
    await client.simulation.pay(invoice)
    habits.overpay_msat = usual
    await client.gateway.struck.wait()
    await client.buy(keyed(header))


async def a_refused_request_waits_for_its_turn(client: Client) -> None:
    header = await client.fund_token()
    loaded, delays = client.gateway.loaded, client.simulation.gate.habits.delays_seconds
    delays["AddInvoice"] = 0.2
    client.arm()
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(loaded.listen.host, loaded.listen.port)
        with contextlib.closing(writer):
            writer.write(SLOW_REQUEST + BROKEN_REQUEST)
            await reader.read()
    delays.clear()
    await client.buy(keyed(header))


FIRST_START = [Scenario(it_starts_for_the_first_time, at_start=True)]
KEYS = [*FIRST_START, Scenario(its_keys_are_rotated)]
TOKEN = [Scenario(a_token_pays)]
PROOF = [Scenario(a_proof_comes_first)]
STREAM = [Scenario(a_token_buys_a_stream)]
CHANGES = [Scenario(a_token_pays), Scenario(a_token_pays, 2), Scenario(a_payer_never_comes_back)]
SHORT_SESSIONS = {"sessions": SessionTerms(sats(1), sats(1_000_000), expiry_seconds=1)}
QUICK_ARK = {
    **QUICK,
    "arkgate.gateway.ark.WAITING_PAUSE_MS": 50,
    "arkgate.gateway.pace.LOOK_UP_PAUSE_MS_MAX": 100,
}
QUICK_START = {**QUICK, FUND + "STREAM_OPENS_WITHIN_SECONDS": 0.3}

GATEWAY: Mapping[str, Sequence[Scenario]] = {
    "app._keyring:ledger.note_once": KEYS,
    "app._refuse_renumbered:ledger.note_once": FIRST_START,
    "gateway.desk.InvoiceDesk._made:node.create_invoice": [
        Scenario(a_credential_is_asked_for),
        Scenario(a_session_is_paid),
        Scenario(a_token_is_topped_up),
    ],
    "gateway.addresses.AddressDesk._fresh:wallet.new_ark_address": [
        Scenario(a_session_is_paid),
        Scenario(a_token_is_topped_up),
    ],
    "gateway.ark.ArkFunding.credit:ledger.fund_ark": [
        Scenario(an_address_is_paid),
        Scenario(a_large_payment_waits_for_its_round, pauses=QUICK_ARK),
        Scenario(a_large_payment_waits_for_its_round, 2, pauses=QUICK_ARK),
    ],
    "gateway.ark.ArkFunding._await_finality:ledger.mark_address_looked_up": [
        Scenario(a_large_payment_waits_for_its_round, pauses=QUICK_ARK)
    ],
    "gateway.ark.ArkFunding._await_finality:wallet.make_final": [
        Scenario(a_large_payment_waits_for_its_round, pauses=QUICK_ARK)
    ],
    "gateway.ark.ArkFunding._later_if_at_all:ledger.mark_address_looked_up": [
        Scenario(an_address_waits, pauses={**QUICK, "arkgate.gateway.pace.LOOK_UP_GRACE_MS": -1e12})
    ],
    "gateway.ark.ArkFunding._later_if_at_all:ledger.mark_address_looked_up#2": [
        Scenario(an_address_waits, pauses=QUICK)
    ],
    "gateway.fund.Funding._credit:ledger.fund": [
        *PROOF,
        Scenario(a_payer_never_comes_back),
        Scenario(an_open_session_is_paid),
        Scenario(a_look_up_finds_the_payment, pauses=QUICK),
        Scenario(a_payment_came_while_it_was_down),
        Scenario(a_payment_came_while_it_was_down, 2),
    ],
    "gateway.fund.Funding._give_token:ledger.set_token": [Scenario(its_books_are_older_than_a_session)],
    "gateway.fund.Funding._follow:ledger.advance": [Scenario(somebody_pays_without_an_invoice)],
    "gateway.fund.Funding._mark:ledger.mark_invoice": [
        Scenario(an_invoice_is_cancelled, pauses=QUICK),
        Scenario(an_invoice_is_forgotten_by_the_node, pauses=QUICK, settings=SHORT_SESSIONS),
    ],
    "gateway.fund.Funding._look_up_later_if_at_all:ledger.mark_looked_up": [
        Scenario(an_invoice_waits, pauses={**QUICK, "arkgate.gateway.pace.LOOK_UP_GRACE_MS": -1e12})
    ],
    "gateway.fund.Funding._look_up_later:ledger.mark_looked_up": [Scenario(an_invoice_waits, pauses=QUICK)],
    "gateway.fund.Funding._reconcile_if_due:ledger.note": [
        Scenario(it_starts_for_the_first_time, pauses=QUICK_START, at_start=True)
    ],
    "gateway.meter.Meter.release:ledger.release": [Scenario(the_backend_fails)],
    "gateway.meter.Meter.reserve:ledger.reserve": [*TOKEN, *PROOF],
    "gateway.meter.Meter.reserve:ledger.reserve#2": [
        Scenario(a_call_is_given_up, settings={"grace_seconds": 0.1})
    ],
    "gateway.meter.Meter.settle:ledger.settle": [*TOKEN, *PROOF, *STREAM],
    "gateway.fetch.Fetch._take:backend.forward": [*TOKEN, *PROOF, *STREAM],
    "gateway.sessions.Sessions.open:ledger.open_session": [Scenario(a_session_is_paid)],
    "gateway.sessions.Sessions.token:ledger.set_token": [Scenario(a_credential_becomes_a_token)],
    "gateway.sessions.Sessions.top_up:ledger.add_address": [Scenario(a_token_is_topped_up)],
    "gateway.sessions.Sessions.top_up:ledger.add_invoice": [Scenario(a_token_is_topped_up)],
    "gateway.sweep.Sweep.probe:ledger.probe": [Scenario(it_runs, pauses={SWEEP + "PROBE_SECONDS": 0.1})],
    "gateway.reconcile.Reconcile._with:ledger.note": [Scenario(its_books_were_restored, at_start=True)],
    "gateway.reconcile.Reconcile.with_every_node:ledger.note": [
        Scenario(its_books_were_restored, at_start=True)
    ],
    "gateway.sweep.Sweep.prune_invoices.batch:ledger.prune_invoices": [
        Scenario(it_runs, pauses={SWEEP + "PRUNE_INVOICES_SECONDS": 0.1})
    ],
    "gateway.sweep.Sweep.prune.batch:ledger.prune_answers": [
        Scenario(an_answer_is_forgotten, pauses=QUICK, settings={"answers_kept_seconds": 3})
    ],
    "gateway.sweep.Sweep.release_overdue:ledger.sweep": [
        Scenario(it_runs, pauses=QUICK),
        Scenario(a_hold_was_left_behind),
    ],
    "gateway.sweep.Sweep.try_again:ledger.probe": [
        Scenario(its_books_cannot_be_written, pauses={SWEEP + "TRY_AGAIN_SECONDS": 0.1}, impatient=True)
    ],
    "web.guard.Guard.__call__.send_with_headers:socket.send": [
        Scenario(a_token_pays),
        Scenario(a_token_pays, 2),
        Scenario(a_proof_comes_first, 2),
        Scenario(a_session_is_paid, 2),
    ],
    "web.replies._stream:socket.send": STREAM,
    "web.replies._stream:socket.send#2": [*STREAM, Scenario(a_token_buys_a_stream, 2)],
    "web.replies._stream:socket.send#3": STREAM,
    "web.protocol._RefusedRequest.__call__:socket.send": [Scenario(a_refused_request_waits_for_its_turn)],
    "web.protocol._RefusedRequest.__call__:socket.send#2": [Scenario(a_refused_request_waits_for_its_turn)],
}

KEY_FILE: Mapping[str, Sequence[Scenario]] = {
    "store.keyfile.load_or_create_keyring:parent.mkdir": FIRST_START,
    "store.keyfile.rotate:file.replace": [Scenario(its_keys_are_rotated)],
    "store.keyfile._changing:os.open": KEYS,
    "store.keyfile._create:os.link": FIRST_START,
    "store.keyfile._create:temporary.unlink": FIRST_START,
    "store.keyfile._write:temporary.unlink": KEYS,
    "store.keyfile._write:os.open": KEYS,
    "store.keyfile._write:file.write": KEYS,
    "store.keyfile._write:file.flush": KEYS,
    "store.keyfile._write:os.fsync": KEYS,
    "store.durable.make_durable:os.open": KEYS,
    "store.durable.make_durable:os.fsync": KEYS,
}

SQLITE: Mapping[str, Sequence[Scenario]] = {
    "store.sqlite.connections.extend_log:database.begin": FIRST_START,
    "store.sqlite.schema._open_books:database.begin": FIRST_START,
    "store.sqlite.schema._open_books:database.commit": FIRST_START,
    "store.sqlite.upgrade.apply_revisions:revisions.apply_missing": FIRST_START,
    "store.sqlite.upgrade._begin:connection.begin": FIRST_START,
    "store.sqlite.writer.Writer._together:cursor.begin": CHANGES,
    "store.sqlite.writer.Writer._one_by_one:cursor.begin": [Scenario(a_payment_is_beyond_belief)],
    "store.sqlite.writer.Writer._commit_changes:cursor.commit": [
        *CHANGES,
        Scenario(a_payment_is_beyond_belief),
    ],
    "store.sqlite.writer.Writer._wake:loop.call_soon_threadsafe": CHANGES,
}

POSTGRES: Mapping[str, Sequence[Scenario]] = {
    "store.postgres.lanes.Lane._send:connection.fetch": [Scenario(a_token_pays), Scenario(a_token_pays, 2)],
    "store.postgres.lanes.Lane._send:call.answer": [Scenario(a_token_pays), Scenario(a_token_pays, 2)],
    "store.postgres.ledger.PostgresLedger._try:pool.change": [
        Scenario(a_payer_never_comes_back),
        Scenario(a_session_is_paid),
    ],
}
