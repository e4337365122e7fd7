"""What a report's numbers are made from, put together once more: predictions, counts, ledgers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.virtual import find_virtual_among
from skinml.config import RunConfig, parse_config
from skinml.errors import ConfigError, EnvironmentProblem, SkinmlError
from skinml.experiments.compared import comparison_settings
from skinml.experiments.guarantee import guarantee_from, guarantee_told
from skinml.experiments.learners import build_learner, validation_release
from skinml.experiments.measured import Figures, figures_of
from skinml.experiments.mitigation import mitigation_values
from skinml.experiments.personal import personal_heads
from skinml.experiments.predictions_file import PredictionsSettings
from skinml.experiments.predictions_report import predictions_record
from skinml.experiments.released import DP_COUNTS, counts_release, released_gaps, released_results
from skinml.experiments.samples import read_predictions
from skinml.experiments.set_coverage import coverage_values
from skinml.experiments.table_batches import digest_of
from skinml.experiments.workspace import home_of
from skinml.experiments.yardsticks import pooled
from skinml.fairness.set_coverage import SetsCoverage, sets_coverage_from
from skinml.fairness.settings import FairnessSettings
from skinml.models.bundle import load_bundle
from skinml.privacy.ledger import Entry
from skinml.records import Guarantee, Predictions, RunRecord, last_attempts
from skinml.reports.document import record_to_json
from skinml.reports.verification import AGREES, DIFFERS, NOT_CHECKED, Check, compare
from skinml.seeding import Seeds
from skinml.training.learner import Learner

ANEW = "figures computed anew"
PRIVACY = "privacy figures computed anew"
MITIGATION = "mitigation after training computed anew"
SETS = "coverage of label sets computed anew"
OWN_HEADS = "the clinics' own heads computed anew"
ATTENDANCE = "who took part"
SETTINGS = "settings and threshold, against the model's own"
IMAGES = "yardsticks, patients by group, admissions and rounds' figures"
SCORES = "the threshold, from the validation scores"
# What of a record follows from predictions, or from released counts.
_COMPUTED = ("overall", "groups", "gaps", "curves")
_OTHER_CONFIG = "its config is of another release of skinml"
_NO_FOLDERS = "the clinics' folders are not here: name --work-dir"

Told = Mapping[str, Any]
"""The record of a report.json as plain values."""


def checks_from_file(
    record: RunRecord, told: Told, given: Path | None, folder: Path
) -> list[Check]:
    """Compute the figures of a report on a predictions file from that file.

    Args:
        record: The report's record.
        told: The same as plain values.
        given: The file, where the user names it.
        folder: The report's folder, where it is looked for too.

    Returns:
        Whether it is the same file, and whether the figures are.
    """
    columns = record.config.get("predictions", {})
    name = str(columns.get("path", ""))
    what = f"the predictions file {name}"
    places = [given] if given is not None else [Path(name), folder / name, folder.parent / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        hint = "it is not here: name it with --predictions"
        return [Check(what, NOT_CHECKED, hint), Check(ANEW, NOT_CHECKED, hint)]
    digest = digest_of(path)
    if digest != record.data.get("digest"):
        return [
            Check(what, DIFFERS, f"its digest is {digest[:19]}"),
            Check(ANEW, NOT_CHECKED, "the file is another one"),
        ]
    try:
        settings = PredictionsSettings.model_validate({**columns, "path": path})
        fairness = FairnessSettings.model_validate(record.config.get("fairness", {}))
        anew = predictions_record(settings, fairness=fairness, seed=record.seed)
    except (SkinmlError, ValidationError) as error:
        return [Check(ANEW, DIFFERS, f"{type(error).__name__} with the report's settings")]
    return [
        Check(what, AGREES, digest[:19]),
        compare(ANEW, _computed(told), _computed(_plain(anew))),
    ]


def checks_of_run(record: RunRecord, told: Told, folder: Path, clinics: Path) -> Iterator[Check]:
    """Compute a run's figures from what it left at the clinics and in its own folder.

    Args:
        record: The report's record.
        told: The same as plain values.
        folder: The report's folder.
        clinics: The folder of the virtual clinics.

    Yields:
        A check for each kind of figures, those that cannot be computed here included.
    """
    home = home_of(folder)
    evaluated = home != folder
    try:
        config = parse_config(dict(record.config))
    except ConfigError:
        yield Check(ANEW, NOT_CHECKED, _OTHER_CONFIG)
        yield Check(PRIVACY, NOT_CHECKED, _OTHER_CONFIG)
        return
    yield _settings(record, told, home)
    folders = clinic_folders(record, (clinics, home.parent.parent / "clinics"))
    counted = config.fairness.evaluation == DP_COUNTS and not evaluated
    if counted != (record.released_counts is not None):
        yield Check(ANEW, DIFFERS, "released counts, which its settings do not go with")
    elif counted:
        yield counts_check(config, record, told)
    elif evaluated:
        yield Check(_from_predictions(ANEW), NOT_CHECKED, "an evaluation keeps no predictions")
    elif folders is None:
        yield Check(_from_predictions(ANEW), NOT_CHECKED, _NO_FOLDERS)
    else:
        yield from _from_clinics(config, record, told, folders)
        yield from _label_sets(config, record, told, folders, home)
    if not counted:
        yield Check(IMAGES, NOT_CHECKED, "they need the images, or what no clinic keeps")
    yield Check(SCORES, NOT_CHECKED, "these left the clinics as a noised sum that nobody keeps")
    yield from _privacy(config, record, told, home, folders)


def _computed(told: Told) -> dict[str, Any]:
    return {name: told[name] for name in _COMPUTED}


def _plain(record: RunRecord) -> dict[str, Any]:
    """Write a record as report.json does."""
    return dict(record_to_json(record)["record"])


def _from_predictions(what: str) -> str:
    return f"{what} from the clinics' predictions"


def clinic_folders(record: RunRecord, roots: Sequence[Path]) -> dict[str, ClinicFolder] | None:
    """Open the folders of a simulation's clinics.

    Args:
        record: The report's record.
        roots: Folders in which they may be.

    Returns:
        The folders by name; None where one of them is not here.

    Raises:
        IntegrityError: If something in a folder was changed.
        PolicyError: If one is a real clinic's, which no simulation wrote.
    """
    found = {}
    for name in record.guarantee.clinics:
        folder = find_virtual_among(roots, name)
        if folder is None:
            return None
        found[name] = folder
    return found or None


def counts_check(config: RunConfig, record: RunRecord, told: Told) -> Check:
    """Compute the figures of a run from the counts that were released, which its record has.

    Args:
        config: The run's config.
        record: The report's record, with released counts.
        told: The same as plain values.

    Returns:
        The check.
    """
    what = f"{ANEW} from the released counts"
    clinics = tuple(sorted({name for each in record.participation for name in each.expected}))
    plan = counts_release(config, clinics)
    if plan is None or record.threshold is None or not record.participation:
        return Check(what, NOT_CHECKED, "the config names no release of counts")
    total = np.asarray(record.released_counts)
    words: Mapping[str, Any] = {
        "threshold": record.threshold,
        "classes": record.classes,
        "num_clinics": len(clinics),
        "num_present": len(record.participation[-1].took_part),
    }
    overall, groups = released_results(config, plan, total, **words)
    gaps = released_gaps(config, plan, total, **words)
    return _compared(what, Figures(overall, groups, gaps, ()), record, told)


def _compared(what: str, figures: Figures, record: RunRecord, told: Told) -> Check:
    anew = replace(record, **{name: getattr(figures, name) for name in _COMPUTED})
    return compare(what, _computed(told), _computed(_plain(anew)))


def _from_clinics(
    config: RunConfig, record: RunRecord, told: Told, folders: Mapping[str, ClinicFolder]
) -> Iterator[Check]:
    """Compute the figures of a simulation from the predictions that its clinics keep sealed."""
    what = _from_predictions(ANEW)
    present = record.participation[-1].took_part if record.participation else ()
    read = partial(_kept_predictions, record, folders, present)
    try:
        predictions = read("test")
    except (OSError, EnvironmentProblem):
        yield Check(what, NOT_CHECKED, "a clinic no longer keeps this run's predictions")
        return
    if predictions is None:
        yield Check(what, NOT_CHECKED, "nobody took part")
        return
    num = len(set(predictions.patients.tolist()))
    if num != record.overall.num_patients:
        erased = (
            f"predictions of {num:,} of {record.overall.num_patients:,} patients are still there: "
            "others were erased since"
        )
        yield Check(what, NOT_CHECKED, erased)
        if record.mitigation is not None:
            yield Check(MITIGATION, NOT_CHECKED, erased)
        return
    settings, seeds = comparison_settings(config.fairness, config.data), Seeds(config.seed)
    found = figures_of(predictions, threshold=record.threshold, settings=settings, seeds=seeds)
    yield _compared(what, found, record, told)
    if record.mitigation is not None and record.threshold is not None:
        values = mitigation_values(
            config, record.run, folders, present, record.classes, record.threshold
        )
        yield compare(
            MITIGATION, told["mitigation"], _plain(replace(record, mitigation=values))["mitigation"]
        )
    if record.personal_heads:
        heads = personal_heads(config, record.run, folders, present, record.classes)
        anew = _plain(replace(record, personal_heads=heads))
        yield compare(OWN_HEADS, told["personal_heads"], anew["personal_heads"])


def _label_sets(
    config: RunConfig,
    record: RunRecord,
    told: Told,
    folders: Mapping[str, ClinicFolder],
    home: Path,
) -> Iterator[Check]:
    """Compute how often label sets held the truth from the model and the sealed predictions."""
    said = sets_coverage_from(record.label_sets) if record.label_sets is not None else None
    if said is None or said.left_out or not record.participation:
        return
    if not (home / "model").is_dir():
        yield Check(SETS, NOT_CHECKED, "the model is not here")
        return
    try:
        values = coverage_values(
            config,
            record.run,
            folders,
            record.participation[-1],
            record.classes,
            load_bundle(home / "model").spec.label_sets,
            private=False,
        )
    except (OSError, EnvironmentProblem):
        yield Check(SETS, NOT_CHECKED, "a clinic no longer keeps this run's predictions")
        return
    if values is not None and _fewer(said, sets_coverage_from(values)):
        yield Check(SETS, NOT_CHECKED, "patients were erased since")
        return
    anew = _plain(replace(record, label_sets=values))
    yield compare(SETS, told["label_sets"], anew["label_sets"])


def _fewer(said: SetsCoverage, found: SetsCoverage) -> bool:
    """Whether predictions of fewer patients are there than a report counts, and of no more."""
    before, now = (
        {each.group: (each.validation, each.test) for each in (*m.by_group, *m.one_limit)}
        for m in (said, found)
    )
    sizes = [(before.get(name, (0, 0)), now.get(name, (0, 0))) for name in {*before, *now}]
    pairs = [pair for one, other in sizes for pair in zip(one, other, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _kept_predictions(
    record: RunRecord, folders: Mapping[str, ClinicFolder], present: Sequence[str], split: str
) -> Predictions | None:
    parts = {
        name: read_predictions(folders[name], record.run, split, record.classes) for name in present
    }
    return pooled(parts) if parts else None


def _privacy(
    config: RunConfig,
    record: RunRecord,
    told: Told,
    home: Path,
    folders: Mapping[str, ClinicFolder] | None,
) -> Iterator[Check]:
    """Compute a run's promise from the ledgers, or from who was asked where they are elsewhere."""
    ledgers = {name: folder.ledger.entries() for name, folder in (folders or {}).items()}
    # What the ledgers say counts, not what the report says of itself.
    here = any(each.binding.run == record.run for held in ledgers.values() for each in held)
    simulated = record.guarantee.simulated or here
    what = f"{PRIVACY} from the {'ledgers' if simulated else 'plan and from who was asked'}"
    if simulated and not ledgers:
        yield Check(what, NOT_CHECKED, _NO_FOLDERS)
        return
    if not (home / "model").is_dir():
        yield Check(what, NOT_CHECKED, "the model, whose size it depends on, is not here")
        return
    learner, validation = _learner(config, record, home), validation_release(config)
    if not simulated:
        participation = record.participation
        promised = guarantee_told(config, record.run, participation, learner, validation)
        yield _promised(what, promised, record, told)
        yield Check(ATTENDANCE, NOT_CHECKED, "the ledgers are at the clinics")
        return
    read = {name: _as_read(record, name, entries) for name, entries in ledgers.items()}
    promised = guarantee_from(config, record.run, read, learner, validation)
    yield _promised(what, promised, record, told)
    yield attendance_check(record, ledgers)


def _learner(config: RunConfig, record: RunRecord, home: Path) -> Learner:
    bundle = load_bundle(home / "model")
    head = config.model.kind == "linear_head"
    num_features = len(bundle.arrays["centre"]) if head else 0
    return build_learner(config, record.classes, num_features, len(record.guarantee.clinics))


def _settings(record: RunRecord, told: Told, home: Path) -> Check:
    """Hold settings and threshold against those that the saved model carries."""
    if not (home / "model").is_dir():
        return Check(SETTINGS, NOT_CHECKED, "the model is not here")
    spec = load_bundle(home / "model").spec
    own = _plain(replace(record, config=spec.config, threshold=spec.threshold))
    names = ("config", "threshold")
    return compare(SETTINGS, {n: told[n] for n in names}, {n: own[n] for n in names})


def _as_read(record: RunRecord, name: str, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Leave out what a ledger was charged for after the report was made, and nothing before."""
    own = [at for at, each in enumerate(entries, 1) if each.binding.run == record.run]
    said = record.guarantee.clinics[name].num_read  # None: of an earlier release
    return entries[: max(said or 0, *own, 0)]


def _promised(what: str, promised: Guarantee, record: RunRecord, told: Told) -> Check:
    said = record.guarantee.clinics
    clinics = {
        name: spend if said[name].num_read is not None else replace(spend, num_read=None)
        for name, spend in promised.clinics.items()
    }
    anew = replace(record, guarantee=replace(promised, clinics=clinics))
    return compare(what, told["guarantee"], _plain(anew)["guarantee"])


def attendance_check(record: RunRecord, ledgers: Mapping[str, Sequence[Entry]]) -> Check:
    """Hold who took part against the ledgers: nobody is in a sum without having been charged.

    Whoever was asked stands in every line of a ledger, and who of them is in no sum is missing.

    Args:
        record: The report's record.
        ledgers: Each clinic's entries by name.

    Returns:
        The check.
    """
    what = f"{ATTENDANCE}, against the ledgers"
    charged = {
        (name, each.binding.round, each.binding.attempt): each.binding.participants
        for name, entries in ledgers.items()
        for each in entries
        if each.binding.run == record.run
    }
    said = [(name, each) for each in record.participation for name in each.took_part]
    for name, each in said:
        asked = charged.get((name, each.round, each.attempt))
        at = f"round {each.round}, attempt {each.attempt}"
        if asked is None:
            return Check(what, DIFFERS, f"{name} was not charged for {at}")
        if set(asked) != set(each.expected):
            return Check(what, DIFFERS, f"others were asked in {at}")
    for each in record.participation:
        if set(each.missing) != set(each.expected) - set(each.took_part):
            return Check(what, DIFFERS, f"who is missing from round {each.round}")
    if record.complete != all(not each.missing for each in last_attempts(record.participation)):
        return Check(what, DIFFERS, "whether it is complete")
    return Check(what, AGREES, f"{len(said):,} parts in sums")
