"""The comparison's page: stands alone, answers in words, and says what cannot be told."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from skinml.fairness.arm_means import SeedMean
from skinml.fairness.arm_values import ArmComparison, ArmFigure, ArmGap, Change, GroupCount
from skinml.fairness.gaps import Reference
from skinml.fairness.verdicts import CANNOT_TELL, RULED_OUT, SHOWN
from skinml.records import Estimate
from skinml.reports.compare_page import comparison_html, write_comparison
from skinml.reports.compare_record import (
    ArmLine,
    ComparisonRecord,
    RunLine,
    VersionChange,
    comparison_csv,
    comparison_to_json,
)
from skinml.reports.compare_screen import screen_tables
from skinml.reports.compare_tables import answer_words, plots

ARMS = ("none", "epsilon 8", "epsilon 1")
TONES = {"0-2": (0.80, 0.79, 0.70), "3 & up": (0.86, 0.86, 0.84), "4-5": (0.90, 0.89, 0.88)}
TONE, ALL, FIGURE = "skin_tone", "overall", "auroc"


def mean(value: float, half: float = 0.04, sd: float | None = 0.006) -> SeedMean:
    estimate = Estimate(value, round(value - half, 6), round(value + half, 6), 0.95, "patients")
    return SeedMean(estimate, sd, () if sd is None else (value - sd, value, value + sd))


def changed(arm: str, group: str, value: float, verdict: str, **more: object) -> Change:
    return Change(
        arm,
        "none",
        "gap",
        TONE,
        group,
        "4-5",
        FIGURE,
        mean(value, 0.03),
        **{
            "margin": 0.05,
            "detectable": 0.0437,
            "p_value": 0.01,
            "p_adjusted": 0.04,
            "verdict": verdict,
            **more,
        },
    )


def comparison() -> ArmComparison:
    figures = [
        ArmFigure(arm, ALL, ALL, FIGURE, mean(0.87 - at / 100)) for at, arm in enumerate(ARMS)
    ]
    figures += [
        ArmFigure(arm, TONE, group, FIGURE, mean(values[at]))
        for (group, values), (at, arm) in product(TONES.items(), enumerate(ARMS))
    ]
    gaps = [
        ArmGap(arm, TONE, group, "4-5", FIGURE, mean(values[at] - TONES["4-5"][at]))
        for (group, values), (at, arm) in product(list(TONES.items())[:2], enumerate(ARMS))
    ]
    return ArmComparison(
        arms=ARMS,
        metric=FIGURE,
        metrics=(FIGURE,),
        references={TONE: Reference("4-5", "named in the config")},
        level=0.95,
        margin=0.05,
        min_events=30,
        replicates=2000,
        counts=(GroupCount(ALL, ALL, 600, 500, 200, 400), GroupCount(TONE, "0-2", 90, 80, 40, 50)),
        figures=tuple(figures),
        gaps=tuple(gaps),
        worst=tuple(each for each in figures if each.group == "0-2"),
        changes=(
            changed("epsilon 8", "0-2", 0.0, RULED_OUT),
            changed("epsilon 8", "3 & up", 0.01, CANNOT_TELL),
            changed("epsilon 1", "0-2", -0.08, SHOWN),
            changed("epsilon 1", "3 & up", 0.0, CANNOT_TELL, reason="7 effective patients"),
        ),
        families={"gap: auroc": 4},
    )


def arm_line(name: str) -> ArmLine:
    private = name != "none"
    promise = float(name.split()[1]) if private else None
    runs = tuple(RunLine(f"toy-{name[-1]}-{s}", s, None, "sha256:ab", "sha256:cd") for s in (0, 1))
    trust = "distributed" if private else "none"
    return ArmLine(
        name, private, trust, "patient_within_clinic", promise, 1e-5, simulated=True, runs=runs
    )


def record(**changes: object) -> ComparisonRecord:
    made = ComparisonRecord(
        comparison="toy-compare-1",
        experiment="toy",
        started="2026-01-01T12:00:00+00:00",
        wall_s=9.0,
        arms=tuple(map(arm_line, ARMS)),
        found=comparison(),
        unit_stands_for="lesion",
        data={"name": "toy", "digest": "sha256:ab"},
        left_out=0,
        charged=("6 runs were charged.",),
        notes=(),
        config={"model.kind": "linear_head"},
        differs={arm: {"privacy.trust": "x"} for arm in ARMS},
        versions={"skinml": "0"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a test names its own changes


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("</style>")[1]).split())


def test_the_page_stands_alone_and_answers_in_words() -> None:
    page = comparison_html(record())
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    shown = text(page)
    for words in (
        "Shown: harder on 0-2 than on 4-5",
        "Ruled out: no change of 0.05 or more",
        "These data cannot tell (a change of 0.044 would have shown)",
        "Cannot tell: 7 effective patients",
        "4 answers corrected together",
        "NOT PRIVATE",
        "lesions",
    ):
        assert words in shown, words
    assert "3 &amp; up" in shown


def test_every_plot_has_its_numbers_in_words_and_a_mark_a_line() -> None:
    page = comparison_html(record())
    titles = re.findall(r'<title id="[^"]+">([^<]+)</title>', page)
    assert len(titles) == 2
    assert "none: 0-2 0.800, 3 &amp; up 0.860, 4-5 0.900, everybody 0.870." in titles[0]
    assert "epsilon 1: 0-2 less 4-5 -0.180, 3 &amp; up less 4-5 -0.040." in titles[1]
    groups, gaps = plots(record())
    assert groups.arms == ("none", "8", "1")
    assert [len(each.series) for each in (groups, gaps)] == [4, 2]


def test_long_names_of_arms_are_numbered_below_the_plot() -> None:
    names = ("as configured", "mitigation.method=reweigh")
    found = replace(comparison(), arms=names)
    assert plots(record(found=found))[0].arms == ("1", "2")


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("auroc", -0.1, "shown: harder on 0-2 than on 4-5"),
        ("auroc", 0.1, "shown: easier on 0-2 than on 4-5"),
        ("brier", 0.1, "shown: harder on 0-2 than on 4-5"),
        ("calibration_slope", 0.1, "shown: it moved"),
    ],
)
def test_which_way_is_harder_depends_on_the_figure(metric: str, value: float, words: str) -> None:
    found = replace(changed("epsilon 1", "0-2", value, SHOWN), metric=metric)
    assert answer_words(found) == words
    alone = replace(found, question="group")
    assert answer_words(alone).startswith("shown: ")
    assert ("worse" in answer_words(alone)) == words.startswith("shown: harder")


def test_without_pairs_no_difference_is_told() -> None:
    found = replace(comparison(), changes=(), unpaired="run toy-1: noised counts", replicates=0)
    shown = text(comparison_html(record(found=found)))
    assert "NOT PAIRED" in shown
    assert "run toy-1: noised counts" in shown
    assert "Does it fall harder" not in shown
    assert "What changed" not in shown


def test_one_seed_is_on_the_first_page() -> None:
    arms = tuple(replace(each, runs=each.runs[:1]) for each in record().arms)
    assert "ONE SEED" in text(comparison_html(record(arms=arms)))
    assert "ONE SEED" not in text(comparison_html(record()))


def test_all_files_are_written_and_agree(tmp_path: Path) -> None:
    files = write_comparison(record(), tmp_path / "new")
    assert json.loads(files.json.read_text()) == json.loads(
        json.dumps(comparison_to_json(record()))
    )
    rows = list(csv.DictReader(io.StringIO(files.csv.read_text())))
    assert len(rows) == 12 + 6 + 4
    assert {row["kind"] for row in rows} == {"figure", "gap", "change: gap"}
    ET.fromstring(files.plot.read_text())  # noqa: S314 -- written a line above
    assert "var(" not in files.plot.read_text()
    assert "currentColor" not in files.plot.read_text()


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    found = comparison()
    odd = replace(found.figures[0], group='=HYPERLINK("x")')
    lines = comparison_csv(record(found=replace(found, figures=(odd,)))).splitlines()
    assert "'=HYPERLINK" in lines[1]


def test_an_undefined_figure_is_said_to_be_so() -> None:
    found = comparison()
    missing = SeedMean(Estimate(None, reason="no malignant items"))
    figures = tuple(
        replace(each, mean=missing) if each.group == "0-2" else each for each in found.figures
    )
    shown = text(comparison_html(record(found=replace(found, figures=figures))))
    assert "undefined no malignant items" in shown


def test_the_terminals_tables_hold_each_arm() -> None:
    tables = screen_tables(record())
    assert len(tables) == 4
    for table in tables[:3]:
        assert {row[0] for row in table.rows} == set(ARMS)
        assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_and_axe_find_nothing_wrong(tmp_path: Path, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    path = next((shutil.which(name) for name in ("chromium", "chromium-browser")), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page_file = write_comparison(record(), tmp_path).html
    told: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(240_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("request", lambda request: told.append(request.url))
        page.goto(page_file.as_uri())
        for each in page.locator("details").all():
            each.evaluate("element => element.open = true")
        found = axe.Axe().run(page).response["violations"]
        wide = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert {e["id"]: e["nodes"][0]["html"] for e in found} == {}
    assert told == [page_file.as_uri()]
    assert wide <= width


@pytest.mark.parametrize(("verdict", "value"), [(SHOWN, -0.3), (SHOWN, 0.3), (CANNOT_TELL, -0.3)])
def test_of_two_versions_whatever_was_shown_to_be_worse_stands_in_short(verdict, value):
    asked = replace(changed("epsilon 8", "0-2", value, verdict), question="group", metric="recall")
    figures = [
        ArmFigure(arm, TONE, "0-2", name, mean(0.775 + at * value))
        for name, (at, arm) in product((FIGURE, "recall"), enumerate(ARMS[:2]))
    ]
    found = replace(
        comparison(),
        arms=ARMS[:2],
        metrics=(FIGURE, "recall"),
        figures=tuple(figures),
        changes=(asked,),
    )
    two = record(found=found, changed=(VersionChange("threshold for alarms", "0.4", "0.8"),))
    worse = [each for each in screen_tables(two) if "worse" in each.caption]
    short = text(comparison_html(two)).partition("Side by side What is")[0]
    if verdict == SHOWN and value < 0:
        assert [row[2:] for row in worse[0].rows] == [("0.775", "0.475", "-0.300")]
        assert "Skin tone 0-2" in worse[0].rows[0]
        assert "What got worse" in short
    else:
        assert not worse
        assert "What got worse" not in short
