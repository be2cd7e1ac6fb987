"""Pages that wait for a payment: every way in which it may go, and what becomes of a page meanwhile."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from arkgate import settings
from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.simulator.simulation import Simulation
from tests.browser.browsing import Visitor, becomes, fund, invoice_on, visit, visiting
from tests.stage import MODEL, Stage, run, staged

ArkStory = Callable[[Stage, Visitor, SimulatedBarkd], Awaitable[None]]


def visit_with_ark(tmp_path: Path, story: ArkStory) -> None:
    """As `visit`, with sessions that may be paid to an Ark address, too."""

    async def visited() -> None:
        async with Simulation.running(
            data_dir=tmp_path / "simulator", chat_models=(MODEL,), settle_delay_seconds=0.01, barkds=("ark",)
        ) as simulation:
            (barkd,) = simulation.barkds
            nodes = [simulation.gate, barkd]
            async with (
                staged(tmp_path, simulation=simulation, nodes=nodes) as stage,
                visiting(stage.url) as visitor,
            ):
                await story(stage, visitor, barkd)
                assert await stage.verify() == []

    run(asyncio.wait_for(visited(), 100))


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoices of sessions live for three seconds; the settings allow a minute at least."""
    load = settings.load

    def shortened(file: Path) -> settings.Settings:
        loaded = load(file)
        return replace(loaded, sessions=replace(loaded.sessions, expiry_seconds=3))

    monkeypatch.setattr(settings, "load", shortened)


async def state(page: Page) -> str:
    return (await page.text_content("#state") or "").strip().replace("\N{NARROW NO-BREAK SPACE}", " ")


async def token_on(page: Page) -> str:
    return (await page.text_content("#token") or "").strip()


async def ark_address(stage: Stage, page: Page) -> str:
    session = page.url.rpartition("/")[2]
    funding = (await stage.http.get(f"/v1/sessions/{session}")).json()["funding"]
    return str(funding["ark_address"])


def test_a_reload_the_back_button_and_a_second_tab_keep_the_token(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        invoice = await fund(page)
        token = await token_on(page)
        address = page.url
        await page.reload()
        assert (page.url, await token_on(page)) == (address, token)
        await page.goto("/docs")
        await page.go_back()
        await expect(page.locator("#token")).to_have_text(token)
        async with page.context.expect_page() as opening:
            await page.evaluate("window.open(location.href)")
        second = await opening.value
        await expect(second.locator("#token")).to_have_text(token)
        assert (await stage.http.get(f"/v1/sessions/{address.rpartition('/')[2]}")).status_code == 200

        await stage.simulation.pay(invoice)
        await becomes(page, "active")
        await becomes(second, "active")
        await page.reload()
        assert (await token_on(page), await state(page)) == (token, "Paid. 500 sats are in the balance.")

    visit(tmp_path, story)


def test_who_only_has_the_link_pays_and_never_sees_the_token(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page, payer = await visitor.page(), await visitor.page(width=360)
        await fund(page)
        token, session = await token_on(page), page.url.rpartition("/")[2]
        for path in (f"/pay/{session}", f"/fund/{session}"):
            await payer.goto(path)
            assert token not in await payer.content()
        await expect(payer.locator("#token-gone")).to_be_visible()
        await payer.goto(f"/pay/{session}")
        await stage.simulation.pay(await invoice_on(payer))
        await becomes(payer, "active")
        assert token not in await payer.content()

    visit(tmp_path, story)


def test_a_payment_is_pushed_before_the_page_would_ask_for_it(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        invoice = await fund(page)
        await page.wait_for_timeout(500)
        await stage.simulation.pay(invoice)
        await page.wait_for_selector("#payment[data-status=active]", timeout=2500)

    visit(tmp_path, story)


def test_without_events_the_page_asks_again_and_again(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await page.route("**/events", lambda route: route.abort())
        await stage.simulation.pay(await fund(page))
        await becomes(page, "active")

    visit(tmp_path, story)


def test_a_page_that_was_offline_catches_up(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await page.route("**/events", lambda route: route.abort())  # a stream that is open outlives the cut
        invoice = await fund(page)
        await page.context.set_offline(True)
        await expect(page.locator("#offline")).to_be_visible()
        await stage.simulation.pay(invoice)
        await page.context.set_offline(False)
        await becomes(page, "active")
        await expect(page.locator("#offline")).to_be_hidden()

    visit(tmp_path, story)


WALLET = """
window.webln = {
  enable: async () => {},
  sendPayment: async (invoice) => { window.sent = invoice; return { preimage: "" }; },
};
"""


def test_the_browsers_own_wallet_is_offered_where_there_is_one(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await fund(page)
        await expect(page.locator("#browser-wallet")).to_be_hidden()
        await page.context.add_init_script(WALLET)
        await page.reload()
        await page.click("#browser-wallet")
        assert await page.evaluate("window.sent") == await invoice_on(page)

    visit(tmp_path, story)


def test_the_time_that_is_left_is_counted_down(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await page.clock.install()
        await fund(page)
        left = page.locator("#left")
        await expect(left).to_contain_text("23 h 59 min")
        await page.clock.fast_forward("23:56:00")
        await expect(left).to_have_text(re.compile(r": 3 min \d+ s$"))
        await page.clock.fast_forward("00:05:00")
        await expect(left).to_have_text("")

    visit(tmp_path, story)


def test_a_slow_network_shows_the_invoice_before_its_scripts(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        held: list[asyncio.Event] = []

        async def late(route: object) -> None:
            event = asyncio.Event()
            held.append(event)
            await event.wait()
            await route.continue_()  # type: ignore[attr-defined]

        await page.goto("/fund")
        await page.route("**/*.js", late)
        await page.click("form.fund button", no_wait_after=True)
        await expect(page.locator("#payment svg")).to_be_visible()
        assert held
        for event in held:
            event.set()

    visit(tmp_path, story)


def test_a_node_that_is_away_is_said_and_the_amount_is_kept(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await page.goto("/fund")
        await stage.simulation.gate.stop()
        await page.fill("#other", "777")
        await page.click("form.fund button")
        await expect(page.locator("[role=alert]")).to_contain_text("cannot be asked")
        assert await page.input_value("#other") == "777"
        refused = await stage.http.post("/fund", data={"other": "777"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        await stage.simulation.gate.start()

        async def again() -> bool:
            await page.click("form.fund button")
            return await page.locator("#payment svg").count() == 1

        for _ in range(40):
            if await again():
                break
            await page.wait_for_timeout(250)
        else:
            pytest.fail("no invoice although the node is back")

    visit(tmp_path, story)


@pytest.mark.parametrize(
    ("entered", "sentence"),
    [("9999999999", "from 1 to 1000000 sats"), ("0", "must be from 1")],
)
def test_an_amount_that_cannot_be_is_said_before_any_invoice(
    tmp_path: Path, entered: str, sentence: str
) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page(script=False)
        await page.goto("/fund")
        await page.fill("#other", entered)
        await page.click("form.fund button")
        assert sentence in (await page.text_content("[role=alert]") or "")
        assert not stage.simulation.gate.peer.invoices

    visit(tmp_path, story)


@pytest.mark.usefixtures("short_lived")
def test_an_invoice_that_expires_says_so_without_a_reload(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await fund(page, 321)
        await becomes(page, "expired")
        assert "has expired" in await state(page)
        assert await page.locator("#payment svg").count() == 0
        await page.click("#payment a.button")
        assert await page.input_value("#other") == "321"

    visit(tmp_path, story)


def test_less_than_asked_more_than_asked_and_too_late_have_their_own_words(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor, barkd: SimulatedBarkd) -> None:
        less, more = await visitor.page(), await visitor.page()
        await fund(less)
        barkd.wallet.pay_ark(await ark_address(stage, less), 200)
        await becomes(less, "active")
        assert (await state(less)).startswith("200 of 500 sats arrived")

        await fund(more)
        session = page_session(more)
        funding = (await stage.http.get(f"/v1/sessions/{session}")).json()["funding"]
        barkd.wallet.pay_ark(funding["ark_address"], 500)
        await becomes(more, "active")
        await stage.simulation.pay(funding["lightning_invoice"])
        await asyncio.sleep(0.5)
        await more.reload()
        assert "all 1 000 sats are in the balance" in await state(more)

    visit_with_ark(tmp_path, story)


def page_session(page: Page) -> str:
    return page.url.rpartition("/")[2]


@pytest.mark.usefixtures("short_lived")
def test_a_payment_that_comes_too_late_counts_and_is_shown(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor, barkd: SimulatedBarkd) -> None:
        page = await visitor.page()
        await fund(page)
        address = await ark_address(stage, page)
        await becomes(page, "expired")
        await page.wait_for_timeout(1500)
        barkd.wallet.pay_ark(address, 500)
        await becomes(page, "active")
        assert "after the invoice had expired" in await state(page)

    visit_with_ark(tmp_path, story)


def test_what_waits_to_be_final_is_not_called_paid(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor, barkd: SimulatedBarkd) -> None:
        page = await visitor.page()
        await fund(page, 900_000)
        barkd.wallet.pay_ark(await ark_address(stage, page), 900_000)
        await becomes(page, "awaiting_finality")
        assert "900 000 sats arrived" in await state(page)
        assert await page.locator("#payment svg").count() == 0

    visit_with_ark(tmp_path, story)


def test_the_stream_of_events_ends_with_the_gateway(tmp_path: Path) -> None:
    async def played() -> None:
        async with staged(tmp_path) as stage:
            opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
            async with stage.http.stream("GET", opened["events_url"]) as events:
                lines = events.aiter_lines()
                while not (await anext(lines)).startswith("event: awaiting_payment"):
                    pass
                stage.app.leaving()
                rest = [line async for line in lines]
            assert "event: paid" not in rest

    run(asyncio.wait_for(played(), 20))
