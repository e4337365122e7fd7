"""The groups that results are reported by: age bands, bins of values, one scale of skin tone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from skinml.errors import DataError
from skinml.records import UNKNOWN_GROUP, StrArray

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.settings import DataSettings


def age_bands(ages: Sequence[float] | pd.Series[float], limits: Sequence[int]) -> StrArray:
    """Name the band of each age.

    Args:
        ages: (n,) years; NaN where unknown.
        limits: Years at which a new band begins, rising.

    Returns:
        (n,) names of bands, "unknown" where the age is.

    Example:
        >>> age_bands([12, 30, 69.5, 90, float("nan")], (30, 70)).tolist()
        ['0-29', '30-69', '30-69', '70+', 'unknown']
    """
    starts = (0, *limits)
    names = [f"{low}-{high - 1}" for low, high in zip(starts, limits, strict=False)]
    names.append(f"{starts[-1]}+")
    years = np.asarray(ages, dtype=np.float64)
    bands = np.asarray(names)[np.searchsorted(np.asarray(limits), years, side="right")]
    return np.where(np.isnan(years), UNKNOWN_GROUP, bands).astype(np.str_)


def binned(attribute: str, values: StrArray, bins: Mapping[str, Sequence[str]]) -> StrArray:
    """Join values into the groups that are reported.

    Args:
        attribute: The attribute's name, for the message.
        values: (n,) values; "unknown" stays as it is.
        bins: For each group, the values that it joins.

    Returns:
        (n,) names of groups.

    Raises:
        DataError: If a value is in no bin.
    """
    group_of = {value: group for group, members in bins.items() for value in members}
    group_of.setdefault(UNKNOWN_GROUP, UNKNOWN_GROUP)
    strays = sorted(set(values.tolist()) - set(group_of))
    if strays:
        counts = ", ".join(f"{stray} in {int((values == stray).sum())} items" for stray in strays)
        raise DataError(
            rule=f"every {attribute} in a group of data.bins.{attribute}",
            got=counts,
            do=f"Add the values to data.bins.{attribute}.",
        )
    return np.asarray([group_of[value] for value in values.tolist()], dtype=np.str_)


def require_one_scale(frame: pd.DataFrame, settings: DataSettings) -> str | None:
    """Check that skin tones are of one scale, and of the scale that their bins are written for.

    Args:
        frame: Rows with skin_tone and skin_tone_scale.
        settings: The settings with tone_scale and bins.

    Returns:
        The scale; None where no row has a tone.

    Raises:
        DataError: If there are two scales, or another one than the bins are written for.
    """
    toned = frame[frame["skin_tone"].notna()]
    counts = toned["skin_tone_scale"].value_counts().sort_index()
    if counts.empty or "skin_tone" not in settings.groups:
        return None
    found = ", ".join(f"{scale} in {count} rows" for scale, count in counts.items())
    if len(counts) > 1:
        raise DataError(
            rule="one scale of skin tone",
            got=found,
            do="Choose one with data.where.skin_tone_scale: no scale converts into another.",
        )
    scale = str(counts.index[0])
    if "skin_tone" in settings.bins and scale != settings.tone_scale:
        raise DataError(
            rule=f"skin tones of the scale {settings.tone_scale}, as in data.tone_scale",
            got=found,
            do="Set data.tone_scale and data.bins.skin_tone to the scale of the manifest.",
        )
    return scale
