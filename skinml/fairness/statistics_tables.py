"""Tables of patients over clinics: their public cells, and what noised sums say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from statistics import NormalDist

import numpy as np

from skinml.errors import ConfigError
from skinml.records import UNKNOWN_GROUP, Estimate, FloatArray, IntArray, StrArray

LEVEL = 0.95
"""How often an interval holds the exact count."""


@dataclass(frozen=True)
class TableLayout:
    """One table.

    Attributes:
        attributes: What patients are counted by, one or two.
        groups: For each attribute, the public names of its groups; "unknown" is the last one.
    """

    attributes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """The table's name, as in a config."""
        return ":".join(self.attributes)

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """The groups of each cell, the last attribute's changing fastest."""
        return tuple(product(*self.groups))


@dataclass(frozen=True)
class TablesLayout:
    """All cells of a release. Public: nothing of it follows from data.

    Attributes:
        tables: The tables.
        regions: Groups of clinics by name, a block of all tables each; one without a name where
            all clinics are one.
        max_clinics: At how many clinics a patient may be.
    """

    tables: tuple[TableLayout, ...]
    regions: tuple[tuple[str, tuple[str, ...]], ...] = (("", ()),)
    max_clinics: int = 1

    @property
    def num_cells(self) -> int:
        """Numbers in the release."""
        return len(self.regions) * self._block

    @property
    def _block(self) -> int:
        return sum(len(table.cells) for table in self.tables)

    def codes(self, groups: Mapping[str, StrArray], clinic: str) -> IntArray:
        """Find the cells of patients, one a table.

        Args:
            groups: By attribute, (n,) the group of each patient; a group that no table knows
                counts as "unknown".
            clinic: Their clinic.

        Returns:
            (n, tables) positions in the release.

        Raises:
            ConfigError: If the clinic is in no region.
        """
        start = self._region(clinic) * self._block
        columns = []
        for table in self.tables:
            place = np.zeros(len(groups[table.attributes[0]]), dtype=np.int64)
            for attribute, names in zip(table.attributes, table.groups, strict=True):
                known = {name: position for position, name in enumerate(names)}
                own = [known.get(group, len(names) - 1) for group in groups[attribute].tolist()]
                place = place * len(names) + np.array(own, dtype=np.int64)
            columns.append(start + place)
            start += len(table.cells)
        return np.stack(columns, axis=1)

    def _region(self, clinic: str) -> int:
        for number, (_, members) in enumerate(self.regions):
            if not members or clinic in members:
                return number
        raise ConfigError(
            rule="every clinic in a region of statistics.regions",
            got=f"clinic {clinic} in none",
            do="Name it in one region, or leave the clinic out.",
        )


@dataclass(frozen=True)
class StatisticsCell:
    """One count.

    Attributes:
        groups: The groups of its patients, one for each attribute of the table.
        count: Patients with the noise; no value where the cell is suppressed. The interval is
            that of the exact count, given the noise alone.
        suppressed: Whether the noised count is below the least that is shown.
    """

    groups: tuple[str, ...]
    count: Estimate
    suppressed: bool


@dataclass(frozen=True)
class StatisticsTable:
    """One table of one region.

    Attributes:
        name: As in a config.
        region: The region's name; empty where all clinics are one.
        attributes: What patients are counted by.
        cells: Its cells.
        total: All its cells together, those that are not shown included.
        num_suppressed: Cells that are not shown.
    """

    name: str
    region: str
    attributes: tuple[str, ...]
    cells: tuple[StatisticsCell, ...]
    total: Estimate
    num_suppressed: int


def table_layout(attributes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> TableLayout:
    """Lay a table out.

    Args:
        attributes: One or two.
        groups: By attribute, the public names of its groups.

    Returns:
        The table, with "unknown" as the last group of each attribute.

    >>> table_layout(["sex"], {"sex": ("female", "male")}).cells
    (('female',), ('male',), ('unknown',))
    """
    named = tuple(
        (*(name for name in groups[each] if name != UNKNOWN_GROUP), UNKNOWN_GROUP)
        for each in attributes
    )
    return TableLayout(tuple(attributes), named)


def estimated_tables(
    released: FloatArray, layout: TablesLayout, *, std: float, least_count: int
) -> tuple[StatisticsTable, ...]:
    """Read noised counts.

    Each count stands for itself: tables count the same patients and are not made to agree.

    Args:
        released: (cells,) noised patients.
        layout: Which cells they are.
        std: Standard deviation of the noise in each; 0 where there is none.
        least_count: Cells below it are not shown. The noise protects patients with or without:
            what is not shown would mislead a reader, for it is mostly noise.

    Returns:
        The tables, a region after the other.

    Guarantees:
        An interval of a single cell holds the exact count with 95% probability over the noise. It
        says nothing of patients whom no clinic has seen.
    """
    tables, start = [], 0
    for region, _ in layout.regions:
        for table in layout.tables:
            values = released[start : start + len(table.cells)]
            start += len(table.cells)
            cells = tuple(
                _cell(groups, float(value), std, least_count)
                for groups, value in zip(table.cells, values, strict=True)
            )
            tables.append(
                StatisticsTable(
                    name=table.name,
                    region=region,
                    attributes=table.attributes,
                    cells=cells,
                    total=_count(float(values.sum()), std * sqrt(len(cells))),
                    num_suppressed=sum(cell.suppressed for cell in cells),
                )
            )
    return tuple(tables)


def half_width(std: float) -> float:
    """Tell how far an interval reaches to each side of a noised count.

    Args:
        std: Standard deviation of the noise, in patients.

    Returns:
        Patients; within it the noise stays in 95 of 100 counts.
    """
    return NormalDist().inv_cdf((1 + LEVEL) / 2) * std


def _cell(groups: tuple[str, ...], value: float, std: float, least_count: int) -> StatisticsCell:
    if value < least_count:
        hidden = Estimate(None, None, None, reason=f"below {least_count}, not shown")
        return StatisticsCell(groups, hidden, True)
    return StatisticsCell(groups, _count(value, std), False)


def _count(value: float, std: float) -> Estimate:
    reach = half_width(std)
    return Estimate(round(value), max(0.0, float(np.floor(value - reach))), _above(value, reach))


def _above(value: float, reach: float) -> float:
    return max(0.0, float(np.ceil(value + reach)))
