"""The page of statistics: what it shows, what it keeps back, and how a browser finds it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skinml.fairness.statistics_tables import TablesLayout, estimated_tables, table_layout
from skinml.records import ClinicSpend, Guarantee, Participation
from skinml.reports.statistics_page import (
    StatisticsRecord,
    statistics_csv,
    statistics_html,
    write_statistics,
)
from tests.reports.test_browser import FLAGS, PATIENCE_MS, SERIOUS, chromium

GROUPS = {"diagnosis": ("melanoma", "basal_cell_carcinoma"), "treatment": ("surgery", "topical")}
REGIONS = (("coast", ("east", "west")), ("hills", ("north", "south")))


def record(regions: Sequence[tuple[str, tuple[str, ...]]] = REGIONS) -> StatisticsRecord:
    """Counts of two regions, with a crossing."""
    layout = TablesLayout(
        (table_layout(["diagnosis"], GROUPS), table_layout(["diagnosis", "treatment"], GROUPS)),
        tuple(regions) or (("", ()),),
    )
    released = np.arange(layout.num_cells) * 7.0 - 11.5
    clinics = ("east", "north", "south", "west")
    promise = Guarantee(
        private=True,
        trust="distributed",
        unit="patient_within_clinic",
        epsilon=0.9991,
        total_epsilon=1.4,
        epsilon_across_clinics=5.1,
        max_clinics=4,
        delta=1e-5,
        simulated=True,
        clinics={name: ClinicSpend(0.9991, 1.4, 1, 2) for name in clinics},
        num_clinics=4,
    )
    return StatisticsRecord(
        run="statistics-20260101-120000-abcd",
        data="synthetic",
        started="2026-01-01T12:00:00+00:00",
        wall_s=2.5,
        tables=estimated_tables(released, layout, std=5.0, least_count=10),
        regions=tuple(regions),
        guarantee=promise,
        unit_stands_for="patient",
        participation=(Participation(1, clinics, clinics, {}, noise=1.0),),
        complete=True,
        std=5.0,
        half_width=9.8,
        least_count=10,
        plan="0" * 64,
        config={"privacy": {"epsilon": 1.0}},
        versions={"skinml": "0"},
    )


def test_each_region_has_its_tables_and_small_counts_are_nowhere() -> None:
    found = record()
    page, rows = statistics_html(found), list(csv.DictReader(statistics_csv(found).splitlines()))
    for words in ("Region coast", "Region hills", "Clinics: east, west.", "basal cell carcinoma"):
        assert words in page
    assert {row["region"] for row in rows} == {"coast", "hills"}
    for row in rows:
        assert (row["patients"] == "") == (row["shown"] == "no")
        assert row["patients"] == "" or int(row["patients"]) >= 10
    # The release is 12 cells a region, steps of 7 from -11.5 on: the first four are below 10.
    assert [row["shown"] for row in rows[:5]] == ["no", "no", "no", "no", "yes"]
    assert rows[4]["patients"] == "16"
    assert "-11" not in page


def test_stamps_say_what_a_reader_must_know_first() -> None:
    found = record(())
    assert "All clinics together" in statistics_html(found)
    open_ = replace(found.guarantee, private=False, trust="none", epsilon=None, simulated=False)
    page = statistics_html(
        replace(found, guarantee=open_, complete=False, unit_stands_for="lesion")
    )
    for words in ("NOT PRIVATE", "INCOMPLETE", "LESIONS, NOT PATIENTS"):
        assert words in page
    for words in ("SIMULATED", "NOISED COUNTS"):
        assert words not in page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_and_axe_find_nothing_wrong(tmp_path: Path, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    path = chromium()
    write_statistics(record(), {"format": "x"}, tmp_path)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE_MS)
        told: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.goto((tmp_path / "statistics.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = axe.Axe().run(page).response["violations"]
        browser.close()
    assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
    assert told == []
    assert wide <= width
