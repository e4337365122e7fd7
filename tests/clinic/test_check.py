"""The clinic's check: each planted problem is found, coloured and told without naming a patient."""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from skinml.clinic.check import Request, check
from skinml.clinic.check_machine import (
    Moment,
    Pace,
    clock_finding,
    disk_finding,
    pace_finding,
)
from skinml.clinic.check_tones import tone_cover
from skinml.clinic.findings import CheckReport, Finding, ToneCover
from skinml.errors import EnvironmentProblem
from skinml.journal import Journal, KeyedSeal
from skinml.stewardship.consent import Consent, ConsentRecord, ConsentRegister

DAY = datetime.date(2026, 11, 22)
NOW = datetime.datetime(2026, 11, 22, 9, tzinfo=datetime.UTC)
PLANTED = "Planted-Patient"


@dataclass(frozen=True)
class FreeSpace:
    """What the disk says of itself, as far as it is asked."""

    free: int


@dataclass(frozen=True)
class Clinic:
    """A clinic's data set that tests may break before it is looked at."""

    request: Request
    rows: pd.DataFrame
    register: ConsentRegister

    def write(self, rows: pd.DataFrame) -> None:
        rows.to_csv(self.request.data / "manifest.csv", index=False)

    def consent(self, patients: list[str], until: datetime.date | None = None) -> None:
        consent = Consent(
            purposes=("federated_training",),
            valid_from=datetime.date(2026, 1, 1),
            valid_until=until,
            form_version="1",
            how="paper",
            given_by="patient",
        )
        records = [ConsentRecord(patient, consent) for patient in patients]
        self.register.import_records(records, source_digest=str(until), now=NOW, actor="ada")

    def look(self, **changes: Any) -> CheckReport:
        words = {"clocks": ticking(), "day": DAY} | changes
        return check(self.request, self.register, **words)


def ticking() -> Callable[[], Moment]:
    """A sound clock, a second a look."""
    seconds = itertools.count(4e9)
    return lambda: Moment(*[float(next(seconds))] * 2)


def found(report: CheckReport, topic: str) -> Finding:
    (finding,) = [each for each in report.findings if each.topic == topic]
    return finding


def picture(random: np.random.Generator) -> Image.Image:
    """Blobs that no other picture has, smooth enough to survive recompression."""
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    data, place = tmp_path / "data", tmp_path / "clinic"
    (data / "images").mkdir(parents=True)
    place.mkdir()
    random, rows = np.random.default_rng(0), []
    for number in range(20):
        picture(random).save(data / f"images/{number}.png")
        rows.append(
            {
                "image": f"images/{number}.png",
                "patient_id": f"{PLANTED}-{number}",
                "diagnosis": "mel" if number % 4 == 0 else "nv",
                "skin_tone": number % 3 + 1,
                "skin_tone_scale": "fitzpatrick",
                "licence": "",
            }
        )
    register = ConsentRegister(
        Journal(place / "consent.journal", "consent register", KeyedSeal(bytes(32))), bytes(32)
    )
    request = Request(
        data=data,
        clinic="north",
        place=place,
        purposes=("care", "federated_training"),
        purpose="federated_training",
    )
    made = Clinic(request, pd.DataFrame(rows), register)
    made.write(made.rows)
    return made


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of these tests may be short of space; the clinic that they make is not."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FreeSpace(free=64 * 2**30))


@pytest.fixture
def consented(clinic: Clinic) -> Clinic:
    clinic.consent(clinic.rows["patient_id"].tolist())
    return clinic


def test_sound_data_with_consents_are_nowhere_red(consented: Clinic) -> None:
    report = consented.look()
    assert report.colour != "red", report.findings
    assert (report.num_images, report.num_patients) == (20, 20)
    assert {each.topic for each in report.findings} >= {
        "List of images",
        "Consents",
        "Image files",
        "Same file twice",
        "Look-alikes",
        "Train and test",
        "Fairness",
        "Disk",
        "Clock",
    }


def test_without_consents_nothing_but_consents_is_looked_at(clinic: Clinic) -> None:
    (clinic.request.data / "images/0.png").write_bytes(b"would be noticed")
    report = clinic.look()
    finding = found(report, "Consents")
    assert finding.colour == "red"
    assert "None of 20 patients" in finding.found
    assert "no consent: 20" in finding.found
    assert (report.num_images, report.num_patients) == (0, 0)
    assert "Image files" not in {each.topic for each in report.findings}


def test_only_patients_with_consent_are_looked_at(clinic: Clinic) -> None:
    clinic.consent(clinic.rows["patient_id"].tolist()[:12])
    (clinic.request.data / "images/19.png").write_bytes(b"no consent, so it is not opened")
    report = clinic.look()
    assert report.num_patients == 12
    assert found(report, "Image files").colour == "green"
    assert "no consent: 8" in found(report, "Consents").found


def test_many_patients_left_out_are_amber(clinic: Clinic) -> None:
    clinic.consent(clinic.rows["patient_id"].tolist()[:12])
    assert found(clinic.look(), "Consents").colour == "green"
    clinic.write(clinic.rows.iloc[10:])
    assert found(clinic.look(), "Consents").colour == "amber"


def test_rows_of_one_patient_that_differ_in_sex_are_pointed_out(clinic: Clinic) -> None:
    rows = clinic.rows.assign(sex="male")
    rows.loc[1, "patient_id"] = rows.loc[0, "patient_id"]
    clinic.write(rows)
    assert "One patient" not in {each.topic for each in clinic.look().findings}
    rows.loc[1, "sex"] = "female"
    clinic.write(rows)
    finding = found(clinic.look(), "One patient")
    assert (finding.colour, "1 patient " in finding.found) == ("amber", True)


def test_the_cover_counts_purposes_licences_and_what_ends(clinic: Clinic) -> None:
    patients = clinic.rows["patient_id"].tolist()
    clinic.consent(patients[:5], until=DAY + datetime.timedelta(30))
    clinic.consent(patients[5:12], until=DAY + datetime.timedelta(300))
    clinic.write(clinic.rows.assign(licence=["CC BY 4.0" if n >= 18 else "" for n in range(20)]))
    report = clinic.look()
    care, training = report.consents
    assert (care.purpose, care.num_consent, care.num_licence) == ("care", 0, 0)
    assert (training.num_consent, training.num_licence, training.num_ending) == (12, 2, 5)
    assert training.refused == {"no consent": 6}
    assert found(report, "Consents ending").colour == "amber"
    assert "5 patients" in found(report, "Consents ending").found


def test_words_that_nobody_mapped_are_all_named(consented: Clinic) -> None:
    words = [f"strange {number}" for number in range(20)]
    consented.write(consented.rows.assign(diagnosis=words[:15] + ["nv"] * 5))
    finding = found(consented.look(), "Unknown words")
    assert finding.colour == "red"
    assert all(any(f"'{word}'" in line for line in finding.details) for word in words[:15])


def test_identical_files_of_two_patients_are_red_with_their_rows(consented: Clinic) -> None:
    images = consented.request.data / "images"
    (images / "7.png").write_bytes((images / "3.png").read_bytes())
    finding = found(consented.look(), "Same file twice")
    assert finding.colour == "red"
    assert finding.details == ("rows 5 and 9",)


def test_identical_files_of_one_patient_are_amber(consented: Clinic) -> None:
    images = consented.request.data / "images"
    (images / "7.png").write_bytes((images / "3.png").read_bytes())
    consented.write(consented.rows.replace(f"{PLANTED}-7", f"{PLANTED}-3"))
    assert found(consented.look(), "Same file twice").colour == "amber"


def test_a_file_that_is_there_many_times_is_told_once_a_copy(consented: Clinic) -> None:
    images = consented.request.data / "images"
    for number in range(10):
        (images / f"{number}.png").write_bytes((images / "3.png").read_bytes())
    report = consented.look()
    assert "9 pairs" in found(report, "Same file twice").found
    assert found(report, "Look-alikes").colour == "green"


def test_look_alikes_are_red_across_training_and_test_and_amber_within(
    consented: Clinic,
) -> None:
    images = consented.request.data / "images"
    half = Image.open(images / "3.png").resize((48, 36), Image.Resampling.BICUBIC)
    half.save(images / "7.png")
    colours = set()
    for key in ("a", "b", "c", "d", "e", "f", "g", "h"):
        changed = replace(consented, request=replace(consented.request, split_key=key))
        finding = found(changed.look(), "Look-alikes")
        assert finding.details == ("rows 5 and 9",)
        colours.add(finding.colour)
    assert colours == {"red", "amber"}


def test_broken_images_are_named_by_row(consented: Clinic) -> None:
    (consented.request.data / "images/4.png").write_bytes(b"not an image")
    finding = found(consented.look(), "Image files")
    assert finding.colour == "red"
    assert "row 6" in finding.details[0]


def test_too_few_training_patients_for_the_policy_are_red(consented: Clinic) -> None:
    strict = replace(consented, request=replace(consented.request, least_patients=1000))
    assert found(strict.look(), "Enough patients").colour == "red"
    assert found(consented.look(), "Enough patients").colour == "green"


def test_one_class_alone_is_red(consented: Clinic) -> None:
    consented.write(consented.rows.assign(diagnosis="nv"))
    assert found(consented.look(), "Enough patients").colour == "red"


def test_nothing_known_of_tones_is_said_plainly(consented: Clinic) -> None:
    consented.write(consented.rows.drop(columns=["skin_tone", "skin_tone_scale"]))
    report = consented.look()
    assert report.tones == ()
    assert "cannot be told" in found(report, "Skin tones").found


def test_two_scales_and_missing_tones_are_pointed_out(consented: Clinic) -> None:
    scales = ["fitzpatrick"] * 5 + ["monk"] * 5 + [""] * 10
    tones = ["1"] * 10 + [""] * 10
    consented.write(consented.rows.assign(skin_tone=tones, skin_tone_scale=scales))
    report = consented.look()
    assert "10 patients of 20" in found(report, "Tones missing").found
    assert "2 scales" in found(report, "Tone scales").found


def test_no_patient_and_no_image_is_named_anywhere(consented: Clinic) -> None:
    images = consented.request.data / "images"
    (images / "7.png").write_bytes((images / "3.png").read_bytes())
    for report in (consented.look(), _broken(consented)):
        text = repr(asdict(report))
        assert PLANTED not in text
        assert "images/" not in text


def _broken(clinic: Clinic) -> CheckReport:
    clinic.write(clinic.rows.assign(image="images/absent.png", age="a hundred"))
    return clinic.look()


def test_nothing_is_written(consented: Clinic, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    consented.look()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def frame_of(groups: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Patients and malignant patients of each tone, two images each."""
    rows = [
        {
            "patient_id": f"{tone}-{number}",
            "malignant": number < malignant and image == 0,
            "skin_tone": tone,
            "skin_tone_scale": "monk",
        }
        for tone, (patients, malignant) in groups.items()
        for number in range(patients)
        for image in range(2)
    ]
    return pd.DataFrame(rows)


def test_tones_count_patients_once_and_sort_as_numbers() -> None:
    covers = tone_cover(frame_of({"10": (30, 10), "2": (40, 5), "1": (5, 0)}), 1.0)
    assert [(each.tone, each.num_patients, each.num_malignant) for each in covers] == [
        ("1", 5, 0),
        ("2", 40, 5),
        ("10", 30, 10),
    ]
    assert covers[0].half_width is None
    assert covers[0].told is False


def test_a_difference_is_told_where_drawn_models_show_it() -> None:
    """The promise, "would usually show", against scores drawn with that difference."""
    groups = {"1": (900, 300), "9": (240, 80)}
    cover = {each.tone: each for each in tone_cover(frame_of(groups), 1.0)}["9"]
    assert cover.smallest_difference is not None
    random, shown, widths = np.random.default_rng(2), 0, []
    truth = np.repeat([True, False], [80, 160]), np.repeat([True, False], [300, 600])
    spread = cover.smallest_difference / 2.8016
    for _ in range(300):
        low = _area(random, truth[0], 0.85 - cover.smallest_difference)
        high = _area(random, truth[1], 0.85)
        shown += high - low > 1.96 * spread
        widths.append(_area(random, truth[0], 0.85))
    assert 0.65 < shown / 300 < 0.95
    assert cover.half_width == pytest.approx(1.96 * np.std(widths), rel=0.2)


def _area(random: np.random.Generator, truth: np.ndarray, area: float) -> float:
    scores = random.exponential(1.0, len(truth)) * np.where(truth, area / (1 - area), 1.0)
    return float(roc_auc_score(truth, scores))


def test_only_the_tested_share_of_patients_tells_anything() -> None:
    frame = frame_of({"1": (2000, 800), "9": (2000, 800)})
    everybody, fifth = tone_cover(frame, 1.0), tone_cover(frame, 0.2)
    assert all(each.told for each in everybody)
    assert fifth[0].half_width == pytest.approx(everybody[0].half_width * 5**0.5, rel=0.05)


def test_an_only_tone_has_nothing_to_be_compared_with() -> None:
    (cover,) = tone_cover(frame_of({"3": (5000, 2000)}), 0.2)
    assert cover == ToneCover("monk", "3", 5000, 2000, cover.half_width, None, told=False)
    assert cover.half_width is not None


@pytest.mark.parametrize(
    ("after", "written", "colour"),
    [
        (Moment(1010, 20), [900.0], "green"),
        (Moment(1010, 20), [1100.0], "green"),
        (Moment(1010, 20), [1010 + 86_400.0], "red"),
        (Moment(1600, 20), [900.0], "amber"),
        (Moment(900, 20), [800.0], "amber"),
        (Moment(1010, 20), [], "green"),
    ],
)
def test_a_clock_that_was_set_is_noticed(after: Moment, written: list[float], colour: str) -> None:
    assert clock_finding(Moment(1000, 10), after, written).colour == colour


def test_a_full_disk_is_red_before_a_run_finds_out(tmp_path: Path) -> None:
    assert disk_finding(tmp_path, 10**12).colour == "red"
    assert disk_finding(tmp_path, 0).colour == "green"


def test_the_time_is_told_in_units_of_people() -> None:
    finding = pace_finding(Pace(0.06, 30.0, 100), 10_000)
    assert "10,000 images, which takes about 10 minutes, once" in finding.found
    assert "a round takes 30 seconds here and all 100 rounds 50 minutes" in finding.found
    assert "a round takes less than a second" in pace_finding(Pace(0.06, 0.2, 100), 10).found
    assert pace_finding(Pace(0.06, 900.0, 101), 10).colour == "amber"


def test_the_measure_gets_images_that_may_be_used_and_the_training_patients(
    clinic: Clinic,
) -> None:
    clinic.consent(clinic.rows["patient_id"].tolist()[:14])
    asked: list[tuple[list[str], int]] = []

    def measure(paths: Any, training: int) -> Pace:
        asked.append((sorted(path.name for path in paths), training))
        return Pace(0.1, 1.0, 10)

    report = clinic.look(measure=measure)
    ((names, training),) = asked
    assert names == sorted(f"{number}.png" for number in range(14))
    assert 0 < training < 14
    assert found(report, "Time").colour == "green"


def test_a_missing_network_leaves_the_rest_of_the_check(consented: Clinic) -> None:
    def measure(paths: Any, training: int) -> Pace:
        raise EnvironmentProblem(rule="the network", got="none", do="Install it.")

    report = consented.look(measure=measure)
    assert found(report, "Time").colour == "amber"
    assert found(report, "Look-alikes").colour == "green"


@pytest.mark.parametrize("name", ["absent.csv", "../manifest.csv"])
def test_a_missing_list_is_a_finding_and_the_machine_is_looked_at_all_the_same(
    clinic: Clinic, name: str
) -> None:
    request = replace(clinic.request, manifest=name)
    report = replace(clinic, request=request).look()
    assert found(report, "List of images").colour == "red"
    assert found(report, "Disk").colour == "green"
    assert report.colour == "red"
