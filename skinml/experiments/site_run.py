"""A real clinic's part of a run: its samples made ready, its side opened, its traces removed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import log_end, log_start
from skinml.config import RunConfig, parse_config
from skinml.data.settings import PartitionSettings
from skinml.durable import read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.experiments.admissions import store_standings
from skinml.experiments.approval import first_round_left
from skinml.experiments.cohorts import gather
from skinml.experiments.gates import Site
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.samples import (
    drop_samples,
    grounds_by_split,
    has_samples,
    prepare_samples,
    require_one_view,
    store_samples,
)
from skinml.experiments.sealed_book import SealedBook
from skinml.experiments.sites import Terms
from skinml.experiments.statistics_rows import list_patients, samples_of
from skinml.experiments.workspace import TERMS, Workspace
from skinml.privacy.plan import admissions_release
from skinml.records import EVERY_SPLIT, Labels

_WHAT = "terms of a run"


def prepare_site(
    folder: ClinicFolder,
    terms: Terms,
    data: Path,
    manifest: str = "manifest.csv",
    taxonomy: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a clinic's samples ready for a run; once done, asking again changes nothing.

    Args:
        folder: The clinic's folder.
        terms: What every node of the run knows, with the config that the clinic approved.
        data: The folder of the clinic's manifest and images.
        manifest: The manifest's name.
        taxonomy: The clinic's own words; None for the shipped ones.
        progress: Hears how far it is.

    Raises:
        BudgetExceededError, PolicyError: If the clinic's policy says no.
        DataError: If the data cannot be used.
        EnvironmentProblem: If something cannot be written.
        IntegrityError: If the folder was changed, or the terms are not those of before.
    """
    known = find_terms(folder, terms.run)
    if known == terms:
        return
    if known is not None:
        raise IntegrityError(
            rule=f"the terms under which clinic {folder.name} made ready for the run",
            got="others",
            do="Submit a new run.",
        )
    config, watcher = _own_config(terms, data, manifest, taxonomy), progress or Silence()
    require_one_view(config)
    site = Site(folder, len(terms.clinics), terms.coordinator)
    if config.statistics is not None:
        _store_listed(config, folder, terms, site, watcher)
        _note_ready(folder, terms, counts=True)
        return
    left = first_round_left(folder, terms.run)
    gathered = gather(
        config, Workspace(folder.path), terms.run, watcher, from_round=left, site=site
    )
    samples, _ = prepare_samples(config, gathered, watcher)
    inputs = samples[folder.name]["train"].inputs
    width = inputs.shape[1] if inputs.ndim == 2 else 0
    if (gathered.cohort.labels, width) != (terms.classes, terms.num_features):
        raise _other_plan()
    everything = gathered.places == folder.name
    grounds = grounds_by_split(gathered.cohort, everything, config.purpose, folder.policy.licences)
    store_samples(folder, terms.run, samples[folder.name], grounds)
    if admissions_release(config.privacy) is not None:
        store_standings(folder, terms.run, gathered.cohort.admissions, config.federation.mode)
    _note_ready(folder, terms)


def _store_listed(
    config: RunConfig, folder: ClinicFolder, terms: Terms, site: Site, watcher: Progress
) -> None:
    """Seal the clinic's patients for a run that counts them; no picture is opened."""
    listed = list_patients(config, Workspace(folder.path), terms.run, watcher, site=site)
    if (listed.labels, 0) != (terms.classes, terms.num_features):
        raise _other_plan()
    samples, grounds = samples_of(config, listed, folder.name, folder)
    store_samples(folder, terms.run, {EVERY_SPLIT: samples}, {EVERY_SPLIT: grounds})


def _note_ready(folder: ClinicFolder, terms: Terms, *, counts: bool = False) -> None:
    log_start([folder], terms.run, simulated=terms.simulated, counts=counts)
    write_whole(folder.run(terms.run) / TERMS, json.dumps(asdict(terms)).encode(), _WHAT)


def _other_plan() -> IntegrityError:
    return IntegrityError(
        rule="the classes and the number of features that the coordinator plans with",
        got="others at this clinic",
        do="Use the same release of skinml and the same shared diagnoses everywhere.",
    )


def find_terms(folder: ClinicFolder, run: str) -> Terms | None:
    """Read under which terms a clinic is ready for a run.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        The terms; None where it is not ready.

    Raises:
        EnvironmentProblem: If they cannot be read.
    """
    path = folder.run(run) / TERMS
    if not path.exists():
        return None
    values = json.loads(read_whole(path, _WHAT))
    classes = values["classes"]
    return Terms(
        **{
            **values,
            "clinics": tuple(values["clinics"]),
            "classes": Labels(tuple(classes["names"]), tuple(classes["malignant"])),
            "registered": tuple((name, key) for name, key in values["registered"]),
        }
    )


def close_site(folder: ClinicFolder, run: str, outcome: str) -> None:
    """Remove what a clinic kept for a run; its predictions and caches stay.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        outcome: How it ended, a word of `audit_events.OUTCOMES`.

    Raises:
        EnvironmentProblem: If the log cannot be written.
    """
    if find_terms(folder, run) is not None:
        log_end([folder], run, outcome)
        (folder.run(run) / TERMS).unlink(missing_ok=True)
    SealedBook(folder, run).drop()
    with suppress(OSError):  # also those of a run that never was ready
        drop_samples(folder, run)


def holds_samples(folder: ClinicFolder, run: str) -> bool:
    """Tell whether a clinic keeps for a run what only a run that goes on needs.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        Whether `close_site` has something to remove.
    """
    place = folder.run(run)
    return (place / TERMS).exists() or has_samples(folder, run) or SealedBook(folder, run).exists


def last_used(folder: ClinicFolder, run: str) -> float:
    """Tell when a clinic last did something for a run.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        Seconds since 1970; 0 where it never did.
    """
    place = folder.run(run)
    times = [path.stat().st_mtime for path in place.glob("*")] if place.is_dir() else []
    return max(times, default=0.0)


def _own_config(terms: Terms, data: Path, manifest: str, taxonomy: Path | None) -> RunConfig:
    """Put the clinic's own files in the place of the coordinator's."""
    config = parse_config(json.loads(terms.config))
    own = {
        "source": "manifest",
        "root": data,
        "manifest": manifest,
        "consents": None,
        "partition": PartitionSettings(by="pooled"),  # all rows are its own, whatever they name
    }
    if taxonomy is not None:
        own["taxonomy"] = taxonomy
    return config.model_copy(update={"data": config.data.model_copy(update=own)})
