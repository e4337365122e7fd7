"""The report's table of who was admitted at the clinics' gates: noised counts, never exact ones."""

from __future__ import annotations

from skinml.records import RunRecord
from skinml.reports.numbers import count
from skinml.reports.view import Cell, Row, Table

_HEADS = {
    "admitted": "Admitted",
    "no consent": "No consent on record",
    "licence not allowed": "Under a licence that the policy does not name",
    "purpose not covered": "Consent does not cover the purpose",
    "data not covered": "Consent does not cover the images",
    "not yet valid": "Consent not yet valid",
    "expired": "Consent expired",
    "kept too long": "Past the time that the clinic keeps data",
    "restricted": "Use restricted at the patient's request",
    "withdrawn": "Consent withdrawn",
}


def admission_tables(record: RunRecord, people: str) -> list[Table]:
    """Make the table of what became of patients at the gates.

    Args:
        record: What the run may show.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        One table, or none where the run released no such counts.
    """
    found = record.admissions
    if found is None:
        return []
    rows = tuple(
        # Nobody can be fewer than none: what noise took below 0 is told as 0.
        Row(_HEADS.get(cell, cell), (Cell(f"about {count(max(number, 0))}"),))
        for cell, number in found.counts.items()
    )
    caption = (
        f"{people.capitalize()} at the gates: noised counts, standard deviation {found.std:.1f}"
    )
    return [Table(caption, ("At the gate", people.capitalize()), rows)]
