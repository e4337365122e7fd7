"""The report's table of the clinics' own heads, which no guarantee covers."""

from __future__ import annotations

from skinml.records import Estimate, RunRecord
from skinml.reports.numbers import figure, interval
from skinml.reports.view import Cell, Row, Table
from skinml.reports.wording import metric_words

_METRIC = "auroc"


def personal_table(record: RunRecord) -> Table | None:
    """Make the table that holds the clinics' own heads against the run's model.

    Args:
        record: What the run may show.

    Returns:
        A line a clinic, on its own test images; None where no clinic keeps a head of its own.
    """
    if not record.personal_heads:
        return None
    title = metric_words(_METRIC).title
    rows = tuple(
        Row(each.clinic, (_cell(each.shared[_METRIC]), _cell(each.personal[_METRIC])))
        for each in record.personal_heads
    )
    columns = ("Clinic", f"{title}, the run's model", f"{title}, the clinic's own head")
    return Table("Own heads, each on its clinic's own test images", columns, rows)


def _cell(estimate: Estimate) -> Cell:
    decimals = metric_words(_METRIC).decimals
    return Cell(figure(estimate.value, decimals), interval(estimate, decimals))
