"""How often label sets held the truth of test patients, with both sampling errors in the interval.

A limit comes from validation patients, who are a sample too: what the sets cover moves with that
draw, with the noise, and with the draw of test patients. The promise is about the mean over all of
them, and so is the interval here. An interval of the test patients alone, such as Wilson's, holds
the coverage of this one limit, which is promised nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from scipy.optimize import brentq
from scipy.stats import betabinom

from skinml.errors import require_in_range, require_positive
from skinml.fairness.count_tables import equal_weights
from skinml.fairness.intervals import Interval
from skinml.fairness.label_sets import EVERYBODY, LabelSets
from skinml.records import UNKNOWN_GROUP, BoolArray, FloatArray, Predictions, StrArray

_UNITS = 2**14
_NO_LIMIT = 2.0
_ENDS = 1e-9


@dataclass(frozen=True)
class GroupCoverage:
    """How often the sets of one group held the truth.

    Attributes:
        group: The group.
        share: Share of its test patients whose true label was in the set; images of a patient
            share the patient's weight.
        low: Lower limit for the coverage on average over validation patients, noise, test patients.
        high: Upper limit.
        validation: Validation patients that its limit comes from.
        test: Test patients.
        whole: Share of its test images whose set held every label, and so told nothing.
    """

    group: str
    share: float
    low: float
    high: float
    validation: int
    test: int
    whole: float

    def values(self) -> dict[str, Any]:
        """Write it as plain values.

        Returns:
            The fields by name.
        """
        return dict(vars(self))


@dataclass(frozen=True)
class SetsCoverage:
    """What a report tells of how often a run's label sets held the truth of test patients.

    Attributes:
        attribute: What patients are parted by; "everybody" where they are not.
        coverage: What the sets are to hold, on average.
        level: How often each interval holds the coverage on average.
        left_out: Why nothing was measured; empty where something was.
        by_group: What the model's own sets did, group by group.
        one_limit: What one limit for all, found exactly from the same validation patients, did in
            the same groups; empty where those are not at hand.
    """

    attribute: str
    coverage: float
    level: float
    left_out: str = ""
    by_group: tuple[GroupCoverage, ...] = ()
    one_limit: tuple[GroupCoverage, ...] = ()

    def values(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        found: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return found


_ADAPTER = TypeAdapter(SetsCoverage)


def sets_coverage_from(values: Mapping[str, Any]) -> SetsCoverage:
    """Read what `SetsCoverage.values` wrote.

    Args:
        values: The plain values.

    Returns:
        What was measured.
    """
    return _ADAPTER.validate_python(values)


def mean_coverage_interval(
    covered: float,
    tested: int,
    validation: int,
    *,
    noise: float = 0.0,
    level: float = 0.95,
    coverage: float = 0.9,
) -> Interval:
    """Find the interval of the coverage that a way of making sets has on average over all draws.

    With n validation patients, split conformal prediction covers a share C of all patients that is
    itself drawn with the validation patients: C follows Beta(t (n + 1), (1 - t)(n + 1)), where t is
    its mean. Of m test patients the number covered then follows the beta-binomial law. The limits
    are the means t for which what was found, or more (less), has the probability of one tail.

    Noise of deviation s in the rank of the limit moves C by s / (n + 1), beside the variance
    t (1 - t) / (n + 2) of the draw. A smaller n stands for it, of the same variance together where
    t is the promised coverage.

    Args:
        covered: Test patients whose truth was in the set, 0 to tested; need not be whole.
        tested: m, at least 1.
        validation: n, at least 1.
        noise: s, in patients; see `label_sets.rank_noise`.
        level: How often the interval holds the mean coverage, above 0 and below 1.
        coverage: What was promised.

    Returns:
        Lower and upper limit.

    Raises:
        ConfigError: If a number is out of its range.

    Guarantees:
        Without noise and without ties the interval holds the mean coverage at least as often as
        its level. With noise it is an approximation by two moments, held against simulations in
        tests/fairness/test_set_coverage.py.

    Source:
        Vovk 2012, arXiv:1209.2673, proposition 2a, for the law of C; Angelopoulos and Bates 2023,
        arXiv:2107.07511, section 3 and appendix C, for the beta-binomial law of what is found.

    >>> [round(limit, 2) for limit in mean_coverage_interval(351, 410, 191)]
    [0.79, 0.91]
    """
    require_positive(tested=tested, validation=validation)
    require_in_range(0, tested, covered=covered)
    spread = coverage * (1 - coverage)
    rank_share = noise / (validation + 1)
    part = min(1 / (validation + 2) + rank_share**2 / spread, 1 - _ENDS)
    total = 1 / part - 1  # the n + 1 of a draw without noise that is as uncertain
    tail = (1 - level) / 2
    # Part of a patient is rounded so that the interval only widens.
    least, most = floor(covered + _ENDS), ceil(covered - _ENDS)

    def surely(mean: float) -> float:
        return float(betabinom.sf(least - 1, tested, mean * total, (1 - mean) * total)) - tail

    def hardly(mean: float) -> float:
        return float(betabinom.cdf(most, tested, mean * total, (1 - mean) * total)) - tail

    low = 0.0 if least == 0 else float(brentq(surely, _ENDS, 1 - _ENDS))
    high = 1.0 if most == tested else float(brentq(hardly, _ENDS, 1 - _ENDS))
    return low, high


def truth_covered(sets: LabelSets, predictions: Predictions) -> BoolArray:
    """Say of each image whether its true label is in its set.

    Args:
        sets: The sets.
        predictions: What the model said. Images of a group that the sets do not know have the
            widest limits of all, as an answer about them has.

    Returns:
        (n,).
    """
    rows = np.arange(len(predictions))
    far = 1 - predictions.probabilities.astype(np.float64)[rows, predictions.labels]
    limits = _limits(sets, predictions)[rows, predictions.malignant.astype(np.int64)]
    return np.asarray(far < limits)


def validation_sizes(sets: LabelSets, validation: Predictions, by: str) -> dict[str, int]:
    """Count the validation patients that each group's limit comes from.

    Args:
        sets: The sets.
        validation: The validation patients that they come from.
        by: What patients are parted by; where the sets are for everybody, all of them are behind
            each group's limit.

    Returns:
        Patients by group; empty where their groups are not told.
    """
    there = _parted(validation, by)
    if there is None:
        return {}
    all_ = len(np.unique(validation.patients))
    return {
        str(group): len(np.unique(validation.patients[there == group]))
        if by == sets.attribute
        else all_
        for group in np.unique(there)
    }


def measured_coverage(
    sets: LabelSets,
    sizes: Mapping[str, int],
    test: Predictions,
    *,
    noise: float,
    by: str,
    level: float = 0.95,
) -> tuple[GroupCoverage, ...]:
    """Measure how often the sets hold the truth of test patients, group by group.

    Args:
        sets: The sets.
        sizes: The validation patients behind each group's limit, from `validation_sizes`.
        test: Test patients, exactly.
        noise: Standard deviation in patients of a limit's rank, from `label_sets.rank_noise`.
        by: What to part patients by. Limits for everybody are then held to what they do in each
            group, which they do not promise.
        level: How often each interval holds the mean coverage.

    Returns:
        The groups in which there are patients of both splits.
    """
    here = _parted(test, by)
    if here is None:
        return ()
    covered, whole = truth_covered(sets, test), _holds_all(sets, test)
    found = []
    for name in map(str, np.unique(here)):
        mine = here == name
        behind, tested = sizes.get(name, 0), len(np.unique(test.patients[mine]))
        if behind == 0:
            continue
        share = float(np.average(covered[mine], weights=equal_weights(test.patients[mine], _UNITS)))
        low, high = mean_coverage_interval(
            share * tested, tested, behind, noise=noise, level=level, coverage=sets.coverage
        )
        made = GroupCoverage(name, share, low, high, behind, tested, float(whole[mine].mean()))
        found.append(made)
    return tuple(found)


def _parted(predictions: Predictions, by: str) -> StrArray | None:
    """(n,) the group of each image; None where nobody tells."""
    if by == EVERYBODY:
        return np.full(len(predictions), EVERYBODY)
    return predictions.groups.get(by)


def _groups(sets: LabelSets, predictions: Predictions) -> StrArray:
    """(n,) the group whose limits each image has; where it is not known, the image has none."""
    if EVERYBODY in sets.cuts:
        return np.full(len(predictions), EVERYBODY)
    values = predictions.groups.get(sets.attribute)
    return np.full(len(predictions), UNKNOWN_GROUP) if values is None else values


def _limits(sets: LabelSets, predictions: Predictions) -> FloatArray:
    """(n, 2) each image's limits of labels that are not malignant, and that are; 2 for none."""
    names, place = np.unique(_groups(sets, predictions), return_inverse=True)
    told = [sets.limits(str(name) if name in sets.cuts else None) for name in names]
    made = [[_NO_LIMIT if limit is None else limit for limit in pair] for pair in told]
    return np.asarray(made, dtype=float).reshape(-1, 2)[place]


def _holds_all(sets: LabelSets, predictions: Predictions) -> BoolArray:
    """(n,) whether an image's set holds every label."""
    kinds = np.asarray(predictions.classes.malignant, dtype=np.int64)
    far = 1 - predictions.probabilities.astype(np.float64)
    return np.asarray((far < _limits(sets, predictions)[:, kinds]).all(axis=1))
