"""The derm experiments on slices of real images, in place: only a manifest is written."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.derm


def _slice(
    derm_root: Path, place: Path, chosen: Callable[[dict[str, str]], str | None], quota: int
) -> Path:
    """Copy the first images of each kind, whole patients only, and write their manifest."""
    rows = list(csv.DictReader((derm_root / "manifest.csv").read_text().splitlines()))
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    for row in rows:
        kind = chosen(row)
        if kind is not None and row["patient_id"] not in taken and seen[kind] < quota:
            seen[kind] += 1
            taken.add(row["patient_id"])
    kept = [row for row in rows if row["patient_id"] in taken and chosen(row) is not None]
    (place / "images").mkdir(parents=True)
    for row in kept:
        shutil.copyfile(derm_root / row["image"], place / row["image"])
    with (place / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    return place


def _dermoscopic_of_two_clinics(row: dict[str, str]) -> str | None:
    if row["clinic"] not in ("rosendahl", "milk10k") or row["modality"] != "dermoscopic":
        return None
    return f"{row['clinic']} {row['malignant']}"


def _ham_diagnoses(row: dict[str, str]) -> str | None:
    if row["clinic"] not in ("rosendahl", "vidir_modern") or row["modality"] != "dermoscopic":
        return None
    return row["diagnosis"] if row["diagnosis"] in ("nv", "bkl", "mel") else None


def _milk_lesions(row: dict[str, str]) -> str | None:
    return row["malignant"] if row["dataset"] == "MILK10k" else None


SMALL = (
    "training.head.rounds=4",
    "fairness.replicates=100",
    "federation.cpus=1",
    "tracking.enabled=false",
    "data.leakage.near_duplicates=report",
    "--json",
)


@pytest.fixture(scope="module")
def malignancy(
    derm_root: Path, skinml: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Any]:
    """`derm_malignancy` over Flower on about 160 images of two clinics."""
    place = tmp_path_factory.mktemp("malignancy")
    data = _slice(derm_root, place / "data", _dermoscopic_of_two_clinics, 30)
    where = (f"data.root={data}", f"work_dir={place}")
    outcome = skinml("run", "derm_malignancy", *SMALL, *where)
    assert outcome.code == 0, outcome.told
    return place, data, outcome


def test_real_images_go_the_whole_path(malignancy: tuple[Path, Path, Any]) -> None:
    result = malignancy[2].json
    assert sorted(result["privacy"]["clinics"]) == ["milk10k", "rosendahl"]
    assert result["privacy"]["unit_stands_for"] == "lesion"
    assert set(result["groups"]["skin_tone"]) <= {"0-2", "3", "4-5", "unknown"}
    assert result["complete"]


def test_the_model_scores_the_other_clinics_images(
    derm_root: Path, skinml: Callable[..., Any], malignancy: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    other = _slice(
        derm_root,
        tmp_path / "other",
        lambda row: row["malignant"] if row["clinic"] == "vidir_modern" else None,
        10,
    )
    words = ("--data", other, "--work-dir", malignancy[0], "--json")
    outcome = skinml("evaluate", malignancy[2].json["run"], *words)
    assert outcome.code == 0, outcome.told
    assert set(outcome.json["groups"]["clinic"]) == {"vidir_modern"}
    assert outcome.json["overall"]["n_positives"] >= 10


def test_close_ups_are_left_out_by_a_model_of_dermoscopic_images(
    derm_root: Path, skinml: Callable[..., Any], malignancy: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    both = _slice(derm_root, tmp_path / "both", _milk_lesions, 6)
    words = ("--data", both, "--work-dir", malignancy[0], "--json")
    outcome = skinml("evaluate", malignancy[2].json["run"], *words)
    assert outcome.code == 0, outcome.told
    dermoscopic = sum(row["modality"] == "dermoscopic" for row in _read(both))
    assert outcome.json["metrics"]["n_images"] == dermoscopic


@pytest.fixture(scope="module")
def tone(
    derm_root: Path, skinml: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """`derm_tone` on about 80 lesions in one place."""
    place = tmp_path_factory.mktemp("tone")
    data = _slice(derm_root, place / "data", _milk_lesions, 40)
    words = (f"data.root={data}", f"work_dir={place}", "federation=centralised")
    trained = skinml("run", "derm_tone", *SMALL, *words)
    assert trained.code == 0, trained.told
    return place, trained


def test_the_report_of_derm_tone_opens_in_a_browser_without_a_word_and_passes_axe(
    tone: tuple[Path, Any],
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe installed")
    from tests.reports.test_browser import DESK, FLAGS, PHONE, SERIOUS, Heard, chromium

    page_file = Path(tone[1].json["artifacts"]["report"])
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        for width in (PHONE, DESK):
            heard, page = Heard(), browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message, heard=heard: heard.told.append(message.text))
            page.on("pageerror", lambda error, heard=heard: heard.told.append(str(error)))
            page.on("request", lambda request, heard=heard: heard.asked.append(request.url))
            page.goto(page_file.as_uri())
            assert heard.told == []
            assert heard.asked == [page_file.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = axe.Axe().run(page).response["violations"]
            assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
            for drawing in page.locator("svg[role=img], img").all():
                assert (
                    drawing.get_attribute("aria-label")
                    or drawing.get_attribute("alt")
                    or (drawing.locator("title").count())
                )
        browser.close()


def test_two_views_of_a_lesion_are_one_item_and_incomplete_lesions_are_left_out(
    derm_root: Path, skinml: Callable[..., Any], tone: tuple[Path, Any], tmp_path: Path
) -> None:
    place, trained = tone
    elsewhere = _slice(derm_root, tmp_path / "elsewhere", _milk_lesions, 5)
    lines = (elsewhere / "manifest.csv").read_text().splitlines(keepends=True)
    (elsewhere / "manifest.csv").write_text("".join(lines[:-1]))  # one lesion loses a view
    flags = ("--data", elsewhere, "--work-dir", place, "--json")
    outcome = skinml("evaluate", trained.json["run"], *flags)
    assert outcome.code == 0, outcome.told
    assert outcome.json["metrics"]["n_images"] == (len(lines) - 1) // 2 - 1


def test_diagnoses_that_the_model_does_not_know_are_left_out_and_counted(
    derm_root: Path, skinml: Callable[..., Any], tmp_path: Path
) -> None:
    data = _slice(derm_root, tmp_path / "data", _ham_diagnoses, 25)
    words = (
        f"data.root={data}",
        f"work_dir={tmp_path}",
        "federation=centralised",
        "data.classes=[benign_keratosis,melanoma,nevus]",
    )
    trained = skinml("run", "derm_diagnosis", *SMALL, *words)
    assert trained.code == 0, trained.told
    elsewhere = _slice(
        derm_root,
        tmp_path / "elsewhere",
        lambda row: row["diagnosis"] if row["clinic"] == "vidir_molemax" else None,
        4,
    )
    flags = ("--data", elsewhere, "--work-dir", tmp_path, "--json")
    outcome = skinml("evaluate", trained.json["run"], *flags)
    assert outcome.code == 0, outcome.told
    known = sum(row["diagnosis"] in ("nv", "bkl", "mel") for row in _read(elsewhere))
    assert known < len(_read(elsewhere))
    assert outcome.json["metrics"]["n_images"] == known


def _read(root: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((root / "manifest.csv").read_text().splitlines()))
