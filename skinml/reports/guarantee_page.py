"""The guarantee by itself: what a patient is promised, on a page that can be handed on alone."""

from __future__ import annotations

from skinml.records import RunRecord
from skinml.reports.derived import derive
from skinml.reports.report import promise_values
from skinml.reports.templating import filled_in


def guarantee_html(record: RunRecord) -> str:
    """Make the page.

    Args:
        record: What the run may show.

    Returns:
        HTML that needs no network and no script; its section on privacy is that of the report.
    """
    return filled_in("guarantee.html.j2", promise_values(record, derive(record)))
