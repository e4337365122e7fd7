"""What a group's numbers can tell, before anything is trained: counts to interval widths."""

from __future__ import annotations

from math import sqrt

from scipy.special import ndtri

from skinml.errors import require_in_range

# One patient more or less changes a variance by more than its formula claims below this.
_LEAST = 1


def auroc_standard_error(area: float, positives: float, negatives: float) -> float | None:
    """Foresee the standard error of an area under the ROC curve.

    Args:
        area: The area that is expected, from 0 to 1.
        positives: Patients with the disease, one item each; 0 or more, need not be whole.
        negatives: Patients without it.

    Returns:
        The standard error; None below one patient of either kind.

    Raises:
        ConfigError: If the area or a count is out of its range.

    Source:
        Hanley and McNeil 1982, Radiology 143:29, with exponential scores in both classes.

    >>> round(auroc_standard_error(0.85, 30, 120), 3)
    0.046
    """
    require_in_range(0, 1, area=area)
    require_in_range(0, float("inf"), positives=positives, negatives=negatives)
    if min(positives, negatives) < _LEAST:
        return None
    two_positives, two_negatives = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area)
        + (positives - 1) * (two_positives - area**2)
        + (negatives - 1) * (two_negatives - area**2)
    ) / (positives * negatives)
    return sqrt(max(variance, 0.0))


def smallest_difference(
    first_error: float, second_error: float, *, level: float = 0.95, power: float = 0.8
) -> float:
    """Find the smallest true difference between two groups that a comparison would usually show.

    The groups have no patient in common, and both estimates are near normal.

    Args:
        first_error: Standard error in one group.
        second_error: Standard error in the other.
        level: Coverage of the interval of the difference.
        power: How often that interval has to leave out 0.

    Returns:
        The difference, in the measure's units.

    Raises:
        ConfigError: If an error is below zero, or level or power out of its range.

    Source:
        The usual sample-size formula of two independent estimates, solved for the difference.

    >>> round(smallest_difference(0.03, 0.04), 3)
    0.14
    """
    require_in_range(0, float("inf"), first_error=first_error, second_error=second_error)
    require_in_range(0.5, 0.999999, level=level, power=power)
    quantiles = float(ndtri((1 + level) / 2) + ndtri(power))
    return quantiles * sqrt(first_error**2 + second_error**2)
