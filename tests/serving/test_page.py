"""The page in a real browser, in front of a real server: what it asks for and what it shows."""

from __future__ import annotations

import io
import re
from dataclasses import replace

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engines.policy import OFF
from export.build_command import DEMO_REDIRECTOR
from runtime import read_png, save_png
from runtime.report import Token
from runtime.serving.routes.page import FOLDER, MEDIA_TYPES
from saferedir.metadata import read_metadata
from tests.serving.browsing import FIRE, PLAIN, check_picture, finished, generate, heading, saved

THRESHOLD = read_metadata(DEMO_REDIRECTOR).policy.threshold


def test_its_files_name_nothing_elsewhere(server):
    for file in FOLDER.iterdir():
        answer = server.client.get("/" if file.name == "index.html" else f"/page/{file.name}")
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"].split(";")[0] == MEDIA_TYPES[file.suffix]
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = file.read_text(encoding="utf-8")
        assert "innerHTML" not in text
        for name in re.findall(r'(?:href|src|from) ?=? ?"(?:page/|\./)([^"]+)"', text):
            assert (FOLDER / name).is_file(), f"{file.name} names {name}"
    assert server.client.get("/page/..%2froutes%2fpage.py").status_code == 404


def test_there_is_no_page_unless_asked_for(serve):
    assert serve().client.get("/").status_code == 404


def test_both_pictures_the_timeline_and_the_download(visit):
    page = visit()
    assert "unguarded pictures are allowed here" in page.locator("#offer").inner_text()
    generate(page, FIRE, steps=8, compare=True)
    assert heading(page) == "Redirected"
    assert "fire" in page.locator("#shot .verdict p").inner_text()
    assert page.get_by_role("img", name=re.compile("^(Guarded|Unguarded): ")).count() == 2
    drawing = page.locator("#shot .drawing svg")
    assert "unsafe at steps" in drawing.get_attribute("aria-label")
    assert drawing.locator("rect.redirected").count() >= 1 and drawing.locator("path.threshold").count() == 1
    page.get_by_text("Every step of fire as a table").click()
    rows = page.locator("#shot tbody tr").all_inner_texts()
    assert len(rows) == 8 + 1 and any("unsafe" in row for row in rows)

    report = read_png(saved(page, "Guarded"))
    assert (report["verdict"], report["prompt"], report["seed"]) == ("redirected", FIRE, 7)
    signs = drawing.locator("g > circle.safe, g > path.unsafe").count()
    assert signs == sum(report["guards"][0]["checked"]) + 1  # and the final check
    assert drawing.locator("g > path.unchecked").count() == report["guards"][0]["checked"].count(False)
    assert read_png(saved(page, "Unguarded"))["verdict"] == "unguarded"


def test_progress_is_told_step_by_step(visit):
    page = visit()
    page.evaluate(
        """() => {
            window.told = [];
            const text = document.getElementById("progress-text");
            new MutationObserver(() => window.told.push(text.textContent)).observe(text, { childList: true });
        }"""
    )
    generate(page, PLAIN, steps=6)
    assert page.evaluate("window.told") == ["Waiting for the server", *(f"Step {step} of 6" for step in range(1, 7))]


def test_a_lower_threshold_is_what_the_guard_uses(visit):
    page = visit()
    slider = page.get_by_role("slider", name=re.compile("Threshold"))
    slider.focus()
    for _ in range(5):
        slider.press("ArrowLeft")
    generate(page, PLAIN)
    lower = round(THRESHOLD - 0.05, 3)
    assert f"threshold {lower:g}" in page.locator("#shot .timeline figcaption").inner_text()
    assert read_png(saved(page, "Guarded"))["guards"][0]["policy"]["threshold"] == lower


def test_a_withheld_picture_is_a_card_with_the_reason(visit):
    page = visit()
    page.get_by_label("An unsafe picture is").select_option(label="withheld")
    generate(page, FIRE)
    assert heading(page) == "Picture withheld"
    assert "The guard saw fire" in page.locator("#shot .withheld").inner_text()
    assert page.locator("#shot img").count() == 0 and page.locator("#shot .drawing svg").count() == 1
    assert page.locator("#history img").count() == 0 and page.locator("#history button").count() == 1


def test_a_server_that_is_not_ready(visit, service):
    page = visit()
    service._readiness.fail("a canary was judged wrongly")
    try:
        page.get_by_text("not ready: a canary was judged wrongly").wait_for()
        assert page.locator("#generate").is_disabled()
    finally:
        service.start_again()  # as an operator does
    page.locator("#generate:enabled").wait_for()
    assert page.locator("#banner").inner_text() == ""


def test_what_the_server_would_refuse_is_not_sent(visit):
    page = visit()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for prompt, steps in (("", "4"), (PLAIN, "9999")):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_label("Steps", exact=True).fill(steps)
        page.get_by_role("button", name="Generate").click()
        assert page.locator("#request :invalid").count() == 1 and page.locator("#progress").is_hidden()
    assert not [url for url in asked if "generations" in url]


def test_cancelled(visit):
    page = visit()
    page.get_by_label("Prompt", exact=True).fill(PLAIN)
    page.get_by_label("Steps", exact=True).fill("150")
    page.get_by_role("button", name="Generate").click()
    page.locator("#progress-text", has_text="Step").wait_for()
    page.get_by_role("button", name="Cancel").click()
    finished(page)
    assert page.locator("#announcement").inner_text() == "Cancelled."
    assert page.locator("#history button").count() == 0 and page.locator("#generate").is_enabled()
    assert page.locator("#error").inner_text() == ""


def test_the_session_is_remembered(visit):
    page = visit()
    for prompt in (PLAIN, FIRE):
        generate(page, prompt)
    assert page.locator("#history button").count() == 2
    page.get_by_role("button", name=PLAIN).click()
    assert page.locator("#shot .prompt").inner_text() == PLAIN
    assert page.get_by_role("button", name=PLAIN).get_attribute("aria-current") == "true"
    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_role("button", name="use again").click()
    assert page.get_by_label("Seed", exact=True).input_value() == "7"
    page.reload()
    assert page.locator("#history button").count() == 0


def test_a_group_for_each_concept(visit):
    """The server has one concept; its answer is changed to have two, which it then refuses."""

    def with_smoke(route):
        answer = route.fetch()
        models = answer.json()
        concepts = models["data"][0]["saferedir"]["concepts"]
        concepts["smoke"] = {
            **concepts["fire"],
            "bounds": {**concepts["fire"]["bounds"], "replace_steps": [1, 5], "may_be_off": True},
        }
        route.fulfill(response=answer, json=models)

    page = visit(intercept=with_smoke)
    fire, smoke = (page.get_by_role("group", name=name) for name in ("fire", "smoke"))
    assert fire.get_by_role("checkbox").count() == 0 and fire.get_by_role("spinbutton").count() == 0
    fire.get_by_role("slider").press("ArrowDown")
    smoke.get_by_label("Steps until the next check").fill("4")
    assert sent(page)["policy"] == {"fire": {"threshold": round(THRESHOLD - 0.01, 3)}, "smoke": {"replace_steps": 4}}
    assert "smoke" in page.get_by_role("alert").inner_text()
    smoke.get_by_label("Do not guard against smoke").check()
    assert sent(page)["policy"]["smoke"] == "off"


def test_no_comparison_unless_the_operator_allows_it(visit):
    def strict(route):
        answer = route.fetch()
        models = answer.json()
        models["data"][0]["saferedir"]["unguarded"] = False
        route.fulfill(response=answer, json=models)

    page = visit(intercept=strict)
    assert page.locator("#compare").is_hidden() and not page.locator("#compare").is_checked()
    assert "unguarded" not in page.locator("#offer").inner_text()


def test_a_server_that_asks_for_a_key(visit):
    def locked(route):
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "no such key", "code": "invalid_api_key"}})

    page = visit(intercept=locked)
    assert page.locator("#generate").is_disabled()
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.get_by_label("API key").press("Enter")
        page.locator("#key-error:has-text('no such key')" if key == "wrong" else "#generate:enabled").wait_for()
    assert not page.get_by_label("API key").is_visible()
    with page.expect_request("**/v1/images/generations") as request:
        generate(page, PLAIN)
    assert request.value.headers["authorization"] == "Bearer secret"


def test_the_report_of_a_picture(visit, pipeline, tmp_path):
    page = visit()
    result = pipeline(FIRE, num_inference_steps=8, seed=7)
    fire = replace(result.reports[0].guards[0], responsible_tokens=[Token(2, "burning", 0.93)])
    report = replace(result.reports[0], guards=[fire, replace(fire, concept="smoke", policy=OFF, responsible_tokens=[])])
    save_png(result.images[0], report, tmp_path / "mine.png")
    content = (tmp_path / "mine.png").read_bytes()

    said = check_picture(page, "mine.png", content)
    assert "mine.png is the picture that its report describes" in said
    assert "smoke · switched off for this picture" in said
    assert page.locator("#checked mark").inner_text().startswith("burning")
    assert "held responsible for fire, weight 0.93" in page.locator("#checked mark").inner_text()
    assert page.locator("#checked .drawing svg").count() == 1

    with Image.open(io.BytesIO(content)) as picture:
        information, changed = picture.text["saferedir"], picture.convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    assert "is not the picture that its report describes" in check_picture(page, "changed.png", png(changed, information))
    assert "report of odd.png cannot be read" in check_picture(page, "odd.png", png(changed, '{"verdict": "odd"}'))

    dropped = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            return transfer;
        }""",
        list(png(changed, None)),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.get_by_text("dropped.png carries no report").wait_for()


def sent(page) -> dict:
    """The body of a request that the form makes."""
    with page.expect_request("**/v1/images/generations") as request:
        generate(page, PLAIN)
    return request.value.post_data_json


def png(image: Image.Image, report: str | None) -> bytes:
    information, buffer = PngInfo(), io.BytesIO()
    if report is not None:
        information.add_itxt("saferedir", report)
    image.save(buffer, "PNG", pnginfo=information)
    return buffer.getvalue()
