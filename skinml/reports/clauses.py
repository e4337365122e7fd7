"""What guidelines ask a report for, and whether this one has it: data, not prose.

Three states: *addressed* is in this report; *conditional* would be, if the data or the config
carried it, and says so; *for the user* no report can know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skinml.records import UNKNOWN_GROUP, RunRecord

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
    (TRIPOD, "3c", "Known inequalities between groups, named in advance", "gaps", ("primary",)),
    (TRIPOD, "5a, 5b", "Source and dates of the data, and whom they represent", "", ()),
    (TRIPOD, "6a, 6b", "Places of care", "cohort", ("clinics",)),
    (TRIPOD, "6b", "Who was eligible", "cohort", ("flow",)),
    (TRIPOD, "7", "Preparation and quality checks alike across groups", "", ()),
    (TRIPOD, "8a, 8b", "The outcome, how and by whom it was found", "", ()),
    (TRIPOD, "9c", "Who judged skin tone, and how", "", ()),
    (TRIPOD, "10", "Sample size: what each comparison could have shown", "gaps", ("gaps",)),
    (TRIPOD, "11", "Groups that nobody knows", "measurement", ("groups",)),
    (TRIPOD, "12d, 23b", "Differences between places of care", "clinics", ("clinics",)),
    (TRIPOD, "12e", "Discrimination and calibration", "overall", ("calibration",)),
    (TRIPOD, "12e", "Use at different risks", "curves", ("curves",)),
    (TRIPOD, "12f, 14", "Approach to fairness: margin, references, family", "gaps", ("gaps",)),
    (TRIPOD, "12f, 14", "The reason for that approach", "decision", ()),
    (TRIPOD, "13", "Recalibration or other changes by group", "", ()),
    (TRIPOD, "15", "The threshold and where it comes from", "short", ("threshold",)),
    (TRIPOD, "16", "Differences between development and evaluation data", "cohort", ("splits",)),
    (TRIPOD, "17", "Approval by an ethics board", "", ()),
    (TRIPOD, "18a to 18d", "Funding, interests, protocol, registration", "", ()),
    (TRIPOD, "18e, 18f", "Which data and which code", "versions", ("code", "digest")),
    (TRIPOD, "19", "Patients' part in the study", "", ()),
    (TRIPOD, "20a", "Flow of patients", "cohort", ("flow",)),
    (TRIPOD, "20b, 20c", "Patients by group, with outcomes", "cohort", ("table",)),
    (TRIPOD, "21", "Numbers of patients and outcomes in each analysis", "overall", ("groups",)),
    (TRIPOD, "23a", "Each figure with its interval, by group", "overall", ("groups",)),
    (TRIPOD, "25, 26", "Interpretation with fairness, limits", "limitations", ("always",)),
    (TRIPOD, "27a", "How poor or missing input is dealt with in use", "", ()),
    (CLAIM, "partitions", "Patients, not images, are resampled", "overall", ("always",)),
    (CLAIM, "reference standard", "Its source, and who annotated", "", ()),
    (CLAIM, "uncertainty", "Intervals and how they were made", "overall", ("always",)),
    (CLAIM, "failures", "Examples and causes of wrong answers", "", ()),
    (AI_ACT, "2(g)", "Dated test logs", "versions", ("code",)),
    (AI_ACT, "2(g)", "The signature of who is responsible", "decision", ()),
    (AI_ACT, "3", "Accuracy for groups beside the whole", "overall", ("groups",)),
    (AI_ACT, "3", "Differences between groups that can be foreseen", "gaps", ("gaps",)),
    (AI_ACT, "9", "Watching over it after it is in use", "", ()),
    (GMLP, "principle 8", "Performance in important subgroups", "overall", ("groups",)),
    (GMLP, "principle 8", "The clinical setting and equipment of use", "", ()),
    (STANDING, "groups at risk", "Groups named before looking", "gaps", ("primary",)),
    (STANDING, "missing groups", "Groups that are absent or too few", "short", ("groups",)),
    (STANDING, "attributes", "How group labels were collected", "", ()),
    (OWN, "criteria", "Acceptance criteria fixed in advance", "criteria", ("criteria",)),
    (OWN, "privacy", "Epsilon, unit, trust and what was noised", "privacy", ("promise",)),
    (OWN, "trace", "Each number leads to its data and code", "versions", ("code", "digest")),
)
# What is missing where a fact is not there.
_MISSING = {
    "primary": "no comparison was named in advance",
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
    facts = {
        "groups": bool(named),
        "clinics": sum(each.attribute == "clinic" for each in named) >= 2,
        "flow": len(record.cohort_flow) > 1,
        "table": bool(record.cohort_table),
        "curves": bool(record.curves),
        "splits": any("train" in cell.num_patients for cell in record.cohort_table),
        "gaps": record.gaps is not None,
        "primary": record.gaps is not None and _names_primary(record),
        "calibration": "calibration_slope" in record.overall.estimates,
        "threshold": record.threshold is not None,
        "criteria": bool(_fairness(record).get("acceptance")),
        "promise": record.guarantee.private,
        "code": "skinml" in record.versions,
        "digest": record.data.get("digest", "").startswith(("sha256", "hmac")),
    }
    yield from (name for name, holds in facts.items() if holds)


def _fairness(record: RunRecord) -> dict[str, object]:
    found = record.config.get("fairness")
    return dict(found) if isinstance(found, dict) else {}


def _names_primary(record: RunRecord) -> bool:
    return _fairness(record).get("primary") is not None
