"""Which models a patient's data are in, held against compositions made by hand."""

from __future__ import annotations

import json
import shutil
from math import inf
from pathlib import Path

import pytest

from skinml.clinic.contribution_words import sentences
from skinml.clinic.contributions import Contributions, plain_values, show_contributions
from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.errors import ConfigError, DataError, IntegrityError, PolicyError
from skinml.privacy.accounting import epsilon, gaussian_delta
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent
from skinml.privacy.plan import STATISTICS
from tests.clinic.rights import NOW, enrol, log_run, make, release

DELTA = 1e-5
STEP, COUNTS, SCORES = GaussianEvent(8.0), GaussianEvent(20.0), GaussianEvent(5.0)
SAMPLED = SampledGaussianEvent(2.0, 0.1, 30)
GRADIENT = ("gradient", "training", "train", STEP)
LAST = [
    ("validation_scores", "validation", "validation", SCORES),
    ("admissions", "admissions", "all", COUNTS),
]


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    """Ada trains two runs, the second for a round; Bo validates, Cy tests, Di is refused."""
    folder = make(tmp_path)
    enrol(folder, "Ada", "Bo", "Cy", "Di")
    for number in (1, 2, 3):
        release(folder, "run-1", number, [GRADIENT], {"train": ["Ada", "Eve"]})
    people = ["Ada", "Bo", "Cy", "Di", "Eve"]
    release(folder, "run-1", 4, LAST, {"validation": ["Bo"], "test": ["Cy"]}, people)
    log_run(folder, "run-1", "derm_tone")
    step = ("weights", "training", "train", SAMPLED)
    release(folder, "run-2", 1, [step], {"train": ["Ada", "Eve"]})
    release(folder, "run-2", 2, [step], {"train": ["Eve"]})
    log_run(folder, "run-2", "derm_malignancy", "interrupted")
    return open_folder(folder.path)


def answer(clinic: ClinicFolder, patient: str) -> Contributions:
    return show_contributions(clinic, patient, now=NOW)


def test_runs_rounds_and_releases_are_those_that_read_the_patient(clinic: ClinicFolder) -> None:
    first, second = answer(clinic, "Ada").runs
    assert (first.run, first.experiment, first.outcome) == ("run-1", "derm_tone", "completed")
    assert first.rounds == 4
    assert first.releases == {"gradient": 3, "admissions": 1}
    assert first.roles == ("trained on", "counted at the gate")
    assert first.in_model
    assert (second.run, second.rounds, second.outcome) == ("run-2", 1, "interrupted")
    assert second.releases == {"weights": 1}
    days = [entry.time[:10] for entry in clinic.ledger.entries() if entry.binding.run == "run-1"]
    assert (first.first_day, first.last_day) == (days[0], days[-1])


def test_a_count_of_patients_is_told_as_one(tmp_path: Path) -> None:
    folder = make(tmp_path)
    enrol(folder, "Ada")
    release(folder, "statistics-1", 1, [(STATISTICS, STATISTICS, "all", COUNTS)], {}, ["Ada"])
    log_run(folder, "statistics-1", "statistics")
    found = answer(open_folder(folder.path), "Ada")
    assert found.runs[0].roles == ("counted in statistics",)
    assert (found.models, sentences(found)[0]) == (0, "No model learnt from this patient's data.")


def test_epsilon_is_that_of_exactly_the_entries_that_read_the_patient(
    clinic: ClinicFolder,
) -> None:
    found = answer(clinic, "Ada")
    first, second = found.runs
    assert first.epsilon == pytest.approx(epsilon([STEP, STEP, STEP, COUNTS], DELTA), abs=1e-3)
    assert second.epsilon == pytest.approx(epsilon([SAMPLED], DELTA), abs=1e-3)
    together = epsilon([STEP, STEP, STEP, COUNTS, SAMPLED], DELTA)
    assert found.epsilon == pytest.approx(together, abs=1e-3)
    eve = answer(clinic, "Eve")
    assert eve.epsilon > found.epsilon > max(first.epsilon, second.epsilon)


def test_a_patient_in_one_split_is_told_of_that_one_only(clinic: ClinicFolder) -> None:
    bo, cy, di = (answer(clinic, patient) for patient in ("Bo", "Cy", "Di"))
    assert bo.epsilon == pytest.approx(epsilon([SCORES, COUNTS], DELTA), abs=1e-3)
    assert cy.epsilon == di.epsilon == pytest.approx(epsilon([COUNTS], DELTA), abs=1e-3)
    assert (bo.exact_figures, cy.exact_figures, di.exact_figures) == (False, True, False)
    assert cy.runs[0].roles == ("tested on", "counted at the gate")
    assert di.runs[0].roles == ("counted at the gate",)
    assert bo.models == cy.models == di.models == 0


def test_the_guess_is_the_trade_off_of_a_gaussian(clinic: ClinicFolder) -> None:
    """One release with noise 20: right with chance (1 + delta at epsilon 0) / 2."""
    assert answer(clinic, "Di").guess == pytest.approx(
        (1 + gaussian_delta(1 / 20, 0)) / 2, abs=1e-3
    )


def test_who_was_in_no_run_is_told_so_and_an_unknown_id_is_refused(clinic: ClinicFolder) -> None:
    enrol(clinic, "Flo")
    found = answer(clinic, "Flo")
    assert (found.runs, found.epsilon, found.guess) == ((), 0.0, 0.5)
    with pytest.raises(DataError) as refusal:
        answer(clinic, "Mustermann-4711")
    assert "Mustermann" not in str(refusal.value)


def test_a_run_whose_record_is_gone_is_said_to_be_unknown_and_bounded_all_the_same(
    clinic: ClinicFolder,
) -> None:
    shutil.rmtree(clinic.run("run-1"))
    found = answer(open_folder(clinic.path), "Ada")
    assert found.unknown == ("run-1",)
    assert [run.run for run in found.runs] == ["run-2"]
    everything = epsilon([SAMPLED, STEP, STEP, STEP, SCORES, COUNTS], DELTA)
    assert found.epsilon_at_most == pytest.approx(everything, abs=1e-3)
    assert not clinic.run("run-1").exists()


def test_a_record_that_does_not_agree_tells_nothing(clinic: ClinicFolder) -> None:
    (clinic.run("run-1") / "contributions.journal").unlink()
    with pytest.raises(IntegrityError):
        answer(open_folder(clinic.path), "Ada")


def test_what_left_without_noise_is_bounded_by_nothing(clinic: ClinicFolder) -> None:
    bare = ("gradient", "training", "train", UnprotectedEvent())
    release(clinic, "run-3", 1, [bare], {"train": ["Ada"]})
    found = answer(clinic, "Ada")
    assert (found.epsilon, found.guess) == (inf, 1.0)
    values = json.loads(json.dumps(plain_values(found), allow_nan=False))
    assert values["epsilon"] is None
    assert [run["epsilon"] is None for run in values["runs"]] == [False, False, True]
    assert answer(clinic, "Eve").epsilon < inf


def test_an_erased_patient_can_still_be_told(clinic: ClinicFolder) -> None:
    before = answer(clinic, "Ada")
    erase_patient(clinic, "Ada", now=NOW)
    after = answer(open_folder(clinic.path), "Ada")
    assert (before.erased, after.erased) == (False, True)
    assert (after.runs, after.epsilon) == (before.runs, before.epsilon)


def test_who_looked_is_in_the_log_by_pseudonym_and_a_role_is_needed(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    answer(clinic, "Ada")
    *_, last = clinic.audit.entries()
    assert (last.event, last.fields["kind"], last.fields["patients"]) == (
        "access",
        "contributions",
        1,
    )
    assert "Ada" not in str(last)
    (tmp_path / "other").mkdir()
    other = make(
        tmp_path / "other",
        roles="{steward: [nobody], clinician: [], operator: ['*'], auditor: ['*']}",
    )
    with pytest.raises(PolicyError):
        answer(other, "Ada")


def test_a_delta_outside_its_range_is_refused(clinic: ClinicFolder) -> None:
    with pytest.raises(ConfigError):
        show_contributions(clinic, "Ada", now=NOW, delta=0.0)
