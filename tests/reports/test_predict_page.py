"""The page of `skinml predict` in a real browser: for eyes, keyboards, phones and paper."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from skinml.fairness.label_sets import LabelSets
from skinml.fairness.model_answer import AnswerTables, answer
from skinml.fairness.recalibration import Line
from skinml.records import Labels
from skinml.reports.predict_page import answers_html, chance_words
from tests.reports.test_browser import DESK, PHONE, SERIOUS, axe, browser, open_page

__all__ = ["browser", "open_page"]  # fixtures

CLASSES = Labels(("basal_cell_carcinoma", "melanoma", "nevus"), (True, True, False))
SETS = LabelSets("skin_tone", 0.9, {"0-2": (None, None), "3": (0.5, 0.7)})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a label that fits, of one that nobody can tell, and of an unlike picture."""
    tables = AnswerTables(CLASSES, 0.4, Line(0.1, 0.9), SETS)
    asked = [
        ((1, 2), answer(np.array([0.1, 0.1, 0.8]), "3", tables), 1.02, ""),
        ((3, 4), answer(np.array([0.3, 0.4, 0.3]), None, tables), 0.91, "could not be measured"),
        ((5, 6), answer(np.array([0.1, 0.8, 0.1]), "3", tables, unlike=True), None, ""),
    ]
    path = tmp_path_factory.mktemp("predicted") / "page.html"
    path.write_text(answers_html("derm_tone-20260101", tables, asked, "from validation patients"))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_silent_asks_for_nothing_and_passes_axe(open_page, written, scheme):
    page, heard = open_page(color_scheme=scheme)
    assert heard.told == []
    assert heard.asked == [written.as_uri()]
    # The page's own rule lets no script in; axe is one.
    page.set_content(written.read_text().replace("Content-Security-Policy", "x-none"))
    found = axe.Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in SERIOUS] == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_sticks_out_of_the_screen(open_page, width):
    page, _ = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".said").all_text_contents() == [
        "Fits: nevus",
        "Cannot tell",
        "Cannot tell",
    ]


def test_the_keyboard_leads_to_the_answers_and_through_the_tables(open_page):
    page, _ = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answers"
    page.keyboard.press("Enter")
    assert page.url.endswith("#answers")
    named = []
    for _ in range(3):
        page.keyboard.press("Tab")
        named.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert named == [f"Images {pair}: chances" for pair in ("1 and 2", "3 and 4", "5 and 6")]


def test_on_paper_the_answers_and_who_decides_can_be_read(open_page, tmp_path):
    page, _ = open_page()
    page.pdf(path=tmp_path / "answer.pdf", format="A4")
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext on this machine: apt-get install poppler-utils")
    done = subprocess.run(
        ["pdftotext", "-layout", str(tmp_path / "answer.pdf"), "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    text = " ".join(done.stdout.split())
    for words in ("A CLINICIAN DECIDES", "Cannot tell", "basal cell carcinoma", "What this means"):
        assert words in text
    assert "Skip to the answers" not in text


@pytest.mark.parametrize(
    ("chance", "told"),
    [(1.0, "over 99%"), (0.994, "99%"), (0.996, "over 99%"), (0.004, "under 1%"), (0.01, "1%")],
)
def test_rounding_makes_no_chance_a_certainty(chance, told):
    assert chance_words(chance) == told
