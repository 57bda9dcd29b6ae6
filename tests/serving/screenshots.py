"""Draws the pictures of docs/serving.md anew: python -m tests.serving.screenshots URL

URL is that of a page, as `saferedir ui --no-browser --allow-unguarded` prints it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.serving.conftest import CHROMIUM

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PROMPT = "a burning small red circle"


def shoot(browser: Browser, url: str, file: Path, **options) -> None:
    """Generate one picture and its unguarded twin, and write what the window shows."""
    page = browser.new_page(**options)
    page.goto(url)
    page.locator("#generate:enabled").wait_for()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Generate").click()
    page.locator("#shot .pictures img").first.wait_for(timeout=120_000)
    page.locator("#cancel:disabled").wait_for()
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=file)
    with Image.open(file) as picture:
        picture.convert("RGB").save(file, optimize=True)


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        desk = {"viewport": {"width": 1200, "height": 1080}}
        phone = {"viewport": {"width": 360, "height": 880}, "device_scale_factor": 1.5, "color_scheme": "dark"}
        shoot(browser, url, DOCS / "serving-page.png", **desk)
        shoot(browser, url, DOCS / "serving-phone.png", **phone)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
