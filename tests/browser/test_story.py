"""The whole story in a browser, against `arkgate demo` as a newcomer starts it."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.browser.browsing import Visitor, becomes, fund, invoice_on, visiting
from tests.cli.program import DEMO_OFFSETS
from tests.ports import free_port_base
from tests.stage import eventually, run


class Demo:
    """`arkgate demo` in a process of its own."""

    def __init__(self, directory: Path) -> None:
        base = free_port_base(DEMO_OFFSETS)
        self.environment = {**os.environ, "ARKGATE_DATA": str(directory), "ARKGATE_PORT_BASE": str(base)}
        self.url = f"http://127.0.0.1:{base + 2}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Demo"]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "arkgate",
            "demo",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            async with httpx.AsyncClient() as http:

                async def is_up() -> bool:
                    assert process.returncode is None, await process.communicate()
                    try:
                        return (await http.get(self.url + "/health")).status_code == 200
                    except httpx.TransportError:
                        return False

                await eventually(is_up, 30)
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()

    async def pay(self, invoice: str) -> None:
        """Pays from the simulated wallet, as the demo's own words say."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "arkgate",
            "wallet",
            "pay",
            invoice,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        await process.communicate()
        assert process.returncode == 0


def play(tmp_path: Path, width: int, *, script: bool = True) -> None:
    async def played() -> None:
        async with Demo(tmp_path / "demo").running() as demo, visiting(demo.url) as visitor:
            page = await visitor.page(width=width, script=script, accept_downloads=True)
            await (with_script if script else without_script)(demo, visitor, page)

    run(asyncio.wait_for(played(), 100))


@pytest.mark.parametrize("width", [360, 1440])
def test_by_clicking_from_an_amount_to_a_top_up(tmp_path: Path, width: int) -> None:
    play(tmp_path, width)


def test_without_a_script_as_far_as_paying_and_reading_the_balance(tmp_path: Path) -> None:
    play(tmp_path, 360, script=False)


async def with_script(demo: Demo, visitor: Visitor, page: Page) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto("/")
    await page.click("main a[href='/fund']")
    await page.click(".amounts label >> nth=1")
    await page.click("form.fund button")
    await page.wait_for_url(demo.url + "/fund/*")
    invoice = await invoice_on(page)
    await page.click("[data-copy=token]")
    token = await page.evaluate("navigator.clipboard.readText()")
    async with page.expect_download() as saved:
        await page.click("#download")
    assert Path(await (await saved.value).path()).read_text().strip() == token
    assert token.startswith("ak_")
    assert token in (await page.text_content("#try-line") or "")

    await demo.pay(invoice)
    await becomes(page, "active")
    assert "2 500 sats" in (await page.text_content("#state") or "").replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert await page.locator("#payment svg").count() == 0  # nobody shall pay it twice

    await page.click("#use a[href='/dashboard']")
    await page.wait_for_selector("#account:not([hidden])")
    assert await page.text_content("[data-field=available_sats]") == "2500"
    await page.fill("#question", "What is a sat?")
    await page.click("#try-form button")
    await expect(page.locator("#answer")).to_contain_text("What is a sat?")
    await expect(page.locator("[data-field=available_sats]")).to_have_text("2450")
    await expect(page.locator("#lines tr")).to_have_count(2)
    rows = await page.locator("#lines tr").all_text_contents()
    assert ["-50" in rows[0], "2500" in rows[1]] == [True, True]

    await page.fill("#amount", "100")
    await page.click("#top-up-form button")
    await page.wait_for_selector("#invoice-qr svg")
    await demo.pay(await page.text_content("#invoice-text") or "")
    await expect(page.locator("[data-field=available_sats]")).to_have_text("2550")
    async with page.expect_download() as saved:
        await page.click("#csv")
    assert Path(await (await saved.value).path()).read_text().count("\n") == 4

    await page.click("#forget")
    await page.reload()
    assert await page.locator("#account").is_hidden()
    assert all(token not in address for address in visitor.asked)


async def without_script(demo: Demo, visitor: Visitor, page: Page) -> None:
    invoice = await fund(page, 700, script=False)
    token = (await page.text_content("#token") or "").strip()
    await page.click("#share a >> nth=0")
    await page.wait_for_url(demo.url + "/pay/*")
    assert token not in await page.content()
    await demo.pay(invoice)
    await asyncio.sleep(0.5)
    await page.reload()
    assert "Paid. 700 sats" in (await page.text_content("#state") or "")
    await page.goto("/dashboard")
    await page.fill("#token", token)
    await page.click("#open button")
    assert await page.text_content("[data-field=available_sats]") == "700"
    assert "paid in" in (await page.text_content("#lines") or "")
    assert all(token not in address for address in visitor.asked)
