"""Who may be used for what today, and who soon not any more."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from skinml.clinic.findings import ConsentCover, Finding, counted
from skinml.stewardship.admissibility import CONSENT, assess
from skinml.stewardship.licences import LICENCES

if TYPE_CHECKING:
    import pandas as pd

    from skinml.stewardship.admissibility import Consents

DAYS_AHEAD = 90
_MANY_ENDING = 0.1
_FEW = 0.5


def consent_cover(
    frame: pd.DataFrame,
    consents: Consents | None,
    purposes: Sequence[str],
    day: datetime.date,
    licences: Collection[str] = LICENCES,
) -> tuple[ConsentCover, ...]:
    """Count the patients of a manifest who may be used, purpose by purpose.

    Args:
        frame: All rows of the manifest.
        consents: The clinic's register; None where there is none.
        purposes: The purposes that the policy allows.
        day: The day to judge for.
        licences: The licences that the policy names.

    Returns:
        One cover a purpose, in the order given.

    Raises:
        IntegrityError: If the register was changed.
    """
    return tuple(_cover(frame, consents, purpose, day, licences) for purpose in purposes)


def consent_findings(
    covers: Sequence[ConsentCover], purpose: str, num_patients: int
) -> list[Finding]:
    """Say what the cover of one purpose means for a run.

    Args:
        covers: The result of `consent_cover`.
        purpose: What a run would use the images for.
        num_patients: Patients of the manifest.

    Returns:
        At least one finding.
    """
    cover = next(each for each in covers if each.purpose == purpose)
    usable = cover.num_consent + cover.num_licence
    words = purpose.replace("_", " ")
    if not usable:
        return [
            Finding(
                "red",
                "Consents",
                f"None of {counted(num_patients, 'patient')} may be used for {words} today: "
                f"{_reasons(cover)}.",
                "Record what these patients agreed to. A public dataset needs no forms where its "
                "list states a licence in the column `licence` and the policy names it under "
                "`licences`. For all others: skinml clinic consent add --folder FOLDER",
            )
        ]
    found = f"{usable:,} of {counted(num_patients, 'patient')} may be used for {words} today"
    if cover.refused:
        found += f"; the others are left out: {_reasons(cover)}"
    if usable < _FEW * num_patients:
        do = "Ask more patients; record what they say: skinml clinic consent add --folder FOLDER"
        findings = [Finding("amber", "Consents", found + ".", do)]
    else:
        findings = [Finding("green", "Consents", found + ".")]
    if cover.num_ending:
        many = cover.num_ending > _MANY_ENDING * usable
        findings.append(
            Finding(
                "amber" if many else "green",
                "Consents ending",
                f"The consent of {counted(cover.num_ending, 'patient')} for {words} ends within "
                f"{DAYS_AHEAD} days.",
                "Ask these patients again. To see who: skinml clinic consent expiring --named "
                "--folder FOLDER"
                if many
                else "",
            )
        )
    return findings


def _cover(
    frame: pd.DataFrame,
    consents: Consents | None,
    purpose: str,
    day: datetime.date,
    licences: Collection[str],
) -> ConsentCover:
    later_day = day + datetime.timedelta(DAYS_AHEAD)
    today = assess(frame, purpose, day, consents, licences)
    later = assess(frame, purpose, later_day, consents, licences)
    # Whoever signed counts as a consent, also where a licence would do.
    signed = assess(frame, purpose, day, consents, ()).admitted.get(CONSENT, 0)
    return ConsentCover(
        purpose=purpose,
        num_consent=signed,
        num_licence=today.frame["patient_id"].nunique() - signed,
        num_ending=len(set(today.frame["patient_id"]) - set(later.frame["patient_id"])),
        refused=dict(today.refused),
    )


def _reasons(cover: ConsentCover) -> str:
    parts = [f"{reason}: {number:,}" for reason, number in sorted(cover.refused.items())]
    return ", ".join(parts) or "no consent is recorded"
