"""Takes the pictures of the README anew: python -m tests.browser.pictures FOLDER."""

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, expect

from tests.browser.browsing import becomes, fund, visiting
from tests.stage import Stage, run, staged

SIZE = {"width": 900, "height": 640}


async def take(page: Page, folder: Path, name: str) -> None:
    await page.screenshot(path=folder / f"{name}.png", animations="disabled")


async def pictures(folder: Path, stage: Stage) -> None:
    async with visiting(stage.url) as visitor:
        page = await visitor.page()
        await page.set_viewport_size({"width": SIZE["width"], "height": SIZE["height"]})
        await page.goto("/")
        await take(page, folder, "home")
        await page.goto("/fund")
        await take(page, folder, "fund")
        invoice = await fund(page)
        await page.goto("/pay/" + page.url.rpartition("/")[2])
        await take(page, folder, "pay")
        await page.go_back()
        await stage.simulation.pay(invoice)
        await becomes(page, "active")
        await page.click("#use a[href='/dashboard']")
        await page.click("#try-form button")
        await expect(page.locator("#answer")).to_contain_text("Lightning")
        await expect(page.locator("#lines tr")).to_have_count(2)
        await page.evaluate("scrollTo(0, 0)")
        await take(page, folder, "dashboard")


async def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        async with staged(Path(directory)) as stage:
            await pictures(folder, stage)


if __name__ == "__main__":
    run(asyncio.wait_for(main(Path(sys.argv[1])), 60))
