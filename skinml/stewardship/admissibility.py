"""The one door from a manifest to training, evaluation, statistics and caches.

Research datasets declare a licence as the basis of their use. A clinic's own patients need a
recorded consent, which the consent register will bring; until then a row without a licence is
refused, because the default is no.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import pandas as pd

from skinml.errors import PolicyError

# Licences under which research and teaching may use the images without asking each patient again.
_RESEARCH_LICENCES = ("cc0", "cc by", "cc-by", "public domain", "odc-by", "research only")
_RESEARCH_PURPOSES = ("research", "teaching")


@dataclass(frozen=True)
class Admission:
    """The rows that may be used, and why.

    Attributes:
        frame: The admissible rows, in their order.
        basis: The legal basis in words for the report.
        num_refused: Rows that were left out.
    """

    frame: pd.DataFrame
    basis: str
    num_refused: int


def admissible(frame: pd.DataFrame, *, purpose: str, day: datetime.date) -> Admission:
    """Keep the rows that may be used for a purpose on a day.

    Args:
        frame: A manifest's rows; the column `licence` states the basis of each.
        purpose: What the rows shall be used for, such as "research".
        day: The day of use. Licences do not expire; consents will.

    Returns:
        The admissible rows with the basis that held.

    Raises:
        PolicyError: If not a single row may be used.
    """
    licences = frame["licence"].fillna("").astype(str).str.strip()
    research = licences.str.lower().str.startswith(_RESEARCH_LICENCES)
    allowed = research & (purpose in _RESEARCH_PURPOSES)
    if not allowed.any():
        raise PolicyError(
            rule=f"rows whose basis covers the purpose '{purpose}' on {day.isoformat()}",
            got=f"0 of {len(frame)} rows",
            do="Declare the licence of a research dataset in the column 'licence'.",
        )
    words = sorted(set(licences[allowed]))
    basis = f"research dataset under {', '.join(words)}, for {purpose}"
    return Admission(frame[allowed], basis, int((~allowed).sum()))
