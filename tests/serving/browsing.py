"""What the tests of the page do in a browser. Its fixtures are in `tests/serving/conftest.py`."""

from __future__ import annotations

from pathlib import Path

FIRE = "a burning blue square"
PLAIN = "a small blue circle on a white background"


def generate(page, prompt: str, steps: int = 4, seed: int = 7, compare: bool = False) -> None:
    """Fill in the form, generate, and wait for the answer."""
    page.locator("#compare").set_checked(compare)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Generate").click()
    finished(page)


def finished(page) -> None:
    page.locator("#cancel:disabled").wait_for()


def heading(page) -> str:
    return page.locator("#shot h3").inner_text()


def check_picture(page, name: str, content: bytes) -> str:
    """Choose a file under "Check a picture"; what the page says of it."""
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
    page.locator("#check-note", has_text=name).wait_for()
    return page.locator("#check").inner_text()


def saved(page, name: str) -> Path:
    """The file of a picture that a download link saves."""
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {name}").click()
    return download.value.path()
