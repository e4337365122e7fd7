"""Who was admitted and who was not: exact at the clinic, noised beyond it, and charged."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.clinic.agreement import require_agreement
from skinml.clinic.contributions import contributions_of
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.releases import read_contributions
from skinml.config import RunConfig, load_config
from skinml.errors import BudgetExceededError
from skinml.experiments.admissions import noised_counts
from skinml.experiments.approval import drafted
from skinml.experiments.run import Finished, run_config
from skinml.privacy.accounting import epsilon
from skinml.privacy.plan import admissions_release
from skinml.records import ADMISSION_CELLS, NoisedCounts
from skinml.stewardship.pseudonyms import pseudonyms
from tests.experiments.shown import numbers_in

# Numbers that nothing else in a run's files is likely to be.
PATIENTS, WITHDRAWN, EXPIRED = 557, 137, 103
EPSILON, SHARE = 4.0, 0.02


@dataclass(frozen=True)
class Counted:
    """A finished run whose patients consented, most of them."""

    config: RunConfig
    finished: Finished
    folder: ClinicFolder
    patients: list[str]
    admitted: list[str]

    @property
    def told(self) -> NoisedCounts:
        found = self.finished.record.admissions
        assert found is not None
        return found


@pytest.fixture(scope="module")
def consented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pictures of patients of a clinic's own: some withdrew, for some the form ran out."""
    root = tmp_path_factory.mktemp("consented")
    random = np.random.default_rng(0)
    for number in range(PATIENTS):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:04d}.png")
    names = [f"P-{number:04d}" for number in range(PATIENTS)]
    table = pd.DataFrame({"patient_id": names})
    pictures = [f"{number:04d}.png" for number in range(PATIENTS)]
    kinds = ["mel" if number % 2 else "nv" for number in range(PATIENTS)]
    table.assign(image=pictures, diagnosis=kinds).to_csv(root / "manifest.csv", index=False)
    forms = table.assign(
        purposes="research", valid_from="2026-01-01", valid_until="", form_version="v1"
    )
    forms = forms.assign(how="paper", given_by="patient", withdrawn="")
    forms.loc[: WITHDRAWN - 1, "withdrawn"] = "2026-02-01"
    forms.loc[WITHDRAWN : WITHDRAWN + EXPIRED - 1, "valid_until"] = "2026-02-01"
    forms.to_csv(root / "consents.csv", index=False)
    return root


def settings(data: Path, place: Path, *more: str) -> RunConfig:
    words = (
        "federation=centralised",
        "data.source=manifest",
        f"data.root={data}",
        "data.consents=consents.csv",
        "data.groups=[]",
        "data.fractions.train=0.4",
        "data.fractions.validation=0.4",
        "data.fractions.test=0.2",
        "model=small_cnn",
        "model.image_size=16",
        "privacy.trust=local",
        f"privacy.epsilon={EPSILON}",
        "training.network.rounds=1",
        "training.network.steps_per_round=1",
        "training.network.sampling_prob=1",
        "training.network.gradient_mode=hooks",
        "fairness.replicates=100",
        "tracking.enabled=false",
        f"work_dir={place}",
    )
    return load_config("quickstart", (*words, *more))


@pytest.fixture(scope="module")
def counted(consented: Path, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    place = tmp_path_factory.mktemp("counted")
    config = settings(consented, place)
    finished = run_config(config)
    patients = pd.read_csv(consented / "manifest.csv")["patient_id"].tolist()
    folder = open_folder(place / "clinics" / "pooled")
    return Counted(config, finished, folder, patients, patients[WITHDRAWN + EXPIRED :])


def test_the_run_with_its_counts_costs_what_its_config_says(counted: Counted) -> None:
    """Each split's releases, composed with the counts, which are about every split."""
    entries = counted.folder.ledger.entries()
    (own,) = [entry for entry in entries if entry.purpose == "admissions"]
    assert (own.split, own.guarantee) == ("all", True)
    for split in ("train", "validation"):
        part = [entry.event for entry in entries if entry.split in (split, "all")]
        assert 0.98 * EPSILON < epsilon(part, counted.config.privacy.delta) <= EPSILON
    assert counted.finished.record.guarantee.epsilon == pytest.approx(EPSILON, rel=0.02)


def test_what_was_planned_is_what_was_released(counted: Counted) -> None:
    classes = counted.finished.record.classes
    draft = drafted(counted.config, classes, num_clinics=1, run="r")
    entries = counted.folder.ledger.entries()
    assert [e.event for e in draft.entries] == [e.event for e in entries]
    assert [(e.name, e.split) for e in draft.entries] == [(e.name, e.split) for e in entries]


def test_what_leaves_is_the_exact_count_with_as_much_noise_as_it_tells(counted: Counted) -> None:
    exact = dict.fromkeys(ADMISSION_CELLS, 0) | {
        "admitted": len(counted.admitted),
        "withdrawn": WITHDRAWN,
        "expired": EXPIRED,
    }
    assert tuple(counted.told.counts) == ADMISSION_CELLS
    off = [counted.told.counts[cell] - exact[cell] for cell in ADMISSION_CELLS]
    assert max(map(abs, off)) < 6.5 * counted.told.std  # beyond it once in 10**9 runs
    assert len(set(off)) > 1
    told = {"counts": dict(counted.told.counts), "std": counted.told.std}
    assert counted.finished.result["admissions"] == told
    html = (counted.finished.folder / "report.html").read_text()
    assert f"standard deviation {counted.told.std:.1f}" in html


@pytest.mark.parametrize(
    ("more", "clinics", "factor"),
    [
        ({"trust": "central"}, 3, 1.0),
        ({"trust": "distributed"}, 3, 1.0),
        ({"trust": "distributed", "tolerated_dropouts": 1, "colluding_clinics": 1}, 4, sqrt(2)),
        ({"trust": "local"}, 4, 2.0),
        ({"trust": "local", "unit": "patient", "max_clinics_per_patient": 3}, 4, 6.0),
    ],
)
def test_the_noise_that_is_told_is_that_of_the_sum(
    counted: Counted, more: dict[str, object], clinics: int, factor: float
) -> None:
    values = counted.config.privacy.model_dump() | {"trust": "local", **more}
    privacy = type(counted.config.privacy).model_validate(values)
    config = counted.config.model_copy(update={"privacy": privacy})
    release, total = admissions_release(privacy), np.arange(float(len(ADMISSION_CELLS)))
    assert release is not None
    found = noised_counts(config, total, num_clinics=clinics, num_present=clinics)
    assert found is not None
    assert found.std == pytest.approx(factor * release.noise_multiplier)
    scale = privacy.max_clinics_per_patient
    assert list(found.counts.values()) == [scale * number for number in range(len(ADMISSION_CELLS))]


def test_the_clinics_own_record_says_whose_data_were_counted_the_refused_among_them(
    counted: Counted,
) -> None:
    run, folder = counted.finished.record.run, counted.folder
    *training, last = read_contributions(folder, run)
    assert sorted(last.patients["all"]) == sorted(pseudonyms(folder.key, counted.patients))
    admitted = set(pseudonyms(folder.key, counted.admitted))
    assert all(set(each.patients["train"]) < admitted for each in training)
    assert require_agreement(folder) == len(training) + 1
    assert not list(folder.run(run).glob("admissions*"))


def test_no_exact_count_is_in_anything_that_may_be_shown(counted: Counted) -> None:
    """But those of the test patients, which a simulation's exact figures tell anyway."""
    folder = counted.finished.folder
    splits = {
        split: len(names)
        for each in read_contributions(counted.folder, folder.name)
        for split, names in each.patients.items()
    }
    secret = {PATIENTS, WITHDRAWN, EXPIRED, WITHDRAWN + EXPIRED, len(counted.admitted)}
    secret |= {splits["train"], splits["validation"]}
    secret -= set(counted.told.counts.values())  # noise may hit upon one of them
    test = counted.finished.record.overall.num_patients
    assert test == splits["test"]
    assert len(secret) >= 5
    assert min(secret) > 99, "two digits stand in every time of day"
    texts = {
        path.name: path.read_text()
        for path in folder.rglob("*")
        if path.suffix in (".json", ".html", ".yaml")
    }
    assert texts.keys() >= {"report.html", "report.json", "record.json", "result.json"}
    for name, text in texts.items():
        assert not secret & numbers_in(text), name
        # The search finds what is there.
        assert test in numbers_in(text) or name in ("bundle.json", "config.json"), name


def test_counts_that_a_budget_has_no_room_for_are_not_made(consented: Path, tmp_path: Path) -> None:
    config = settings(consented, tmp_path, f"privacy.budget.epsilon={EPSILON - 0.5}")
    with pytest.raises(BudgetExceededError):
        run_config(config)
    assert not list(tmp_path.rglob("ledger.jsonl"))


def test_a_run_promising_nothing_or_asked_not_to_releases_no_counts(tmp_path: Path) -> None:
    place, none = tmp_path, "privacy.admissions_share=0"
    assert settings(place, place).privacy.admissions_share == SHARE
    assert admissions_release(settings(place, place, none).privacy) is None
    assert admissions_release(settings(place, place, "privacy.trust=none").privacy) is None
    licensed = load_config("quickstart", ("data.source=manifest", f"data.root={place}"))
    assert licensed.privacy.admissions_share == 0


def test_each_patient_can_be_told_what_the_run_did_with_their_data(counted: Counted) -> None:
    folder, entries = counted.folder, counted.folder.ledger.entries()
    delta, run = counted.config.privacy.delta, counted.finished.record.run
    (training, last) = read_contributions(folder, run)
    names = dict(zip(pseudonyms(folder.key, counted.patients), counted.patients, strict=True))
    for split, part in (("train", training), ("validation", last), ("test", last)):
        patient = names[part.patients[split][0]]
        found = contributions_of(folder, patient, delta=delta)
        own = [entry.event for entry in entries if entry.split in (split, "all")]
        assert found.epsilon == pytest.approx(epsilon(own, delta), abs=1e-3)
        assert (found.models, found.exact_figures) == (int(split == "train"), split == "test")
        assert found.runs[0].experiment == counted.config.name
    refused = contributions_of(folder, counted.patients[0], delta=delta)
    assert refused.runs[0].roles == ("counted at the gate",)
