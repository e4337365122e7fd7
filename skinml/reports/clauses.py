"""What guidelines ask a report for, and whether this one has it: data, not prose.

Three states: *addressed* is in this very report, made from its own figures and not from a setting
that nobody touched; *conditional* would be, if the data or the config carried it, and says so; *for
the user* no report can know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skinml.fairness.gaps import Gap, Spread
from skinml.records import UNKNOWN_GROUP, GroupResult, RunRecord
from skinml.reports.heterogeneity import heterogeneity
from skinml.reports.kept import expected_groups, gaps_of
from skinml.reports.wording import GIVEN_THRESHOLD, PREDICTIONS

ADDRESSED, CONDITIONAL, USER = "addressed", "conditional", "for the user"


@dataclass(frozen=True)
class Clause:
    """What one clause of a guideline asks for.

    Attributes:
        guideline: The guideline.
        clause: The clause's number or name there.
        content: What it asks for.
        status: "addressed", "conditional" or "for the user".
        where: The part of the page that has it; empty where none has.
        note: What is missing where it is conditional.
    """

    guideline: str
    clause: str
    content: str
    status: str
    where: str = ""
    note: str = ""


TRIPOD = "TRIPOD+AI (2024)"
CLAIM = "CLAIM"
AI_ACT = "EU AI Act, Annex IV"
GMLP = "GMLP (FDA, Health Canada, MHRA)"
STANDING = "STANDING Together"
OWN = "skinml"

# Guideline, clause, what it asks for, the part of the page, and the facts that it takes; no fact
# and no part: for the user.
_ASKED: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (TRIPOD, "3b", "Intended use, users and place in care", "decision", ()),
    (TRIPOD, "3c", "Known inequalities in health between groups", "", ()),
    (TRIPOD, "5a, 5b", "Source and dates of the data, and whom they represent", "", ()),
    (TRIPOD, "6a, 6b", "Places of care", "cohort", ("clinics",)),
    (TRIPOD, "6b", "Who was eligible", "cohort", ("flow",)),
    (TRIPOD, "7", "Preparation and quality checks alike across groups", "", ()),
    (TRIPOD, "8a, 8b", "The outcome, how and by whom it was found", "", ()),
    (TRIPOD, "9c", "Who judged skin tone, and how", "", ()),
    (TRIPOD, "10", "Sample size: what each comparison could have shown", "gaps", ("seen",)),
    (TRIPOD, "11", "Patients whose group nobody knows", "measurement", ("groups",)),
    (TRIPOD, "12d, 23b", "Differences between places of care", "clinics", ("between",)),
    (TRIPOD, "12e", "Discrimination and calibration", "overall", ("calibration",)),
    (TRIPOD, "12e", "Use at different risks", "curves", ("curves",)),
    (
        TRIPOD,
        "12f, 14",
        "Approach to fairness: margin, references, family",
        "gaps",
        ("references",),
    ),
    (TRIPOD, "12f, 14", "The reason for that approach", "decision", ()),
    (TRIPOD, "13", "Recalibration or other changes by group", "", ()),
    (TRIPOD, "15", "The threshold and where it comes from", "short", ("threshold", "source")),
    (TRIPOD, "16", "Differences between development and evaluation data", "cohort", ("splits",)),
    (TRIPOD, "17", "Approval by an ethics board", "", ()),
    (TRIPOD, "18a to 18d", "Funding, interests, protocol, registration", "", ()),
    (TRIPOD, "18e, 18f", "Which data and which code", "versions", ("code", "digest")),
    (TRIPOD, "19", "Patients' part in the study", "", ()),
    (TRIPOD, "20a", "Flow of patients", "cohort", ("flow",)),
    (TRIPOD, "20b, 20c", "Patients by group, with outcomes", "cohort", ("table",)),
    (TRIPOD, "21", "Numbers of patients and outcomes in each analysis", "overall", ("measured",)),
    (TRIPOD, "23a", "Each figure with its interval, by group", "overall", ("measured",)),
    (TRIPOD, "25", "Interpretation with fairness", "decision", ()),
    (TRIPOD, "26", "Limits that all such figures have", "limitations", ("always",)),
    (TRIPOD, "26", "Limits of these data", "", ()),
    (TRIPOD, "27a", "How poor or missing input is dealt with in use", "", ()),
    (CLAIM, "partitions", "Patients, not images, are resampled", "overall", ("patients",)),
    (CLAIM, "reference standard", "Its source, and who annotated", "", ()),
    (CLAIM, "uncertainty", "Intervals of the figures", "overall", ("intervals",)),
    (CLAIM, "failures", "Examples and causes of wrong answers", "", ()),
    (
        AI_ACT,
        "2(g)",
        "When, with which code and on which data this test ran",
        "versions",
        ("code", "digest"),
    ),
    (AI_ACT, "2(g)", "The signature of who is responsible", "decision", ()),
    (AI_ACT, "3", "Accuracy for groups beside the whole", "overall", ("measured",)),
    (AI_ACT, "3", "Differences between these groups in this test", "gaps", ("gaps",)),
    (AI_ACT, "3", "Unintended outcomes and risks that can be foreseen", "", ()),
    (AI_ACT, "9", "Watching over it after it is in use", "", ()),
    (
        GMLP,
        "principle 8",
        "Performance in the subgroups that the data name",
        "overall",
        ("measured",),
    ),
    (GMLP, "principle 8", "The clinical setting and equipment of use", "", ()),
    (STANDING, "groups at risk", "A comparison named before looking", "gaps", ("primary",)),
    (STANDING, "missing groups", "Groups that are too few", "short", ("measured",)),
    (STANDING, "missing groups", "Groups that are absent", "short", ("expected",)),
    (STANDING, "attributes", "How group labels were collected", "", ()),
    (OWN, "criteria", "Acceptance criteria fixed in advance", "criteria", ("criteria", "advance")),
    (OWN, "privacy", "Epsilon, unit, trust and what was noised", "privacy", ("promise",)),
    (OWN, "trace", "Each number leads to its data and code", "versions", ("code", "digest")),
)
# What is missing where a fact is not there.
_MISSING = {
    "primary": "this page knows of no comparison that was named before looking",
    "seen": "no comparison had patients enough to show any gap",
    "references": "no group was held against another",
    "between": "fewer than two clinics have a figure with an interval",
    "measured": "no named group has a figure with an interval",
    "intervals": "no figure has one",
    "patients": "the data do not say which images belong to one person",
    "source": "where the threshold comes from was not told",
    "expected": "nobody named the groups that there should be",
    "advance": "this page cannot know when they were set",
    "clinics": "fewer than two clinics are named",
    "flow": "who was left out before is not known here",
    "table": "numbers of patients by group stay at the clinics",
    "curves": "there are no single predictions to draw curves from",
    "gaps": "groups were not compared",
    "groups": "the data name no groups",
    "calibration": "risks were not held against outcomes",
    "threshold": "no threshold was set",
    "splits": "training patients are not known here",
    "criteria": "none were set",
    "promise": "nothing is promised",
    "code": "the code's version was not recorded",
    "digest": "the data's digest is not shown",
}


def clauses(record: RunRecord) -> tuple[Clause, ...]:
    """Tell of each clause whether this report has what it asks for.

    Args:
        record: What the run may show.

    Returns:
        The clauses, guidelines behind one another.
    """
    known = set(_facts(record))
    found = []
    for guideline, clause, content, where, needs in _ASKED:
        missing = [need for need in needs if need not in known]
        if not needs:
            found.append(Clause(guideline, clause, content, USER, where))
        elif missing:
            note = "; ".join(_MISSING[need] for need in missing)
            found.append(Clause(guideline, clause, content, CONDITIONAL, "", note))
        else:
            found.append(Clause(guideline, clause, content, ADDRESSED, where))
    return tuple(found)


def _facts(record: RunRecord) -> Iterator[str]:
    yield "always"
    named = [each for each in record.groups if each.group != UNKNOWN_GROUP]
    gaps = gaps_of(record)
    compared: list[Gap | Spread] = [] if gaps is None else [*gaps.gaps, *gaps.spreads]
    from_file = record.kind == PREDICTIONS
    facts = {
        "groups": bool(named),
        "measured": any(map(_has_interval, named)),
        "intervals": _has_interval(record.overall),
        "patients": record.data.get("unit", "patient") == "patient",
        "clinics": sum(each.attribute == "clinic" for each in named) >= 2,
        "between": bool(heterogeneity(record)),
        "flow": len(record.cohort_flow) > 1,
        "table": bool(record.cohort_table),
        "curves": bool(record.curves),
        "splits": any("train" in cell.num_patients for cell in record.cohort_table),
        "gaps": any(_value(each) is not None for each in compared),
        "seen": any(each.detectable is not None for each in compared),
        "references": gaps is not None and bool(gaps.gaps) and bool(gaps.references),
        "primary": not from_file and any(e.primary and _value(e) is not None for e in compared),
        "expected": bool(expected_groups(record)),
        "calibration": _defined(record.overall, "calibration_slope"),
        "threshold": record.threshold is not None,
        "source": bool(record.threshold_source) and record.threshold_source != GIVEN_THRESHOLD,
        "criteria": bool(_fairness(record).get("acceptance")),
        "advance": not from_file,
        "promise": record.guarantee.private,
        "code": "skinml" in record.versions,
        "digest": record.data.get("digest", "").startswith(("sha256", "hmac")),
    }
    yield from (name for name, holds in facts.items() if holds)


def _value(each: Gap | Spread) -> float | None:
    return each.difference.value if isinstance(each, Gap) else each.value


def _has_interval(group: GroupResult) -> bool:
    return any(each.low is not None for each in group.estimates.values())


def _defined(group: GroupResult, metric: str) -> bool:
    return metric in group.estimates and group.estimates[metric].value is not None


def _fairness(record: RunRecord) -> dict[str, object]:
    found = record.config.get("fairness")
    return dict(found) if isinstance(found, dict) else {}
