"""The patients whom a run of statistics counts: one row each, at its clinic, behind its gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from skinml.clinic.erased import give_keys
from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.data.cohort import admitted_rows, classes_of, selected_rows
from skinml.data.tabulation import one_row_each, with_groups
from skinml.errors import ConfigError, IntegrityError, PolicyError
from skinml.experiments.cohorts import listed_rows, own_site, require_reach
from skinml.experiments.gates import Gates, Site
from skinml.experiments.learners import tables_of
from skinml.experiments.progress import Progress
from skinml.experiments.samples import Grounds, grounds_of_rows
from skinml.experiments.workspace import Workspace
from skinml.fairness.statistics_tables import TablesLayout
from skinml.records import EVERY_SPLIT, Labels, Samples, StrArray
from skinml.seeding import Seeds
from skinml.stewardship.admissibility import Admission
from skinml.stewardship.days import this_day


@dataclass(frozen=True, repr=False)
class Listed:
    """Who may be counted. Per patient: never log the frame.

    Attributes:
        items: One row a patient and clinic: the manifest's columns, those of `with_groups`, clinic
            and split, which is `records.EVERY_SPLIT`.
        labels: The classes of the config, which nothing is told apart by here.
        admissions: What each clinic admitted.
        places: (n,) the clinic that holds each.
        folders: The clinics' folders by name.
        private: Whether a row is under no licence that lets others read it.
        name: The data's name.
        unit: What patient_id stands for.
    """

    items: pd.DataFrame
    labels: Labels
    admissions: Mapping[str, Admission]
    places: StrArray
    folders: Mapping[str, ClinicFolder]
    private: bool
    name: str
    unit: str


def require_tables(config: RunConfig) -> TablesLayout:
    """Give the tables of a run that counts.

    Args:
        config: The run's config.

    Returns:
        The tables.

    Raises:
        ConfigError: If it trains a model.
    """
    found = tables_of(config)
    if found is None:
        raise ConfigError(
            rule="a config with a section statistics",
            got="none",
            do="Use skinml federation statistics.",
        )
    return found


def require_regions(config: RunConfig, clinics: Sequence[str]) -> None:
    """Refuse regions that are not made of a run's clinics, each once.

    Args:
        config: The run's config.
        clinics: The run's clinics.

    Raises:
        ConfigError: If one is in no region, or a region names another.
    """
    asked = config.statistics.regions if config.statistics else {}
    named = {name for members in asked.values() for name in members}
    if asked and named != set(clinics):
        raise ConfigError(
            rule=f"regions of all clinics, which are {', '.join(sorted(clinics))}",
            got=", ".join(sorted(named ^ set(clinics))) + " in none or unknown",
            do="Name each clinic in one region.",
        )


def list_patients(
    config: RunConfig,
    workspace: Workspace,
    run: str,
    progress: Progress,
    *,
    site: Site | None = None,
) -> Listed:
    """Pass every clinic's gate with the rows of a manifest, and choose one a patient.

    Args:
        config: The run's config, with a section statistics.
        workspace: Where clinic folders and synthetic cohorts are.
        run: The run's id.
        progress: Hears how far it is.
        site: The real clinic whose own patients are counted; None where the clinics are virtual.

    Returns:
        The patients.

    Raises:
        BudgetExceededError, PolicyError: If a clinic's policy says no, or nobody's data may be
            used.
        ConfigError, DataError: If the data or their settings are at fault.
        EnvironmentProblem: If the working folder cannot be written.
        IntegrityError: If a clinic's folder was changed.

    Guarantees:
        No image is opened.
    """
    tables, today = require_tables(config), this_day()
    site = site or own_site(config)
    manifest, settings = listed_rows(config, workspace, progress, site, today)
    gates = Gates(config, workspace, run, manifest.root, today, site=site)
    labels = classes_of(settings, manifest.taxonomy)
    try:
        frame, admissions, private = admitted_rows(
            manifest,
            selected_rows(manifest.frame, settings, strict=False),
            settings,
            labels,
            Seeds(settings.seed),
            purpose=config.purpose,
            day=today,
            doors=gates.door,
        )
    except PolicyError:
        gates.refuse()
        raise
    attributes = tuple(dict.fromkeys(name for each in tables.tables for name in each.attributes))
    frame["clinic"] = [gates.place(clinic) for clinic in frame["clinic"].astype(str)]
    grouped = with_groups(frame, attributes, settings, manifest.taxonomy)
    items = one_row_each(grouped, attributes, settings.split_key).assign(split=EVERY_SPLIT)
    places = items["clinic"].to_numpy(dtype=str)
    require_reach(config, items["patient_id"], places, private=private)
    listed = Listed(
        items=items,
        labels=labels,
        admissions=admissions,
        places=places,
        folders={},
        private=private,
        name=manifest.name,
        unit=manifest.unit,
    )
    folders = gates.require(listed, places.tolist())
    for name, folder in folders.items():
        own = set(items["patient_id"][places == name].astype(str))
        give_keys(folder, own, [config.purpose], today)
    return replace(listed, folders=folders)


def samples_of(
    config: RunConfig, listed: Listed, clinic: str, folder: ClinicFolder
) -> tuple[Samples, Grounds]:
    """Turn a clinic's patients into the cells that they are counted in.

    Args:
        config: The run's config.
        listed: Who may be counted.
        clinic: The clinic's name.
        folder: Its folder.

    Returns:
        One sample a patient, and on what each may be used.

    Raises:
        ConfigError: If the clinic is in no region.
        IntegrityError: If a patient has two rows.
    """
    tables = require_tables(config)
    own = listed.items[listed.places == clinic].reset_index(drop=True)
    patients = own["patient_id"].to_numpy(dtype=str)
    if len(np.unique(patients)) < len(patients):
        raise IntegrityError(
            rule=f"one row a patient at clinic {clinic}", got="two", do="Report this defect."
        )
    groups = {
        name: own[f"group.{name}"].to_numpy(dtype=str)
        for each in tables.tables
        for name in each.attributes
    }
    samples = Samples(
        inputs=tables.codes(groups, clinic),
        labels=np.zeros(len(own), dtype=np.int64),
        patients=patients,
    )
    return samples, grounds_of_rows(own, config.purpose, folder.policy.licences)
