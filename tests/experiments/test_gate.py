"""The gate in a real federated run: who consented is in it, from then until they withdraw."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skinml.clinic.agreement import require_agreement
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.releases import read_contributions
from skinml.config import RunConfig, load_config
from skinml.errors import IntegrityError, PolicyError, RefusedError
from skinml.experiments.cohorts import gather
from skinml.experiments.evaluate import evaluate_run
from skinml.experiments.learners import build_learner
from skinml.experiments.progress import Silence
from skinml.experiments.run import Finished, run_config
from skinml.experiments.samples import prepare_samples
from skinml.experiments.workspace import Workspace
from skinml.journal import Mark
from skinml.models.bundle import load_bundle
from skinml.records import Arrays, Samples
from skinml.stewardship.pseudonyms import pseudonym, pseudonyms
from tests.experiments.conftest import SMALL

TODAY = datetime.now(UTC).date()
CLINICS = ("alderbrook", "birchmoor")
WITHDRAWS_AFTER = 3


@dataclass(frozen=True)
class Consenting:
    """A folder of drawn patients without a licence, and what each agreed to."""

    root: Path
    refused: dict[str, str]


@pytest.fixture(scope="session")
def consenting(not_private: Finished, tmp_path_factory: pytest.TempPathFactory) -> Consenting:
    """The drawn cohort as a clinic would have it: no licence, a table of consents."""
    (drawn,) = (not_private.folder.parents[1] / "cohorts").glob("synthetic-*")
    root = tmp_path_factory.mktemp("consenting") / "data"
    shutil.copytree(drawn, root)
    (root / "manifest.yaml").unlink()
    manifest = pd.read_csv(root / "manifest.csv", dtype=str).drop(columns="licence")
    manifest.to_csv(root / "manifest.csv", index=False)
    patients = sorted(manifest["patient_id"].unique())
    table = pd.DataFrame({"patient_id": patients}).assign(
        purposes="care;federated_training",
        valid_from=str(TODAY - timedelta(days=30)),
        valid_until="",
        form_version="v2",
        how="electronic",
        given_by="patient",
        withdrawn="",
    )
    odd = patients[::9]
    refused = {
        odd[0]: "no consent",
        odd[1]: "expired",
        odd[2]: "withdrawn",
        odd[3]: "purpose not covered",
        odd[4]: "not yet valid",
    }
    table.loc[table["patient_id"] == odd[1], "valid_until"] = str(TODAY - timedelta(days=1))
    table.loc[table["patient_id"] == odd[2], "withdrawn"] = str(TODAY - timedelta(days=2))
    table.loc[table["patient_id"] == odd[3], "purposes"] = "care;publication_of_images"
    table.loc[table["patient_id"] == odd[4], "valid_from"] = str(TODAY + timedelta(days=2))
    table[table["patient_id"] != odd[0]].to_csv(root / "consents.csv", index=False)
    return Consenting(root, refused)


def settings(data: Path, place: Path, *more: str) -> RunConfig:
    words = (
        *SMALL,
        "privacy.trust=none",
        "data.source=manifest",
        f"data.root={data}",
        "data.consents=consents.csv",
        f"work_dir={place}",
        *more,
    )
    return load_config("quickstart", words)


class Withdraws:
    """Withdraws a patient's consent, from outside of the run, between two of its rounds."""

    def __init__(self, folder: Path, patient: str) -> None:
        self._folder, self._patient, self._stage = folder, patient, ""

    def begin(self, stage: str, total: int) -> None:
        self._stage = stage

    def reached(self, done: int) -> None:
        if self._stage == "rounds" and done == WITHDRAWS_AFTER:
            register = open_folder(self._folder).consents
            register.withdraw(self._patient, now=datetime.now(UTC), actor="steward")

    def say(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class Story:
    """A run in the middle of which a patient withdrew."""

    config: RunConfig
    finished: Finished
    samples: dict[str, dict[str, Samples]]
    patient: str
    folders: dict[str, ClinicFolder]


@pytest.fixture(scope="session")
def story(consenting: Consenting, tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("story")
    config = settings(consenting.root, place)
    workspace = Workspace(place)
    samples, _ = prepare_samples(config, gather(config, workspace, "before", Silence()), Silence())
    patient = str(samples[CLINICS[0]]["train"].patients[0])
    finished = run_config(config, progress=Withdraws(workspace.clinics / CLINICS[0], patient))
    folders = {name: open_folder(workspace.clinics / name) for name in CLINICS}
    return Story(config, finished, samples, patient, folders)


def test_who_withdraws_contributes_before_and_never_after(story: Story) -> None:
    folder = story.folders[CLINICS[0]]
    name = pseudonym(folder.key, story.patient)
    for each in read_contributions(folder, story.finished.record.run):
        if "train" in each.patients:
            assert (name in each.patients["train"]) == (each.round <= WITHDRAWS_AFTER)


def test_the_model_is_the_one_that_the_recorded_patients_make(story: Story) -> None:
    """Replayed from the records alone, round by round; with the withdrawn one it would differ."""
    bundle = load_bundle(story.finished.folder / "model")
    replayed = _replay(story, everybody=False)
    assert replayed.keys() == bundle.arrays.keys()
    for name, values in replayed.items():
        assert np.allclose(values, bundle.arrays[name], atol=1e-6), name
    other = _replay(story, everybody=True)
    assert not np.allclose(other["weight"], bundle.arrays["weight"], atol=1e-6)


def _replay(story: Story, *, everybody: bool) -> Arrays:
    """Sum the clipped contributions of the patients on record, and train on nothing else."""
    run, classes = story.finished.record.run, story.finished.record.classes
    width = story.samples[CLINICS[0]]["train"].inputs.shape[1]
    learner = build_learner(story.config, classes, width, len(CLINICS))
    recorded = {name: read_contributions(folder, run) for name, folder in story.folders.items()}
    state = learner.start()
    for position, round_ in enumerate(learner.rounds):
        sums = []
        for name in CLINICS:
            training = story.samples[name]["train"]
            wanted = recorded[name][0 if everybody else position].patients["train"]
            names = pseudonyms(story.folders[name].key, training.patients.tolist())
            part = training.take(np.isin(names, wanted))
            sums.append(learner.contributor(part).exact(round_, learner.query(round_, state)))
        total = {key: np.sum([each[key] for each in sums], axis=0) for key in sums[0]}
        state = learner.advance(round_, state, total, len(CLINICS))
    return learner.model(state)


def test_ledger_audit_log_and_record_tell_the_same_story(story: Story) -> None:
    run = story.finished.record.run
    for folder in story.folders.values():
        entries = folder.ledger.entries()
        told = [e.fields for e in folder.audit.entries() if e.event == "release"]
        recorded = read_contributions(folder, run)
        assert len(told) == len(recorded) == len(story.finished.record.participation)
        for line, contribution in zip(told, recorded, strict=True):
            assert (line["round"], line["attempt"]) == (contribution.round, contribution.attempt)
            assert line["patients"] == sum(map(len, contribution.patients.values()))
            mine = [entries[at] for at in contribution.entries]
            assert line["releases"] == [entry.name for entry in mine]
            assert {entry.binding.round for entry in mine} == {contribution.round}
            assert folder.ledger.passed(Mark(line["entries"], line["head"]))
        assert sum(len(each.patients.get("train", ())) > 0 for each in recorded) == 5


def test_a_record_that_was_cut_short_or_put_back_does_not_agree(
    story: Story, tmp_path: Path
) -> None:
    run, place = story.finished.record.run, tmp_path / "work"
    shutil.copytree(story.config.work_dir, place, symlinks=True)
    folder = open_folder(place / "clinics" / CLINICS[0])
    assert require_agreement(folder) == len(story.finished.record.participation)
    record = folder.run(run) / "contributions.journal"
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(IntegrityError, match="record of contributions"):
        require_agreement(folder)


def test_who_never_agreed_is_nowhere_and_the_clinics_log_says_why(
    story: Story, consenting: Consenting
) -> None:
    manifest = pd.read_csv(consenting.root / "manifest.csv", dtype=str)
    home = manifest.drop_duplicates("patient_id").set_index("patient_id")["clinic"]
    refused: dict[str, dict[str, int]] = {}
    for name, folder in story.folders.items():
        contributions = read_contributions(folder, story.finished.record.run)
        names = {p for each in contributions for split in each.patients.values() for p in split}
        assert not names & set(pseudonyms(folder.key, list(consenting.refused)))
        (told,) = (
            e.fields
            for e in folder.audit.entries()
            if e.event == "admission" and e.fields["run"] == story.finished.record.run
        )
        refused[name] = told["refused"]
    expected: dict[str, dict[str, int]] = {name: {} for name in CLINICS}
    for patient, reason in consenting.refused.items():
        expected[home[patient]][reason] = expected[home[patient]].get(reason, 0) + 1
    assert refused == expected


def test_the_report_says_consent_and_not_how_many_refused(story: Story) -> None:
    record = story.finished.record
    assert [stage.name for stage in record.cohort_flow] == ["test"]
    assert {split for cell in record.cohort_table for split in cell.num_patients} == {"test"}
    assert record.admissions is None  # nothing is promised here, so that no count is noised
    assert "not shown" in record.data["patients"]
    html = (story.finished.folder / "report.html").read_text()
    assert "recorded consent" in html
    for reason in ("not yet valid", "purpose not covered", "no consent"):
        assert reason not in html


def test_an_evaluation_asks_the_same_registers_and_knows_the_runs_own_patients(
    story: Story, consenting: Consenting
) -> None:
    run = story.finished.record.run
    done = evaluate_run(run, consenting.root, work_dir=story.config.work_dir)
    assert "own test patients" in done.record.data["name"]
    assert done.record.overall.num_patients == story.finished.record.overall.num_patients
    for folder in story.folders.values():
        (*_, told) = (e for e in folder.audit.entries() if e.event == "admission")
        assert (told.fields["run"], set(told.fields["admitted"])) == (run, {"consent"})


def test_no_digest_of_a_private_manifest_leaves(story: Story, consenting: Consenting) -> None:
    plain = hashlib.sha256((consenting.root / "manifest.csv").read_bytes()).hexdigest()
    for path in story.finished.folder.rglob("*"):
        if path.is_file():
            assert plain.encode() not in path.read_bytes(), path.name


def test_a_run_without_any_consent_is_refused_and_logged(
    consenting: Consenting, tmp_path: Path
) -> None:
    config = settings(consenting.root, tmp_path, "federation=centralised")
    with pytest.raises(PolicyError) as refusal:
        run_config(config)
    assert refusal.value.exit_code == 3
    told = open_folder(tmp_path / "clinics" / "pooled").audit.entries()
    assert told[-1].event == "refusal"
    assert told[-1].fields["reason"] == "consent"
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("term", "change"),
    [
        ("trust", "clinic.policy.trust=[local]"),
        ("purpose", "clinic.policy.purposes=[research]"),
        ("experiment", "clinic.policy.experiments=[another]"),
        ("patients", "clinic.policy.least_patients=1000"),
        ("clinics", "clinic.policy.least_clinics=3"),
        ("epsilon_per_run", "clinic.policy.privacy.max_epsilon_per_run=2"),
        ("fields", "clinic.policy.fields=[age]"),
    ],
)
def test_a_policy_that_says_no_stops_the_run_before_any_image_is_read(
    warm_place: Path, tmp_path: Path, term: str, change: str
) -> None:
    place = tmp_path / "work"
    place.mkdir()
    (place / "cohorts").symlink_to((warm_place / "cohorts").resolve())
    config = load_config("quickstart", (*SMALL, f"work_dir={place}", change))
    with pytest.raises(RefusedError) as refusal:
        run_config(config)
    assert refusal.value.exit_code == 3
    assert any(line.startswith(term) for line in refusal.value.details), refusal.value.details
    (told,) = {
        tuple(e.fields["terms"])
        for path in (place / "clinics").iterdir()
        if path.is_dir()
        for e in open_folder(path).audit.entries()
        if e.event == "run refused"
    }
    assert told == (term,)
    assert not list(place.rglob("inspections.sealed"))
    assert not list(place.rglob("ledger.jsonl"))
