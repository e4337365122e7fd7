"""The page in a real browser: silent, whole, usable with a screen reader, on a phone and on paper.

Needs Chromium (on Debian: `apt-get install chromium`) and the development packages; skipped with a
reason where there is none.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinml.reports.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

# Without these a Chromium of Debian's asks its makers' servers for this and that at its start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERIOUS = {"serious", "critical"}
PHONE, DESK = 390, 1280
PATIENCE_MS = 240_000  # on a machine that has other things to do


def chromium() -> str:
    found = next((shutil.which(name) for name in ("chromium", "chromium-browser")), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(reviewed, tmp_path_factory) -> Path:
    """The page of a run with gaps, curves and all else."""
    return write_report(reviewed, tmp_path_factory.mktemp("page")).html


class Heard:
    """What a page said and asked for while it was open."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.asked: list[str] = []


@pytest.fixture
def open_page(browser, written):
    contexts = []

    def opener(width: int = DESK, **options: object) -> tuple[Any, Heard]:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page, heard = context.new_page(), Heard()
        page.on("console", lambda message: heard.told.append(message.text))
        page.on("pageerror", lambda error: heard.told.append(str(error)))
        page.on("request", lambda request: heard.asked.append(request.url))
        page.goto(written.as_uri())
        return page, heard

    yield opener
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_silent_asks_for_nothing_and_passes_axe(open_page, written, scheme):
    page, heard = open_page(color_scheme=scheme)
    for each in page.locator("details").all():
        each.evaluate("element => element.open = true")
    found = axe.Axe().run(page).response["violations"]
    bad = {each["id"]: each["nodes"][0]["html"] for each in found if each["impact"] in SERIOUS}
    assert bad == {}
    assert heard.told == []
    assert heard.asked == [written.as_uri()]


def test_axe_finds_what_is_wrong_with_a_page_that_is(open_page):
    page, _ = open_page()
    page.set_content("<html><title>t</title><main><h1>h</h1><img src='data:,'></main></html>")
    found = axe.Axe().run(page).response["violations"]
    assert {"html-has-lang", "image-alt"} <= {each["id"] for each in found}


def test_every_drawing_has_words_for_who_cannot_see_it(open_page):
    page, _ = open_page()
    drawings = page.locator("svg[role=img], img").all()
    assert len(drawings) >= 15
    for each in drawings:
        named = each.get_attribute("aria-labelledby")
        assert len(page.locator(f"#{named}").text_content()) > 40


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_sticks_out_of_the_screen(open_page, width, tmp_path):
    page, _ = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"
    # Only tables may be wider, and each of them scrolls for itself, by keyboard too.
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right >"
        f" {width} + 1 && !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert page.locator(".scroll:not([tabindex='0'])").count() == 0
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_the_keyboard_leads_to_the_summary_and_to_each_part(open_page):
    page, _ = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the summary"
    page.keyboard.press("Enter")
    assert page.url.endswith("#short")
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        assert page.locator(f"section{target} h2").count() == 1


def test_it_prints_to_a_pdf_whose_text_can_be_found(open_page, tmp_path):
    page, _ = open_page()
    path = tmp_path / "report.pdf"
    page.pdf(path=path, format="A4")
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext on this machine: apt-get install poppler-utils")
    done = subprocess.run(
        ["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True
    )
    text = " ".join(done.stdout.split())
    pages = done.stdout.split("\f")
    assert 8 < len(pages) < 60
    for words in (
        "Gaps between groups",
        "Acceptance criteria",
        "Name, role, date, signature",
        "The curves in numbers",
        "Net benefit: Everybody",  # inside of what is folded on the screen
    ):
        assert words in text
    assert "Skip to the summary" not in text


def test_it_can_be_read_with_scripts_switched_off(open_page):
    page, _ = open_page(java_script_enabled=False)
    assert page.locator("section").count() > 10
    assert page.locator("h1").inner_text().startswith("Fairness and privacy report")
