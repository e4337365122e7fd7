"""Neighbouring cohorts for a replay: the manifest written again without one patient, and so on.

Only admitted patients are taken, a few of each kind and clinic, and everything lies in a folder of
its own that is removed afterwards: no ledger of the working folder is touched, nothing leaves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from skinml.config import RunConfig
from skinml.data.cohort import Cohort, build_cohort
from skinml.data.manifest_rules import FIRST_ROW
from skinml.data.sealed_images import require_folder
from skinml.errors import DataError, EnvironmentProblem
from skinml.experiments.cohorts import open_manifest
from skinml.experiments.gates import POOLED, Gates
from skinml.experiments.progress import Progress
from skinml.experiments.workspace import Workspace
from skinml.privacy.settings import BudgetSettings
from skinml.seeding import Seeds
from skinml.stewardship.days import this_day

# Patients of each label, clinic and split that take part: two may be missing at once, and each
# clinic must still have two training patients and two classes.
_PATIENTS = {"train": 4, "validation": 2, "test": 1}
COPIES = 16
_DATA = "data"
_SIDECAR = "sidecar.yaml"


@dataclass(frozen=True)
class Side:
    """One cohort of a replay.

    Attributes:
        config: The run's config, with the side's manifest and working folder.
    """

    config: RunConfig


@dataclass(frozen=True)
class Sides:
    """The cohorts of a replay; each differs from the whole one by one or two patients' records.

    Attributes:
        whole: Everybody.
        without: Without one patient, for each patient that was tried.
        copied: With all images of the first of these patients 16 times.
        without_second: Without another patient of the first one's clinic.
        without_both: Without the first and that other one.
    """

    whole: Side
    without: tuple[Side, ...]
    copied: Side
    without_second: Side
    without_both: Side


def make_sides(
    config: RunConfig, folder: Path, run: str, num_probes: int, progress: Progress
) -> Sides:
    """Write the manifests of a replay.

    The patients that are tried: one of training, and where there is one, one of validation, one of
    training at another clinic and one of test.

    Args:
        config: The run's config.
        folder: An empty folder, on the same disk as the images if possible.
        run: An id for the clinics' logs.
        num_probes: How many patients are tried at most.
        progress: Hears how far the drawing of a synthetic cohort is.

    Returns:
        The sides.

    Raises:
        BudgetExceededError, PolicyError: If a clinic's policy says no, or nobody's data may be
            used.
        ConfigError, DataError: If the data or their settings are at fault, or the cohort is too
            small for a replay.
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If a clinic's folder was changed.
    """
    cohort, places = _admitted(config, run, progress)
    chosen = _some_patients(cohort, places)
    rows = _raw_rows(config, cohort, chosen)
    root = require_folder(cohort.root)
    _link_images(root, folder, rows["image"])
    _copy_beside(config, root, folder)
    first, second, others = _probes(cohort, places, chosen)

    def side(name: str, frame: pd.DataFrame) -> Side:
        return _write_side(config, folder, name, frame)

    ids = rows["patient_id"]
    return Sides(
        whole=side("whole", rows),
        without=tuple(
            side(f"without-{number}", rows[ids != patient])
            for number, patient in enumerate((first, *others)[:num_probes])
        ),
        copied=side("copied", _with_copies(rows, ids == first, folder)),
        without_second=side("without-second", rows[ids != second]),
        without_both=side("without-both", rows[(ids != first) & (ids != second)]),
    )


def _admitted(
    config: RunConfig, run: str, progress: Progress
) -> tuple[Cohort, Mapping[str, frozenset[str]]]:
    """Pass the gates as a run does, up to its images; tell at which clinics each patient is."""
    workspace, settings = Workspace(config.work_dir), config.data
    manifest = open_manifest(settings, workspace, progress)
    today = this_day()
    gates = Gates(config, workspace, run, manifest.root, today)
    seeds = Seeds(settings.seed)
    cohort = build_cohort(
        manifest, settings, seeds, purpose=config.purpose, day=today, doors=gates.door
    )
    places = cohort.items["clinic"].to_numpy(dtype=str)
    if config.federation.mode == "centralised":
        places = np.full(len(places), POOLED)
    gates.require(cohort, places.tolist())
    found: dict[str, frozenset[str]] = {}
    for patient, place in zip(cohort.items["patient_id"].astype(str), places, strict=True):
        found[patient] = found.get(patient, frozenset()) | {str(place)}
    return cohort, found


def _some_patients(cohort: Cohort, places: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Take a few patients of each label, clinic and split, those with most items first."""
    items = cohort.items.assign(patient_id=cohort.items["patient_id"].astype(str))
    by_patient = items.groupby("patient_id").agg(
        split=("split", "first"), label=("label", "first"), size=("label", "size")
    )
    by_patient["place"] = [" ".join(sorted(places[patient])) for patient in by_patient.index]
    ordered = by_patient.sort_values("size", ascending=False, kind="stable")
    chosen: set[str] = set()
    for (_, split, _), group in ordered.groupby(["place", "split", "label"]):
        chosen.update(group.index[: _PATIENTS[str(split)]].tolist())
    return frozenset(chosen)


def _probes(
    cohort: Cohort, places: Mapping[str, frozenset[str]], chosen: frozenset[str]
) -> tuple[str, str, tuple[str, ...]]:
    """Choose who is taken away: two of one clinic's training patients, and one each of others."""
    items = cohort.items.assign(patient_id=cohort.items["patient_id"].astype(str))
    items = items[items["patient_id"].isin(chosen)]
    sizes = items.groupby("patient_id").size().sort_values(ascending=False, kind="stable")
    splits = items.groupby("patient_id")["split"].first()
    training = [patient for patient in sizes.index if splits[patient] == "train"]
    first = training[0]
    same = [each for each in training[1:] if places[each] == places[first]]
    if not same:
        raise DataError(
            rule="a clinic with two training patients of a kind",
            got="none",
            do="Replay an experiment with more patients.",
        )
    elsewhere = [each for each in training if places[each] != places[first]]
    validation, test = (
        [each for each in sizes.index if splits[each] == split] for split in ("validation", "test")
    )
    candidates = [validation, elsewhere, test]
    return first, same[0], tuple(found[0] for found in candidates if found)


def _raw_rows(config: RunConfig, cohort: Cohort, chosen: frozenset[str]) -> pd.DataFrame:
    """Read the chosen patients' rows of the manifest's own text, with the images that were used."""
    path = require_folder(cohort.root) / config.data.manifest
    if path.suffix == ".parquet":
        raw = pd.read_parquet(path).astype(object)
        raw = raw.where(raw.notna(), "").astype(str)
    else:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    used = cohort.images[cohort.images["patient_id"].astype(str).isin(chosen)]
    rows = raw.iloc[sorted(used["row"] - FIRST_ROW)].reset_index(drop=True)
    return rows.map(lambda cell: str(cell).strip())


def _link_images(source: Path, folder: Path, images: Iterable[str]) -> None:
    """Let the replay's folder have the images without a second copy of their bytes."""
    for image in images:
        _link(source / image, folder / _DATA / image)


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
    except OSError as error:
        raise _unwritable(error) from error


def _with_copies(rows: pd.DataFrame, own: pd.Series[bool], folder: Path) -> pd.DataFrame:
    """Give a patient every image 16 times, under names and lesions of their own."""
    parts = [rows]
    for number in range(1, COPIES):
        copies = rows[own].copy()
        copies["image"] = [_copy_name(image, number) for image in copies["image"]]
        if "lesion_id" in copies:
            named = copies["lesion_id"] != ""
            copies.loc[named, "lesion_id"] += f"-copy-{number}"
        for image, copy in zip(rows[own]["image"], copies["image"], strict=True):
            _link(folder / _DATA / image, folder / _DATA / copy)
        parts.append(copies)
    return pd.concat(parts, ignore_index=True)


def _copy_name(image: str, number: int) -> str:
    path = Path(image)
    return str(path.with_name(f"{path.stem}-copy-{number}{path.suffix}"))


def _write_side(config: RunConfig, folder: Path, name: str, rows: pd.DataFrame) -> Side:
    """Write one side's manifest with the sidecar and consents of the original."""
    data = config.data
    root = folder / _DATA
    manifest = root / f"{name}.csv"
    try:
        rows.to_csv(manifest, index=False)
        if (root / _SIDECAR).exists():
            shutil.copyfile(root / _SIDECAR, manifest.with_suffix(".yaml"))
        (folder / name).mkdir()
    except OSError as error:
        raise _unwritable(error) from error
    # A dataset of which nobody was chosen cannot be asked for any more.
    where = {
        column: tuple(value for value in values if value in set(rows[column]))
        for column, values in data.where.items()
        if column in rows
    }
    # Ceilings are held by the gate of the whole cohort; these folders' ledgers begin empty.
    privacy = config.privacy.model_copy(
        update={"budget": BudgetSettings(epsilon=None, epsilon_per_year=None)}
    )
    policy = config.clinic.policy
    ceilings = {"max_epsilon_per_year": None, "max_epsilon_for_life": None}
    limits = policy.privacy.model_copy(update=ceilings)
    policy = policy.model_copy(update={"least_patients": 1, "privacy": limits})
    settings = {"source": "manifest", "root": root, "manifest": manifest.name, "where": where}
    return Side(
        config.model_copy(
            update={
                "work_dir": folder / name,
                "data": data.model_copy(update=settings),
                "privacy": privacy,
                "clinic": config.clinic.model_copy(update={"policy": policy}),
            }
        )
    )


def _copy_beside(config: RunConfig, root: Path, folder: Path) -> None:
    """Take what stands beside the manifest along: its sidecar and the table of consents."""
    sidecar = (root / config.data.manifest).with_suffix(".yaml")
    if sidecar.is_file():
        _link(sidecar, folder / _DATA / _SIDECAR)
    if config.data.consents is not None:
        _link(root / config.data.consents, folder / _DATA / config.data.consents)


def _unwritable(error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="a working folder that can be written",
        got=f"the folder of a replay ({error.strerror})",
        do="Check its permissions and the space on the disk, or choose another work_dir.",
    )
