"""The page for a keyboard alone, a screen reader, a phone; and for prompts that are HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime import save_png
from runtime.report import Token
from tests.serving.browsing import FIRE, PLAIN, check_picture, finished, generate

SCRIPT = "<img src=x onerror=\"document.title='run'\"> a burning <b>star</b>"
PHONE = {"width": 360, "height": 740}


def violations(page) -> list[str]:
    """What axe-core finds wrong for people with a keyboard, a screen reader or weak eyes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in axe.Axe().run(page).response["violations"]]


def test_keyboard_alone(visit):
    page = visit()
    visited = []
    for _ in range(30):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or visited[-1] in ("", "generate"), visited
        if visited[-1] == "generate":
            break
    order = [
        "prompt",
        "negative_prompt",
        "seed",
        "num_inference_steps",
        "scheduler",
        "guidance_scale",
        "size",
        "threshold-0",
        "generate",
    ]
    assert [name for name in visited if name in order] == order
    page.keyboard.press("Shift+Tab")
    page.locator("#num_inference_steps").fill("4")
    page.locator("#prompt").focus()
    page.keyboard.type(PLAIN)
    page.keyboard.press("Control+Enter")
    finished(page)
    page.get_by_text("Safe").first.wait_for()
    assert page.locator("#announcement").inner_text().startswith("Safe. ")


@pytest.mark.parametrize("scheme, outcome", [("light", "redirected"), ("dark", "withheld")])
def test_axe_finds_nothing(visit, scheme, outcome):
    page = visit(color_scheme=scheme)
    page.get_by_label("An unsafe picture is").select_option(label=outcome)
    generate(page, FIRE, compare=outcome == "redirected")
    assert violations(page) == []


def test_a_phone(visit):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    generate(page, FIRE + " " + "w" * 60, compare=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator("#results").bounding_box()["y"] < PHONE["height"] / 2  # scrolled to
    assert violations(page) == []


def test_a_prompt_stays_text(visit, pipeline, tmp_path):
    page = visit()
    generate(page, SCRIPT)
    assert page.locator("#shot .prompt").inner_text().startswith("<img src=x onerror=")
    result = pipeline(SCRIPT, num_inference_steps=4, seed=7, on_still_unsafe="deliver")
    guard = replace(result.reports[0].guards[0], concept=SCRIPT, responsible_tokens=[Token(1, "<img", 0.9)])
    save_png(result.images[0], replace(result.reports[0], guards=[guard], cut={"prompt": SCRIPT}), tmp_path / "evil.png")
    assert "<b>star</b>" in check_picture(page, "evil.png", (tmp_path / "evil.png").read_bytes())
    assert page.locator('img[src="x"], main b').count() == 0
    assert page.title().startswith("SafeRedir")
