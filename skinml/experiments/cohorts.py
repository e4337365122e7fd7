"""From a config's data section to checked images, each at its clinic."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skinml.clinic.erased import give_keys
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.imported_data import imported_manifest, is_clinic_folder
from skinml.clinic.opening import open_at_screen
from skinml.config import RunConfig
from skinml.data.cohort import Cohort, build_cohort
from skinml.data.images import Inspection, inspect_images
from skinml.data.leakage import LeakageReport, audit_leakage
from skinml.data.manifest import Manifest, read_manifest
from skinml.data.sealed_arrays import read_patient_arrays, write_patient_arrays
from skinml.data.settings import DataSettings, PartitionSettings
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings, settings_digest
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import ConfigError, DataError, PolicyError
from skinml.experiments.approval import COORDINATOR
from skinml.experiments.gates import Gates, Site
from skinml.experiments.progress import Progress
from skinml.experiments.workspace import Workspace
from skinml.records import SPLITS, CohortStage
from skinml.seeding import Seeds
from skinml.stewardship.days import this_day
from skinml.stewardship.encryption import derive_key, keyed_digest

_INSPECTIONS = "inspections"


@dataclass(frozen=True, repr=False)
class Gathered:
    """A cohort whose images have been read once.

    Attributes:
        cohort: The cohort.
        places: (items,) the clinic that holds each item in this run: its own, or "pooled".
        folders: Each clinic's folder by name, in order.
        digests: (images,) SHA-256 of each image's file, 32 bytes each.
        taxonomy_version: What the manifest's words were translated with.
        manifest_digest: SHA-256 of the manifest's content; where it holds a clinic's own patients
            a digest under a clinic's key, for a plain one lets others confirm a guess.
        digest: The same of the cohort, see `skinml.data.cohort.Cohort.digest`.
        num_shared: Units in two splits, which data.leakage.shared_units=report lets pass.
    """

    cohort: Cohort
    places: np.ndarray[tuple[int], np.dtype[np.str_]]
    folders: Mapping[str, ClinicFolder]
    digests: tuple[bytes, ...]
    taxonomy_version: str
    manifest_digest: str
    digest: str
    num_shared: int = 0


def gather(
    config: RunConfig,
    workspace: Workspace,
    run: str,
    progress: Progress,
    *,
    from_round: int = 1,
    site: Site | None = None,
) -> Gathered:
    """Pass every clinic's gate; read, check, divide and audit the data of a run.

    Args:
        config: The run's config.
        workspace: Where clinic folders and synthetic cohorts are.
        run: The run's id.
        progress: Hears how far it is.
        from_round: The first round that is still to be done, of a run that is resumed.
        site: The real clinic whose own data are gathered; None where the clinics are virtual.

    Returns:
        The cohort with every clinic's folder opened.

    Raises:
        BudgetExceededError, PolicyError: If a clinic's policy says no, or nobody's data may be
            used.
        ConfigError, DataError: If the data or their settings are at fault.
        EnvironmentProblem: If the working folder cannot be written.
        IntegrityError: If a clinic's folder was changed.
    """
    single, today = site is None, this_day()
    site = site or own_site(config)
    manifest, settings = listed_rows(config, workspace, progress, site, today)
    gates = Gates(config, workspace, run, manifest.root, today, from_round=from_round, site=site)
    try:
        cohort = build_cohort(
            manifest,
            settings,
            Seeds(settings.seed),
            purpose=config.purpose,
            day=today,
            doors=gates.door,
            every_class=single,
        )
    except PolicyError:
        gates.refuse()
        raise
    clinics = cohort.items["clinic"].astype(str).tolist()
    places = np.array([gates.place(clinic) for clinic in clinics], dtype=str)
    require_reach(config, cohort.items["patient_id"], places, private=cohort.private)
    folders = gates.require(cohort, places.tolist())
    patients = cohort.items["patient_id"].to_numpy(dtype=str)
    for name, folder in folders.items():
        give_keys(folder, set(patients[places == name].tolist()), [config.purpose], today)
    inspections = _inspect(cohort, places, folders, settings, progress)
    audit = audit_leakage(
        inspections,
        cohort.images["patient_id"].to_numpy(dtype=str),
        cohort.images["split"].to_numpy(dtype=str),
        settings.leakage,
        rows=cohort.images["row"].tolist(),
    )
    cohort = replace(cohort, flow=_with_audit(cohort, audit))
    digests = tuple(bytes.fromhex(each.digest) for each in inspections)
    key = next(iter(folders.values())).key if cohort.private else None
    return Gathered(
        cohort=cohort,
        places=places,
        folders=folders,
        digests=digests,
        taxonomy_version=manifest.taxonomy.version,
        manifest_digest=public_digest(manifest.digest, key),
        digest=public_digest(cohort.digest, key),
        num_shared=audit.num_patients_shared,
    )


def listed_rows(
    config: RunConfig,
    workspace: Workspace,
    progress: Progress,
    site: Site | None,
    day: datetime.date,
) -> tuple[Manifest, DataSettings]:
    """Read the manifest of a run, or list what a clinic imported.

    Args:
        config: The run's config.
        workspace: Where synthetic cohorts are.
        progress: Hears how far it is.
        site: The real clinic whose own data are asked for, if it is one.
        day: The day of use.

    Returns:
        The rows, and the data settings; all imported rows are the clinic's own.

    Raises:
        DataError: If the rows break a rule.
        EnvironmentProblem: If a synthetic cohort cannot be written.
        IntegrityError: If the clinic's register of pictures was changed.
    """
    settings = config.data
    if site is None or not is_clinic_folder(site.folder.path, settings.root):
        return open_manifest(settings, workspace, progress), settings
    taxonomy = load_taxonomy(settings.taxonomy)
    listed = imported_manifest(site.folder, config.purpose, day, taxonomy)
    return listed, settings.model_copy(update={"partition": PartitionSettings(by="pooled")})


def own_site(config: RunConfig) -> Site | None:
    """Open the clinic whose imported pictures a run on this machine alone shall use.

    Args:
        config: The run's config.

    Returns:
        The clinic that `data.root` is the folder of; None where it is no clinic's folder.

    Raises:
        ConfigError: If the run would deal the clinic's patients out to others.
        EnvironmentProblem: If the folder cannot be unlocked.
        IntegrityError: If the folder was changed.
    """
    root = config.data.root
    if config.data.source != "manifest" or root is None or not is_clinic_folder(root):
        return None
    if config.federation.mode != "centralised":
        raise ConfigError(
            rule="federation=centralised where data.root is a clinic's own folder",
            got=f"federation={config.federation.mode}",
            do="Add federation=centralised: the clinic trains alone, under its own policy.",
        )
    return Site(open_at_screen(root.expanduser()), 1, COORDINATOR)


def public_digest(digest: str, key: bytes | None) -> str:
    """Turn a digest of a clinic's own data into one that may leave the clinic.

    Args:
        digest: The digest of the content.
        key: The clinic's key; None for public data, whose digest stays as it is.

    Returns:
        64 hexadecimal digits.
    """
    return digest if key is None else keyed_digest(derive_key(key, "digests"), digest.encode())


def _with_audit(cohort: Cohort, audit: LeakageReport) -> tuple[CohortStage, ...]:
    """Put what the audit let pass on record, before the splits that it looked at."""
    if cohort.private:
        return cohort.flow
    pairs = "1 pair" if audit.num_near_duplicates == 1 else f"{audit.num_near_duplicates} pairs"
    leak = f"{audit.num_patients_shared} {cohort.unit}s in two splits, " * (
        audit.num_patients_shared > 0
    )
    stage = CohortStage(
        "audited for leakage",
        len(cohort.images),
        int(cohort.images["patient_id"].nunique()),
        f"{leak}{pairs} of near-duplicates across splits, {audit.num_identical} of identical files "
        "within a patient",
    )
    before = len(cohort.flow) - len(SPLITS)
    return (*cohort.flow[:before], stage, *cohort.flow[before:])


def require_reach(
    config: RunConfig,
    patient_ids: Iterable[object],
    places: np.ndarray[tuple[int], np.dtype[np.str_]],
    *,
    private: bool,
) -> None:
    """Hold the public bound on clinics a patient where the unit is the whole patient.

    Args:
        config: The run's config.
        patient_ids: (n,) the patient of each item.
        places: (n,) the clinic that holds it.
        private: Whether the message may tell no number.

    Raises:
        DataError: If a patient is at more clinics than the bound.
    """
    if config.privacy.unit != "patient":
        return
    patients = np.array([str(each) for each in patient_ids], dtype=str)
    pairs = np.unique(np.stack([patients, places]), axis=1)
    _, reach = np.unique(pairs[0], return_counts=True)
    bound = config.privacy.max_clinics_per_patient
    if (reach > bound).any():
        raise DataError(
            rule=f"no patient at more than {bound} clinics (privacy.max_clinics_per_patient)",
            got="patients at more"
            if private
            else f"{int((reach > bound).sum())} patients at up to {int(reach.max())} clinics",
            do="Raise privacy.max_clinics_per_patient, or use privacy.unit=patient_within_clinic.",
        )


def open_manifest(settings: DataSettings, workspace: Workspace, progress: Progress) -> Manifest:
    """Read the manifest that the settings name; draw the synthetic cohort where they ask for it.

    Args:
        settings: The data section.
        workspace: Where synthetic cohorts are kept.
        progress: Hears how far the drawing is.

    Returns:
        The checked manifest.

    Raises:
        DataError: If it breaks a rule.
        EnvironmentProblem: If the cohort cannot be written.
    """
    root = _synthetic_root(settings, workspace, progress)
    if settings.source == "manifest":
        root = (settings.root or Path()).expanduser()
    if not (root / settings.manifest).is_file():
        raise DataError(
            rule=f"a manifest {settings.manifest} in the folder data.root",
            got=f"data.root={root} without it",
            do="Correct data.root, or write the manifest with `skinml data prepare`.",
        )
    return read_manifest(
        root / settings.manifest,
        root=root,
        unit=settings.unit,
        name=settings.name,
        taxonomy=load_taxonomy(settings.taxonomy),
        tone_scale=settings.tone_scale,
    )


def _synthetic_root(settings: DataSettings, workspace: Workspace, progress: Progress) -> Path:
    if settings.source != "synthetic":
        return Path()
    drawn = settings.synthetic or SyntheticSettings()
    folder = workspace.cohorts / f"synthetic-{settings_digest(drawn, settings.seed)}"
    if not folder.is_dir():
        progress.begin("drawing the synthetic cohort", drawn.num_patients)
        write_cohort(folder, drawn, settings.seed, lambda done, _: progress.reached(done))
    return folder


def image_positions(
    cohort: Cohort, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> list[int]:
    """Find the images of some items.

    Args:
        cohort: The cohort.
        chosen: (items,) mask.

    Returns:
        Positions in `cohort.images`, sorted.
    """
    return [int(position) for position in np.unique(cohort.views[chosen])]


def _inspect(
    cohort: Cohort,
    places: np.ndarray[tuple[int], np.dtype[np.str_]],
    folders: Mapping[str, ClinicFolder],
    settings: DataSettings,
    progress: Progress,
) -> list[Inspection]:
    """Read every clinic's images once; what is known of a file is kept sealed at its clinic."""
    images = cohort.images["image"].tolist()
    patients = cohort.images["patient_id"].astype(str).tolist()
    known = {name: read_inspections(folder) for name, folder in folders.items()}
    progress.begin("reading images", len(images))
    # All clinics in one pass, so that the broken files of all of them are told at once.
    found = inspect_images(
        images,
        cohort.root,
        settings.limits,
        _of_patients(set(patients), known.values()),
        progress.reached,
        rows=cohort.images["row"].tolist(),
    )
    for name, folder in folders.items():
        mine = image_positions(cohort, places == name)
        own = {(patients[at], found[at].digest): found[at] for at in mine}
        if not own.keys() <= known[name].keys():
            write_inspections(folder, known[name] | own)
    return found


def _of_patients(wanted: Collection[str], known: Iterable[Inspections]) -> dict[str, Inspection]:
    """Find by digest what is known of the files of patients whose data are used."""
    return {
        digest: each
        for own in known
        for (patient, digest), each in own.items()
        if patient in wanted
    }


Inspections = Mapping[tuple[str, str], Inspection]
"""What is known of image files, by patient and digest. Per patient: never log."""


def read_inspections(folder: ClinicFolder) -> dict[tuple[str, str], Inspection]:
    """Read what a clinic knows of its image files.

    Args:
        folder: The clinic's folder.

    Returns:
        Inspections by patient and digest; none where nothing is known yet.

    Raises:
        IntegrityError: If the file was changed.
    """
    if not folder.inspections.exists():
        return {}
    patients, arrays = read_patient_arrays(
        folder.inspections, folder.key, folder.patient_keys, _INSPECTIONS
    )
    return {
        (patient, digest): Inspection(digest, bytes(hashed), int(width), int(height))
        for patient, digest, hashed, (width, height) in zip(
            patients.tolist(),
            arrays["digest"].tolist(),
            arrays["hash"],
            arrays["size"],
            strict=True,
        )
    }


def write_inspections(folder: ClinicFolder, known: Inspections) -> None:
    """Keep what a clinic knows of its image files.

    Args:
        folder: The clinic's folder.
        known: Inspections by patient and digest, at least one.

    Raises:
        EnvironmentProblem: If the file cannot be written.
        IntegrityError: If the vault was changed.
    """
    values = list(known.values())
    arrays = {
        "digest": np.array([each.digest for each in values]),
        "hash": np.array([list(each.perceptual_hash) for each in values], dtype=np.uint8),
        "size": np.array([(each.width, each.height) for each in values], dtype=np.int64),
    }
    patients = [patient for patient, _ in known]
    keys = folder.patient_keys
    write_patient_arrays(folder.inspections, folder.key, keys, arrays, patients, _INSPECTIONS)
