"""Published tables that cut apparent ITA into classes. They disagree, so each output names its own.

The same angle of -22 degrees is "brown" in one table, "dark" in another and the last class but one
in a third. Nothing here converts one into another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skinml.errors import DataError, require_one_of
from skinml.records import FloatArray, StrArray

MEASURE = "ita_apparent"
"""What every scale of this kind measures: the colour that skin has in the image."""


@dataclass(frozen=True)
class ToneScale:
    """One table of cuts.

    Attributes:
        table: The table's own name.
        bins: Its classes from dark to light.
        cuts: (len(bins) - 1,) degrees between the classes, rising. A class holds the angles above
            its lower cut, up to and with its upper one.
        source: Where the table was published.
    """

    table: str
    bins: tuple[str, ...]
    cuts: tuple[float, ...]
    source: str

    @property
    def name(self) -> str:
        """The scale's name in manifests and outputs: what is measured, and the table."""
        return f"{MEASURE}_{self.table}"

    def bins_of(self, angles: FloatArray) -> StrArray:
        """Name the class of each angle.

        Args:
            angles: (n,) degrees, finite.

        Returns:
            (n,) classes.

        Example:
            >>> tone_scale("del_bino_2013").bins_of(np.array([-22.0, 41.0, 41.1])).tolist()
            ['brown', 'intermediate', 'light']
        """
        return np.asarray(self.bins)[np.searchsorted(self.cuts, angles, side="left")]

    def shares(self, angles: FloatArray) -> dict[str, float]:
        """Say how angles are spread over the classes.

        Args:
            angles: (n,) degrees, finite, at least one.

        Returns:
            The share of each class, all of them, summing to 1.
        """
        index = np.searchsorted(self.cuts, angles, side="left")
        counts = np.bincount(index, minlength=len(self.bins)) / len(angles)
        return dict(zip(self.bins, counts.tolist(), strict=True))


_SCALES = {
    scale.table: scale
    for scale in (
        ToneScale(
            "del_bino_2013",
            ("dark", "brown", "tan", "intermediate", "light", "very_light"),
            (-30, 10, 28, 41, 55),
            "Del Bino and Bernerd 2013, British Journal of Dermatology 169 (s3), 33-40",
        ),
        ToneScale(
            "kinyanjui_2019",
            (
                "dark",
                "tan_1",
                "tan_2",
                "intermediate_1",
                "intermediate_2",
                "light_1",
                "light_2",
                "very_light",
            ),
            (10, 19, 28, 34.5, 41, 48, 55),
            "Kinyanjui et al. 2019, arXiv:1910.13268, Table 1",
        ),
        ToneScale(
            "groh_2021",
            ("groh_6", "groh_5", "groh_4", "groh_3", "groh_2", "groh_1"),
            (-25, 0, 12, 23, 40),
            "Groh et al. 2021, CVPR Workshops (ISIC), empirical cuts; the paper reads them as "
            "Fitzpatrick types 1 to 6, which an angle in an image cannot tell",
        ),
    )
}
TABLES = tuple(_SCALES)
"""The tables' names; the first is the default."""


def tone_scale(table: str) -> ToneScale:
    """Find a table of cuts by its name.

    Args:
        table: One of `TABLES`.

    Returns:
        The scale.

    Raises:
        ConfigError: If there is no such table.
    """
    require_one_of(TABLES, table=table)
    return _SCALES[table]


def scale_by_name(name: str) -> ToneScale:
    """Find a scale by the name that outputs carry.

    Args:
        name: Such as "ita_apparent_del_bino_2013".

    Returns:
        The scale.

    Raises:
        ConfigError: If there is no such scale.
    """
    scales = {scale.name: scale for scale in _SCALES.values()}
    require_one_of(tuple(scales), scale=name)
    return scales[name]


def one_scale(names: Sequence[str]) -> str:
    """Check that measurements which are to be joined are of one scale.

    Args:
        names: The scale of each, at least one.

    Returns:
        The one scale's name.

    Raises:
        DataError: If there are two.
    """
    found = sorted(set(names))
    if len(found) != 1:
        raise DataError(
            rule="one scale of tone in what is joined",
            got=", ".join(found) or "none",
            do="Measure all images with the same table: no scale converts into another.",
        )
    return found[0]
