"""`skinml evaluate`: a finished model on folders that no developer has seen."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COUNT = 12


@pytest.fixture
def folder(centralised: tuple[Path, Any], tmp_path: Path) -> Path:
    """Twelve drawn images with their manifest, under the name of a clinic nobody knows."""
    (cohort,) = (centralised[0] / "cohorts").iterdir()
    root = tmp_path / "elsewhere"
    root.mkdir()
    rows = list(csv.DictReader((cohort / "manifest.csv").read_text().splitlines()))
    malignant = [row for row in rows if row["malignant"] in ("1", "True", "true")]
    benign = [row for row in rows if row not in malignant]
    chosen = [*malignant[: COUNT // 2], *benign[: COUNT // 2]]
    for row in chosen:
        row["clinic"] = "a clinic nobody knows"
        (root / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cohort / row["image"], root / row["image"])
    _write(root, chosen)
    for sidecar in cohort.glob("manifest.yaml"):
        shutil.copyfile(sidecar, root / sidecar.name)
    return root


def _write(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _rows(root: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((root / "manifest.csv").read_text().splitlines()))


@pytest.fixture
def evaluate(skinml: Callable[..., Any], centralised: tuple[Path, Any]) -> Callable[[Path], Any]:
    place, outcome = centralised

    def call(data: Path) -> Any:
        words = ("--data", data, "--work-dir", place, "--json")
        return skinml("evaluate", outcome.json["run"], *words)

    return call


def test_an_unknown_clinic_is_scored_by_the_same_contract(
    evaluate: Callable[[Path], Any], centralised: tuple[Path, Any], folder: Path
) -> None:
    outcome = evaluate(folder)
    assert outcome.code == 0, outcome.told
    assert outcome.err == ""
    result, trained = outcome.json, centralised[1].json
    assert set(result) == set(trained)
    assert result["metrics"]["n_images"] == COUNT
    assert set(result["groups"]["clinic"]) == {"a clinic nobody knows"}
    assert result["overall"]["n_positives"] == COUNT // 2
    assert result["privacy"] == trained["privacy"]
    assert Path(result["artifacts"]["report"]).is_file()
    # An evaluation has its own report and leaves the run's own results alone.
    stored = centralised[0] / "runs" / trained["run"] / "result.json"
    assert json.loads(stored.read_text()) == trained


def test_columns_that_are_optional_may_be_missing(
    evaluate: Callable[[Path], Any], folder: Path
) -> None:
    kept = ("image", "patient_id", "diagnosis", "licence")
    _write(folder, [{name: row[name] for name in kept} for row in _rows(folder)])
    outcome = evaluate(folder)
    assert outcome.code == 0, outcome.told
    groups = outcome.json["groups"]
    assert {name: list(found) for name, found in groups.items()} == {
        name: ["unknown"] for name in ("skin_tone", "sex", "age_band", "anatomical_site", "clinic")
    }


def test_a_folder_of_one_class_gives_undefined_figures_not_zeros(
    evaluate: Callable[[Path], Any], folder: Path
) -> None:
    _write(folder, [row for row in _rows(folder) if row["malignant"] in ("0", "False", "false")])
    outcome = evaluate(folder)
    assert outcome.code == 0, outcome.told
    assert outcome.json["metrics"]["auroc"] is None
    assert outcome.json["overall"]["auroc"]["reason"] == "no malignant items"


def test_scores_do_not_depend_on_the_order_of_the_rows(
    evaluate: Callable[[Path], Any], folder: Path
) -> None:
    first = evaluate(folder).json["metrics"]
    _write(folder, _rows(folder)[::-1])
    second = evaluate(folder).json["metrics"]
    assert second == pytest.approx(first, abs=1e-6)


def test_tones_on_another_scale_are_reported_unbinned(
    evaluate: Callable[[Path], Any], folder: Path
) -> None:
    (folder / "manifest.yaml").unlink(missing_ok=True)
    rows = _rows(folder)
    for number, row in enumerate(rows):
        row["skin_tone"], row["skin_tone_scale"] = str(number % 6), "milk"
        row["dataset"] = ""
    _write(folder, rows)
    outcome = evaluate(folder)
    assert outcome.code == 0, outcome.told
    assert set(outcome.json["groups"]["skin_tone"]) == {"0", "1", "2", "3", "4", "5"}


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        pytest.param(("no-such-run",), 2, "finished run", id="unknown run"),
        pytest.param(("../../etc",), 2, "finished run", id="no run"),
    ],
)
def test_an_unknown_run_is_an_input_error(
    skinml: Callable[..., Any],
    centralised: tuple[Path, Any],
    folder: Path,
    words: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    outcome = skinml("evaluate", *words, "--data", folder, "--work-dir", centralised[0])
    assert outcome.code == code
    assert expected in outcome.err


def test_a_folder_without_a_manifest_is_an_input_error(
    evaluate: Callable[[Path], Any], tmp_path: Path
) -> None:
    outcome = evaluate(tmp_path)
    assert outcome.code == 2
    assert outcome.json["error"]["code"] == 2
    assert "manifest.csv" in outcome.err


def test_a_folder_with_a_broken_image_is_reported_by_its_row(
    evaluate: Callable[[Path], Any], folder: Path, centralised: tuple[Path, Any]
) -> None:
    before = sorted(centralised[0].rglob("evaluations/*"))
    image = folder / _rows(folder)[3]["image"]
    image.write_bytes(image.read_bytes()[:200])
    outcome = evaluate(folder)
    assert outcome.code == 2
    assert "row 5" in outcome.err
    assert image.name not in outcome.told
    assert sorted(centralised[0].rglob("evaluations/*")) == before


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json"])
def test_a_changed_model_is_not_used(
    skinml: Callable[..., Any],
    centralised: tuple[Path, Any],
    folder: Path,
    tmp_path: Path,
    name: str,
) -> None:
    copy = tmp_path / "copy"
    finished = centralised[0] / "runs" / centralised[1].json["run"]
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("evaluations"))
    path = copy / "model" / name
    content = path.read_bytes()
    changed = content.replace(b'"threshold": 0', b'"threshold": 1')
    if changed == content:
        changed = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(changed)
    outcome = skinml("evaluate", copy, "--data", folder)
    assert outcome.code == 5, outcome.told
    assert not (copy / "evaluations").exists()


def test_without_json_the_report_is_named(
    skinml: Callable[..., Any], centralised: tuple[Path, Any], folder: Path
) -> None:
    place, trained = centralised
    run = place / "runs" / trained.json["run"]
    outcome = skinml("evaluate", run, "--data", folder)
    assert outcome.code == 0, outcome.told
    assert "everybody" in outcome.out
    assert Path(outcome.out.splitlines()[-1].removeprefix("Report:").strip()).is_file()
