"""How much of a clinic's own data a run would use, counted as the run itself would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.seeding import Seeds
from skinml.stewardship.admissibility import Admission


@dataclass(frozen=True)
class SiteCount:
    """What of a clinic's data a run would use; exact, for this clinic's eyes.

    Attributes:
        num_patients: Patients who may be used, and whom the run would use.
        num_training: Those of them who would train the model; all where patients are counted.
        num_images: Their images.
        num_refused: Patients in the list whose data may not be used for the purpose.
    """

    num_patients: int
    num_training: int
    num_images: int
    num_refused: int


def count_site(
    folder: ClinicFolder,
    config: RunConfig,
    day: date,
    *,
    data: Path,
    manifest: str = "manifest.csv",
    taxonomy: Path | None = None,
) -> SiteCount:
    """Count what a run would use, without looking at an image.

    Args:
        folder: The clinic's folder; all rows of the list are its own.
        config: The run's config.
        day: The day of use.
        data: Folder of the list and its images.
        manifest: The list's name.
        taxonomy: The clinic's own words, YAML.

    Returns:
        The counts.

    Raises:
        ConfigError: If the config does not fit the list.
        DataError: If the list is at fault, or too little is left of it.
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If the folder was changed.
        PolicyError: If no row may be used for the purpose.
    """
    # Imported here: they bring pandera and torch along.
    from skinml.clinic.imported_data import imported_manifest, is_clinic_folder
    from skinml.data.cohort import Door, admitted_rows, build_cohort, classes_of, selected_rows
    from skinml.data.manifest import read_manifest
    from skinml.data.settings import PartitionSettings
    from skinml.data.taxonomy import load_taxonomy

    words = load_taxonomy(taxonomy)
    if is_clinic_folder(folder.path, data):
        listed = imported_manifest(folder, config.purpose, day, words)
    else:
        listed = read_manifest(data / manifest, root=data, taxonomy=words)
    one_place = config.data.model_copy(update={"partition": PartitionSettings(by="pooled")})
    door = Door(folder.consents, folder.policy.fields, folder.policy.licences)
    if config.statistics is not None:
        rows, admissions, _ = admitted_rows(
            listed,
            selected_rows(listed.frame, one_place, strict=False),
            one_place,
            classes_of(one_place, words),
            Seeds(config.seed),
            purpose=config.purpose,
            day=day,
            doors=lambda clinic, patients: door,
        )
        counted = int(rows["patient_id"].nunique())
        return SiteCount(counted, counted, len(rows), _refused(admissions))
    cohort = build_cohort(
        listed,
        one_place,
        Seeds(config.seed),
        purpose=config.purpose,
        day=day,
        doors=lambda clinic, patients: door,
        every_class=False,
    )
    items = cohort.items
    return SiteCount(
        num_patients=int(items["patient_id"].nunique()),
        num_training=int(items["patient_id"][items["split"] == "train"].nunique()),
        num_images=len(cohort.images),
        num_refused=_refused(cohort.admissions),
    )


def _refused(admissions: Mapping[str, Admission]) -> int:
    return sum(sum(each.refused.values()) for each in admissions.values())
