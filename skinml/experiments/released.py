"""What a run publishes of its test patients: exact figures in a simulation, or noised counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from skinml.config import RunConfig
from skinml.data.groups import age_bands
from skinml.data.manifest_rules import SEXES
from skinml.data.settings import CASES, DataSettings
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import ConfigError
from skinml.experiments.compared import comparison_settings
from skinml.fairness.count_tables import BINS, CountsLayout, layout_of
from skinml.fairness.counted_gaps import counted_gaps
from skinml.fairness.label_sets import EVERYBODY, SetsLayout
from skinml.fairness.released_counts import counted_results
from skinml.fairness.thresholds import ThresholdChoice, choose_threshold, score_edges
from skinml.federated.clinic import CountsRelease
from skinml.federated.validation_scores import SCORE_BINS
from skinml.privacy.plan import Release, evaluation_release, units_of_patient
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import UNKNOWN_GROUP, FloatArray, GroupResult, Labels
from skinml.seeding import Seeds

DP_COUNTS = "dp_counts"
_OLDEST = 200


def require_publishable(config: RunConfig) -> None:
    """Refuse a run of real clinics whose test figures would need exact predictions.

    Args:
        config: The run's config.

    Raises:
        ConfigError: If its figures do not come from noised counts.
    """
    if config.fairness.evaluation != DP_COUNTS:
        raise ConfigError(
            rule="fairness.evaluation=dp_counts where clinics are real: no prediction leaves a "
            "clinic",
            got=f"fairness.evaluation={config.fairness.evaluation}",
            do="Set fairness.evaluation=dp_counts.",
        )


def counts_release(config: RunConfig, clinics: Sequence[str]) -> CountsRelease | None:
    """Plan the counts of test patients that a run publishes its figures from.

    Args:
        config: The run's config.
        clinics: The names of the run's clinics, which are public.

    Returns:
        The release and its cells; None where the figures are exact.

    Raises:
        ConfigError: If the names of a group's values do not follow from the config.
    """
    if config.fairness.evaluation != DP_COUNTS:
        return None
    layout = public_layout(config.data, tuple(sorted(clinics)))
    return CountsRelease(evaluation_release(config.privacy, layout.shape), layout)


def public_layout(data: DataSettings, clinics: tuple[str, ...]) -> CountsLayout:
    """Name all groups that there can be, from the config and the shipped taxonomy alone.

    What clinics hold has no part in it: a group that appears with its first patient would tell
    that patient. A word that is not here, such as a site of a clinic's own taxonomy, counts as
    "unknown".

    Args:
        data: Which attributes there are, their bins, age bands and scale of skin tones.
        clinics: The names of the run's clinics.

    Returns:
        The cells, an attribute after the other in the config's order. The clinic is left out
        where there is only one: it would say nothing and cost noise. So are diagnoses, which say
        what was seen and not whose skin it is.

    Raises:
        ConfigError: If skin tones have neither bins nor a known scale in the config.
    """
    left_out = {CASES} if len(clinics) > 1 else {CASES, "clinic"}
    names = [name for name in data.groups if name not in left_out]
    return layout_of({name: group_names(name, data, clinics) for name in names})


def group_names(
    attribute: str, data: DataSettings, clinics: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Name the groups of an attribute, from the config and the shipped taxonomy alone.

    Args:
        attribute: One of data.groups, or of what patients can be counted by.
        data: Bins, age bands and scale of skin tones.
        clinics: The names of the run's clinics, which are the groups of "clinic".

    Returns:
        The names; "unknown" may be among them.

    Raises:
        ConfigError: If skin tones have neither bins nor a known scale in the config.
    """
    if attribute in data.bins:
        return tuple(data.bins[attribute])
    if attribute == "clinic":
        return clinics
    if attribute == "age_band":
        return tuple(dict.fromkeys(age_bands(range(_OLDEST), data.age_bands).tolist()))
    if attribute == "sex":
        return tuple(dict.fromkeys(SEXES.values()))
    if attribute == "anatomical_site":
        return _sites()
    if attribute == CASES:
        return tuple(load_taxonomy().malignant)
    if attribute in load_taxonomy().course_words:
        return tuple(dict.fromkeys(load_taxonomy().course_words[attribute].values()))
    return _tones(data.tone_scale)


@lru_cache(maxsize=1)
def _sites() -> tuple[str, ...]:
    return tuple(dict.fromkeys(load_taxonomy().site_words[""].values()))


@lru_cache(maxsize=8)
def _tones(scale: str | None) -> tuple[str, ...]:
    words = load_taxonomy().tone_words
    if scale is None or scale not in words:
        raise ConfigError(
            rule="a scale of skin tones in the config, whose values are public, where figures come "
            f"from noised counts (data.tone_scale, one of {', '.join(sorted(words))})",
            got=f"data.tone_scale={scale}",
            do="Set data.tone_scale, or data.bins.skin_tone, or take skin_tone out of data.groups.",
        )
    return tuple(dict.fromkeys(words[scale].values()))


def sets_layout(config: RunConfig) -> SetsLayout | None:
    """Lay out a run's rows for label sets, from the config and the shipped taxonomy alone.

    Args:
        config: The run's config.

    Returns:
        The rows; None where the run asks for no label sets.

    Raises:
        ConfigError: If the names of the groups do not follow from the config.
    """
    asked = config.fairness.label_sets
    if not asked.share:
        return None
    attribute = asked.group
    if attribute is None or attribute not in config.data.groups or attribute == "clinic":
        return SetsLayout(EVERYBODY, (EVERYBODY,), asked.apart, asked.share)
    known = (name for name in group_names(attribute, config.data) if name != UNKNOWN_GROUP)
    return SetsLayout(attribute, (*known, UNKNOWN_GROUP), asked.apart, asked.share)


def run_threshold(config: RunConfig, scores: FloatArray) -> ThresholdChoice:
    """Choose the threshold from the released validation scores.

    Args:
        config: The run's config.
        scores: (2, bins) noised counts of validation patients; rows below them are not read.

    Returns:
        The threshold. Where test figures come from noised counts, it is an edge of their bins, so
        that the counts say exactly who is above it.
    """
    scores = scores[:2]
    if config.fairness.evaluation != DP_COUNTS:
        return choose_threshold(scores, score_edges(SCORE_BINS))
    joined = scores.reshape(2, BINS, -1).sum(axis=2)
    found = choose_threshold(joined, score_edges(BINS))
    # Between two edges that are equally good the choice is in the middle: the lower one is as good.
    value = int(found.value * BINS) / BINS
    return ThresholdChoice(value, found.source, found.fallback)


def plain_counts(total: FloatArray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Write released counts the way a record keeps them.

    Args:
        total: (groups, 2, bins) the noisy sum over the clinics.

    Returns:
        The same numbers as plain values.
    """
    return tuple(
        tuple(tuple(map(float, row)) for row in table) for table in np.asarray(total, dtype=float)
    )


def released_results(
    config: RunConfig,
    plan: CountsRelease,
    total: FloatArray,
    *,
    threshold: float,
    classes: Labels,
    num_clinics: int,
    num_present: int,
) -> tuple[GroupResult, tuple[GroupResult, ...]]:
    """Compute a run's figures from the released counts.

    Args:
        config: The run's config.
        plan: The release and its cells.
        total: The noisy sum over the clinics.
        threshold: The malignancy score from which an item counts as alarm.
        classes: What the model tells apart.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        Everybody's figures, and each group's.
    """
    scale, std = _of_counts(config, plan, num_clinics, num_present)
    return counted_results(
        total * scale,
        plan.layout,
        std=std,
        threshold=threshold,
        classes=classes,
        settings=config.fairness,
    )


def released_gaps(
    config: RunConfig,
    plan: CountsRelease,
    total: FloatArray,
    *,
    threshold: float,
    classes: Labels,
    num_clinics: int,
    num_present: int,
) -> dict[str, Any]:
    """Compare a run's groups from the released counts, which costs no privacy.

    Args:
        config: The run's config; its seed gives the stream of the chance draws.
        plan: The release and its cells.
        total: The noisy sum over the clinics.
        threshold: The malignancy score from which an item counts as alarm.
        classes: What the model tells apart.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        The comparisons as plain values.
    """
    scale, std = _of_counts(config, plan, num_clinics, num_present)
    return counted_gaps(
        total * scale,
        plan.layout,
        std=std,
        threshold=threshold,
        classes=classes,
        settings=comparison_settings(config.fairness, config.data),
        rng=Seeds(config.seed).stream("gaps"),
    ).values()


def scale_and_noise(
    privacy: PrivacySettings, release: Release, columns: int, *, num_clinics: int, num_present: int
) -> tuple[float, float]:
    """Tell what released counts mean in patients.

    Args:
        privacy: The promise.
        release: The release, in which a patient counts `units_of_patient`.
        columns: In how many ways each patient is counted.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        What turns released numbers into patients, and the standard deviation of the noise in each
        count of patients.
    """
    rule = noise_rule(privacy, num_clinics)
    alone = sqrt(num_present * rule.clinic**2 + rule.coordinator**2)
    # Whoever is at several clinics counts at each of them.
    scale = 1 / (units_of_patient(columns, privacy.max_clinics_per_patient) * GRID)
    return scale, scale * alone * release.noise_std


def _of_counts(
    config: RunConfig, plan: CountsRelease, num_clinics: int, num_present: int
) -> tuple[float, float]:
    return scale_and_noise(
        config.privacy,
        plan.release,
        len(plan.layout.columns),
        num_clinics=num_clinics,
        num_present=num_present,
    )
