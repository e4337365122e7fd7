"""`skinml clinic check`: is this data set ready, may it be used, and what could it tell?"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from skinml.clinic.check_consents import consent_cover, consent_findings
from skinml.clinic.check_images import image_findings
from skinml.clinic.check_machine import (
    Measure,
    Moment,
    clock_finding,
    disk_finding,
    pace_finding,
)
from skinml.clinic.check_tones import tone_cover, tone_findings
from skinml.clinic.findings import (
    CheckReport,
    ConsentCover,
    Finding,
    ToneCover,
    counted,
    of_error,
    urgent_first,
)
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.imported_data import imported_manifest
from skinml.data.settings import ImageLimits, LeakageSettings, SplitFractions
from skinml.data.splits import assign_splits
from skinml.errors import DataError, EnvironmentProblem, PolicyError
from skinml.stewardship.admissibility import admissible
from skinml.stewardship.licences import LICENCES

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.images import Inspection
    from skinml.data.manifest import Manifest
    from skinml.data.sealed_images import ImageFolder
    from skinml.records import StrArray
    from skinml.stewardship.admissibility import Consents

_MEASURED_IMAGES = 32
_UNMAPPED = "words that the taxonomy maps"  # the rule of `read_manifest` for them


class Progress(Protocol):
    """Hears how far a check is."""

    def begin(self, stage: str, total: int) -> None:
        """Begin a stage."""

    def reached(self, done: int) -> None:
        """Hear how many steps of the stage are done."""


@dataclass(frozen=True)
class Request:
    """What to check, and for what.

    Attributes:
        data: The folder of the manifest and its images.
        clinic: The clinic's name.
        place: The clinic's folder.
        purposes: The purposes that its policy allows; at least one.
        purpose: The one that the images are looked at for, among them.
        least_patients: Training patients that the policy asks for.
        manifest: The manifest's name inside the folder.
        taxonomy: The clinic's own words; None for the shipped ones.
        split_key: The key that the experiment divides patients by.
        fractions: How the experiment divides them.
        limits: What an image file may ask of this machine.
        leakage: When two pictures count as look-alikes.
        imported: The opened folder whose imported pictures are checked instead of `data`.
    """

    data: Path
    clinic: str
    place: Path
    purposes: tuple[str, ...]
    purpose: str
    least_patients: int = 1
    manifest: str = "manifest.csv"
    taxonomy: Path | None = None
    split_key: str = "skinml-1"
    fractions: SplitFractions = field(default_factory=SplitFractions)
    limits: ImageLimits = field(default_factory=ImageLimits)
    leakage: LeakageSettings = field(default_factory=LeakageSettings)
    imported: ClinicFolder | None = None
    licences: tuple[str, ...] = LICENCES


def check(
    request: Request,
    consents: Consents | None,
    *,
    day: datetime.date,
    clocks: Callable[[], Moment],
    measure: Measure | None = None,
    known: Mapping[str, Inspection] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look at a data set from all sides before a run does.

    Args:
        request: What to check.
        consents: The clinic's register; None where there is none.
        day: The day to judge consents for.
        clocks: Reads both clocks.
        measure: Measures this machine on some of the images; None leaves the time out.
        known: Inspections of earlier looks by digest; their images are not decoded again.
        progress: Hears how far it is.

    Returns:
        What was found. A problem of the data is a finding and no error.

    Raises:
        ConfigError: If the taxonomy is at fault.
        IntegrityError: If the consent register was changed.

    Guarantees:
        Beyond who may be used for what, only images and rows that may be used for the purpose
        are looked at. Nothing is written.
    """
    hear = progress or _Silent()
    before = clocks()
    seen = _look(request, consents, day, measure, known or {}, hear)
    machine = [
        disk_finding(request.place, seen.num_images),
        clock_finding(before, clocks(), _written(request.place)),
    ]
    return CheckReport(
        clinic=request.clinic,
        day=day,
        purpose=request.purpose,
        num_images=seen.num_images,
        num_patients=seen.num_patients,
        findings=urgent_first([*seen.findings, *machine]),
        tones=seen.tones,
        consents=seen.consents,
    )


@dataclass(frozen=True)
class _Seen:
    """What the data told, as far as they could be looked at."""

    findings: tuple[Finding, ...]
    consents: tuple[ConsentCover, ...] = ()
    tones: tuple[ToneCover, ...] = ()
    num_images: int = 0
    num_patients: int = 0


def _look(
    request: Request,
    consents: Consents | None,
    day: datetime.date,
    measure: Measure | None,
    known: Mapping[str, Inspection],
    progress: Progress,
) -> _Seen:
    """Look at the manifest, then at consents, then at what may be used."""
    if request.imported is None and not (request.data / request.manifest).is_file():
        return _Seen((_no_list(request),))
    waiting = _about_waiting(request.imported)
    try:
        manifest = _read(request, day)
    except DataError as error:
        return _Seen((*waiting, _about_broken_list(error)))
    frame = manifest.frame
    covers = consent_cover(frame, consents, request.purposes, day, request.licences)
    first = [*waiting, _about_list(manifest)]
    first += _about_sex(frame)
    first += consent_findings(covers, request.purpose, frame["patient_id"].nunique())
    try:
        frame = admissible(frame, request.purpose, day, consents, request.licences).frame
    except PolicyError:
        return _Seen(tuple(first), covers)  # the finding about consents says it
    frame = frame.reset_index(drop=True)
    splits = assign_splits(frame["patient_id"], request.split_key, request.fractions)
    training = int(frame["patient_id"][splits == "train"].nunique())
    tones = tone_cover(frame, request.fractions.test)
    findings = [
        *first,
        _about_numbers(frame, training, request.least_patients),
        *tone_findings(frame, tones),
        *_pictures(request, manifest.root, frame, splits, known, progress),
        *_time(manifest.root, frame, training, measure, progress),
    ]
    num_patients = int(frame["patient_id"].nunique())
    return _Seen(tuple(findings), covers, tones, len(frame), num_patients)


def _read(request: Request, day: datetime.date) -> Manifest:
    # Imported here: it brings pandera along, which takes a second that other commands save.
    from skinml.data.manifest import read_manifest
    from skinml.data.taxonomy import load_taxonomy

    if request.imported is not None:
        taxonomy = load_taxonomy(request.taxonomy)
        return imported_manifest(request.imported, request.purpose, day, taxonomy)
    return read_manifest(
        request.data / request.manifest,
        root=request.data,
        taxonomy=load_taxonomy(request.taxonomy),
    )


def _no_list(request: Request) -> Finding:
    return Finding(
        "red",
        "List of images",
        f"There is no file {request.manifest} in the folder {request.data}.",
        "Write one, with a row an image and at least the columns image, patient_id and diagnosis; "
        "`skinml data prepare` writes it for published datasets.",
    )


def _about_broken_list(error: DataError) -> Finding:
    """Say words that nobody knows in words that everybody knows."""
    if error.rule != _UNMAPPED:
        return of_error("List of images", error)
    return Finding(
        "red",
        "Unknown words",
        f"The list uses {counted(len(error.details), 'word')} that skinml does not know. Until "
        "they are known the rest cannot be looked at.",
        "Correct them in the list, or say in a YAML file what they mean and name it with "
        "--taxonomy.",
        error.details,
    )


def _about_list(manifest: Manifest) -> Finding:
    rows = counted(len(manifest.frame), "image")
    patients = counted(int(manifest.frame["patient_id"].nunique()), "patient")
    found = f"{rows} of {patients}; every row keeps the rules and every word is known."
    if manifest.dropped_columns:
        # Names of columns are not repeated: a spreadsheet's header may hold anything.
        found += f" {counted(len(manifest.dropped_columns), 'column')} of the file is not used."
    return Finding("green", "List of images", found)


def _about_waiting(imported: ClinicFolder | None) -> list[Finding]:
    """Point out pictures that no run uses before a person has looked at them."""
    if imported is None:
        return []
    states = [each.state for each in imported.pictures.pictures().values()]
    number = states.count("to_review")
    if not number:
        return []
    them = (
        "waits for a person: nothing uses it"
        if number == 1
        else "wait for a person: nothing uses them"
    )
    found = f"{counted(number, 'picture')} {them} before somebody has looked."
    do = "Look, and accept, cover or reject: skinml clinic review --folder FOLDER"
    return [Finding("amber", "Review", found, do)]


def _about_sex(frame: pd.DataFrame) -> list[Finding]:
    """Point out patients whose rows say different things; a list may have mixed two of them."""
    if "sex" not in frame.columns:
        return []
    told = frame[~frame["sex"].fillna("").isin(("", "unknown"))]
    several = int((told.groupby("patient_id")["sex"].nunique() > 1).sum())
    if not several:
        return []
    found = f"The rows of {counted(several, 'patient')} do not agree on the sex."
    do = (
        "Look whether the list mixes two patients. To correct a picture: "
        "skinml clinic correct --field sex=VALUE --folder FOLDER"
    )
    return [Finding("amber", "One patient", found, do)]


def _about_numbers(frame: pd.DataFrame, training: int, least: int) -> Finding:
    topic = "Enough patients"
    malignant = int(frame.groupby("patient_id")["malignant"].any().sum())
    patients = int(frame["patient_id"].nunique())
    found = (
        f"{counted(patients, 'patient')} may be used, {malignant:,} of them with a malignant "
        f"lesion. {training:,} would train a model, the others test it."
    )
    if training < least:
        do = f"Your policy asks for {least:,} (least_patients): record more consents or patients."
        return Finding("red", topic, found, do)
    if malignant in (0, patients):
        return Finding("red", topic, found, "A model needs patients with and without malignancy.")
    return Finding("green", topic, found)


def _pictures(
    request: Request,
    root: ImageFolder,
    frame: pd.DataFrame,
    splits: StrArray,
    known: Mapping[str, Inspection],
    progress: Progress,
) -> list[Finding]:
    from skinml.data.images import inspect_images  # brings SciPy along

    rows = frame["row"].tolist()
    progress.begin("reading images", len(frame))
    try:
        inspections = inspect_images(
            frame["image"].tolist(),
            root,
            request.limits,
            known,
            progress.reached,
            rows=rows,
        )
    except DataError as error:
        return [of_error("Image files", error)]
    readable = Finding("green", "Image files", "Every image can be read.")
    patients = frame["patient_id"].to_numpy(dtype=str)
    distance = request.leakage.max_distance
    return [readable, *image_findings(inspections, patients, splits, rows, distance)]


def _time(
    root: ImageFolder,
    frame: pd.DataFrame,
    training: int,
    measure: Measure | None,
    progress: Progress,
) -> list[Finding]:
    """Measure on images spread over the whole list."""
    if measure is None:
        return []
    spread = np.linspace(0, len(frame) - 1, min(_MEASURED_IMAGES, len(frame))).astype(int)
    paths = [root / image for image in frame["image"].iloc[spread]]
    progress.begin("measuring this machine", 1)
    try:
        pace = measure(paths, training)
    except (EnvironmentProblem, DataError) as error:
        return [of_error("Time", error, "amber")]
    progress.reached(1)
    return [pace_finding(pace, len(frame))]


def _written(place: Path) -> list[float]:
    """When the clinic's own files were last written; caches and runs are left out, being many."""
    return [path.stat().st_mtime for path in place.glob("*") if path.is_file()]


class _Silent:
    """Reports to nobody."""

    def begin(self, stage: str, total: int) -> None:
        """Say nothing."""

    def reached(self, done: int) -> None:
        """Say nothing."""
