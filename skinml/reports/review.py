"""What a reviewer needs beyond figures: gaps, curves, criteria, and what guidelines ask for."""

from __future__ import annotations

from typing import Any

from skinml.fairness.gaps import Gaps
from skinml.records import RunRecord
from skinml.reports.clauses import Clause
from skinml.reports.curve_figures import curves_part
from skinml.reports.derived import Derived
from skinml.reports.gap_tables import (
    NAMED,
    Findings,
    findings,
    gap_tables,
    label_error_table,
    margin_words,
    spread_table,
    standardised_table,
)
from skinml.reports.heterogeneity import Heterogeneity
from skinml.reports.kept import gaps_of
from skinml.reports.numbers import about, count, figure, interval
from skinml.reports.sections import tone_scale
from skinml.reports.view import Cell, Row, Table, group_title
from skinml.reports.wording import (
    NAMED_BY_WHOEVER,
    PREDICTIONS,
    attribute_title,
    fixed_words,
    metric_words,
)

_NOBODY = Findings((), (), 0)
# The titles of the page's parts by their anchors.
_PARTS = {
    "decision": "the reviewer's decision",
    "gaps": "gaps between groups",
    "cohort": "patients and images",
    "measurement": "how well groups are known",
    "clinics": "differences between clinics",
    "overall": "performance on everybody, and by group",
    "curves": "calibration and use at different risks",
    "short": "in short",
    "versions": "data, code and settings",
    "limitations": "limitations",
    "criteria": "acceptance criteria",
    "privacy": "the privacy guarantee",
}


def review_parts(record: RunRecord, derived: Derived) -> dict[str, Any]:
    """Make what the templates of the review show.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        By the templates' names.
    """
    gaps = gaps_of(record)
    named = NAMED_BY_WHOEVER if record.kind == PREDICTIONS else NAMED
    told = [] if gaps is None else [each for each in gaps.label_error if each.points]
    silent = [] if gaps is None else [each for each in gaps.label_error if not each.points]
    empty, several = Table("", (), ()), len(record.classes.names) > 2
    return {
        "gaps": gaps,
        "findings": _NOBODY
        if gaps is None
        else findings(gaps, derived.headline, several=several, named=named),
        "references": []
        if gaps is None
        else [(attribute_title(name), base) for name, base in gaps.references.items()],
        "spread_table": empty if gaps is None else spread_table(gaps, named),
        "gap_tables": [] if gaps is None else gap_tables(gaps, named),
        "standardised": empty if gaps is None else standardised_table(gaps.standardised),
        "label_error": empty if gaps is None else label_error_table(gaps.label_error),
        "label_source": "; ".join(dict.fromkeys(each.source for each in told)),
        "label_reason": silent[0].reason if silent else "",
        "margins": "" if gaps is None else margin_words(gaps),
        "absent": [
            (attribute_title(name).lower(), ", ".join(map(group_title, groups)))
            for name, groups in derived.absent.items()
        ],
        "unknown_shares": [] if gaps is None else _unknown_shares(gaps),
        "fixed": fixed_words(record.kind),
        "curves": curves_part(record, derived),
        "unknown": _unknown(derived),
        "tone_scale": tone_scale(record, "skin_tone"),
        "heterogeneity": _heterogeneity(derived),
        "criteria": _criteria(derived),
        "clauses": _clauses(derived),
    }


def _unknown(derived: Derived) -> Table:
    rows = tuple(
        Row(
            attribute_title(each.attribute),
            (
                Cell(about(each.num_unknown, each.count_std)),
                Cell(about(each.num_patients, each.count_std)),
                Cell(figure(each.percent, 1)),
            ),
        )
        for each in derived.unknown
    )
    columns = ("What groups are of", "Patients not known", "Patients in all", "Not known, of 100")
    return Table("Patients whose group nobody knows", columns, rows)


def _unknown_shares(gaps: Gaps) -> list[Table]:
    columns = ("Group", "Patients", "Share not known")
    tables = []
    for attribute in dict.fromkeys(each.attribute for each in gaps.unknown):
        rows = tuple(
            Row(
                f"{attribute_title(each.by)}: {group_title(each.group)}",
                (
                    Cell(count(each.num_patients)),
                    Cell(figure(each.share.value, 2), interval(each.share, 2)),
                ),
            )
            for each in gaps.unknown
            if each.attribute == attribute
        )
        title = attribute_title(attribute).lower()
        tables.append(Table(f"Where {title} is not known", columns, rows))
    return tables


def _heterogeneity(derived: Derived) -> Table:
    rows = tuple(_between(each) for each in derived.heterogeneity)
    columns = ("Figure", "Clinics", "Least and greatest", "I², of 100", "One more clinic")
    return Table("How clinics differ", columns, rows)


def _between(each: Heterogeneity) -> Row:
    expected = Cell("not told", "that takes three clinics")
    if each.low is not None and each.high is not None:
        expected = Cell(f"{figure(each.low, 2)} to {figure(each.high, 2)}")
    return Row(
        metric_words(each.metric).title,
        (
            Cell(count(each.num_clinics)),
            Cell(f"{figure(each.least, 2)} to {figure(each.greatest, 2)}"),
            Cell(figure(each.i_squared_percent, 0)),
            expected,
        ),
        f"without {', '.join(each.left_out)}" if each.left_out else "",
    )


def _criteria(derived: Derived) -> Table:
    rows = tuple(
        Row(
            each.criterion.replace("_", " "),
            (
                Cell(each.answer, "" if each.answer == "met" or not each.accepted else "accepted"),
                Cell(each.reason),
            ),
        )
        for each in derived.criteria
    )
    return Table("Criteria and what was found", ("Criterion", "Answer", "What was found"), rows)


def noise_table(derived: Derived) -> Table:
    """Make the table of how great the noise is beside the counts.

    Args:
        derived: What the report works out.

    Returns:
        A line for everybody and one for each group; none where counts are exact.
    """
    rows = tuple(
        Row(
            "Everybody"
            if each.attribute == "overall"
            else f"{attribute_title(each.attribute)}: {group_title(each.group)}",
            (
                Cell(figure(each.std, 1)),
                _percent(each.positives_percent),
                _percent(each.negatives_percent),
            ),
        )
        for each in derived.noise_shares
    )
    columns = (
        "Group",
        "Standard deviation, in patients",
        "Of 100 malignant patients",
        "Of 100 others",
    )
    return Table("The noise beside the counts", columns, rows)


def _percent(value: float | None) -> Cell:
    return Cell("no patients to be seen" if value is None else figure(value, 1))


def _clauses(derived: Derived) -> Table:
    rows = tuple(_clause(each) for each in derived.clauses)
    columns = ("Guideline", "Clause", "Content", "Status", "Where")
    return Table("Clauses and where they are answered", columns, rows)


def _clause(each: Clause) -> Row:
    where = _PARTS.get(each.where, "")
    return Row(
        each.guideline,
        (
            Cell(each.clause),
            Cell(each.content),
            Cell(each.status, each.note),
            Cell(where or ("elsewhere" if not each.note else "nowhere")),
        ),
    )
