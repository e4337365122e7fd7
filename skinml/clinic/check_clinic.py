"""The check as a clinic's user asks for it: by role, within the policy, on record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from skinml.clinic.check import Progress, Request, check
from skinml.clinic.check_machine import Measure, Moment
from skinml.clinic.findings import CheckReport, ConsentCover
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.imported_data import is_clinic_folder
from skinml.errors import PolicyError
from skinml.stewardship.admissibility import CONSENT, LICENCE
from skinml.stewardship.days import day_of
from skinml.stewardship.policy import Policy

_USUAL_PURPOSE = "federated_training"


def check_clinic(
    folder: ClinicFolder,
    data: Path | None,
    *,
    now: datetime,
    clocks: Callable[[], Moment],
    purpose: str | None = None,
    manifest: str = "manifest.csv",
    taxonomy: Path | None = None,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look at a data set for a clinic, and write down how many patients were looked at.

    Args:
        folder: The clinic's opened folder.
        data: The folder of the manifest and its images; None for the imported pictures.
        now: The time, with its zone; consents are judged for its day.
        clocks: Reads both clocks.
        purpose: What a run would use the images for; by default federated training where the
            policy allows it, otherwise the first purpose that it allows.
        manifest: The manifest's name inside the folder.
        taxonomy: The clinic's own words; None for the shipped ones.
        measure: Measures this machine; None leaves the time out.
        progress: Hears how far it is.

    Returns:
        What was found.

    Raises:
        ConfigError: If the taxonomy is at fault.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not check, or the policy does not allow the purpose; the
            audit log says so.
    """
    user = require_role(folder, "check")
    policy = folder.policy
    chosen = purpose or _purpose(policy)
    if chosen not in policy.purposes:
        folder.audit.write("refusal", user, now=now, action="check", reason="policy")
        raise PolicyError(
            rule=f"a purpose of this clinic's policy: {', '.join(policy.purposes)}",
            got=f"purpose={chosen}",
            do="Name one of these, or ask the steward to change the policy.",
        )
    request = Request(
        data=data or folder.path,
        clinic=folder.name,
        place=folder.path,
        purposes=policy.purposes,
        purpose=chosen,
        least_patients=policy.least_patients,
        manifest=manifest,
        taxonomy=taxonomy,
        licences=policy.licences,
        imported=folder if data is None or is_clinic_folder(folder.path, data) else None,
    )
    report = check(
        request,
        folder.consents,
        day=day_of(now),
        clocks=clocks,
        measure=measure,
        progress=progress,
    )
    _write_down(folder, report, user, now)
    return report


def _purpose(policy: Policy) -> str:
    return _USUAL_PURPOSE if _USUAL_PURPOSE in policy.purposes else policy.purposes[0]


def _write_down(folder: ClinicFolder, report: CheckReport, user: str, now: datetime) -> None:
    cover = next((each for each in report.consents if each.purpose == report.purpose), None)
    if cover is None:  # the list could not be read, so nobody was looked at
        return
    folder.audit.write(
        "admission",
        user,
        now=now,
        purpose=report.purpose,
        day=report.day,
        patients=report.num_patients,
        rows=report.num_images,
        admitted=_admitted(cover),
        refused=dict(cover.refused),
    )


def _admitted(cover: ConsentCover) -> dict[str, int]:
    counts = {CONSENT: cover.num_consent, LICENCE: cover.num_licence}
    return {basis: number for basis, number in counts.items() if number}
