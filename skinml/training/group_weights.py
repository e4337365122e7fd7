"""How much a patient of each group counts: by public weights, or by released counts of the groups.

A group's factor is at most 1 and multiplies what is left of a patient after the clip, so that one
patient moves a sum by at most what it moves it without factors. The price is signal: patients of
the groups that are many count less, and the noise stays. Which groups there are follows from the
config alone. A patient whose group is not known counts as the patients of known groups do on the
mean.

Shapes in this file: n items, p patients, g groups with "unknown" as the last, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from skinml.errors import ConfigError
from skinml.records import Arrays, FloatArray, Samples
from skinml.training.settings import MitigationSettings

GROUP_COUNTS = "group_label_counts"
GROUP_WEIGHTS = "group_weights"
GROUP_SIZES = "group_sizes"
# Standard deviations that noise seldom goes beyond.
_FAR = 3.0


@dataclass(frozen=True)
class GroupBalance:
    """How the groups of one attribute are weighed against each other. Public.

    Attributes:
        attribute: What the groups are of.
        names: The groups' names, "unknown" not among them.
        fixed: (g,) the factors where they are public; None: they follow from released counts.
        greatest_ratio: How many times as much a patient of one known group may count as one of
            another, where factors follow from counts.
        losses: The greatest loss of a patient that is released for `group_dro`; None elsewhere.
        step: Step of the groups' shares in `group_dro`.
    """

    attribute: str
    names: tuple[str, ...]
    fixed: tuple[float, ...] | None
    greatest_ratio: float
    losses: float | None = None
    step: float = 0.0

    @property
    def num_groups(self) -> int:
        """Groups with "unknown"."""
        return len(self.names) + 1


def balance_of(settings: MitigationSettings, names: Sequence[str]) -> GroupBalance:
    """Read how groups are weighed from a config.

    Args:
        settings: The section, with a method that weighs groups.
        names: The public names of the attribute's groups.

    Returns:
        The balance.

    Raises:
        ConfigError: If a public weight is for a group that there is not.
    """
    known = tuple(name for name in names if name != "unknown")
    dro = settings.method == "group_dro"
    return GroupBalance(
        attribute=settings.group,
        names=known,
        fixed=_public_factors(settings.weights, known) if settings.weights else None,
        greatest_ratio=settings.greatest_ratio,
        losses=settings.greatest_loss if dro else None,
        step=settings.dro_step,
    )


def _public_factors(weights: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    if not set(weights) <= set(names):
        raise ConfigError(
            rule=f"mitigation.weights for groups among {', '.join(names)}",
            got=f"mitigation.weights of {', '.join(weights)}",
            do="Name the run's groups; whoever is in none of those named gets their mean.",
        )
    most = max(weights.values())
    mean = sum(weights.values()) / len(weights)
    return tuple(weights.get(name, mean) / most for name in (*names, "unknown"))


def factors_of(weights: FloatArray, sizes: FloatArray, greatest_ratio: float) -> FloatArray:
    """Turn weights of patients of the known groups into factors of at most 1.

    Args:
        weights: (g - 1,) weight of one patient of each known group, above zero.
        sizes: (g - 1,) patients of each known group; 0 where they are too few to be told, who
            count in full and set nobody else's factor.
        greatest_ratio: The least factor is one over it.

    Returns:
        (g,) factors, the largest 1; the last, for patients without a known group, is the mean over
        the patients of the known ones.

    >>> factors_of(np.array([1.0, 4.0]), np.array([300.0, 100.0]), 2.0).tolist()
    [0.5, 1.0, 0.625]
    """
    told = sizes > 0
    if not told.any():
        return np.ones(len(sizes) + 1)
    factors = np.maximum(weights / weights[told].max(), 1 / greatest_ratio)
    factors = np.where(told, factors, 1.0)
    return np.append(factors, factors @ sizes / sizes.sum())


def equal_factors(balance: GroupBalance, sizes: FloatArray) -> FloatArray:
    """Weigh groups so that they count alike, as far as the greatest ratio lets them.

    Args:
        balance: How groups are weighed.
        sizes: (g,) released numbers of patients, "unknown" last; 0 where too few are told.

    Returns:
        (g,) factors; the public ones where there are some.
    """
    if balance.fixed is not None:
        return np.asarray(balance.fixed)
    known = sizes[:-1]
    return factors_of(1 / np.maximum(known, 1.0), known, balance.greatest_ratio)


@dataclass(frozen=True)
class Weighed:
    """A cohort's statistics as its factors make it.

    Attributes:
        counts: (k,) label counts, each patient with its group's factor.
        patients: Patients without factors.
        state: What a learner keeps: "group_weights" (g,), "group_sizes" (g,), which are 0 where
            noise or the floor would be most of them.
    """

    counts: FloatArray
    patients: float
    state: dict[str, FloatArray]


def weighed(
    balance: GroupBalance, table: FloatArray, least_count: float, noise_std: float
) -> Weighed:
    """Read factors and weighed label counts from a released table.

    Args:
        balance: How groups are weighed.
        table: (g, k) noised counts of patients; may be negative.
        least_count: Floor of every label's count.
        noise_std: Standard deviation of the noise in each number of the table, 0 without.

    Returns:
        The statistics: post-processing of the table.
    """
    sizes = table.sum(axis=1)
    # A group that nobody is in would otherwise be the smallest, and all others count less.
    enough = max(least_count, _FAR * noise_std * sqrt(table.shape[1]))
    sizes = np.where(sizes > enough, sizes, 0.0)
    factors = equal_factors(balance, sizes)
    return Weighed(
        counts=np.maximum(factors @ table, least_count),
        patients=float(np.maximum(table.sum(axis=0), least_count).sum()),
        state={GROUP_WEIGHTS: factors, GROUP_SIZES: sizes},
    )


def start_of(balance: GroupBalance) -> dict[str, FloatArray]:
    """Make what a learner keeps of groups before the first round.

    Args:
        balance: How groups are weighed.

    Returns:
        Arrays of the shapes of `Weighed.state`.
    """
    ones = np.ones(balance.num_groups)
    return {GROUP_WEIGHTS: ones, GROUP_SIZES: ones}


def factors_at(query: Arrays, groups: NDArray[np.intp]) -> FloatArray:
    """Look up each patient's factor, whatever a coordinator sent.

    Args:
        query: What the coordinator sent, finite.
        groups: (p,) each patient's group.

    Returns:
        (p,) from 0 to 1.
    """
    return np.asarray(np.clip(query[GROUP_WEIGHTS], 0.0, 1.0)[groups])


def patient_groups(
    samples: Samples, position: NDArray[np.intp], balance: GroupBalance
) -> NDArray[np.intp]:
    """Find each patient's group: the most frequent known one among its items, the first of several.

    Args:
        samples: One clinic's items.
        position: (n,) each item's position among the patients, all positions taken.
        balance: The groups' names.

    Returns:
        (p,) positions among the names; whoever has no known group is behind them.
    """
    place = {name: at for at, name in enumerate(balance.names)}
    unknown = len(balance.names)
    values = samples.groups.get(balance.attribute)
    words = [] if values is None else values.tolist()
    at = np.array([place.get(word, unknown) for word in words], dtype=np.intp)
    counts = np.zeros((int(position.max(initial=-1)) + 1, balance.num_groups))
    if len(at):
        np.add.at(counts, (position, at), 1.0)
    counts[:, unknown] = 0.5  # less than one item of a known group
    return np.asarray(np.argmax(counts, axis=1))


def shares_by_patient(samples: Samples, balance: GroupBalance) -> dict[str, float]:
    """Give each patient of a clinic its public factor, for sampling.

    Args:
        samples: The clinic's items.
        balance: How groups are weighed; its factors are public.

    Returns:
        From a patient's id to its factor, above 0 and at most 1. Per patient: never log.

    Raises:
        ConfigError: If the factors would follow from counts, which nobody charged.
    """
    if balance.fixed is None:
        raise ConfigError(
            rule="mitigation.weights where mitigation.method=balanced_sampling",
            got="none",
            do="Give public weights: rates that follow from private counts are charged nowhere.",
        )
    names, position = np.unique(samples.patients, return_inverse=True)
    groups = patient_groups(samples, position, balance)
    return {str(name): balance.fixed[at] for name, at in zip(names, groups.tolist(), strict=True)}
