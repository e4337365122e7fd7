"""The synthetic cohort as it lies on disk."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError

from skinml.data.synthetic.clinics import CLINICS
from skinml.data.synthetic.cohort import (
    MANIFEST_COLUMNS,
    Shot,
    plan_cohort,
    render_shot,
    write_cohort,
)
from skinml.data.synthetic.people import assign_patients
from skinml.data.synthetic.settings import SyntheticSettings, settings_digest
from skinml.errors import ConfigError, EnvironmentProblem

SMALL = SyntheticSettings(num_patients=40, image_size=48)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("synthetic") / "cohort", SMALL, seed=3)


@pytest.fixture(scope="module")
def plan() -> list[Shot]:
    return plan_cohort(SyntheticSettings(), seed=0)


def test_same_settings_and_seed_give_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    assert digests(write_cohort(tmp_path / "again", SMALL, seed=3)) == digests(cohort)


def test_an_image_does_not_depend_on_the_images_made_before(cohort: Path) -> None:
    shot = plan_cohort(SMALL, seed=3)[-1]
    assert render_shot(shot, SMALL, seed=3) == (cohort / shot.image).read_bytes()


def test_another_seed_gives_other_images_under_other_names(cohort: Path) -> None:
    names = {shot.image for shot in plan_cohort(SMALL, seed=4)}
    assert not names & {row["image"] for row in rows_of(cohort / "manifest.csv")}


def test_the_manifest_lists_exactly_the_images(cohort: Path) -> None:
    rows = rows_of(cohort / "manifest.csv")
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    on_disk = {f"images/{path.name}" for path in (cohort / "images").iterdir()}
    assert {row["image"] for row in rows} == on_disk
    assert len(rows) == len(on_disk)
    assert {row["skin_tone_scale"] for row in rows} == {"monk"}
    with Image.open(cohort / rows[0]["image"]) as image:
        assert (image.size, image.mode, image.format) == ((48, 48), "RGB", "JPEG")


def test_the_sidecar_names_unit_and_licence(cohort: Path) -> None:
    sidecar = yaml.safe_load((cohort / "manifest.yaml").read_text(encoding="utf-8"))
    assert sidecar == {"name": "synthetic", "unit": "patient", "licence": "CC0-1.0"}


def test_images_carry_no_metadata(cohort: Path) -> None:
    for row in rows_of(cohort / "manifest.csv")[:5]:
        with Image.open(cohort / row["image"]) as image:
            assert not image.getexif()
            assert "comment" not in image.info


def test_truth_agrees_with_the_manifest_and_the_rule(cohort: Path) -> None:
    manifest = {row["image"]: row for row in rows_of(cohort / "manifest.csv")}
    truth = rows_of(cohort / "truth.csv")
    assert len(truth) == len(manifest)
    for row in truth:
        assert row["tone"] == manifest[row["image"]]["skin_tone"]
        assert float(row["signal"]) == pytest.approx(1 - 0.35 * (int(row["tone"]) - 1) / 9)


def test_true_angle_falls_from_tone_to_tone(cohort: Path) -> None:
    by_tone = defaultdict(list)
    for row in rows_of(cohort / "truth.csv"):
        by_tone[int(row["tone"])].append(float(row["ita_degrees"]))
    means = [np.mean(by_tone[tone]) for tone in sorted(by_tone)]
    assert len(means) >= 6
    assert np.all(np.diff(means) < 0)


def test_photographed_luminance_follows_the_tone(cohort: Path) -> None:
    tones, light = [], []
    for row in rows_of(cohort / "manifest.csv"):
        with Image.open(cohort / row["image"]) as image:
            light.append(np.asarray(image.convert("L"), dtype=float).mean())
        tones.append(int(row["skin_tone"]))
    assert np.corrcoef(tones, light)[0, 1] < -0.8


def test_without_difficulty_every_signal_is_whole_and_only_pixels_change(tmp_path: Path) -> None:
    easy_settings = SMALL.model_copy(update={"num_patients": 12, "difficulty": 0.0})
    hard_settings = easy_settings.model_copy(update={"difficulty": 0.35})
    easy = write_cohort(tmp_path / "easy", easy_settings, seed=3)
    hard = write_cohort(tmp_path / "hard", hard_settings, seed=3)
    assert {float(row["signal"]) for row in rows_of(easy / "truth.csv")} == {1.0}
    assert (easy / "manifest.csv").read_bytes() == (hard / "manifest.csv").read_bytes()
    easy_files, hard_files = digests(easy), digests(hard)
    for row in rows_of(hard / "truth.csv"):
        same = easy_files[row["image"]] == hard_files[row["image"]]
        assert same == (row["tone"] == "1")


def test_default_size_is_as_documented(plan: list[Shot]) -> None:
    patients = {shot.patient.number for shot in plan}
    assert len(patients) == 600
    assert 840 <= len(plan) <= 960
    per_patient = [len(shot.patient.photographs) for shot in plan]
    assert min(per_patient) == 1
    assert max(per_patient) == 4


def test_every_clinic_sees_both_outcomes_and_many_tones(plan: list[Shot]) -> None:
    malignant = defaultdict(set)
    tones = defaultdict(set)
    for shot in plan:
        name = shot.patient.clinic.name
        diagnosis = shot.patient.photographs[shot.index].diagnosis
        malignant[name].add(diagnosis in {"mel", "bcc", "akiec"})
        tones[name].add(shot.patient.tone)
    assert malignant.keys() == {clinic.name for clinic in CLINICS}
    assert all(outcomes == {True, False} for outcomes in malignant.values())
    assert all(len(seen) >= 7 for seen in tones.values())


def test_no_patient_or_lesion_is_at_two_clinics(cohort: Path) -> None:
    clinics, patients = defaultdict(set), defaultdict(set)
    for row in rows_of(cohort / "manifest.csv"):
        clinics[row["patient_id"]].add(row["clinic"])
        patients[row["lesion_id"]].add(row["patient_id"])
    assert all(len(names) == 1 for names in clinics.values())
    assert all(len(names) == 1 for names in patients.values())


def test_clinics_differ_in_tone_outcome_and_colour_cast() -> None:
    tones = [np.average(range(1, 11), weights=clinic.tones) for clinic in CLINICS]
    assert max(tones) - min(tones) > 3
    rates = [
        sum(clinic.diagnoses[name] for name in ("mel", "bcc", "akiec"))
        / sum(clinic.diagnoses.values())
        for clinic in CLINICS
    ]
    assert max(rates) - min(rates) > 0.2
    assert len({clinic.camera for clinic in CLINICS}) == len(CLINICS)


def test_a_warm_camera_gives_redder_images(plan: list[Shot]) -> None:
    settings = SyntheticSettings(image_size=48)

    def red_to_blue(name: str) -> float:
        light = [s for s in plan if s.patient.clinic.name == name and s.patient.tone <= 4][:12]
        ratios = []
        for shot in light:
            jpeg = render_shot(shot, settings, seed=0)
            pixels = np.asarray(Image.open(io.BytesIO(jpeg)), dtype=float)
            ratios.append(pixels[..., 0].mean() / pixels[..., 2].mean())
        return float(np.mean(ratios))

    assert red_to_blue("birchmoor") > red_to_blue("coldwell") + 0.05


@pytest.mark.parametrize("num_clinics", [1, 2, 6])
def test_clinic_sizes_follow_the_shares(num_clinics: int) -> None:
    assigned = assign_patients(100, num_clinics)
    total = sum(clinic.share for clinic in CLINICS[:num_clinics])
    for clinic in CLINICS[:num_clinics]:
        assert abs(assigned.count(clinic) - 100 * clinic.share / total) <= 1
    assert len(assigned) == 100


def test_some_age_sex_and_site_are_missing_and_all_are_at_rate_one(plan: list[Shot]) -> None:
    ages = [shot.patient.age for shot in plan]
    assert 0 < sum(age is None for age in ages) / len(ages) < 0.1
    nothing = plan_cohort(SyntheticSettings(num_patients=5, missing_rate=1.0), seed=0)
    assert all(shot.patient.age is None and shot.patient.sex == "" for shot in nothing)


def test_progress_counts_to_the_number_of_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tiny = SyntheticSettings(num_patients=4, image_size=32)
    write_cohort(tmp_path / "c", tiny, 0, progress=lambda done, total: seen.append((done, total)))
    total = len(plan_cohort(tiny, 0))
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_stopped_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "c", SMALL, 0, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="an empty place"):
        write_cohort(tmp_path, SMALL, 0)
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        write_cohort(tmp_path / "c", SMALL, -1)


def test_a_place_that_cannot_be_written_is_an_environment_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EnvironmentProblem, match="can be written"):
        write_cohort(tmp_path / "file" / "cohort", SMALL, 0)


def test_the_folder_can_be_read_by_others_as_any_new_folder(cohort: Path) -> None:
    assert os.access(cohort, os.R_OK | os.X_OK)
    assert cohort.stat().st_mode & 0o055 == 0o055


@pytest.mark.parametrize(
    "change", [{"num_patients": 41}, {"difficulty": 0.1}, {"image_size": 64}, {"num_clinics": 3}]
)
def test_the_digest_changes_with_every_setting(change: dict[str, float]) -> None:
    assert settings_digest(SMALL.model_copy(update=change), 0) != settings_digest(SMALL, 0)
    assert settings_digest(SMALL, 1) != settings_digest(SMALL, 0)
    assert settings_digest(SyntheticSettings(**SMALL.model_dump()), 0) == settings_digest(SMALL, 0)


@pytest.mark.parametrize(
    "wrong", [{"num_patients": 0}, {"num_clinics": 7}, {"difficulty": 1.2}, {"patients": 5}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SyntheticSettings(**wrong)
