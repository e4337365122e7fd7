"""From a manifest to the cohort of one question: who is in it, in which split, at which clinic."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skinml.data.groups import age_bands, binned, require_one_scale
from skinml.data.partitions import assign_clinics, patient_labels
from skinml.data.splits import LEFT_OUT, divide
from skinml.errors import ConfigError, DataError
from skinml.records import (
    SPLITS,
    UNKNOWN_GROUP,
    CohortCell,
    CohortStage,
    IntArray,
    Labels,
    StrArray,
)
from skinml.stewardship.admissibility import Admission, Consents, admissible, under_licence
from skinml.stewardship.licences import LICENCES
from skinml.stewardship.policy import KEPT_FIELDS

if TYPE_CHECKING:
    from skinml.data.manifest import Manifest
    from skinml.data.sealed_images import ImageFolder
    from skinml.data.settings import DataSettings
    from skinml.data.taxonomy import Taxonomy
    from skinml.seeding import Seeds
    from skinml.stewardship.purposes import Purpose

MALIGNANCY = Labels(("benign", "malignant"), (False, True))
"""The classes of target malignant."""

_LEAST_PATIENTS = 2
_LEAST_CLASSES = 2
# Follows from the diagnosis where the manifest does not say it: not a field that can be left out.
_DERIVED = {"malignant"}
_TOGETHER = "these together count as one image in every figure"


@dataclass(frozen=True)
class Door:
    """What one clinic lets through to its manifest's rows.

    Attributes:
        consents: The clinic's register of consents; None: rows need a licence.
        fields: The columns that its policy lets be used beside those that always are.
        licences: The licences that its policy names; all where there is no policy.
    """

    consents: Consents | None = None
    fields: tuple[str, ...] = KEPT_FIELDS
    licences: tuple[str, ...] = LICENCES


Doors = Callable[[str, Sequence[str]], Door]
"""From a clinic's name and the patients of its rows to its door."""


def licensed_only(clinic: str, patients: Sequence[str]) -> Door:
    """Let only rows with a licence through: the door where no clinic has a register.

    Args:
        clinic: Not used.
        patients: Not used.

    Returns:
        The door.
    """
    del clinic, patients
    return Door()


@dataclass(frozen=True, repr=False)
class Cohort:
    """The images and items of one question. Per patient: never log the frames.

    Attributes:
        images: One row an image used: the manifest's columns and row number, and `label`,
            `clinic`, `split`.
        items: One row an item, which is what a model scores at once: patient_id, lesion_id,
            clinic, split, label (index into the classes), malignant, and a column for each group
            attribute with values such as "0-2", "50-69" or "unknown".
        views: (n_items, n_views) positions of each item's images in `images`.
        labels: The classes.
        unit: What patient_id stands for.
        root: The folder that the images are in, or a clinic's vault.
        flow: From the manifest to the splits, with what was left out and why; only "test" where
            the cohort is private.
        table: Patients and malignant items of each group in each split; only of "test" where the
            cohort is private, for those are what a simulation's figures tell anyway.
        name: The data's name.
        digest: SHA-256 over the manifest and the settings that choose from it; public data only.
        tone_scale: The scale of skin_tone; None where no image used has a tone.
        admissions: What each clinic admitted and on which basis. Never leaves the clinic.
        private: Whether the manifest has a row, used or not, that no licence lets others read, or
            none that its clinic's policy names.
    """

    images: pd.DataFrame
    items: pd.DataFrame
    views: IntArray
    labels: Labels
    unit: str
    root: ImageFolder
    flow: tuple[CohortStage, ...]
    table: tuple[CohortCell, ...]
    name: str
    digest: str
    tone_scale: str | None
    admissions: Mapping[str, Admission]
    private: bool

    @property
    def basis(self) -> str:
        """On which ground the rows are used, in words for the report."""
        return _basis(self.admissions)


def build_cohort(
    manifest: Manifest,
    settings: DataSettings,
    seeds: Seeds,
    *,
    purpose: Purpose,
    day: datetime.date,
    doors: Doors = licensed_only,
    labels: Labels | None = None,
    split: bool = True,
    every_class: bool = True,
) -> Cohort:
    """Choose, label, group and divide the rows of a manifest.

    Args:
        manifest: A checked manifest.
        settings: Which rows, which question, how to divide.
        seeds: The root of the data's random streams.
        purpose: What the rows are used for.
        day: The day of use, for the question whether the rows may be used.
        doors: What each clinic lets through; by default rows with a licence only.
        labels: The classes of a finished model; rows of other diagnoses are left out and counted.
            By default the settings' own target.
        split: False puts everything into "test" and asks nothing of the clinics.
        every_class: Whether each class needs an item, and each clinic two of them in training;
            False where the rows are one real clinic's own, which may have seen one class only.

    Returns:
        The cohort.

    Raises:
        ConfigError: If a class is no shared diagnosis, or a column is not in the manifest.
        DataError: If nothing is left, a class has no item, skin-tone scales are mixed, a value
            is in no bin, an item's images disagree, a patient would be in two splits, or, with
            split, a clinic has no training patient, only one, or, with every_class, only one
            class in training.
        PolicyError: If no row may be used for the purpose.

    Guarantees:
        A patient's split and made clinic do not depend on who else is in the manifest. No patient
        is in two splits, unless data.leakage.shared_units is report.
    """
    classes = labels or classes_of(settings, manifest.taxonomy)
    flow = [_stage("read from the manifest", manifest.frame)]
    frame = selected_rows(manifest.frame, settings, strict=split)
    flow.append(_stage("selected by data.where", frame, settings.where))
    frame = frame.assign(split=divide(frame, settings) if split else SPLITS[-1])
    frame, admissions, private = admitted_rows(
        manifest, frame, settings, classes, seeds, purpose=purpose, day=day, doors=doors
    )
    if any(admission.refused for admission in admissions.values()):
        flow.clear()  # how many were refused stays in the clinics' own logs
    flow.append(_stage("may be used", frame, _basis(admissions)))
    frame = frame[frame["label"] >= 0].reset_index(drop=True)
    flow.append(_stage("of the model's classes", frame, ", ".join(classes.names)))
    if frame.empty:
        raise _nothing_left(", ".join(classes.names))
    if (frame["split"] == LEFT_OUT).any():
        frame = frame[frame["split"] != LEFT_OUT].reset_index(drop=True)
        note = f"without training images of a {manifest.unit} that the published split tests"
        flow.append(_stage("of one part only", frame, note))
    tone_scale = require_one_scale(frame, settings)
    images, views = _join_views(frame, settings.views)
    if settings.views:
        flow.append(_stage("with every view", images, f"{', '.join(settings.views)}: {_TOGETHER}"))
    if images.empty:
        raise _nothing_left(f"lesions with the views {', '.join(settings.views)}")
    items = _items(images, views, settings, classes)
    flow += [_stage(name, images[images["split"] == name]) for name in SPLITS]
    if private:
        flow = [replace(flow[-1], note="how many are in the other splits stays at the clinics")]
    if split:
        if every_class:
            _require_classes(items, classes)
        least = _LEAST_CLASSES if every_class else 1
        _require_trainable(items, settings, classes, least, private=private)
    return Cohort(
        images=images,
        items=items,
        views=views,
        labels=classes,
        unit=manifest.unit,
        root=manifest.root,
        flow=tuple(flow),
        table=_table(items, settings, classes, SPLITS[-1:] if private else SPLITS),
        name=manifest.name,
        digest=_digest(manifest, settings, classes, purpose),
        tone_scale=tone_scale,
        admissions=admissions,
        private=private,
    )


def admitted_rows(
    manifest: Manifest,
    frame: pd.DataFrame,
    settings: DataSettings,
    classes: Labels,
    seeds: Seeds,
    *,
    purpose: Purpose,
    day: datetime.date,
    doors: Doors,
) -> tuple[pd.DataFrame, dict[str, Admission], bool]:
    """Let those of a manifest's rows through that may be used.

    Args:
        manifest: The manifest.
        frame: The rows that are asked for, see `selected_rows`.
        settings: How clinics are made.
        classes: What the column label is of.
        seeds: The root of the data's random streams.
        purpose: What the rows are used for.
        day: The day of use.
        doors: What each clinic lets through.

    Returns:
        The rows with columns label and clinic, what each clinic admitted, and whether a row of the
        manifest is under no licence that lets others read it.

    Raises:
        PolicyError: If no row may be used for the purpose.
    """
    frame = frame.assign(label=_label(frame, classes))
    frame["clinic"] = assign_clinics(frame, settings.partition, seeds)
    frame, admissions, public = _admitted(frame, doors, purpose, day)
    return frame, admissions, not (public and under_licence(manifest.frame).all())


def classes_of(settings: DataSettings, taxonomy: Taxonomy) -> Labels:
    """Name the classes that settings ask for, and which of them are malignant, without any data.

    Args:
        settings: The data settings.
        taxonomy: The diagnoses that are known.

    Returns:
        The classes.

    Raises:
        ConfigError: If one is no known diagnosis.
    """
    if settings.target == "malignant":
        return MALIGNANCY
    known = taxonomy.malignant
    unknown = [name for name in settings.classes if name not in known]
    if unknown:
        raise ConfigError(
            rule=f"data.classes among {', '.join(sorted(known))}",
            got=f"classes={', '.join(unknown)}",
            do="Use the shared names, or add them to a taxonomy of your own.",
        )
    return Labels(settings.classes, tuple(known[name] for name in settings.classes))


def _admitted(
    frame: pd.DataFrame, doors: Doors, purpose: Purpose, day: datetime.date
) -> tuple[pd.DataFrame, dict[str, Admission], bool]:
    """Ask each clinic about its own rows; blank the fields that its policy does not let through.

    Returns:
        What may be used, the admissions, and whether each row, admitted or not, is under a licence
        that its clinic's policy names: what a list says of itself makes no secret public.
    """
    admissions, parts, public = {}, [], True
    for clinic, rows in frame.groupby("clinic"):
        door = doors(str(clinic), rows["patient_id"].astype(str).tolist())
        admission = admissible(rows, purpose, day, door.consents, door.licences)
        public = public and bool(under_licence(rows, door.licences).all())
        part = admission.frame.copy()
        for field in set(KEPT_FIELDS) - set(door.fields) - _DERIVED:
            part[field] = np.nan if field == "age" else None
        admissions[str(clinic)] = admission
        parts.append(part)
    return pd.concat(parts).sort_index().reset_index(drop=True), admissions, public


def _basis(admissions: Mapping[str, Admission]) -> str:
    return "; ".join(sorted({admission.basis for admission in admissions.values()}))


def selected_rows(frame: pd.DataFrame, settings: DataSettings, *, strict: bool) -> pd.DataFrame:
    """Choose by data.where; with strict each value needs a row. Refuses when nothing is left."""
    for column, values in settings.where.items():
        if column not in frame.columns:
            raise ConfigError(
                rule=f"data.where with columns among {', '.join(frame.columns)}",
                got=f"where.{column}",
                do="Name one of the manifest's columns.",
            )
        cells = frame[column].astype(str)
        absent = [value for value in values if not (cells == value).any()]
        if strict and absent:
            raise DataError(
                rule=f"rows for every value of data.where.{column}",
                got=f"none for {', '.join(absent)}",
                do=f"Correct data.where.{column}, or take the value out.",
            )
        frame = frame[cells.isin(values)]
    if frame.empty:
        raise _nothing_left("data.where")
    return frame


def _label(frame: pd.DataFrame, classes: Labels) -> IntArray:
    """Give each row the index of its class, -1 where the model has none for it."""
    if classes.names == MALIGNANCY.names:
        return np.asarray(frame["malignant"], dtype=np.int64)
    index = {name: position for position, name in enumerate(classes.names)}
    return np.asarray(frame["diagnosis"].map(index).fillna(-1), dtype=np.int64)


def _join_views(frame: pd.DataFrame, modalities: tuple[str, ...]) -> tuple[pd.DataFrame, IntArray]:
    """Keep the images that make up items, and say which; a second image of a view is left out."""
    if not modalities:
        return frame, np.arange(len(frame))[:, None]
    known = frame[frame["modality"].isin(modalities) & frame["lesion_id"].notna()]
    # A lesion photographed at two clinics is an item at each: its images never travel.
    keys = ["clinic", "patient_id", "lesion_id"]
    firsts = known.drop_duplicates([*keys, "modality"]).reset_index(names="position")
    wide = firsts.pivot(index=keys, columns="modality", values="position")
    complete = wide.reindex(columns=list(modalities)).dropna().to_numpy(dtype=np.int64)
    # Items stand in the manifest's order.
    complete = complete[np.argsort(complete.min(axis=1))] if len(complete) else complete
    used, views = np.unique(complete, return_inverse=True)
    return frame.iloc[used].reset_index(drop=True), views.reshape(complete.shape)


def _items(
    images: pd.DataFrame, views: IntArray, settings: DataSettings, classes: Labels
) -> pd.DataFrame:
    labels = np.asarray(images["label"], dtype=np.int64)[views]
    mixed = int((labels != labels[:, :1]).any(axis=1).sum())
    if mixed:
        raise DataError(
            rule="one label for all views of a lesion",
            got=f"{mixed} lesions whose images have different ones",
            do="Correct the manifest's diagnosis or malignant.",
        )
    first = images.iloc[views[:, 0]].reset_index(drop=True)
    items = first[["patient_id", "lesion_id", "clinic", "split", "label"]].copy()
    items["malignant"] = np.asarray(classes.malignant, dtype=bool)[labels[:, 0]]
    for attribute in settings.groups:
        _fill_from_views(first, attribute, images, views)
        if attribute == "age_band":
            values = age_bands(first["age"], settings.age_bands)
        else:
            values = _text(first[attribute].fillna(UNKNOWN_GROUP))
        if attribute in settings.bins:
            values = binned(attribute, values, settings.bins[attribute])
        items[attribute] = values
    return items


def _fill_from_views(
    first: pd.DataFrame, attribute: str, images: pd.DataFrame, views: IntArray
) -> None:
    """Let a view that knows an attribute speak for the others: it is the lesion's."""
    column = "age" if attribute == "age_band" else attribute
    for view in range(1, views.shape[1]):
        other = images[column].iloc[views[:, view]].reset_index(drop=True)
        first[column] = first[column].where(first[column].notna(), other)


def _require_classes(items: pd.DataFrame, classes: Labels) -> None:
    present = set(items["label"])
    absent = [name for index, name in enumerate(classes.names) if index not in present]
    if absent:
        raise DataError(
            rule="at least one item of every class",
            got=f"none of {', '.join(absent)}",
            do="Add such items, or take the class out of data.classes.",
        )


def _require_trainable(
    items: pd.DataFrame,
    settings: DataSettings,
    classes: Labels,
    least_classes: int,
    *,
    private: bool,
) -> None:
    """Check that each clinic has something to learn from. Clinics' names are public.

    What a clinic has instead is told of public data only.
    """
    training = items[items["split"] == "train"]
    clinics = set(items["clinic"])
    if settings.partition.by in ("random", "dirichlet"):
        made = range(1, settings.partition.num_clinics + 1)
        clinics |= {f"{settings.partition.prefix}-{number}" for number in made}
    labels = pd.Series(patient_labels(training), index=training.index)
    for clinic in sorted(clinics):
        own = training[training["clinic"] == clinic]
        num_patients = own["patient_id"].nunique()
        if num_patients < _LEAST_PATIENTS:
            got = "fewer" if private else f"{num_patients}"
            raise _untrainable(clinic, f"{_LEAST_PATIENTS} training patients", got)
        # The class that training sees is the patient's, not the image's.
        present = sorted(set(labels[own.index]))
        if len(present) < least_classes:
            got = "fewer" if private else f"only {classes.names[present[0]]}"
            raise _untrainable(clinic, f"{least_classes} classes in training", got)


def _untrainable(clinic: str, rule: str, got: str) -> DataError:
    return DataError(
        rule=f"at least {rule} at clinic {clinic}",
        got=got,
        do="Add patients, leave the clinic out with data.where, or change data.partition.",
    )


def _nothing_left(by: str) -> DataError:
    return DataError(
        rule="images left to work with",
        got=f"none after choosing {by}",
        do="Check data.where, data.classes and data.views against the manifest.",
    )


def _stage(name: str, frame: pd.DataFrame, note: object = "") -> CohortStage:
    if isinstance(note, dict):
        note = "; ".join(f"{column}: {', '.join(values)}" for column, values in note.items())
    return CohortStage(name, len(frame), int(frame["patient_id"].nunique()), str(note))


def _table(
    items: pd.DataFrame, settings: DataSettings, classes: Labels, splits: Sequence[str]
) -> tuple[CohortCell, ...]:
    """Count patients and malignant items of each group in each split (Table 1)."""
    items = items[items["split"].isin(splits)]
    named = items.assign(label=np.asarray(classes.names)[items["label"]])
    cells = []
    for attribute in dict.fromkeys(("clinic", "label", *settings.groups)):
        of_group = sorted(named.groupby(attribute), key=lambda each: each[0] == UNKNOWN_GROUP)
        for group, rows in of_group:
            parts = {split: rows[rows["split"] == split] for split in splits}
            cells.append(
                CohortCell(
                    attribute=attribute,
                    group=str(group),
                    num_patients={
                        split: int(part["patient_id"].nunique()) for split, part in parts.items()
                    },
                    num_positives={
                        split: int(part["malignant"].sum()) for split, part in parts.items()
                    },
                )
            )
    return tuple(cells)


def _digest(manifest: Manifest, settings: DataSettings, classes: Labels, purpose: Purpose) -> str:
    chosen = {"where", "views", "partition", "seed", "split_key", "fractions"}
    if settings.split == "published":
        chosen |= {"split", "leakage"}
    choices = settings.model_dump(mode="json", include=chosen)
    text = json.dumps(
        [manifest.digest, manifest.taxonomy.version, classes.names, choices, purpose],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _text(values: Iterable[object]) -> StrArray:
    return np.asarray(list(values), dtype=np.str_)
