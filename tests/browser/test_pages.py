"""What holds for every page: readable by everybody, light, safe, scannable, and in words of one catalogue."""

import re
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from arkgate.simulator.barkd import SimulatedBarkd
from arkgate.web.render import Words
from tests.backend.backend_server import always, http, serving
from tests.browser.browsing import (
    WIDTHS,
    Visitor,
    becomes,
    fund,
    scanned,
    violations,
    visit,
    visiting,
)
from tests.browser.test_payments import ark_address, visit_with_ark
from tests.stage import Stage, run, staged
from tests.web.test_services import service

BYTES_MAX = 60_000
PLAIN = ("/", "/fund", "/docs", "/docs/reference", "/apis", "/dashboard", "/nothing-here")
Reach = Callable[[Stage, Page], Awaitable[None]]


async def waiting(stage: Stage, page: Page) -> None:
    await fund(page)


async def paid(stage: Stage, page: Page) -> None:
    await stage.simulation.pay(await fund(page))
    await becomes(page, "active")


async def shared(stage: Stage, page: Page) -> None:
    await fund(page)
    await page.goto("/pay/" + page.url.rpartition("/")[2])


async def forgotten(stage: Stage, page: Page) -> None:
    opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
    await page.goto("/fund/" + opened["session_id"])


async def refused(stage: Stage, page: Page) -> None:
    await page.goto("/fund")
    await page.fill("#other", "99999999")
    await page.click("form.fund button")


async def looked_at(stage: Stage, page: Page) -> None:
    await paid(stage, page)
    await page.click("#use a[href='/dashboard']")
    await page.wait_for_selector("#account:not([hidden])")
    await page.click("#try-form button")
    await expect(page.locator("#answer")).to_contain_text("simulated")
    await page.fill("#amount", "100")
    await page.click("#top-up-form button")
    await page.wait_for_selector("#invoice-qr svg")


async def wrong_token(stage: Stage, page: Page) -> None:
    await page.goto("/dashboard")
    await page.fill("#token", "ak_" + "0" * 32)
    await page.click("#open button")
    await expect(page.locator("#problem")).to_be_visible()


async def required(stage: Stage, page: Page) -> None:
    await page.goto("/weather/today")


def at(path: str) -> Reach:
    async def reach(stage: Stage, page: Page) -> None:
        response = await page.goto(path)
        assert response is not None
        assert response.status == (404 if path == PLAIN[-1] else 200), path

    return reach


STATES: Mapping[str, Reach] = {
    **{path: at(path) for path in PLAIN},
    "token": waiting,
    "paid": paid,
    "pay": shared,
    "token forgotten": forgotten,
    "amount refused": refused,
    "dashboard with an account": looked_at,
    "wrong token": wrong_token,
    "402": required,
}


OFFER = {
    **service(9),
    "[limits]": "sessions_per_hour_and_client = 1000\nchallenges_per_minute_and_client = 1000",
}


@pytest.mark.parametrize(("width", "dark"), list(zip(WIDTHS, (False, True, False), strict=True)))
def test_nobody_is_shut_out_and_nothing_is_wider_than_its_screen(
    tmp_path: Path, width: int, dark: bool
) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        found = []
        for name, reach in STATES.items():
            page = await visitor.page(width=width, dark=dark)
            await reach(stage, page)
            found += [f"{name}: {one}" for one in await violations(page)]
            wide = await page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{name}: {wide} pixels wide")
            await page.context.close()
        assert found == []

    visit(tmp_path, story, OFFER)


def test_pages_weigh_little_and_say_what_they_are_without_their_scripts(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        bare = await visitor.page(script=False)
        for name, reach in STATES.items():
            page = await visitor.page()
            await reach(stage, page)
            address = page.url
            visitor.asked.clear()
            await page.goto(address, wait_until="load")
            files = {one for one in visitor.asked if "/static/" in one}
            parts = [await page.content(), *[(await stage.http.get(one)).text for one in files]]
            weight = sum(len(part.encode()) for part in parts)
            assert len(files) >= 2, name
            assert 5_000 < weight < BYTES_MAX, name
            await page.context.close()
            await bare.goto(address)
            assert (await bare.text_content("h1") or "").strip(), name

    visit(tmp_path, story, OFFER)


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1440, False)])
def test_a_wallet_reads_the_code_from_the_screen(tmp_path: Path, width: int, dark: bool) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page(width=width, dark=dark, device_scale_factor=2)
        invoice = await fund(page)
        assert scanned(await page.screenshot(full_page=True)) == [f"LIGHTNING:{invoice.upper()}"]
        session = (await stage.http.get("/v1/sessions/" + page.url.rpartition("/")[2])).json()
        assert invoice == session["funding"]["lightning_invoice"]
        await page.goto(session["pay_url"])
        assert scanned(await page.screenshot(full_page=True)) == [f"LIGHTNING:{invoice.upper()}"]
        assert await page.get_attribute(".code a", "href") == f"lightning:{invoice}"

        await looked_at(stage, page)
        topped = await page.text_content("#invoice-text") or ""
        assert scanned(await page.screenshot(full_page=True)) == [f"LIGHTNING:{topped.upper()}"]

        await required(stage, page)
        shown = await page.text_content("#code-text") or ""
        assert scanned(await page.screenshot(full_page=True)) == [f"LIGHTNING:{shown.upper()}"]

    visit(tmp_path, story, service(9))


def test_with_ark_one_code_has_both_and_a_switch_shows_either(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor, barkd: SimulatedBarkd) -> None:
        page = await visitor.page(width=360, device_scale_factor=2)
        await fund(page)
        funding = (await stage.http.get("/v1/sessions/" + page.url.rpartition("/")[2])).json()["funding"]
        invoice = funding["lightning_invoice"]
        assert funding["ark_address"] == await ark_address(stage, page)
        codes = []
        for number in (1, 2, 3):
            await page.check(f".switch input[value='{number}']")
            (code,) = scanned(await page.screenshot(full_page=True))
            codes.append(code)
        both = f"bitcoin:?amount=0.00000500&ark={funding['ark_address']}&lightning={invoice.upper()}"
        assert codes == [
            both,
            f"LIGHTNING:{invoice.upper()}",
            f"bitcoin:?amount=0.00000500&ark={funding['ark_address']}",
        ]
        assert "bark, the Ark of Second" in (await page.text_content("#payment") or "")
        assert await violations(page) == []

    visit_with_ark(tmp_path, story)


def test_a_paid_402_opens_what_was_asked_for(tmp_path: Path) -> None:
    async def visited() -> None:
        weather = b"<!doctype html><title>x</title><p id=w>Sunny</p><script>document.title='pwned'</script>"
        answer = always(http(weather, headers=("Content-Type: text/html",)))
        async with (
            serving(answer) as server,
            staged(tmp_path, extra=service(server.port)) as stage,
            visiting(stage.url) as visitor,
        ):
            page = await visitor.page()
            response = await page.goto("/weather/today?city=Bern")
            assert response is not None
            assert (response.status, response.headers["cache-control"]) == (402, "no-store")
            assert "L402 macaroon=" in response.headers["www-authenticate"]
            await stage.simulation.pay(await page.text_content("#code-text") or "")
            await expect(page.locator("#w")).to_have_text("Sunny")
            assert await page.title() == "x"  # what was bought may not act in the gateway's name
            visitor.complaints.clear()  # the browser said that it did not
            assert [head.split(b" ")[1] for head, _ in server.requests] == [b"/base/weather/today?city=Bern"]
            assert await stage.verify() == []

    run(visited())


def test_a_claim_opens_nothing_but_its_own_paid_invoice(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        pages = [await visitor.page(script=False) for _ in range(2)]
        claims = []
        for page in pages:
            await required(stage, page)
            shown = page.locator("#required")
            claims.append({name: await shown.get_attribute(f"data-{name}") for name in ("macaroon", "claim")})
        first, second = claims
        mixed = {"macaroon": first["macaroon"], "claim": second["claim"]}
        unpaid = await stage.http.post("/v1/claims", json=first)
        assert (unpaid.status_code, unpaid.json()["code"]) == (402, "awaiting_payment")
        await stage.simulation.pay(await pages[0].text_content("#code-text") or "")
        assert (await stage.http.post("/v1/claims", json=mixed)).status_code == 401
        bought = await stage.http.post("/v1/claims", json=first)
        again = await stage.http.post("/v1/claims", json=first)
        token = {"Authorization": f"Bearer {bought.json()['token']}"}
        assert bought.json() == again.json()
        assert (await stage.balance(token))["balance_sats"] == 3
        odd_ones: list[object] = [{}, {"macaroon": 1, "claim": "x"}, {"macaroon": "é", "claim": "é"}, []]
        for odd in odd_ones:
            assert (await stage.http.post("/v1/claims", json=odd)).status_code == 400

    visit(tmp_path, story, service(9))


def test_a_long_statement_is_read_page_by_page_and_saved_whole(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        token = await stage.fund_token(2000)
        for number in range(25):
            await stage.chat(token, {"prompt": f"question {number}"})
        page = await visitor.page()
        await page.goto("/dashboard")
        await page.fill("#token", token["Authorization"].removeprefix("Bearer "))
        await page.click("#open button")
        lines = page.locator("#lines tr")
        await expect(lines).to_have_count(20)
        await expect(lines.first).to_contain_text("750")
        await page.click("#older")
        await expect(lines).to_have_count(6)
        await expect(lines.last).to_contain_text("paid in")
        await expect(page.locator("#older")).to_be_hidden()
        await page.click("#newer")
        await expect(lines).to_have_count(20)
        async with page.expect_download() as saved:
            await page.click("#csv")
        assert Path(await (await saved.value).path()).read_text().count("\n") == 27

    visit(tmp_path, story, {"[[services]]": "calls_per_day = 0"})


def test_an_answer_with_a_script_stays_text(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        page = await visitor.page()
        await paid(stage, page)
        await page.click("#use a[href='/dashboard']")
        await page.wait_for_selector("#account:not([hidden])")
        await page.fill("#question", "<img src=x onerror=alert(1)><script>document.title='pwned'</script>")
        await page.click("#try-form button")
        await expect(page.locator("#answer")).to_contain_text("<script>document.title='pwned'</script>")
        assert await page.locator("#answer *").count() == 0
        assert "Dashboard" in await page.title()

    visit(tmp_path, story)


def test_every_page_is_sent_with_what_keeps_it_safe(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        browser = {"Accept": "text/html,application/xhtml+xml"}
        opened = (await stage.http.post("/v1/sessions", json={"amount_sats": 500})).json()
        paths = [*PLAIN, f"/pay/{opened['session_id']}", f"/fund/{opened['session_id']}", "/weather/today"]
        for path in paths:
            answer = await stage.http.get(path, headers=browser)
            policy = answer.headers["content-security-policy"]
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "set-cookie" not in answer.headers
            assert not re.search(r"<[^>]+\s(on\w+|style)=|<style|javascript:|<script(?! src)", answer.text)
        posted = await stage.http.post("/fund", data={"amount": "500"}, headers=browser)
        assert posted.headers["cache-control"] == "no-store"
        plain = await stage.http.get("/nothing-here")
        assert plain.headers["content-type"] == "application/json"
        assert (await stage.http.get("/weather/today")).headers["content-type"] == "application/json"

    visit(tmp_path, story, service(9))


def test_a_browser_gets_a_page_for_each_failure_and_others_get_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a fault with a secret in it")

    async def story(stage: Stage, visitor: Visitor) -> None:
        browser = {"Accept": "text/html,*/*;q=0.8"}

        async def both(path: str, status: int, words: str) -> None:
            page = await stage.http.get(path, headers=browser)
            plain = await stage.http.get(path)
            assert (page.status_code, plain.status_code) == (status, status)
            assert words in page.text
            assert page.headers["x-request-id"] in page.text
            assert plain.json()["success"] is False
            assert page.headers.get("retry-after") == plain.headers.get("retry-after")
            assert "a secret" not in page.text

        await both("/nothing", 404, "There is nothing here")
        await stage.http.get("/weather/a")
        await both("/weather/a", 429, "Too many at once")
        monkeypatch.setattr("arkgate.web.payment.Payments.find", broken)
        await both("/pay/x", 500, "A fault of ours")
        monkeypatch.undo()
        await stage.simulation.gate.stop()
        await stage.app.calls.drain(0)
        await both("/weather/b", 503, "Not now")
        await stage.simulation.gate.start()

    limits = "challenges_per_minute_and_client = 1"
    visit(tmp_path, story, {**service(9), "[limits]": limits})


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        browser = {"Accept": "text/html"}
        evil = '"><script>alert(1)</script>'
        answers = [
            await stage.http.get("/nothing/" + evil, headers=browser),
            await stage.http.get("/fund", params={"amount": evil}),
            await stage.http.post("/fund", data={"other": evil}),
            await stage.http.post("/dashboard", data={"token": evil}),
            await stage.http.get("/weather/x", params={"q": evil}, headers=browser),
            await stage.http.get("/pay/" + evil, headers=browser),
        ]
        for answer in answers:
            assert "<script>alert" not in answer.text
            assert answer.status_code < 500

    described = '"<script>alert(1)</script>"'
    visit(tmp_path, story, service(9, description=described))


def test_a_change_of_prices_is_seen_on_every_page(tmp_path: Path) -> None:
    async def story(stage: Stage, visitor: Visitor) -> None:
        for path in ("/", "/apis", "/docs", "/dashboard"):
            assert "73 sats a call" in (await stage.http.get(path)).text
        assert "73 sats a call" in (await stage.http.get("/fund")).text

    visit(tmp_path, story, {"[[services]]": "price_sats = 73"})


def test_each_sentence_is_used_and_each_that_is_used_is_there() -> None:
    folder = resources.files("arkgate.web")
    templates = "".join(one.read_text() for one in folder.joinpath("templates").iterdir())
    code = "".join(folder.joinpath(name).read_text() for name in ("pages.py", "payment.py"))
    begun = tuple(re.findall(r"""t\(["']([a-z_]+\.[a-z_]*)["'] ~""", templates))
    named = {
        *re.findall(r"""["']([a-z_]+\.[a-z_0-9]+)["']""", templates),
        *re.findall(r'"([a-z]+\.[a-z_0-9]+)"', code),
    }
    known = Words().keys
    sections = {key.partition(".")[0] for key in known}
    used = {key for key in named if key.partition(".")[0] in sections and not key.endswith((".html", ".js"))}

    assert used - known - {key for key in used if key in begun} == set()
    assert {key for key in known - used if not key.startswith(begun)} == set()
