"""A real browser for the tests, and what is looked at on every page."""

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.stage import Stage, run, staged

AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (360, 768, 1440)
FORBIDDEN = "Failed to load resource: the server responded with a status of"
"""How the console says that a page was answered with an error: some tests ask for that."""
Story = Callable[[Stage, "Visitor"], Awaitable[None]]


class Visitor:
    """Somebody with a browser. Whatever goes wrong in any of their pages is kept."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        """The address of every request that a page made."""
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    async def page(self, *, width: int = 1440, script: bool = True, dark: bool = False, **more: Any) -> Page:
        """A page in a browser of its own, with nothing in its storage."""
        context = await self._browser.new_context(
            viewport={"width": width, "height": 800},
            java_script_enabled=script,
            color_scheme="dark" if dark else "light",
            base_url=self.url,
            **more,
        )
        context.set_default_timeout(20_000)
        self._contexts.append(context)
        context.on("page", self._watch)
        return await context.new_page()

    async def close(self) -> None:
        """Closes every page."""
        for context in self._contexts:
            await context.close()

    def _watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith((FORBIDDEN, "Failed to load resource: net::")):
            self.complaints.append(text)

    @property
    def strangers(self) -> set[str]:
        """Other hosts than the gateway that a page asked."""
        own = urlsplit(self.url).netloc
        return {
            address
            for address in self.asked
            if address.startswith("http") and urlsplit(address).netloc != own
        }


@contextlib.asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    """A visitor of that address; their pages complained of nothing and asked nobody else."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        visitor = Visitor(browser, url)
        try:
            yield visitor
        finally:
            await visitor.close()
            await browser.close()
    assert visitor.complaints == []
    assert visitor.strangers == set()


def visit(tmp_path: Path, story: Story, extra: dict[str, str] | None = None) -> None:
    """Runs a story of a visitor on a fresh stage; the books are sound after it."""

    async def visited() -> None:
        async with staged(tmp_path, extra=extra) as stage, visiting(stage.url) as visitor:
            await story(stage, visitor)
            assert await stage.verify() == []

    run(asyncio.wait_for(visited(), 100))


async def fund(page: Page, amount: int | None = None, *, script: bool = True) -> str:
    """Chooses an amount on the fund page and gets a token; answers the invoice.

    Returns when the page's script has kept the token, which then gives the page an address of its own.
    """
    await page.goto("/fund")
    if amount is not None:
        await page.fill("#other", str(amount))
    await page.click("form.fund button")
    if script:
        await page.wait_for_url("**/fund/*")
    return await invoice_on(page)


async def invoice_on(page: Page) -> str:
    """The first code's text: the invoice, or the URI that has it."""
    text = await page.text_content("#code-text-1")
    assert text
    return text


async def becomes(page: Page, status: str) -> None:
    """Waits until the page shows that of its payment."""
    await page.wait_for_selector(f"#payment[data-status={status}]")


def scanned(picture: bytes) -> list[str]:
    """What a QR reader finds in a picture of a page. Skips where there is none."""
    if shutil.which("zbarimg") is None:
        pytest.skip("needs a QR reader: apt-get install zbar-tools")
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(picture)
        file.flush()
        command = ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


async def violations(page: Page) -> list[str]:
    """What axe finds on a page, as it is now."""
    if not AXE.exists():
        pytest.skip("needs axe-core: `make test` installs it with npm")
    # Through the driver: the page's own policy would not let a script in.
    found = await page.evaluate(AXE.read_text() + "; axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
