"""The last look at a clinic's sums before they leave, and the first at the coordinator.

Nothing is finer than the planned grid.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from skinml.errors import IntegrityError
from skinml.privacy.plan import Release
from skinml.records import Arrays


def require_on_grid(sums: Arrays, releases: Iterable[Release], clinic: str) -> None:
    """Refuse digits that the noise was not planned for: they could tell something.

    Args:
        sums: What is about to leave, or has arrived, by release.
        releases: What was planned.
        clinic: The clinic's name.

    Raises:
        IntegrityError: If a sum is not a multiple of its release's grid.
    """
    for release in releases:
        if not release.grid:
            continue
        units = sums[release.name] / release.grid
        if not np.array_equal(units, np.rint(units)):
            raise IntegrityError(
                rule=f"multiples of the planned grid in {release.name} of clinic {clinic}",
                got="finer numbers",
                do="Report this as a defect: nothing was sent or added.",
            )
