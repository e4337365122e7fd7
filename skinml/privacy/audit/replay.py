"""Comparing what two sides of a replay let out: one patient's records are the only difference.

Both sides were asked the same, drew the same samples and added no noise, so that whatever differs
between their releases is that patient's doing.

Source:
    The idea of recording and replaying a mechanism's calls on neighbouring data is that of
    Re:cord-play, arXiv:2602.17454.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skinml.privacy.audit.findings import ROUNDING, Change, ReplayFinding
from skinml.privacy.plan import Release
from skinml.records import FloatArray

SCHEDULE = "schedule"


@dataclass(frozen=True, repr=False)
class Answer:
    """One exact release of one clinic, or of the sum over clinics. Per patient: never log.

    Attributes:
        source: The clinic's name; empty for the sum.
        release: What it is, as planned.
        values: The exact sum, in the units of the release's sensitivity.
    """

    source: str
    release: Release
    values: FloatArray


@dataclass(frozen=True, repr=False)
class Recording:
    """What one side of a replay did. Per patient: never log.

    Attributes:
        public: What must be equal on neighbouring cohorts, by a name in words: planned releases,
            events of the ledger, shapes of the queries.
        answers: Every release of every clinic, in order.
    """

    public: Mapping[str, object]
    answers: tuple[Answer, ...]


def compare(
    first: Recording, second: Recording, *, recipe: str, trust: str, change: Change
) -> tuple[ReplayFinding, ...]:
    """Compare two sides that differ in one patient's records.

    Args:
        first: One side.
        second: The other.
        recipe: Which recipe ran, for the findings.
        trust: The trust model, for the findings.
        change: What was done to the patient.

    Returns:
        One finding for the schedule and one for each kind of release.
    """
    differing = [name for name in first.public if first.public[name] != second.public.get(name)]
    if len(first.answers) != len(second.answers):
        differing.append("the number of releases")
    problem = f"differs between the two sides: {', '.join(differing)}" if differing else ""
    found = [ReplayFinding(recipe, trust, change, SCHEDULE, 1, 0.0, 0.0, problem)]
    for one, other in zip(first.answers, second.answers, strict=False):
        same = (one.source, one.release.name) == (other.source, other.release.name)
        if not same or one.values.shape != other.values.shape:
            continue  # the schedule's finding tells
        found.append(
            ReplayFinding(
                recipe,
                trust,
                change,
                one.release.name,
                1,
                float(np.linalg.norm(one.values - other.values)),
                one.release.sensitivity,
            )
        )
    return merged_findings(found)


def compare_company(
    whole: Recording,
    without_first: Recording,
    without_second: Recording,
    without_both: Recording,
    *,
    recipe: str,
    trust: str,
) -> tuple[ReplayFinding, ...]:
    """Check that what a patient adds to a sum does not depend on who else is there.

    A sum of clipped contributions has no other way to move. A divisor that follows from the data,
    a loss that joins a batch's patients, or a split by rank move by less than the clip and are
    seen here all the same.

    Args:
        whole: Everybody.
        without_first: Without one patient.
        without_second: Without another one.
        without_both: Without both.
        recipe: Which recipe ran, for the findings.
        trust: The trust model, for the findings.

    Returns:
        One finding for each kind of release: its distance is between the two contributions of one
        patient, and it has a problem where that is not rounding.
    """
    found = []
    sides = (whole.answers, without_first.answers, without_second.answers, without_both.answers)
    for one, less, other, least in zip(*sides, strict=False):
        if len({each.values.shape for each in (one, less, other, least)}) > 1:
            continue  # the schedule's finding tells
        moved = float(np.linalg.norm((one.values - less.values) - (other.values - least.values)))
        small = moved <= ROUNDING * one.release.sensitivity
        found.append(
            ReplayFinding(
                recipe,
                trust,
                "removed",
                one.release.name,
                1,
                moved,
                one.release.sensitivity,
                "" if small else "what a patient adds depends on who else is there",
            )
        )
    return merged_findings(found)


def merged_findings(findings: Iterable[ReplayFinding]) -> tuple[ReplayFinding, ...]:
    """Join findings about the same kind of release: the worst distance, all comparisons.

    Args:
        findings: Any findings.

    Returns:
        One for each recipe, trust model, change and release, in the order of the first of each.
    """
    joined: dict[tuple[str, str, str, str], ReplayFinding] = {}
    for finding in findings:
        key = (finding.recipe, finding.trust, finding.change, finding.release)
        held = joined.get(key)
        joined[key] = finding if held is None else _joined(held, finding)
    return tuple(joined.values())


def _joined(one: ReplayFinding, other: ReplayFinding) -> ReplayFinding:
    # The one that passes its bound by more; NaN, which passes any bound, wins.
    worse = one if one.distance - one.sensitivity > other.distance - other.sensitivity else other
    worse = one if one.distance != one.distance else worse
    return replace(
        worse,
        num_compared=one.num_compared + other.num_compared,
        problem=one.problem or other.problem,
    )


def totals(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Add up the clinics' answers of one round: what leaves where only the sum does.

    Args:
        answers: All clinics' answers of one round.

    Returns:
        One answer for each release.
    """
    sums: dict[str, Answer] = {}
    for each in answers:
        held = sums.get(each.release.name)
        before = 0.0 if held is None else held.values
        sums[each.release.name] = Answer("", each.release, np.asarray(before + each.values))
    return tuple(sums.values())
