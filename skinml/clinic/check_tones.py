"""What can be told of fairness across skin tones with a clinic's numbers, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skinml.clinic.findings import Finding, ToneCover, counted
from skinml.fairness.foresight import auroc_standard_error, smallest_difference

if TYPE_CHECKING:
    import pandas as pd

EXPECTED_AUROC = 0.85
DIFFERENCE = 0.10
_Z95 = 1.959964
_MANY_UNKNOWN = 0.2


def tone_cover(frame: pd.DataFrame, test_share: float) -> tuple[ToneCover, ...]:
    """Foresee how well a model of AUROC 0.85 could be judged on each skin tone.

    A patient is one item, malignant if one of the images is. The comparison is with all other
    tones of the same scale together.

    Args:
        frame: The manifest's rows that may be used.
        test_share: Share of patients kept for testing, from 0 to 1: only they judge a model.

    Returns:
        One cover a tone, by scale and tone; none where no tone is known.
    """
    known = frame[frame["skin_tone"].notna()]
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for (scale, tone), rows in known.groupby(["skin_tone_scale", "skin_tone"]):
        by_patient = rows.groupby("patient_id")["malignant"].any()
        counts[str(scale), str(tone)] = (len(by_patient), int(by_patient.sum()))
    return tuple(
        _cover(scale, tone, counts, test_share) for scale, tone in sorted(counts, key=_by_value)
    )


def tone_findings(frame: pd.DataFrame, covers: tuple[ToneCover, ...]) -> list[Finding]:
    """Say what the numbers of each tone mean.

    Args:
        frame: The manifest's rows that may be used.
        covers: The result of `tone_cover` on them.

    Returns:
        One finding, or two where something is missing.
    """
    patients = frame["patient_id"].nunique()
    known = frame.loc[frame["skin_tone"].notna(), "patient_id"].nunique()
    if not covers:
        return [
            Finding(
                "amber",
                "Skin tones",
                "No skin tone is recorded: whether a model works equally well on dark and light "
                "skin cannot be told here.",
                "Record skin_tone and skin_tone_scale, such as the Monk or Fitzpatrick scale.",
            )
        ]
    findings = [_about_fairness(covers)]
    unknown = patients - known
    if unknown > _MANY_UNKNOWN * patients:
        findings.append(
            Finding(
                "amber",
                "Tones missing",
                f"{counted(unknown, 'patient')} of {patients:,} have no skin tone: no result by "
                "tone speaks for them.",
                "Record their skin tone where it is known.",
            )
        )
    scales = sorted({cover.scale for cover in covers})
    if len(scales) > 1:
        findings.append(
            Finding(
                "amber",
                "Tone scales",
                f"{len(scales)} scales of skin tone ({', '.join(scales)}): none converts into "
                "another, so a run uses one of them.",
                "Choose one with data.where.skin_tone_scale in the experiment.",
            )
        )
    return findings


def _about_fairness(covers: tuple[ToneCover, ...]) -> Finding:
    told = [cover.tone for cover in covers if cover.told]
    silent = [cover.tone for cover in covers if not cover.told]
    topic = "Fairness"
    if not silent:
        return Finding(
            "green", topic, f"A difference of {DIFFERENCE:.2f} in AUROC would show in every tone."
        )
    words = (
        f"cannot be told for tone {', '.join(silent)}" if told else "cannot be told for any tone"
    )
    can = f"can be told for tone {', '.join(told)}, but " if told else ""
    return Finding(
        "amber",
        topic,
        f"A difference of {DIFFERENCE:.2f} in AUROC {can}{words}: too few patients there.",
        "Do not read a missing difference as fairness. More patients of these tones, or several "
        "clinics together, tell more.",
    )


def _cover(
    scale: str, tone: str, counts: dict[tuple[str, str], tuple[int, int]], test_share: float
) -> ToneCover:
    patients, malignant = counts[scale, tone]
    others = [pair for key, pair in counts.items() if key[0] == scale and key[1] != tone]
    error = _error(patients, malignant, test_share)
    rest = _error(sum(each[0] for each in others), sum(each[1] for each in others), test_share)
    smallest = None if error is None or rest is None else smallest_difference(error, rest)
    return ToneCover(
        scale=scale,
        tone=tone,
        num_patients=patients,
        num_malignant=malignant,
        half_width=None if error is None else min(_Z95 * error, 1.0),
        smallest_difference=smallest if smallest is not None and smallest < 1 else None,
        told=smallest is not None and smallest <= DIFFERENCE,
    )


def _error(patients: int, malignant: int, test_share: float) -> float | None:
    positives, negatives = test_share * malignant, test_share * (patients - malignant)
    return auroc_standard_error(EXPECTED_AUROC, positives, negatives)


def _by_value(key: tuple[str, str]) -> tuple[str, float, str]:
    """Sort tones that are numbers as numbers."""
    scale, tone = key
    return scale, float(tone) if tone.isdigit() else float("inf"), tone
